//! Limits beside the number of imports at a time: hours of the day, deals without a sector, bytes in hand.

use std::process::Output;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::eventually;
use harness::test_env::{MINER, Process, TestEnv, miner_agent_command, spawn};
use lotus_sim::{DealState, Fault, FaultKind};
use tokio::time::sleep;

const IMPORT: &str = "Filecoin.MarketImportDealData";
const LIST: &str = "Filecoin.MarketListIncompleteDeals";

fn run(env: &TestEnv, flags: &[&str]) -> Process {
    let mut command = miner_agent_command().unwrap();
    command.arg("run").args(flags).arg("-c").arg(env.import_yaml(&[MINER]).unwrap());
    spawn(command, &env.new_path("run.log")).unwrap()
}

fn import(env: &TestEnv, flags: &[&str]) -> Output {
    let mut command = miner_agent_command().unwrap();
    command.arg("import").arg("--json").args(flags).arg("-c").arg(env.import_yaml(&[MINER]).unwrap());
    command.output().unwrap()
}

/// Hours that begin and end so many minutes from now, in UTC.
fn hours(from: u64, to: u64) -> String {
    let minutes = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    let written = |after: u64| format!("{:02}:{:02}", (minutes + after) / 60 % 24, (minutes + after) % 60);
    format!("{}-{}", written(from), written(to))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_is_handed_over_outside_of_the_hours() {
    let env = TestEnv::open().await.unwrap();
    let (_, deal) = env.recorded("a deal of the night").await.unwrap();
    let output = import(&env, &["--import-hours", &hours(120, 180)]);
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("setting.importHours"), "{told}");
    assert_eq!(env.sim.count(IMPORT), 0, "{told}");
    // Twelve hours that began an hour ago.
    let output = import(&env, &["--import-hours", &hours(23 * 60, 11 * 60)]);
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(env.is_imported(&deal).await.unwrap(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_deals_are_imported_than_may_wait_for_a_sector() {
    let env = TestEnv::open().await.unwrap();
    env.sim.hold_at(MINER, Some(DealState::Publish));
    let (_, first) = env.recorded("first").await.unwrap();
    let _agent = run(&env, &["--waiting-for-sector-max", "1", "--provider-poll-interval", "500ms"]);
    eventually!(env.is_imported(&first).await.unwrap(), "the first is imported");
    let (_, second) = env.recorded("second").await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(env.sim.count(IMPORT), 1, "the first is in no sector yet");
    env.sim.hold_at(MINER, None);
    eventually!(env.is_imported(&second).await.unwrap(), "the first has its sector, and the second follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_bytes_are_handed_over_than_a_market_may_have_undecided() {
    let env = TestEnv::open().await.unwrap();
    env.sim.inject(Fault::on(LIST, FaultKind::WrongState(DealState::WaitingForData)));
    let (_, first) = env.recorded("first").await.unwrap();
    let _agent = run(&env, &["--handed-bytes-max", "1", "--confirm-timeout", "10m"]);
    eventually!(env.sim.count(IMPORT) == 1, "the first is handed over");
    let (_, second) = env.recorded("second").await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(env.sim.count(IMPORT), 1, "the market has not decided on the first");
    env.sim.clear_faults();
    for deal in [first, second] {
        eventually!(env.is_imported(&deal).await.unwrap(), "the market decides, and both are imported");
    }
    assert_eq!(env.sim.count(IMPORT), 2);
}
