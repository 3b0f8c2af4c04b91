//! (j) Tens of thousands of open deals at the start; and how soon a deal is imported when all is well.

use std::time::Duration;

use bson::{Document, doc};
use futures::TryStreamExt as _;
use harness::test_env::move_file;
use harness::{Members, eventually};
use lotus_sim::{DealState, Fault, FaultKind, WalletConfig};
use tokio::time::{Instant, sleep};

use crate::costs::{commands, make_indexes, note_commands, peak_mib};
use crate::fault_cluster::{FaultCluster, FaultConfig, LARGE, instant};
use crate::iterations::{SeededRng, iterations};

const MINER: &str = "f01000";
const IMPORT: &str = "Filecoin.MarketImportDealData";
const LIST: &str = "Filecoin.MarketListIncompleteDeals";
/// Deals that a pass may have in hand for one miner.
const IN_HAND_MAX: usize = 2048;
/// Deals that are drained for each list of the market, at least.
const DEALS_A_LIST: usize = 10;
/// Commands of the database for each deal that is drained, at most.
const COMMANDS_A_DEAL: u64 = 12;
/// Commands for each deal that is looked at in vain.
const COMMANDS_A_LOOK: u64 = 10;
/// Deals in the market's list for each MiB of memory, at least.
const DEALS_A_MIB: u64 = 100;

