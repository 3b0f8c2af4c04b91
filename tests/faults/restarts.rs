//! (j) Nodes that fail, no node at all, import calls cut, and MongoDB killed, each with tens of thousands of
//! open deals in flight: nothing is lost, and no agent storms a server that is away or just back.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use bson::{Document, doc};
use harness::test_env::Process;
use harness::{Members, eventually};
use lotus_sim::{Fault, FaultKind, NodeName};
use tokio::time::{Instant, sleep};

use crate::checker;
use crate::fault_cluster::{FaultCluster, FaultConfig, LARGE, sim};
use crate::iterations::{SeededRng, iterations};

const IMPORT: &str = "Filecoin.MarketImportDealData";
/// How long is counted once it is back.
const BACK: Duration = Duration::from_secs(3);
/// Deals that both miners may have in hand.
const IN_HAND: usize = 2 * 2048;

/// Copies of the deals that there are, with their intents: as many for each as are wanted.
async fn multiply(cluster: &FaultCluster, count_each: usize) {
    let intents = cluster.env.db.collection::<Document>("dealintents");
    for deal in cluster.env.sim.deals() {
        let record = cluster.env.deal(&deal.proposal_cid).await.unwrap().unwrap();
        let intent = intents.find_one(doc! { "dealcid": &deal.proposal_cid }).await.unwrap().unwrap();
        let more = cluster.env.sim.copy_deal(&deal.proposal_cid, i64::try_from(count_each - 1).unwrap());
        let later: Vec<_> = (1_i64..).zip(&more).collect();
        for page in later.chunks(1000) {
            let copy = |original: &Document, id: &str| -> Vec<Document> {
                page.iter()
                    .map(|(later, cid)| {
                        let mut document = original.clone();
                        document.remove("_id");
                        document.insert(id, format!("copy#{cid}"));
                        document.insert("dealcid", *cid);
                        document.insert("startepoch", deal.start_epoch + later);
                        document
                    })
                    .collect()
            };
            cluster.env.deals().insert_many(copy(&record, "intent")).await.unwrap();
            intents.insert_many(copy(&intent, "_id")).await.unwrap();
        }
    }
}

/// What agents did in a span of time.
#[derive(Debug, Default)]
struct Noise {
    span: Duration,
    /// Calls of each method to all nodes.
    calls: BTreeMap<String, usize>,
    imports: usize,
    /// Warnings and errors in the agents' logs.
    warnings: usize,
}

impl Noise {
    async fn of(cluster: &FaultCluster, agents: &[&Process], span: Duration) -> Self {
        let (before, said) = (cluster.env.sim.calls().last().map_or(0, |call| call.number), warnings(agents));
        sleep(span).await;
        let mut noise = Self { span, warnings: warnings(agents) - said, ..Self::default() };
        for call in cluster.env.sim.calls().iter().filter(|call| call.number > before) {
            *noise.calls.entry(call.method.clone()).or_default() += 1;
        }
        noise.imports = noise.calls.remove(IMPORT).unwrap_or(0);
        // Of these client-agent makes so many in a pass and no more.
        noise.calls.remove("Filecoin.StateMarketStorageDeal");
        noise
    }

    /// While something is away: what was under way fails, and a few calls find out whether it is back.
    fn is_quiet(&self, what: &str) {
        let seconds = usize::try_from(self.span.as_secs()).unwrap();
        let calls: usize = self.calls.values().sum();
        assert!(calls <= 60 + 4 * seconds, "{what}: {self:?}");
        assert!(self.imports <= 64 + 2 * seconds, "{what}: {self:?}");
        assert!(self.warnings <= 300 + 10 * seconds, "{what}: {self:?}");
    }

    /// When it is back: beside the imports there is what goes on without a backlog too.
    fn is_orderly(&self, what: &str) {
        let calls: usize = self.calls.values().sum();
        assert!(calls <= 150, "{what}: {self:?}");
    }
}

/// How often the agents said that something is wrong.
fn warnings(agents: &[&Process]) -> usize {
    let of = |agent: &&Process| {
        let log = fs::read_to_string(&agent.log).unwrap();
        log.lines().filter(|line| ["WARN", "ERROR"].iter().any(|level| line.contains(level))).count()
    };
    agents.iter().map(of).sum()
}

