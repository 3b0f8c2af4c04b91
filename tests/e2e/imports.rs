//! Deals that wait in the database are imported, each once, whatever the order of things.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use carferry_core::config::MongoTarget;
use carferry_core::model::PublishMethod;
use carferry_core::store::{Claim, IndexUser, PollScope, Store, StoreOptions};
use futures::TryStreamExt as _;
use harness::test_env::{MINER, TestEnv, miner_agent_command, spawn};
use harness::{eventually, eventually_eq};
use lotus_sim::{DealState, Fault, FaultKind, LotusVersion, MinerConfig, SimConfig, Timings};
use miner_agent::dispatch::lease_renewal::{Lease, Leases};
use tokio::time::sleep;

const IMPORT: &str = "Filecoin.MarketImportDealData";
const LIST: &str = "Filecoin.MarketListIncompleteDeals";

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_racing_for_200_deals_import_each_once() {
    let env = TestEnv::open().await.unwrap();
    let deals = env.many_proposed(200).await.unwrap();
    let (before, while_running) = deals.split_at(100);
    for (car, deal) in before {
        env.record(car, deal, MINER).await.unwrap();
    }
    let agents = [env.miner_agent().unwrap(), env.miner_agent().unwrap()];
    for (car, deal) in while_running {
        env.record(car, deal, MINER).await.unwrap();
    }
    eventually_eq!(
        within Duration::from_secs(120), env.imported_count().await.unwrap(), 200, "all deals are imported"
    );
    for agent in agents {
        agent.end().await.unwrap();
    }

    for (_, deal) in &deals {
        let counts = env.sim.import_counts(deal);
        assert_eq!((counts.started, counts.succeeded, counts.effective), (1, 1, 1), "{deal}");
    }
    assert_eq!((env.sim.count(IMPORT), env.sim.temp_files_leaked()), (200, 0));
    assert!(env.sim.max_concurrent_imports_seen(MINER) <= 2, "one at a time for each agent");
    let documents: Vec<Document> = env.deals().find(doc! {}).await.unwrap().try_collect().await.unwrap();
    for document in &documents {
        let import = document.get_document("import").unwrap();
        assert_eq!(document.get_i32("isdeal").ok(), Some(1), "{document}");
        assert_eq!(import.get_str("state").ok(), Some("done"), "{document}");
        assert!(import.get_datetime("importedtime").is_ok(), "{document}");
        assert!(!document.contains_key("claim"), "{document}");
    }
    assert_eq!(documents.len(), 200);
}

#[tokio::test]
async fn leases_are_renewed_together_and_only_lost_ones_are_told() {
    const COUNT: usize = 620;
    let env = TestEnv::open().await.unwrap();
    let ids: Vec<ObjectId> = (0..COUNT).map(|_| ObjectId::new()).collect();
    let documents = ids.iter().zip(0..).map(|(id, number): (_, i32)| {
        doc! {
            "_id": id, "dealcid": format!("bafyrei{number}"), "filecid": "x", "miner": MINER, "isdeal": 0,
            "startepoch": 9,
        }
    });
    env.deals().insert_many(documents).await.unwrap();
    let store = open_store(&env).await;
    let leases = Leases::default();
    let mut held = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        let claim =
            store.claim(&Bson::from(*id), MINER, &format!("test#{number}"), SECOND * 60).await.unwrap();
        let claim = claim.unwrap();
        held.push((leases.hold(&claim), claim));
    }
    let is_lost = |held: &[(Lease, Claim)]| -> Vec<usize> {
        held.iter()
            .enumerate()
            .filter(|(_, (lease, _))| lease.lost().is_cancelled())
            .map(|(n, _)| n)
            .collect()
    };
    // Another owner, another number, and a deal that was finished meanwhile.
    let changes = [doc! { "claim.owner": "other" }, doc! { "claim.n": 7_i64 }, doc! { "isdeal": 1 }];
    for (number, change) in [3, 300, 610].into_iter().zip(changes) {
        let mut change = change;
        change.insert("claim.until", bson::DateTime::from_millis(0));
        env.deals().update_one(doc! { "_id": ids[number] }, doc! { "$set": change }).await.unwrap();
    }
    env.deals().update_one(doc! { "_id": ids[500] }, doc! { "$unset": { "claim": "" } }).await.unwrap();
    drop(held.remove(500));
    leases.renew(&store, Duration::ZERO).await.unwrap();
    assert_eq!(is_lost(&held), [3, 300, 609]);
    // Those that are held: for as long as is asked for.
    let before = bson::DateTime::now().timestamp_millis();
    leases.renew(&store, SECOND * 600).await.unwrap();
    let longer = doc! { "claim.until": { "$gt": bson::DateTime::from_millis(before + 300_000) } };
    assert_eq!(env.deals().count_documents(longer.clone()).await.unwrap(), 0, "it is not time yet");
    let kept = tokio::time::timeout(SECOND * 6, leases.keep(&store, SECOND * 12)).await;
    kept.unwrap_err();
    let soon = doc! { "claim.until": { "$gt": bson::DateTime::from_millis(before) } };
    let still = u64::try_from(COUNT - 4).unwrap();
    assert_eq!(env.deals().count_documents(soon).await.unwrap(), still);
    assert_eq!(is_lost(&held), [3, 300, 609]);
}

