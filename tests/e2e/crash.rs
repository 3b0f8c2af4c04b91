//! Agents that are killed, frozen or asked to end while the node works on their import.

use std::time::Duration;

use harness::test_env::{MINER, TestEnv};
use harness::{eventually, eventually_eq};
use lotus_sim::{DealState, Fault, FaultKind, SimConfig, Timings};
use rustix::process::Signal;

const IMPORT: &str = "Filecoin.MarketImportDealData";

/// A node that takes its time over the commitment: by then, a caller that leaves changes nothing.
fn slow_node(time: Duration) -> SimConfig {
    SimConfig { timings: Timings { import_commp: time, ..Timings::default() }, ..SimConfig::default() }
}

async fn has_called(env: &TestEnv, deal: &str) -> bool {
    let document = env.deal(deal).await.unwrap().unwrap();
    let noted = document.get_document("import").is_ok_and(|import| import.contains_key("calledtime"));
    noted && env.sim.imports_for(deal) == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn import_of_a_killed_agent_is_finished_by_the_next_without_a_second_call() {
    let env = TestEnv::open_with(slow_node(Duration::from_secs(2))).await.unwrap();
    let (_, deal) = env.recorded("killed").await.unwrap();
    let mut agent = env.miner_agent_process().unwrap();
    eventually!(has_called(&env, &deal).await, "the call is under way");
    // The copy is made at once; the node is at the commitment when its file is whole.
    eventually!(staged(&env), "the node has its copy");
    agent.kill9().unwrap();
    assert_eq!(env.sim.deal(&deal).unwrap().provider.unwrap().state, DealState::WaitingForData);

    let next = env.miner_agent_with(&[("setting.confirmTimeout", "10s")]).unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the next agent closes the deal");
    next.end().await.unwrap();
    let counts = env.sim.import_counts(&deal);
    assert_eq!((counts.started, counts.effective), (1, 1), "{counts:?}");
    assert_eq!(env.sim.temp_files_leaked(), 0);
    assert!(!env.deal(&deal).await.unwrap().unwrap().contains_key("claim"));
}

#[tokio::test(flavor = "multi_thread")]
async fn call_of_a_killed_agent_gets_the_time_its_signed_size_needs_before_any_other() {
    a_call_outlives_its_agent(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn call_of_a_killed_agent_is_not_repeated_where_another_call_may_go_out() {
    // One for the call that is under way, one for the other deal, and one to spare.
    a_call_outlives_its_agent(3).await;
}

/// An agent is killed while its call is under way; the next one has so many calls at a time.
async fn a_call_outlives_its_agent(imports_per_miner: usize) {
    let env = TestEnv::open_with(slow_node(Duration::from_secs(3))).await.unwrap();
    // A piece of 128 MiB: thirteen seconds at 10 MiB a second.
    let lines: Vec<String> = (0..10_000_000).map(|number| number.to_string()).collect();
    let (car, deal) = env.recorded(&lines.join("\n")).await.unwrap();
    // The lease is over long before the node is done: what keeps the next agent from calling is the note
    // alone.
    let yaml = env.import_yaml(&[MINER]).unwrap();
    let short_lease = std::fs::read_to_string(&yaml).unwrap().replace("lease: 3s", "lease: 1s");
    std::fs::write(&yaml, short_lease).unwrap();
    let mut agent = env.miner_agent_process_of(&yaml).unwrap();
    eventually!(within Duration::from_secs(20), has_called(&env, &deal).await, "the call is under way");
    // All of it: a caller that leaves before stops the node.
    let whole = std::fs::metadata(&car.path).unwrap().len();
    eventually!(within Duration::from_secs(20), staged_bytes(&env) == whole, "the node has its copy");
    agent.kill9().unwrap();
    // As the prototype records deals: without a size. And another deal that could be imported at once.
    let unset = bson::doc! { "$unset": { "dealsizebytes": "" } };
    env.deals().update_one(bson::doc! { "dealcid": &deal }, unset).await.unwrap();
    let (_, second) = env.recorded("second").await.unwrap();

    // Without regard to the size the next call would go out within a second. A small deal's call counts as
    // unanswered after four times this, and the node takes three seconds.
    let at_once = imports_per_miner.to_string();
    let settings = [
        ("setting.confirmTimeout", "1s"),
        ("setting.importTimeout", "60s"),
        ("setting.lease", "1s"),
        ("setting.importsPerMiner", at_once.as_str()),
    ];
    let next = env.miner_agent_with(&settings).unwrap();
    eventually!(within Duration::from_secs(30), env.is_imported(&deal).await.unwrap(), "the next agent closes the deal");
    eventually!(within Duration::from_secs(30), env.is_imported(&second).await.unwrap(), "and the other deal");
    next.end().await.unwrap();
    let counts = env.sim.import_counts(&deal);
    assert_eq!((counts.started, counts.effective), (1, 1), "{counts:?}");
    let at_once = env.sim.max_concurrent_imports_seen(MINER);
    assert_eq!(at_once, imports_per_miner.min(2), "as many as setting.importsPerMiner allows");
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_after_the_work_leaves_only_the_closing_to_the_next() {
    let env = TestEnv::open().await.unwrap();
    let (_, deal) = env.recorded("answer withheld").await.unwrap();
    env.sim.inject(Fault::on(IMPORT, FaultKind::HangAfterWork));
    let mut agent = env.miner_agent_process().unwrap();
    eventually_eq!(env.sim.import_counts(&deal).effective, 1, "the node has done its work");
    agent.kill9().unwrap();
    assert!(!env.is_imported(&deal).await.unwrap(), "nobody could know");

    let next = env.miner_agent().unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the next agent closes the deal");
    next.end().await.unwrap();
    assert_eq!(env.sim.imports_for(&deal), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn import_lost_with_the_killed_agent_is_made_by_the_next() {
    let env = TestEnv::open().await.unwrap();
    let (_, deal) = env.recorded("lost").await.unwrap();
    env.sim.inject(Fault::on(IMPORT, FaultKind::Hang).times(1));
    let mut agent = env.miner_agent_process().unwrap();
    eventually_eq!(env.sim.count(IMPORT), 1, "the call is under way");
    agent.kill9().unwrap();

    let next = env.miner_agent_with(&[("setting.confirmTimeout", "500ms")]).unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the next agent imports the deal");
    next.end().await.unwrap();
    let counts = env.sim.import_counts(&deal);
    assert_eq!((env.sim.count(IMPORT), counts.started, counts.effective), (2, 1, 1), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_agent_wakes_to_a_closed_deal_and_writes_nothing() {
    let env = TestEnv::open_with(slow_node(Duration::from_secs(2))).await.unwrap();
    let (_, deal) = env.recorded("frozen").await.unwrap();
    let mut frozen = env.miner_agent_process().unwrap();
    eventually!(has_called(&env, &deal).await, "the call is under way");
    frozen.signal(Signal::STOP).unwrap();

    let other = env.miner_agent_with(&[("setting.confirmTimeout", "10s")]).unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the other agent closes the deal");
    let closed = env.import_of(&deal).await.unwrap();
    frozen.signal(Signal::CONT).unwrap();
    eventually!(frozen.has_logged("the lease was lost").unwrap(), "the frozen agent finds out");
    assert_eq!(env.import_of(&deal).await.unwrap(), closed, "the deal stands as the other left it");

    // It is of use again.
    other.end().await.unwrap();
    let (_, next) = env.recorded("after the freeze").await.unwrap();
    eventually!(env.is_imported(&next).await.unwrap(), "the agent that was frozen goes on");
    assert_eq!((env.sim.imports_for(&deal), env.sim.imports_for(&next)), (1, 1));
    assert!(frozen.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_is_asked_to_end_finishes_its_import_first() {
    let env = TestEnv::open_with(slow_node(Duration::from_secs(1))).await.unwrap();
    let (_, deal) = env.recorded("under way").await.unwrap();
    let mut agent = env.miner_agent_process().unwrap();
    eventually!(has_called(&env, &deal).await, "the call is under way");
    agent.signal(Signal::TERM).unwrap();
    let (_, too_late) = env.recorded("too late").await.unwrap();
    eventually!(!agent.is_running(), "the agent ends");
    assert!(env.is_imported(&deal).await.unwrap());
    assert_eq!((env.sim.imports_for(&deal), env.sim.imports_for(&too_late)), (1, 0));
    let untouched = env.deal(&too_late).await.unwrap().unwrap();
    assert!(!untouched.contains_key("claim") && !untouched.contains_key("import"), "{untouched}");
}

fn staged(env: &TestEnv) -> bool {
    staged_bytes(env) > 0
}

fn staged_bytes(env: &TestEnv) -> u64 {
    let folder = std::fs::read_dir(env.sim.staging_dir(MINER));
    let sizes = folder.into_iter().flatten().flatten().filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.max().unwrap_or(0)
}
