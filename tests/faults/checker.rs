//! The independent judge: what the simulator saw of every deal against what the database says.
//!
//! It reads the simulator's own record and raw documents; it uses no type, no query and no rule of the
//! agents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bson::{Document, doc};
use futures::TryStreamExt as _;
use harness::test_env::TestEnv;
use lotus_sim::{DealState, DealView, ImportRun};

/// What was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) deals: usize,
    pub(crate) imports_started: usize,
}

/// Looks at every deal of the simulator and every document.
///
/// # Panics
///
/// With everything that is wrong.
pub(crate) async fn check(env: &TestEnv, outputs: &Path, replicas: usize, at_once: usize) -> Counts {
    let mut wrong = Vec::new();
    imports_at_once(&env.sim.import_runs(), at_once, &mut wrong);
    proposals(&env.sim.deals(), replicas, &mut wrong);
    left_behind(outputs, &mut wrong);
    let leaked = env.sim.temp_files_leaked();
    if leaked > 0 {
        wrong.push(format!("{leaked} copies leaked: imports of data that was there already"));
    }
    judge(env, wrong).await
}

/// The same without a look at how many deals a CAR has, which the test has made itself, and at the copies
/// that nodes left when they went away in the middle of imports.
pub(crate) async fn check_copies(env: &TestEnv) -> Counts {
    judge(env, Vec::new()).await
}

async fn judge(env: &TestEnv, mut wrong: Vec<String>) -> Counts {
    let deals = env.sim.deals();
    let documents = all(env, "offlinedeals").await;
    let intents = all(env, "dealintents").await;
    records(&deals, &documents, &mut wrong);
    intents_of(&intents, &documents, &mut wrong);
    imports(&deals, &documents, &mut wrong);
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
    let imports_started = deals.iter().map(|deal| deal.imports.started).sum();
    Counts { deals: deals.len(), imports_started }
}

fn left_behind(outputs: &Path, wrong: &mut Vec<String>) {
    for file in std::fs::read_dir(outputs).into_iter().flatten().flatten() {
        let name = file.file_name();
        if !name.to_string_lossy().ends_with(".car") && name != "manifest.jsonl" {
            wrong.push(format!("left behind: {}", file.path().display()));
        }
    }
}

async fn all(env: &TestEnv, collection: &str) -> Vec<Document> {
    let cursor = env.db.collection::<Document>(collection).find(doc! {}).await.unwrap();
    cursor.try_collect().await.unwrap()
}

fn text<'a>(document: &'a Document, field: &str) -> &'a str {
    document.get_str(field).unwrap_or_default()
}

fn number(document: &Document, field: &str) -> i64 {
    let found = document.get(field);
    found.and_then(|value| value.as_i64().or_else(|| value.as_i32().map(i64::from))).unwrap_or(-1)
}

/// No intent made two proposals, no CAR has more deals than were asked for, no miner two of one CAR.
fn proposals(deals: &[DealView], replicas: usize, wrong: &mut Vec<String>) {
    let mut per_terms = BTreeMap::<_, usize>::new();
    let mut per_miner = BTreeMap::<_, usize>::new();
    let mut per_payload = BTreeMap::<_, usize>::new();
    for deal in deals {
        *per_terms.entry((&deal.payload_cid, &deal.miner, deal.start_epoch)).or_default() += 1;
        *per_miner.entry((&deal.payload_cid, &deal.miner)).or_default() += 1;
        *per_payload.entry(&deal.payload_cid).or_default() += 1;
    }
    let more = |count: &usize, limit: usize| *count > limit;
    wrong.extend(
        per_terms
            .iter()
            .filter(|(_, n)| more(n, 1))
            .map(|(k, n)| format!("{n} proposals of one intent: {k:?}")),
    );
    wrong.extend(
        per_miner
            .iter()
            .filter(|(_, n)| more(n, 1))
            .map(|(k, n)| format!("{n} deals of one CAR with one miner: {k:?}")),
    );
    wrong.extend(
        per_payload
            .iter()
            .filter(|(_, n)| more(n, replicas))
            .map(|(k, n)| format!("{n} deals of one CAR: {k}")),
    );
}

/// Every deal has one document, every document a deal, and both say the same.
fn records(deals: &[DealView], documents: &[Document], wrong: &mut Vec<String>) {
    let mut recorded = BTreeMap::<&str, Vec<&Document>>::new();
    for document in documents {
        recorded.entry(text(document, "dealcid")).or_default().push(document);
    }
    for deal in deals {
        let cid = &deal.proposal_cid;
        match recorded.remove(cid.as_str()).as_deref() {
            Some([document]) => {
                let said =
                    (text(document, "filecid"), text(document, "miner"), number(document, "startepoch"));
                let seen = (deal.payload_cid.as_str(), deal.miner.as_str(), deal.start_epoch);
                if said != seen || text(document, "piececid") != deal.piece_cid {
                    wrong.push(format!("{cid}: the document says {said:?}, the deal is {seen:?}"));
                }
            }
            Some(several) => wrong.push(format!("{cid}: {} documents", several.len())),
            None => wrong.push(format!("{cid}: a deal without a document")),
        }
    }
    wrong.extend(recorded.keys().map(|cid| format!("{cid}: a document without a deal")));
}

