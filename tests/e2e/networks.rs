//! Which network a market is on, and which miner a record means: never decided by the spelling of an ID.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bson::{DateTime, doc};
use carferry_core::config::MongoTarget;
use carferry_core::model::ChainEpoch;
use carferry_core::store::{Store, StoreOptions};
use harness::test_env::{MINER, TestEnv};
use harness::{eventually, eventually_eq};
use lotus_sim::SimConfig;

#[tokio::test]
async fn without_a_full_node_the_databases_clock_tells_mainnets_height() {
    let env = TestEnv::open().await.unwrap();
    let mainnet = ChainEpoch::mainnet_at(DateTime::now().timestamp_millis() / 1000).get();
    // Deals start 5000 epochs later: 400 are left, and sealing takes 480.
    env.sim.set_epoch(mainnet - 4600);
    let (_, late) = env.recorded("late on mainnet").await.unwrap();
    env.sim.set_epoch(mainnet);
    let (_, in_time) = env.recorded("in time on mainnet").await.unwrap();
    let agent = env.miner_agent_process_of(&without_full_node(&env)).unwrap();
    eventually_eq!(
        env.import_field(&late, "state").await.unwrap(),
        "missed",
        "by mainnet's calendar it is late"
    );
    eventually!(env.is_imported(&in_time).await.unwrap(), "the other is imported");
    let reason = env.import_field(&late, "reason").await.unwrap();
    assert!(reason.contains("480 needed"), "{reason}");
    assert_eq!(env.sim.imports_for(&late), 0);
    drop(agent);
}

#[tokio::test]
async fn without_a_full_node_no_deal_of_another_network_is_missed() {
    for prefix in ['f', 't'] {
        let env =
            TestEnv::open_with(SimConfig { network_prefix: prefix, ..SimConfig::default() }).await.unwrap();
        // Mainnet is past its start by millions of epochs.
        let (_, deal) = env.recorded("on another network").await.unwrap();
        let mut agent = env.miner_agent_process_of(&without_full_node(&env)).unwrap();
        eventually!(env.is_imported(&deal).await.unwrap(), "the deal is imported ({prefix})");
        assert!(agent.has_logged("start epochs are not checked").unwrap());
        agent.kill9().unwrap();
    }
}

/// A configuration of miner-agent as short as it can be: nothing says which network it is.
fn without_full_node(env: &TestEnv) -> PathBuf {
    let file = env.import_yaml(&[MINER]).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let rest: Vec<_> = text.lines().filter(|line| !line.starts_with("fullNode")).collect();
    fs::write(&file, rest.join("\n")).unwrap();
    file
}

#[tokio::test]
async fn miner_is_the_same_however_records_and_configuration_spell_it() {
    let env = TestEnv::open().await.unwrap();
    let mut count = 0;
    let mut record = async |spelling: &str| {
        let (car, deal) = env.proposed(&format!("deal {count} of {spelling} ")).await.unwrap();
        env.record(&car, &deal, spelling).await.unwrap();
        count += 1;
    };
    for spelling in ["f01000", "t01000", "f001000"] {
        record(spelling).await;
    }
    let options = StoreOptions {
        target: MongoTarget::parse(&env.uri, env.db.name()).unwrap(),
        app_name: "test".to_owned(),
        call_timeout: Duration::from_secs(10),
    };
    let store = Store::open(&options).await.unwrap();
    assert_eq!(store.open_deals_per_miner().await.unwrap(), [(MINER.to_owned(), 3)]);
    let counts = store.deal_counts().await.unwrap();
    assert_eq!(
        counts.iter().map(|count| (count.miner.as_str(), count.deals)).collect::<Vec<_>>(),
        [(MINER, 3)]
    );
    let agent = env.miner_agent_for(&["t01000"], &[]).unwrap();
    eventually_eq!(env.imported_count().await.unwrap(), 3, "what was there is imported");
    // The scan comes too late for this one: the change stream's filter knows its spelling.
    record("t01000").await;
    eventually_eq!(env.imported_count().await.unwrap(), 4, "what arrives is imported");
    let polled = doc! { "provider.status": { "$exists": true } };
    eventually_eq!(
        env.deals().count_documents(polled.clone()).await.unwrap(),
        4,
        "the provider's view is recorded"
    );
    agent.end().await.unwrap();
    assert_eq!(store.pending_counts(MINER).await.unwrap().pending, 0);
}