/// Commands that a server has carried out since its start.
async fn commands(cluster: &FaultCluster) -> i64 {
    let status = cluster.env.db.run_command(doc! { "serverStatus": 1 }).await.unwrap();
    let count = status.get_document("opcounters").unwrap();
    let number = |name| count.get(name).and_then(|n: &bson::Bson| n.as_i64().or(n.as_i32().map(i64::from)));
    ["insert", "query", "update", "getmore", "command"].into_iter().filter_map(number).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_storms_when_nodes_or_the_database_are_away_under_a_large_backlog() {
    let seeded = SeededRng::of("restarts");
    let stage =
        FaultConfig { members: Members::One, sim: sim(2), import_setting: LARGE, ..FaultConfig::default() };
    let mut cluster = FaultCluster::open(stage).await;
    let mut first = cluster.client("first", None);
    cluster.add_cars(1).await;
    let confirmed = doc! { "state": "confirmed" };
    let intents = cluster.env.db.collection::<Document>("dealintents");
    eventually!(intents.count_documents(confirmed.clone()).await.unwrap() == 2, "two deals, to be copied");
    first.kill9().unwrap();
    let count = iterations(1_200, 100_000);
    multiply(&cluster, count / 2).await;

    let (client, miner) = (cluster.client("client", None), cluster.miner(None));
    let agents = [&client, &miner];
    let started = Instant::now();
    let called = || cluster.env.sim.count(IMPORT);
    let until = async |percent: usize| {
        let share = count * percent / 100;
        eventually!(within Duration::from_secs(3600), called() > share, "{percent} percent are called");
        eprintln!("{share} called after {:?}", started.elapsed());
    };
    // All is well when imports go on.
    let recovered = async || {
        let (back, before) = (Instant::now(), called());
        eventually!(within Duration::from_secs(180), called() > before + 20, "imports go on");
        back.elapsed()
    };
    let away = Duration::from_secs(u64::try_from(iterations(4, 60)).unwrap());
    let nodes: Vec<NodeName> =
        cluster.env.sim.miners().into_iter().map(NodeName::Miner).chain([NodeName::Full]).collect();
    let mut told = Vec::new();
    let mut tell = |line: String| {
        eprintln!("{line}");
        told.push(line);
    };

    until(5).await;
    for node in &nodes {
        let (node, kind) = (Some(node.clone()), FaultKind::Http500);
        cluster.env.sim.inject(Fault { node, method: None, params_contain: None, kind, times: None });
    }
    let failing = Noise::of(&cluster, &agents, away).await;
    failing.is_quiet("nodes answer with errors");
    cluster.env.sim.clear_faults();
    let went_on = recovered().await;
    Noise::of(&cluster, &agents, BACK).await.is_orderly("nodes answer again");
    tell(format!("failing nodes {failing:?}, imports {went_on:?} after it"));

    until(15).await;
    for node in &nodes {
        cluster.env.sim.take_down(node);
    }
    let down = Noise::of(&cluster, &agents, away).await;
    down.is_quiet("nodes are down");
    for node in &nodes {
        cluster.env.sim.bring_up(node);
    }
    let went_on = recovered().await;
    Noise::of(&cluster, &agents, BACK).await.is_orderly("nodes are up again");
    tell(format!("no node {down:?}, imports {went_on:?} after it"));

    until(25).await;
    cluster.env.sim.inject(Fault::on(IMPORT, FaultKind::DropBefore));
    let cut = Noise::of(&cluster, &agents, away).await;
    cut.is_quiet("import calls are cut");
    cluster.env.sim.clear_faults();
    let went_on = recovered().await;
    tell(format!("imports cut {cut:?}, imports {went_on:?} after it"));

    until(35).await;
    let primary = cluster.set.kill9_primary().await.unwrap();
    let dead = Noise::of(&cluster, &agents, away).await;
    dead.is_quiet("mongod is dead");
    cluster.set.restart(primary).await.unwrap();
    cluster.set.wait_for_primary().await.unwrap();
    let (since, imports) = (commands(&cluster).await, called());
    let went_on = recovered().await;
    Noise::of(&cluster, &agents, BACK).await.is_orderly("mongod is back");
    let (carried_out, imports) = (commands(&cluster).await - since, called() - imports);
    // Each import has its claim, note and end; what was called before the death is written down now.
    let due = i64::try_from(10 * imports + 2 * IN_HAND.min(count) + count / 10 + 1000).unwrap();
    assert!(carried_out <= due, "{carried_out} commands for {imports} imports");
    tell(format!(
        "no mongod {dead:?}, imports {went_on:?} after it, {carried_out} commands, {imports} imports"
    ));

    let all = u64::try_from(count).unwrap();
    let imported = async || cluster.env.imported_count().await.unwrap() == all;
    eventually!(within Duration::from_secs(3600), called() >= count, "all are called");
    eventually!(within Duration::from_secs(600), imported().await, "all are imported");
    let drained = started.elapsed();
    let counts = checker::check_copies(&cluster.env).await;
    assert_eq!(counts.deals, count);
    seeded.tell(4, &format!("{counts:?} in {drained:?}; {}", told.join("; ")));
    drop((client, miner));
}
