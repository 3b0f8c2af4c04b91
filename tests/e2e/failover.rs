//! The database changes its primary while deals arrive: nothing is lost, nothing is imported twice.

use std::time::Duration;

use carferry_core::config::MongoTarget;
use carferry_core::store::{IndexUser, Store, StoreOptions};
use harness::faults::{FailPoint, FailWith, Times};
use harness::test_env::{MINER, TestEnv};
use harness::{Members, Options, ReplicaSet, eventually};
use lotus_sim::SimConfig;

const DEALS: usize = 60;
const IMPORT: &str = "Filecoin.MarketImportDealData";

async fn road_on(set: &ReplicaSet) -> TestEnv {
    let db = set.client().await.unwrap().database("failover");
    TestEnv::open_on(SimConfig::default(), db, set.uri()).await.unwrap()
}

/// Lets deals arrive, one after the other, and has something done to the database after every twentieth.
async fn deals_arrive_through(env: &TestEnv, trouble: impl AsyncFn(usize)) -> Vec<String> {
    let proposed = env.many_proposed(DEALS).await.unwrap();
    for (number, (car, deal)) in proposed.iter().enumerate() {
        if number % 20 == 10 {
            trouble(number / 20).await;
        }
        // The writer repeats what it cannot be sure of, as client-agent does; the key keeps it from doubling.
        eventually!(env.record_once(car, deal, MINER).await, "deal {number} is recorded");
    }
    proposed.into_iter().map(|(_, deal)| deal).collect()
}

async fn assert_each_imported_once(env: &TestEnv, deals: &[String]) {
    let deadline = Duration::from_secs(120);
    eventually!(
        within deadline,
        match env.imported_count().await {
            Ok(count) if count == u64::try_from(DEALS).unwrap() => Ok(()),
            other => Err(format!("{other:?}")),
        },
        "all deals are imported"
    );
    for deal in deals {
        let counts = env.sim.import_counts(deal);
        assert_eq!((counts.started, counts.effective), (1, 1), "{deal}: {counts:?}");
        assert!(env.is_imported(deal).await.unwrap(), "{deal}");
    }
    assert_eq!((env.sim.count(IMPORT), env.sim.temp_files_leaked()), (DEALS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn deals_that_arrive_while_primaries_step_down_are_imported_once() {
    let set = ReplicaSet::start(Members::Three, Options::default()).await.unwrap();
    let env = road_on(&set).await;
    let agents = [env.miner_agent().unwrap(), env.miner_agent().unwrap()];
    let deals = deals_arrive_through(&env, async |_| {
        set.step_down().await.unwrap();
    });
    let deals = deals.await;
    assert_each_imported_once(&env, &deals).await;
    for agent in agents {
        agent.end().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deals_that_arrive_while_primaries_are_killed_are_imported_once() {
    let set = ReplicaSet::start(Members::Three, Options::default()).await.unwrap();
    let env = road_on(&set).await;
    let agents = [env.miner_agent().unwrap(), env.miner_agent().unwrap()];
    let deals = deals_arrive_through(&env, async |_| {
        let killed = set.kill9_primary().await.unwrap();
        set.wait_for_primary().await.unwrap();
        set.restart(killed).await.unwrap();
    });
    let deals = deals.await;
    assert_each_imported_once(&env, &deals).await;
    for agent in agents {
        agent.end().await.unwrap();
    }
}

/// On a large old collection an index takes longer to make than any call may take.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_takes_long_stops_nobody_and_is_there_in_the_end() {
    let set = ReplicaSet::start(Members::One, Options::default()).await.unwrap();
    let options = StoreOptions {
        target: MongoTarget::parse(&set.uri(), "indexes").unwrap(),
        app_name: "client-agent test".to_owned(),
        call_timeout: Duration::from_secs(1),
    };
    let store = Store::open(&options).await.unwrap();
    let slow = FailWith::Delay { milliseconds: 3000 };
    let point = FailPoint::on(&set, 0, &["createIndexes"], slow, Times::Always).unwrap();
    let report = store.ensure_indexes(IndexUser::ClientAgent).await.unwrap();
    // The first of each collection; the others would take as long.
    let waited: Vec<_> = report.missing.iter().filter(|(_, why)| why.starts_with("not there yet")).collect();
    assert_eq!((waited.len(), report.missing.len()), (3, 3), "{report:?}");
    assert!(report.is_to_be_tried_again && report.created.is_empty(), "{report:?}");
    point.off().unwrap();
    eventually!(
        within Duration::from_secs(30),
        {
            let report = store.ensure_indexes(IndexUser::ClientAgent).await.unwrap();
            anyhow::ensure!(report.missing.is_empty() && !report.is_to_be_tried_again, "{report:?}");
            anyhow::Ok(())
        },
        "all are there"
    );
    let report = store.check_indexes(IndexUser::ClientAgent).await.unwrap();
    assert!(report.missing.is_empty(), "{report:?}");
}
