//! A database that refuses what an agent writes, fails for a moment, or goes away and comes back.

use std::fs;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, doc};
use carferry_core::config::MongoTarget;
use carferry_core::store::{Store, StoreOptions};
use harness::faults::{FailPoint, FailWith, Times};
use harness::test_env::{MINER, Process, TestEnv};
use harness::{Members, Options, ReplicaSet, eventually};
use lotus_sim::{SimConfig, Timings};
use miner_agent::dispatch::lease_renewal::Leases;
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
/// How often a write is tried that a validator refuses, as `patience` has it: the last try is told otherwise.
const TRIES_TOLD: usize = 2;

/// How many lines of a log have this text.
fn told(agent: &Process, text: &str) -> usize {
    fs::read_to_string(&agent.log).unwrap().lines().filter(|line| line.contains(text)).count()
}

async fn road_on(set: &ReplicaSet, sim: SimConfig) -> TestEnv {
    let db = set.client().await.unwrap().database("trouble");
    TestEnv::open_on(sim, db, set.uri()).await.unwrap()
}

#[tokio::test]
async fn an_outcome_that_the_database_refuses_is_given_up_and_holds_nobody() {
    let env = TestEnv::open().await.unwrap();
    let (_, refused) = env.recorded("its end is refused").await.unwrap();
    let rule = doc! { "$nor": [{ "dealcid": &refused, "isdeal": 1 }] };
    env.db.run_command(doc! { "collMod": "offlinedeals", "validator": rule }).await.unwrap();
    let agent = env.miner_agent_process().unwrap();
    let again = "a database call failed, trying again";
    eventually!(agent.has_logged("cannot be recorded").unwrap(), "the agent gives the write up");
    assert_eq!(told(&agent, again), TRIES_TOLD);
    let (_, other) = env.recorded("another deal").await.unwrap();
    eventually!(env.is_imported(&other).await.unwrap(), "other deals are imported");
    // The lease is no longer renewed, and no agent claims the deal again.
    let lease_is_over = doc! { "dealcid": &refused, "$expr": { "$lt": ["$claim.until", "$$NOW"] } };
    eventually!(env.deals().count_documents(lease_is_over.clone()).await.unwrap() == 1, "its lease runs out");
    sleep(SECOND * 2).await;
    assert_eq!(env.deals().count_documents(lease_is_over).await.unwrap(), 1);
    assert_eq!((told(&agent, again), told(&agent, "cannot be recorded")), (TRIES_TOLD, 1));

    // The market has the data: the next agent writes that down, and calls for nothing.
    env.db.run_command(doc! { "collMod": "offlinedeals", "validator": {} }).await.unwrap();
    drop(agent);
    let next = env.miner_agent().unwrap();
    eventually!(env.is_imported(&refused).await.unwrap(), "the deal is closed");
    next.end().await.unwrap();
    assert_eq!(env.sim.imports_for(&refused), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_other_pages_are_renewed_when_one_page_fails() {
    const COUNT: usize = 620;
    const APP: &str = "renewing";
    /// Leases in one command.
    const PAGE: usize = 500;
    let set = ReplicaSet::start(Members::One, Options::default()).await.unwrap();
    let env = road_on(&set, SimConfig::default()).await;
    let ids: Vec<ObjectId> = (0..COUNT).map(|_| ObjectId::new()).collect();
    let documents = ids.iter().map(|id| doc! { "_id": id, "miner": MINER, "isdeal": 0, "startepoch": 9 });
    env.deals().insert_many(documents).await.unwrap();
    let options = StoreOptions {
        target: MongoTarget::parse(&env.uri, env.db.name()).unwrap(),
        app_name: APP.to_owned(),
        call_timeout: SECOND * 30,
    };
    let store = Store::open(&options).await.unwrap();
    let leases = Leases::default();
    let mut held = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        let claim =
            store.claim(&Bson::from(*id), MINER, &format!("test#{number}"), SECOND * 60).await.unwrap();
        held.push(leases.hold(&claim.unwrap()));
    }
    let refusal = FailWith::Error { code: 8000, labels: &[] };
    let once = FailPoint::on_app(&set, 0, APP, &["update"], refusal, Times::Next(1)).unwrap();
    // A renewal for no time ends what it renews.
    leases.renew(&store, Duration::ZERO).await.unwrap_err();
    once.off().unwrap();
    let renewed = doc! { "$expr": { "$lte": ["$claim.until", "$$NOW"] } };
    let renewed = usize::try_from(env.deals().count_documents(renewed).await.unwrap()).unwrap();
    assert_eq!(renewed, COUNT - PAGE);
    assert_eq!(held.iter().filter(|lease| lease.lost().is_cancelled()).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_the_database_answers_again_is_told_once() {
    let set = ReplicaSet::start(Members::One, Options::default()).await.unwrap();
    let timings = Timings { import_commp: SECOND * 2, ..Timings::default() };
    let env = road_on(&set, SimConfig { timings, ..SimConfig::default() }).await;
    let mut deals = Vec::new();
    for name in ["one", "two", "three", "four"] {
        deals.push(env.recorded(name).await.unwrap().1);
    }
    let yaml = env.import_yaml(&[MINER]).unwrap();
    let text = fs::read_to_string(&yaml).unwrap();
    fs::write(&yaml, text.replace("scanInterval: 20s", "scanInterval: 1s, importsPerMiner: 3")).unwrap();
    let agent = env.miner_agent_process_of(&yaml).unwrap();
    let answers = "the database answers again";
    eventually!(env.sim.count("Filecoin.MarketImportDealData") >= 2, "deals are in hand");
    for outages in 1..=2 {
        set.kill9(0).unwrap();
        sleep(SECOND * 8).await;
        set.restart(0).await.unwrap();
        set.wait_for_primary().await.unwrap();
        eventually!(within SECOND * 60, told(&agent, answers) >= outages, "the agent tells");
        sleep(SECOND * 3).await;
        assert_eq!(told(&agent, answers), outages, "{}", fs::read_to_string(&agent.log).unwrap());
    }
    for deal in &deals {
        eventually!(within SECOND * 60, env.is_imported(deal).await.unwrap(), "every deal is imported");
    }
}