#[tokio::test]
async fn deals_are_due_in_two_classes_each_in_its_order() {
    let env = TestEnv::open().await.unwrap();
    let at =
        |seconds: i64| bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 1000 * seconds);
    let waiting = |next: i64| doc! { "state": "waiting", "nexttry": at(next) };
    let deals = [
        ("waits, first to be over", 1, waiting(-60)),
        ("waits, over since just now", 0, waiting(-5)),
        ("waits still", 0, waiting(600)),
        ("wrong file", 0, doc! { "state": "retrying", "nexttry": at(-30), "awaitedfiles": ["a.car"] }),
        ("woken", 8, doc! { "state": "waiting" }),
        ("to be tried again", 7, doc! { "state": "retrying", "nexttry": at(-1) }),
        ("to be tried again later", 0, doc! { "state": "retrying", "nexttry": at(600) }),
        ("over", 0, doc! { "state": "missed" }),
        ("new", 9, doc! {}),
    ];
    for (id, start, import) in deals {
        let mut deal = doc! { "_id": id, "dealcid": id, "miner": MINER, "isdeal": 0, "startepoch": start };
        if !import.is_empty() {
            deal.insert("import", import);
        }
        env.deals().insert_one(deal).await.unwrap();
    }
    let store = open_store(&env).await;
    let due = store.due_ids(MINER, None, 100).await.unwrap();
    let names = |ids: &[Bson]| ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let first: Vec<Bson> = due.first.iter().map(|due| due.id.clone()).collect();
    assert_eq!(names(&first), ["to be tried again", "woken", "new"]);
    assert_eq!(due.first.iter().map(|due| due.is_retry).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(names(&due.waits), ["waits, first to be over", "wrong file", "waits, over since just now"]);
    // Those that are over come back among those that have waited.
    assert_eq!(store.make_due_final(MINER, &["over", "new"], Duration::ZERO).await.unwrap(), 1);
    let due = store.due_ids(MINER, None, 100).await.unwrap();
    assert_eq!(names(&due.waits).last().map(String::as_str), Some("over"));
    assert_eq!(store.make_due_final(MINER, &["over"], SECOND).await.unwrap(), 0, "it does not rest any more");
}

#[tokio::test]
async fn deals_that_are_closed_and_active_are_not_read_with_every_poll() {
    let env = TestEnv::open().await.unwrap();
    let deals = [
        ("new", doc! { "isdeal": 0 }),
        ("waits", doc! { "isdeal": 0, "status": 18, "provider": { "status": 18 } }),
        ("over", doc! { "isdeal": 1, "status": 8, "provider": { "status": 8 } }),
        ("over for the provider alone", doc! { "isdeal": 1, "status": 7, "provider": { "status": 26 } }),
        ("over, and never closed", doc! { "isdeal": 0, "status": 26, "provider": { "status": 26 } }),
        ("over for the client alone", doc! { "isdeal": 1, "status": 26, "provider": { "status": 6 } }),
        ("sealing", doc! { "isdeal": 1, "status": 6, "provider": { "status": 6_i64 } }),
        ("active", doc! { "isdeal": 1, "status": 7, "provider": { "status": 7_i64 } }),
        ("active, and not closed", doc! { "isdeal": 0, "status": 7, "provider": { "status": 7_i64 } }),
        ("closed unseen", doc! { "isdeal": 1 }),
    ];
    for (name, fields) in deals {
        let mut deal = doc! { "dealcid": name, "miner": MINER };
        deal.extend(fields);
        env.deals().insert_one(deal).await.unwrap();
    }
    let store = open_store(&env).await;
    store.ensure_indexes(IndexUser::MinerAgent).await.unwrap();
    let read = async |which| {
        let mut followed = store.provider_followed(MINER, which).await.unwrap();
        let mut names = Vec::new();
        while let Some(page) = followed.page().await.unwrap() {
            names.extend(page.into_iter().filter_map(|deal| deal.dealcid));
        }
        names.sort_unstable();
        names
    };
    let mut all = vec![
        "active",
        "active, and not closed",
        "closed unseen",
        "new",
        "over for the client alone",
        "over for the provider alone",
        "sealing",
        "waits",
    ];
    assert_eq!(read(PollScope::All).await, all);
    all.remove(0);
    assert_eq!(read(PollScope::Changing).await, all);
}