/// So many deals over one CAR that wait for their data; the CAR is renamed away if `is_missing`.
async fn backlog(cluster: &FaultCluster, count: usize, is_missing: bool) -> std::path::PathBuf {
    let car = cluster.env.car("backlog").unwrap();
    let first = cluster.env.propose(&car, MINER).await.unwrap();
    cluster.env.record(&car, &first, MINER).await.unwrap();
    let record = cluster.env.deal(&first).await.unwrap().unwrap();
    let start = record.get_i64("startepoch").unwrap();
    let more = cluster.env.sim.copy_deal(&first, i64::try_from(count - 1).unwrap());
    for (page, cids) in (0_i64..).zip(more.chunks(1000)) {
        let documents: Vec<Document> = (0_i64..)
            .zip(cids)
            .map(|(number, cid)| {
                let mut document = record.clone();
                document.remove("_id");
                document.insert("dealcid", cid);
                document.insert("startepoch", start + page * 1000 + number + 1);
                document
            })
            .collect();
        cluster.env.deals().insert_many(documents).await.unwrap();
    }
    let away = car.path.with_extension("away");
    if is_missing {
        move_file(&car.path, &away).unwrap();
    }
    car.path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backlog_drains() {
    let seeded = SeededRng::of("backlog-drain");
    let stage = FaultConfig {
        members: Members::One,
        sim: instant(),
        import_setting: LARGE,
        ..FaultConfig::default()
    };
    let cluster = FaultCluster::open(stage).await;
    make_indexes(&cluster).await;
    let count = iterations(1_000, 100_000);
    backlog(&cluster, count, false).await;
    note_commands(&cluster).await;
    let started = Instant::now();
    let miner = cluster.miner(None);
    // Counting in the database reads the whole collection, and is not to be what it is busy with.
    let called = || cluster.env.sim.count(IMPORT);
    eventually!(within Duration::from_secs(600), called() > 0, "the first deal is imported");
    let first = started.elapsed();
    let all = u64::try_from(count).unwrap();
    eventually!(within Duration::from_secs(3600), called() == count, "all are called");
    eventually!(within Duration::from_secs(600), cluster.env.imported_count().await.unwrap() == all, "all are imported");
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(cluster.env.sim.count(IMPORT), count);
    let rate = f64::from(u32::try_from(count).unwrap()) / seconds;
    let (lists, peak, streams) =
        (cluster.env.sim.count(LIST), peak_mib(&miner), cluster.streams_opened().await);
    let asked = commands(&cluster).await;
    let per_deal = asked.values().sum::<u64>().div_ceil(all);
    let counted =
        format!("{lists} lists, {per_deal} commands a deal, peak {peak} MiB, {streams} streams: {asked:?}");
    seeded.tell(1, &format!("{count} deals, first after {first:?}, {rate:.0} deals/s, {counted}"));
    assert!(lists <= 10 + count / DEALS_A_LIST, "{counted}");
    assert!(per_deal <= COMMANDS_A_DEAL, "{counted}");
    assert!(peak <= 100 + all / DEALS_A_MIB, "{counted}");
    assert_eq!(streams, 1, "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backlog_that_waits_delays_no_other_deal_and_stays_quiet() {
    let seeded = SeededRng::of("backlog-waits");
    let import_setting = &[
        ("importsPerMiner", "8"),
        ("listTimeout", "60s"),
        ("lease", "60s"),
        ("waitInterval", "3h"),
        ("scanInterval", "30s"),
        ("providerPollInterval", "60s"),
        ("importTimeout", "120s"),
    ];
    let stage =
        FaultConfig { members: Members::One, sim: instant(), import_setting, ..FaultConfig::default() };
    let cluster = FaultCluster::open(stage).await;
    make_indexes(&cluster).await;
    let count = iterations(1_000, 100_000);
    backlog(&cluster, count, true).await;
    note_commands(&cluster).await;
    let started = Instant::now();
    let miner = cluster.miner(None);
    let waiting =
        async || cluster.env.deals().count_documents(doc! { "import.state": "waiting" }).await.unwrap();
    let all = u64::try_from(count).unwrap();
    eventually!(within Duration::from_secs(3600), waiting().await == all, "all were looked at");
    let looked_at = started.elapsed();
    // From here on the agent has nothing to do, and does nothing.
    sleep(Duration::from_secs(1)).await;
    let lists = cluster.env.sim.count(LIST);
    sleep(Duration::from_secs(5)).await;
    // One is the poll of the provider's view.
    let lists = cluster.env.sim.count(LIST) - lists;
    assert!(lists <= 2, "{lists} lists in 5 s");
    let (_, deal) = cluster.env.recorded("a deal whose CAR is here").await.unwrap();
    let arrived = Instant::now();
    eventually!(within Duration::from_secs(300), cluster.env.is_imported(&deal).await.unwrap(), "the new deal is imported");
    let passed = arrived.elapsed();
    assert_eq!(cluster.env.sim.count(IMPORT), 1);
    let (peak, per_deal) = (peak_mib(&miner), commands(&cluster).await.values().sum::<u64>().div_ceil(all));
    let counted = format!("{per_deal} commands a deal, peak {peak} MiB");
    seeded.tell(
        1,
        &format!("{count} deals looked at in {looked_at:?}, a new one imported in {passed:?}, {counted}"),
    );
    assert!(per_deal <= COMMANDS_A_LOOK, "{counted}");
    assert!(peak <= 100 + all / DEALS_A_MIB, "{counted}");
}

/// More deals than a pass may have in hand, at a market that goes on listing what was imported as waiting
/// for its data.
async fn more_than_may_be_in_hand(name: &'static str, command: &str) {
    let seeded = SeededRng::of(name);
    let import_setting = &[
        ("confirmTimeout", "600s"),
        ("importsPerMiner", "8"),
        ("importTimeout", "120s"),
        ("lease", "60s"),
        ("listTimeout", "60s"),
        ("providerPollInterval", "60s"),
        ("scanInterval", "30s"),
    ];
    let stage =
        FaultConfig { members: Members::One, sim: instant(), import_setting, ..FaultConfig::default() };
    let cluster = FaultCluster::open(stage).await;
    make_indexes(&cluster).await;
    let count = IN_HAND_MAX + 100;
    backlog(&cluster, count, false).await;
    cluster.env.sim.inject(Fault::on(LIST, FaultKind::WrongState(DealState::WaitingForData)));
    let started = Instant::now();
    let mut agent = cluster.miner_with(command);
    let called = || cluster.env.sim.count(IMPORT);
    // A pass waits for each call in its try; an agent that runs leaves the deals to looks that they share.
    let (calls, leases) = if command == "import" { (IN_HAND_MAX, IN_HAND_MAX) } else { (count, 0) };
    eventually!(within Duration::from_secs(600), called() >= calls, "as many as may be in hand are called");
    let full = started.elapsed();
    sleep(Duration::from_secs(5)).await;
    let claimed = doc! { "claim": { "$exists": true } };
    let claimed = cluster.env.deals().count_documents(claimed).await.unwrap();
    assert_eq!((called(), claimed), (calls, u64::try_from(leases).unwrap()));
    cluster.env.sim.clear_faults();
    let all = u64::try_from(count).unwrap();
    eventually!(within Duration::from_secs(600), cluster.env.imported_count().await.unwrap() == all, "all are imported");
    assert_eq!(called(), count);
    if command == "import" {
        eventually!(!agent.is_running(), "the pass ends");
    }
    seeded.tell(
        1,
        &format!("{count} deals, {calls} called after {full:?}, all imported after {:?}", started.elapsed()),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deals_that_wait_for_the_markets_word_hold_no_lease_and_keep_none_waiting() {
    more_than_may_be_in_hand("in-hand-run", "run").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_whose_hands_are_full_takes_nothing_more_and_loses_nothing() {
    more_than_may_be_in_hand("in-hand-import", "import").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_deals_without_a_car_keep_none_that_could_be_imported_waiting() {
    let seeded = SeededRng::of("backlog-looks");
    // Looking at all takes longer than any of them waits: there is always one that is due and starts earlier.
    let import_setting =
        &[("importsPerMiner", "1"), ("listTimeout", "60s"), ("waitInterval", "200ms"), ("retryMax", "200ms")];
    let stage =
        FaultConfig { members: Members::One, sim: instant(), import_setting, ..FaultConfig::default() };
    let cluster = FaultCluster::open(stage).await;
    make_indexes(&cluster).await;
    let count = iterations(600, 20_000);
    backlog(&cluster, count, true).await;
    let miner = cluster.miner(None);
    let pending = doc! { "import.state": { "$exists": false } };
    eventually!(
        within Duration::from_secs(600),
        cluster.env.deals().count_documents(pending.clone()).await.unwrap() == 0,
        "all were looked at"
    );
    // No file event tells of this one's CAR: it is there before the deal is.
    let car = cluster.env.car("a deal whose CAR is here").unwrap();
    let deal = cluster.env.propose(&car, MINER).await.unwrap();
    cluster.record(&car).await;
    let last = doc! {
        "filecid": &car.payload_cid, "dealcid": &deal, "miner": MINER, "isdeal": 0, "status": 18,
        "startepoch": 9_000_000_i64, "createdtime": bson::DateTime::now(),
    };
    cluster.env.deals().insert_one(last).await.unwrap();
    let begun = Instant::now();
    eventually!(within Duration::from_secs(10), cluster.env.is_imported(&deal).await.unwrap(), "it is imported");
    seeded.tell(
        1,
        &format!("{count} deals looked at all the time, a ready one imported in {:?}", begun.elapsed()),
    );
    drop(miner);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_about_one_deal_reads_the_others() {
    let seeded = SeededRng::of("index-use");
    let mut cluster =
        FaultCluster::open(FaultConfig { members: Members::One, ..FaultConfig::default() }).await;
    make_indexes(&cluster).await;
    // Deals that are over, and their intents, beside some that wait for their data.
    let over = |number: i32| {
        doc! {
            "dealcid": format!("bafyreiover{number}"), "intent": format!("over#{number}"), "miner": MINER,
            "filecid": format!("bafkover{number}"), "wallet": WalletConfig::default().address, "isdeal": 1,
            "status": 7, "provider": { "status": 7 }, "state": "confirmed", "dealstatus": 7,
        }
    };
    let over: Vec<Document> = (0..2000).map(over).collect();
    cluster.env.deals().insert_many(&over).await.unwrap();
    cluster.env.db.collection::<Document>("dealintents").insert_many(&over).await.unwrap();
    backlog(&cluster, 200, true).await;
    let costly = doc! { "appName": { "$regex": "^carferry" }, "$or": [
        { "op": { "$ne": "getmore" }, "planSummary": { "$regex": "COLLSCAN" } },
        { "op": { "$nin": ["query", "getmore"] }, "docsExamined": { "$gt": 500 } },
    ] };
    cluster.env.db.run_command(doc! { "profile": 1, "filter": costly }).await.unwrap();
    let agents = (cluster.client("client", None), cluster.miner(None));
    cluster.add_cars(3).await;
    let imported = doc! { "isdeal": 1, "status": 7, "dealid": { "$exists": true } };
    eventually!(
        within Duration::from_secs(60),
        cluster.env.deals().count_documents(imported.clone()).await.unwrap() == 6,
        "deals go all the way"
    );
    let seen = cluster.env.db.collection::<Document>("system.profile").find(doc! {}).await.unwrap();
    let seen: Vec<Document> = seen.try_collect().await.unwrap();
    // What counts everything reads everything: reports and limits, once a pass.
    let command =
        |entry: &Document| entry.get_document("command").map(Document::to_string).unwrap_or_default();
    let mut seen: Vec<_> = seen.iter().map(command).filter(|command| !command.contains("$group")).collect();
    seen.sort_unstable();
    seen.dedup_by_key(|command| command.chars().take(60).collect::<String>());
    assert!(seen.is_empty(), "{} costly calls: {seen:#?}", seen.len());
    seeded.tell(1, "no costly call");
    drop(agents);
}