/// Every intent is settled, and those that made a deal name a document.
fn intents_of(intents: &[Document], documents: &[Document], wrong: &mut Vec<String>) {
    let recorded: BTreeSet<_> = documents.iter().map(|document| text(document, "dealcid")).collect();
    let mut confirmed = 0;
    for intent in intents {
        let id = text(intent, "_id");
        match text(intent, "state") {
            "confirmed" if recorded.contains(text(intent, "dealcid")) => confirmed += 1,
            "confirmed" => wrong.push(format!("{id}: confirmed, and its deal has no document")),
            "refused" | "abandoned" => {}
            other => wrong.push(format!("{id}: {other}")),
        }
    }
    if confirmed != documents.len() {
        wrong.push(format!("{confirmed} confirmed intents for {} documents", documents.len()));
    }
}

/// Bytes of a piece a second at which an import is taken to be under way; one that takes longer counts no
/// more.
const SLOWEST: f64 = 10_485_760.0;
/// The agents' clock of a call begins before the market's work does.
const MARGIN_SECONDS: f64 = 0.5;

/// No import begins at a miner while as many are under way as `setting.importsPerMiner` allows, from
/// any agent. Calls for small pieces are too short to count.
fn imports_at_once(runs: &[ImportRun], at_once: usize, wrong: &mut Vec<String>) {
    let mut under_way = BTreeMap::<&str, Vec<&ImportRun>>::new();
    for run in runs {
        let others = under_way.entry(&run.miner).or_default();
        others.retain(|other| {
            let age = run.began.duration_since(other.began).as_secs_f64() + MARGIN_SECONDS;
            let explained =
                f64::from(u32::try_from(other.piece_bytes >> 10).unwrap_or(u32::MAX)) * 1024.0 / SLOWEST;
            other.ended.is_none_or(|ended| ended > run.began) && age < explained
        });
        if others.len() >= at_once {
            let others: Vec<_> = others.iter().map(|other| &other.proposal_cid).collect();
            wrong.push(format!("{}: {} begins beside {others:?}", run.miner, run.proposal_cid));
        }
        others.push(run);
    }
}

/// Every deal imported once, with effect, and `isdeal` says what is true.
fn imports(deals: &[DealView], documents: &[Document], wrong: &mut Vec<String>) {
    let documents: BTreeMap<_, _> =
        documents.iter().map(|document| (text(document, "dealcid"), document)).collect();
    for deal in deals {
        import(deal, documents.get(deal.proposal_cid.as_str()).copied(), wrong);
    }
}

fn import(deal: &DealView, document: Option<&Document>, wrong: &mut Vec<String>) {
    let cid = &deal.proposal_cid;
    let counts = deal.imports;
    if counts.succeeded != counts.effective {
        wrong.push(format!("{cid}: {counts:?}: an import call while the data was there"));
    }
    if counts.beside > 0 {
        wrong.push(format!("{cid}: {counts:?}: an import call beside one under way"));
    }
    if counts.effective > 1 {
        wrong.push(format!("{cid}: imported {} times", counts.effective));
    }
    let Some(document) = document else { return };
    let state = deal.provider.as_ref().map(|side| side.state);
    let before_data = [
        DealState::Unknown,
        DealState::Validating,
        DealState::AcceptWait,
        DealState::Rejecting,
        DealState::WaitingForData,
    ];
    let has_data = counts.effective == 1 && state.is_some_and(|state| !before_data.contains(&state));
    if (number(document, "isdeal") == 1) != has_data {
        wrong.push(format!("{cid}: isdeal {}, provider {state:?}, {counts:?}", number(document, "isdeal")));
    }
    if document.contains_key("claim") {
        wrong.push(format!("{cid}: a lease that nobody gave back"));
    }
}

#[test]
fn an_import_that_begins_beside_another_is_found_while_the_size_of_that_explains_it() {
    let start = std::time::Instant::now();
    let run = |miner: &str, piece_mib: u64, from: f64, to: Option<f64>| ImportRun {
        miner: miner.to_owned(),
        proposal_cid: format!("bafy{from}"),
        piece_bytes: piece_mib << 20,
        began: start + std::time::Duration::from_secs_f64(from),
        ended: to.map(|to| start + std::time::Duration::from_secs_f64(to)),
    };
    let large = || run("a", 64, 0.0, Some(20.0));
    for (runs, at_once, found) in [
        (vec![large(), run("a", 1, 5.0, None)], 1, 1),
        (vec![large(), run("a", 1, 5.0, None)], 2, 0),
        (vec![large(), run("b", 1, 5.0, None)], 1, 0),
        (vec![large(), run("a", 1, 6.0, None)], 1, 0),
        (vec![run("a", 64, 0.0, Some(4.0)), run("a", 1, 5.0, None)], 1, 0),
        (vec![run("a", 64, 0.0, None), run("a", 1, 3.0, None), run("a", 1, 4.0, None)], 1, 2),
    ] {
        let mut wrong = Vec::new();
        imports_at_once(&runs, at_once, &mut wrong);
        assert_eq!(wrong.len(), found, "{runs:?}: {wrong:?}");
    }
}