const SECOND: Duration = Duration::from_secs(1);

async fn open_store(env: &TestEnv) -> Store {
    let options = StoreOptions {
        target: MongoTarget::parse(&env.uri, env.db.name()).unwrap(),
        app_name: "miner-agent test".to_owned(),
        call_timeout: SECOND * 30,
    };
    Store::open(&options).await.unwrap()
}

#[tokio::test]
async fn deals_from_before_the_agent_are_imported_each_once_and_the_earliest_start_first() {
    let env = TestEnv::open().await.unwrap();
    let mut recorded = Vec::new();
    for name in ["first", "second", "third"] {
        recorded.push(env.recorded(name).await.unwrap());
        env.sim.advance_epochs(20);
    }
    // The first to be recorded starts last in the eyes of the database.
    let last = &recorded[0].1;
    let later = doc! { "$inc": { "startepoch": 1000_i64 } };
    env.deals().update_one(doc! { "dealcid": last }, later).await.unwrap();
    let agent = env.miner_agent().unwrap();
    eventually_eq!(env.imported_count().await.unwrap(), 3, "all deals are imported");
    agent.end().await.unwrap();

    let imported: Vec<String> = env
        .sim
        .calls()
        .into_iter()
        .filter(|call| call.method == IMPORT)
        .map(|call| call.params[0]["/"].as_str().unwrap().to_owned())
        .collect();
    // While calls are short, those behind the first are looked at side by side, and the quicker look wins.
    assert_eq!(imported.first(), Some(&recorded[1].1), "the earliest start is called first");
    let each_once: BTreeSet<&String> = imported.iter().collect();
    assert_eq!((imported.len(), each_once), (3, recorded.iter().map(|(_, deal)| deal).collect()));
}

#[tokio::test]
async fn deal_that_arrives_is_imported_by_its_event_not_by_the_scan() {
    let env = TestEnv::open().await.unwrap();
    let (_, first) = env.recorded("first").await.unwrap();
    // Neither a scan nor a second look would come in time.
    let keys = [("setting.scanInterval", "1h"), ("setting.waitInterval", "1h")];
    let agent = env.miner_agent_with(&keys).unwrap();
    eventually!(env.is_imported(&first).await.unwrap(), "the agent works");
    for name in ["second", "third"] {
        let (_, deal) = env.recorded(name).await.unwrap();
        eventually!(within Duration::from_secs(10), env.is_imported(&deal).await.unwrap(), "{name} is imported");
        assert_eq!(env.sim.imports_for(&deal), 1);
    }
    agent.end().await.unwrap();
}

/// In Lotus the call only enqueues: its answer says nothing, and the first look after it may still see the
/// old state.
#[tokio::test]
async fn import_counts_when_the_deal_has_moved_not_when_the_call_is_answered() {
    let timings = Timings { event_lag: Duration::from_secs(3), ..Timings::default() };
    let env = TestEnv::open_with(SimConfig { timings, ..SimConfig::default() }).await.unwrap();
    let (_, deal) = env.recorded("answered early").await.unwrap();
    let agent = env.miner_agent_with(&[("setting.confirmTimeout", "20s")]).unwrap();
    eventually!(env.sim.import_counts(&deal).succeeded == 1, "the call is answered");
    let state = || env.sim.deal(&deal).unwrap().provider.unwrap().state;
    let mut looks = 0;
    loop {
        let is_imported = env.is_imported(&deal).await.unwrap();
        let import = env.import_of(&deal).await.unwrap();
        if state() != DealState::WaitingForData {
            break;
        }
        assert!(!is_imported, "closed while the provider waits for the data");
        assert_ne!(import.get_str("state").ok(), Some("retrying"), "a failure while the event is under way");
        looks += 1;
        sleep(Duration::from_millis(10)).await;
    }
    assert!(looks > 0, "the deal moved before anybody could look");
    eventually!(env.is_imported(&deal).await.unwrap(), "it is closed when it has moved");
    agent.end().await.unwrap();
    assert_eq!(env.sim.imports_for(&deal), 1, "and was not called again meanwhile");
    assert_eq!(env.sim.temp_files_leaked(), 0);
}

#[tokio::test]
async fn deal_that_is_accepted_late_is_imported_without_its_pause() {
    let timings = Timings { validate: Duration::from_secs(2), ..Timings::default() };
    let config = SimConfig { version: LotusVersion::V1_5, timings, ..SimConfig::default() };
    let env = TestEnv::open_with(config).await.unwrap();
    let keys = [("setting.scanInterval", "1h"), ("setting.waitInterval", "1h")];
    let agent = env.miner_agent_with(&keys).unwrap();
    let car = env.car("late").unwrap();
    let deal = env.propose_by(PublishMethod::Start, &car, MINER).await.unwrap();
    env.record(&car, &deal, MINER).await.unwrap();
    eventually_eq!(env.import_field(&deal, "state").await.unwrap(), "waiting", "it is not accepted yet");
    eventually!(within Duration::from_secs(20), env.is_imported(&deal).await.unwrap(), "it is imported");
    assert_eq!(env.sim.imports_for(&deal), 1);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn deal_that_the_client_gives_up_before_its_call_goes_back_and_is_told_as_that() {
    let env = TestEnv::open().await.unwrap();
    let (_, deal) = env.recorded("given up").await.unwrap();
    // The time in which the client gives it up: it is claimed, and the market has not told its state.
    env.sim.inject(Fault::on(LIST, FaultKind::Delay(SECOND * 2)));
    let agent = env.miner_agent_process().unwrap();
    let given_up = doc! { "$set": { "status": 26 } };
    let claimed = doc! { "dealcid": &deal, "claim": { "$exists": true } };
    eventually!(
        env.deals().update_one(claimed.clone(), given_up.clone()).await.unwrap().matched_count == 1,
        "the client gives a deal up that the agent holds"
    );
    eventually_eq!(
        env.import_field(&deal, "reason").await.unwrap(),
        "the client has given the deal up",
        "the deal says so"
    );
    assert_eq!(env.deals().count_documents(claimed).await.unwrap(), 0, "the lease is given back");
    eventually!(agent.has_logged("the client has given the deal up").unwrap(), "the log says so");
    assert!(!agent.has_logged("the lease was lost").unwrap());
    assert_eq!(env.sim.imports_for(&deal), 0);
}

#[tokio::test]
async fn folder_that_cannot_be_watched_is_told_of() {
    let env = TestEnv::open().await.unwrap();
    let yaml = env.import_yaml(&[MINER]).unwrap();
    let absent = env.folder().join("not-mounted");
    let text = format!("{}roots: ['{}']\n", fs::read_to_string(&yaml).unwrap(), absent.display());
    fs::write(&yaml, text).unwrap();
    let agent = env.miner_agent_process_of(&yaml).unwrap();
    let told = || {
        let log = fs::read_to_string(&agent.log).unwrap();
        log.lines().find(|line| line.contains("cannot be watched")).map(str::to_owned)
    };
    let line = eventually!(told(), "the agent tells");
    assert!(line.contains("WARN") && line.contains(absent.to_str().unwrap()), "{line}");
}

#[tokio::test]
async fn one_pass_imports_what_becomes_due_while_it_runs() {
    let env = TestEnv::open().await.unwrap();
    // The market's list that the pass begins with is of the time before the deal.
    env.sim.inject(Fault::on(LIST, FaultKind::DelayAnswer(SECOND * 3)).times(1));
    let yaml = env.import_yaml(&[MINER]).unwrap();
    let text = fs::read_to_string(&yaml).unwrap();
    // With one place for calls the queue is not found empty while the deal is looked at.
    fs::write(&yaml, text.replace("setting: {", "setting: {importsPerMiner: 2, ")).unwrap();
    let mut command = miner_agent_command().unwrap();
    command.arg("import").arg("-c").arg(yaml);
    let mut pass = spawn(command, &env.new_path("import.log")).unwrap();
    eventually!(env.sim.count(LIST) == 1, "the pass has begun");
    sleep(SECOND / 2).await;
    let (_, deal) = env.recorded("late").await.unwrap();
    eventually!(!pass.is_running(), "the pass ends");
    assert!(env.is_imported(&deal).await.unwrap(), "{:?}", env.import_of(&deal).await.unwrap());
    assert!(env.sim.count(LIST) >= 2, "the first list did not have the deal");
}

#[tokio::test]
async fn each_import_records_what_the_provider_says_of_deals_that_are_closed() {
    let env = TestEnv::open().await.unwrap();
    env.sim.hold_at(MINER, Some(DealState::Publish));
    let (_, deal) = env.recorded("imported once").await.unwrap();
    let yaml = env.import_yaml(&[MINER]).unwrap();
    let import = async || {
        let mut command = miner_agent_command().unwrap();
        command.arg("import").arg("-c").arg(&yaml);
        let mut pass = spawn(command, &env.new_path("import.log")).unwrap();
        eventually!(!pass.is_running(), "the pass ends");
        let document = env.deal(&deal).await.unwrap().unwrap();
        let provider = document.get_document("provider").unwrap();
        (provider.get_i64("status").unwrap(), provider.get_i64("dealid").unwrap_or(0))
    };
    let (status, number) = import().await;
    assert!(env.is_imported(&deal).await.unwrap());
    assert!(status != 7 && number == 0, "{status} {number}");
    env.sim.hold_at(MINER, None);
    let state = || env.sim.deal(&deal).and_then(|deal| deal.provider).map(|side| side.state);
    eventually_eq!(state(), Some(DealState::Active), "the provider seals the deal");
    let (status, number) = import().await;
    assert!(status == 7 && number > 0, "{status} {number}");
    assert_eq!(env.sim.imports_for(&deal), 1);
}

#[tokio::test]
async fn deal_that_the_provider_rejects_fails_with_its_reason() {
    // v1.5 sends a proposal off without the root at hand, and learns of the rejection later.
    let env =
        TestEnv::open_with(SimConfig { version: LotusVersion::V1_5, ..SimConfig::default() }).await.unwrap();
    let agent = env.miner_agent().unwrap();
    let car = env.car("rejected").unwrap();
    env.sim.reject_next(MINER, "no offline deals on sundays");
    let rejected = env.propose_by(PublishMethod::Start, &car, MINER).await.unwrap();
    env.record(&car, &rejected, MINER).await.unwrap();
    eventually_eq!(env.import_field(&rejected, "state").await.unwrap(), "failed", "the deal fails");
    let reason = env.import_field(&rejected, "reason").await.unwrap();
    assert!(reason.contains("no offline deals on sundays"), "{reason}");

    let fine = env.car("accepted").unwrap();
    let accepted = env.propose_by(PublishMethod::Start, &fine, MINER).await.unwrap();
    env.record(&fine, &accepted, MINER).await.unwrap();
    eventually!(env.is_imported(&accepted).await.unwrap(), "the next deal is imported");
    agent.end().await.unwrap();
    assert_eq!((env.sim.imports_for(&rejected), env.sim.imports_for(&accepted)), (0, 1));
    let document = env.deal(&rejected).await.unwrap().unwrap();
    assert_eq!(document.get_i32("isdeal").ok(), Some(0), "{document}");
    assert!(!document.contains_key("claim"), "{document}");
}

#[tokio::test]
async fn deal_whose_start_cannot_be_met_is_not_imported() {
    let env = TestEnv::open().await.unwrap();
    let (_, late) = env.recorded("late").await.unwrap();
    // 400 epochs are left, and sealing takes 480.
    env.sim.advance_epochs(4600);
    let (_, in_time) = env.recorded("in time").await.unwrap();
    let agent = env.miner_agent().unwrap();
    eventually_eq!(env.import_field(&late, "state").await.unwrap(), "missed", "the late deal is marked");
    eventually!(env.is_imported(&in_time).await.unwrap(), "the other is imported");
    agent.end().await.unwrap();
    let reason = env.import_field(&late, "reason").await.unwrap();
    assert!(reason.contains("start epoch") && reason.contains("480 needed"), "{reason}");
    assert_eq!((env.sim.imports_for(&late), env.sim.imports_for(&in_time)), (0, 1));
    assert!(!env.is_imported(&late).await.unwrap());
}

#[tokio::test]
async fn deal_imported_by_hand_is_closed_without_a_call() {
    let env = TestEnv::open().await.unwrap();
    let (car, deal) = env.recorded("by hand").await.unwrap();
    env.import_by_hand(&deal, &car).await.unwrap();
    let agent = env.miner_agent().unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the deal is closed");
    agent.end().await.unwrap();
    assert_eq!(env.sim.imports_for(&deal), 1, "the hand's own");
}

#[tokio::test]
async fn agent_serves_all_its_miners_and_nobody_elses() {
    let miners: Vec<_> = ["f01000", "f01001", "f01002"].map(MinerConfig::new).into();
    let env = TestEnv::open_with(SimConfig { miners, ..SimConfig::default() }).await.unwrap();
    let car = env.car("for three").unwrap();
    env.cars().insert_one(car.document()).await.unwrap();
    let mut deals = BTreeMap::new();
    for miner in env.sim.miners() {
        let deal = env.propose(&car, &miner).await.unwrap();
        env.record_deal(&car, &deal, &miner).await.unwrap();
        deals.insert(miner, deal);
    }
    let agent = env.miner_agent_for(&["f01000", "f01001"], &[]).unwrap();
    eventually_eq!(env.imported_count().await.unwrap(), 2, "two miners' deals are imported");
    agent.end().await.unwrap();
    let imports: Vec<_> = deals.values().map(|deal| env.sim.imports_for(deal)).collect();
    assert_eq!(imports, [1, 1, 0]);
    let untouched = env.deal(&deals["f01002"]).await.unwrap().unwrap();
    assert!(!untouched.contains_key("claim") && !untouched.contains_key("import"), "{untouched}");
    assert_eq!(untouched.get_i32("isdeal").ok(), Some(0));
}

/// What another user of the database may write into deals: none of it ends them, and none of it holds them
/// for ever.
#[tokio::test]
async fn values_that_no_agent_writes_end_no_deal_and_hold_none() {
    let env = TestEnv::open().await.unwrap();
    let beyond = || Bson::Timestamp(bson::Timestamp { time: u32::MAX, increment: 1 });
    let mut deals = Vec::new();
    for (what, fields) in [
        ("a lease to the last key", doc! { "claim": { "owner": "x", "until": Bson::MaxKey, "n": 9 } }),
        ("a lease that is a timestamp", doc! { "claim.until": beyond() }),
        ("a pause that is a timestamp", doc! { "import": { "state": "waiting", "nexttry": beyond() } }),
        ("a pause without a state", doc! { "import.nexttry": Bson::MaxKey }),
        (
            "terms that cannot be read",
            doc! { "startepoch": { "deep": [1] }, "price": [1], "import.putback": "x" },
        ),
        ("another CAR", doc! { "filecid": "x" }),
        ("a CAR that cannot be read", doc! { "filecid": { "a": 1 } }),
    ] {
        let (car, deal) = env.recorded(what).await.unwrap();
        env.deals().update_one(doc! { "dealcid": &deal }, doc! { "$set": fields.clone() }).await.unwrap();
        let odd = doc! { "filecid": &car.payload_cid, "inputpath": what, "outputpath": what, "carsizebytes": { "a": 1 } };
        env.cars().insert_one(odd).await.unwrap();
        deals.push((what, car.payload_cid, deal, fields.contains_key("filecid")));
    }
    let agent = env.miner_agent().unwrap();
    for (what, payload_cid, deal, lacks_its_car) in &deals {
        if *lacks_its_car {
            let unusable =
                async || env.import_field(deal, "reason").await.unwrap().contains("`filecid` cannot be used");
            eventually!(unusable().await, "{what}: told");
            assert_eq!(env.import_field(deal, "state").await.unwrap(), "waiting", "{what}");
            // As the client's agent does.
            let restored = doc! { "$set": { "filecid": payload_cid } };
            env.deals().update_one(doc! { "dealcid": deal }, restored).await.unwrap();
        }
        eventually!(env.is_imported(deal).await.unwrap(), "{what}");
    }
    agent.end().await.unwrap();
}

/// What the first prototype left behind: doubles, local times without a zone, missing fields, the error
/// text of a command where a proposal CID belongs, deals without a CAR.
#[tokio::test]
async fn database_of_the_prototype_is_read_without_loss() {
    let env = TestEnv::open().await.unwrap();
    let unique = |keys: Document| {
        let options = mongodb::options::IndexOptions::builder().unique(true).build();
        mongodb::IndexModel::builder().keys(keys).options(options).build()
    };
    let car_keys = doc! { "inputpath": 1, "outputpath": 1, "filecid": 1 };
    env.cars().create_index(unique(car_keys)).await.unwrap();
    env.deals().create_index(unique(doc! { "dealcid": 1 })).await.unwrap();

    let (car, deal) = env.proposed("prototype").await.unwrap();
    let (lost_car, without_car) = env.proposed("without a document in cars").await.unwrap();
    let (_, done) = env.proposed("closed long ago").await.unwrap();
    // The prototype wrote its host's clock, here eight hours ahead of UTC.
    let local = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 8 * 3_600_000);
    let car_document = doc! {
        "inputpath": car.source.to_str().unwrap(), "outputpath": car.path.to_str().unwrap(),
        "filecid": &car.payload_cid, "piececid": &car.piece_cid, "group": "Fedora",
        "filesizebytes": 200.0, "dealsizebytes": 254.0, "createdtime": local, "shelf": { "row": 7.5 },
    };
    let wanted = doc! {
        "filecid": &car.payload_cid, "dealcid": &deal, "miner": MINER, "price": 0.0,
        "duration": 521_279.0, "isdeal": 0.0, "status": 18.0, "statusmsg": "WaitingForData",
        "createdtime": local, "updatedtime": "2021-03-05 18:11:12.345678",
        "note": ["kept", { "as": "it is" }], "checked": 3.5,
    };
    let error_text = "ERROR: failed to start deal: wallet: key not found\nUSAGE: lotus client deal";
    let others = [
        doc! { "filecid": &lost_car.payload_cid, "dealcid": &without_car, "miner": MINER, "isdeal": 0.0 },
        doc! { "filecid": &car.payload_cid, "dealcid": error_text, "miner": MINER, "isdeal": 0.0 },
        doc! { "miner": MINER, "isdeal": 0.0 },
        doc! { "filecid": &car.payload_cid, "dealcid": &done, "miner": MINER, "isdeal": 1.0, "status": 7.0 },
    ];
    env.cars().insert_one(&car_document).await.unwrap();
    env.deals().insert_one(&wanted).await.unwrap();
    env.deals().insert_many(&others).await.unwrap();

    let agent = env.miner_agent().unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the deal of the prototype is imported");
    eventually_eq!(env.import_field(error_text, "state").await.unwrap(), "waiting", "error text is no deal");
    eventually_eq!(env.import_field(&without_car, "state").await.unwrap(), "waiting", "no CAR, no failure");
    let nameless = || async {
        let found = env.deals().find_one(doc! { "dealcid": { "$exists": false } }).await.unwrap().unwrap();
        found.get_document("import").is_ok_and(|import| import.get_str("state").ok() == Some("waiting"))
    };
    eventually!(nameless().await, "a deal without a CID waits for one");
    assert!(env.import_field(&without_car, "reason").await.unwrap().contains("no document in `cars`"));
    assert!(env.import_field(error_text, "reason").await.unwrap().contains("dealcid"));

    // Once its document is there, it is a deal like others.
    env.cars().insert_one(lost_car.document()).await.unwrap();
    eventually!(env.is_imported(&without_car).await.unwrap(), "the CAR is known now");
    agent.end().await.unwrap();
    let imports = [&deal, &without_car, &done].map(|deal| env.sim.imports_for(deal));
    assert_eq!(imports, [1, 1, 0]);

    let written = ["isdeal", "updatedtime", "status", "statusmsg"];
    let after = env.deal(&deal).await.unwrap().unwrap();
    for (name, value) in wanted.iter().filter(|(name, _)| !written.contains(&name.as_str())) {
        assert_eq!(after.get(name), Some(value), "{name} of {after}");
    }
    let mut car_after = env.cars().find_one(doc! { "group": "Fedora" }).await.unwrap().unwrap();
    car_after.remove("_id");
    assert_eq!(car_after, car_document, "the CAR's document is none of miner-agent's business");
    let mut done_after = env.deal(&done).await.unwrap().unwrap();
    for own in ["_id", "provider"] {
        done_after.remove(own);
    }
    assert_eq!(done_after, others[3], "a closed deal stays as it is");
    assert!(fs::exists(&car.path).unwrap());
}
