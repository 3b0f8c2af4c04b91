//! Imports in the face of wrong files, missing files, and nodes that break off or say what is not so.

use std::fs;
use std::time::Duration;

use harness::test_env::{MINER, TestEnv};
use harness::{eventually, eventually_eq};
use lotus_sim::{DealState, Fault, FaultKind, NodeName, SimConfig, Timings};

const IMPORT: &str = "Filecoin.MarketImportDealData";
const LIST: &str = "Filecoin.MarketListIncompleteDeals";

fn import_fault(deal: &str, kind: FaultKind) -> Fault {
    Fault { params_contain: Some(deal.to_owned()), ..Fault::on(IMPORT, kind) }
}

/// The same bytes but for the last.
fn spoil(path: &std::path::Path) -> Vec<u8> {
    let right = fs::read(path).unwrap();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    fs::write(path, wrong).unwrap();
    right
}

#[tokio::test]
async fn wrong_piece_is_tried_again_until_the_right_file_is_there() {
    let env = TestEnv::open().await.unwrap();
    let (car, deal) = env.recorded("right").await.unwrap();
    let right = spoil(&car.path);
    let agent = env.miner_agent().unwrap();
    eventually_eq!(env.import_field(&deal, "state").await.unwrap(), "retrying", "the node refuses the file");
    let reason = env.import_field(&deal, "reason").await.unwrap();
    assert!(reason.contains(&car.piece_cid) && reason.contains(car.path.to_str().unwrap()), "{reason}");
    let counts = env.sim.import_counts(&deal);
    assert!(counts.started >= 1 && counts.succeeded == 0, "{counts:?}");
    assert!(!env.is_imported(&deal).await.unwrap());

    fs::write(&car.path, right).unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the right file is imported");
    agent.end().await.unwrap();
    let counts = env.sim.import_counts(&deal);
    assert_eq!((counts.succeeded, counts.effective), (1, 1), "{counts:?}");
    assert_eq!(env.import_field(&deal, "reason").await.unwrap(), "");
}

#[tokio::test]
async fn wrong_piece_never_reaches_the_node_where_pieces_are_verified() {
    let env = TestEnv::open().await.unwrap();
    let (car, deal) = env.recorded("verified").await.unwrap();
    let right = spoil(&car.path);
    let agent = env.miner_agent_with(&[("setting.verifyPiece", "true")]).unwrap();
    eventually_eq!(env.import_field(&deal, "state").await.unwrap(), "retrying", "the agent refuses the file");
    assert!(env.import_field(&deal, "reason").await.unwrap().contains(&car.piece_cid));
    assert_eq!(env.sim.imports_for(&deal), 0);
    fs::write(&car.path, right).unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the right file is imported");
    agent.end().await.unwrap();
    assert_eq!(env.sim.imports_for(&deal), 1);
}

#[tokio::test]
async fn missing_car_is_waited_for_and_is_no_failure() {
    let env = TestEnv::open().await.unwrap();
    let (car, deal) = env.recorded("missing").await.unwrap();
    let elsewhere = env.new_path("elsewhere");
    fs::copy(&car.path, &elsewhere).unwrap();
    fs::remove_file(&car.path).unwrap();
    let agent = env.miner_agent().unwrap();
    eventually_eq!(env.import_field(&deal, "state").await.unwrap(), "waiting", "the deal waits");
    let reason = env.import_field(&deal, "reason").await.unwrap();
    assert!(reason.contains("not here yet") && reason.contains(car.path.to_str().unwrap()), "{reason}");

    // A copy under way: its beginning is right, its length is not.
    let whole = fs::read(&elsewhere).unwrap();
    fs::write(&car.path, &whole[..whole.len() - 1]).unwrap();
    eventually!(
        env.import_field(&deal, "reason").await.unwrap().contains("still arriving"),
        "the copy is noticed"
    );
    assert_eq!(env.sim.imports_for(&deal), 0);
    fs::write(&car.path, &whole).unwrap();
    eventually!(env.is_imported(&deal).await.unwrap(), "the CAR that came is imported");
    agent.end().await.unwrap();
    assert_eq!(env.sim.imports_for(&deal), 1);
    let document = env.deal(&deal).await.unwrap().unwrap();
    assert!(!document.get_document("import").unwrap().contains_key("attempts"), "{document}");
}

#[tokio::test]
async fn import_lost_in_a_restart_of_the_node_is_done_again() {
    let slow = Timings { import_copy: Duration::from_millis(700), ..Timings::default() };
    let env = TestEnv::open_with(SimConfig { timings: slow, ..SimConfig::default() }).await.unwrap();
    let (_, first) = env.recorded("first").await.unwrap();
    let (_, second) = env.recorded("second").await.unwrap();
    let agent = env.miner_agent().unwrap();
    eventually_eq!(env.sim.imports_for(&first), 1, "the first import is under way");
    env.sim.restart_miner(MINER);
    assert_eq!(env.sim.deal(&first).unwrap().provider.unwrap().state, DealState::WaitingForData);
    eventually_eq!(env.imported_count().await.unwrap(), 2, "both deals are imported");
    agent.end().await.unwrap();
    let counts = env.sim.import_counts(&first);
    assert_eq!((counts.started, counts.effective), (2, 1), "{counts:?}");
    let counts = env.sim.import_counts(&second);
    assert_eq!((counts.started, counts.effective), (1, 1), "{counts:?}");
}

#[tokio::test]
async fn node_that_is_down_delays_deals_and_fails_none() {
    let env = TestEnv::open().await.unwrap();
    let node = NodeName::parse(MINER);
    let (_, first) = env.recorded("first").await.unwrap();
    let agent = env.miner_agent().unwrap();
    eventually!(env.is_imported(&first).await.unwrap(), "the agent works");
    let (car, deal) = env.proposed("second").await.unwrap();
    env.sim.take_down(&node);
    env.record(&car, &deal, MINER).await.unwrap();
    // Said where `status` reads it, whether or not the deal was looked at before the node was missed.
    let states = env.db.collection::<bson::Document>("minerstates");
    let state = async || states.find_one(bson::doc! { "miner": MINER }).await.unwrap().unwrap_or_default();
    eventually!(state().await.contains_key("pausedsince"), "the agent has met the dead node");
    let reason = state().await.get_str("reason").unwrap().to_owned();
    assert!(reason.contains("did not reach") || reason.contains("market node"), "{reason}");
    let status = env.status_of_miner_agent(&[]).unwrap();
    assert!(
        status.contains("paused since") && status.contains("nothing is imported for this miner"),
        "{status}"
    );
    let explained = env.status_of_miner_agent(&[&deal]).unwrap();
    assert!(explained.contains("paused: nothing is imported for this miner since"), "{explained}");
    env.sim.bring_up(&node);
    eventually!(env.is_imported(&deal).await.unwrap(), "the deal is imported once the node is up");
    eventually!(!state().await.contains_key("pausedsince"), "and the miner is paused no more");
    let explained = env.status_of_miner_agent(&[&deal]).unwrap();
    assert!(explained.contains("it was imported at"), "{explained}");
    agent.end().await.unwrap();
    assert_eq!(env.sim.imports_for(&deal), 1);
    let document = env.deal(&deal).await.unwrap().unwrap();
    assert!(!document.get_document("import").unwrap().contains_key("attempts"), "{document}");
}

#[tokio::test]
async fn lost_answer_is_not_imported_twice() {
    let env = TestEnv::open().await.unwrap();
    let mut deals = Vec::new();
    for (name, kind) in [
        ("dropped", FaultKind::DropAfterWork),
        ("cut", FaultKind::CutAnswer),
        ("withheld", FaultKind::HangAfterWork),
        ("refused", FaultKind::ApplicationErrorAfterWork("normal shutdown of state machine".to_owned())),
    ] {
        let (_, deal) = env.recorded(name).await.unwrap();
        env.sim.inject(import_fault(&deal, kind));
        deals.push((name, deal));
    }
    let agent = env.miner_agent_with(&[("setting.importTimeout", "1s")]).unwrap();
    for (name, deal) in &deals {
        eventually!(env.is_imported(deal).await.unwrap(), "{name} is closed");
    }
    agent.end().await.unwrap();
    for (name, deal) in &deals {
        let counts = env.sim.import_counts(deal);
        assert_eq!((counts.started, counts.effective), (1, 1), "{name}: {counts:?}");
    }
    assert_eq!(env.sim.temp_files_leaked(), 0);
}

#[tokio::test]
async fn call_that_never_began_is_made_again() {
    let env = TestEnv::open().await.unwrap();
    let mut deals = Vec::new();
    for (name, kind) in [
        ("dropped", FaultKind::DropBefore),
        ("panic", FaultKind::Http500),
        ("hung", FaultKind::Hang),
        ("disk full", FaultKind::ApplicationError("write: no space left on device".to_owned())),
    ] {
        let (_, deal) = env.recorded(name).await.unwrap();
        env.sim.inject(import_fault(&deal, kind).times(1));
        deals.push((name, deal));
    }
    let keys = [("setting.importTimeout", "500ms"), ("setting.confirmTimeout", "500ms")];
    let agent = env.miner_agent_with(&keys).unwrap();
    for (name, deal) in &deals {
        eventually!(env.is_imported(deal).await.unwrap(), "{name} is imported after all");
    }
    agent.end().await.unwrap();
    for (name, deal) in &deals {
        let calls = env.sim.calls().iter().filter(|call| is_import_of(call, deal)).count();
        let counts = env.sim.import_counts(deal);
        assert_eq!((calls, counts.started, counts.effective), (2, 1, 1), "{name}: {counts:?}");
    }
}

#[tokio::test]
async fn call_that_hangs_is_looked_into_when_its_size_explains_it_no_more() {
    let env = TestEnv::open().await.unwrap();
    let (_, done) = env.recorded("answer withheld").await.unwrap();
    env.sim.inject(import_fault(&done, FaultKind::HangAfterWork));
    let (_, lost) = env.recorded("call lost").await.unwrap();
    env.sim.inject(import_fault(&lost, FaultKind::Hang).times(1));
    // The limit of a call is what it is by default: 12 h.
    let agent = env.miner_agent_with(&[("setting.confirmTimeout", "300ms")]).unwrap();
    eventually!(env.is_imported(&done).await.unwrap(), "the deal that moved on is closed without the answer");
    eventually!(env.is_imported(&lost).await.unwrap(), "the call that never was is made again");
    agent.end().await.unwrap();
    for (deal, calls) in [(&done, 1), (&lost, 2)] {
        let made = env.sim.calls().iter().filter(|call| is_import_of(call, deal)).count();
        let counts = env.sim.import_counts(deal);
        assert_eq!((made, counts.started, counts.effective), (calls, 1, 1), "{counts:?}");
    }
}

#[tokio::test]
async fn success_without_effect_closes_nothing() {
    let env = TestEnv::open().await.unwrap();
    let (_, deal) = env.recorded("not yet").await.unwrap();
    // The provider does not wait for the data, and its list says that it does.
    env.sim.hold_at(MINER, Some(DealState::AcceptWait));
    assert!(env.sim.set_provider_state(&deal, DealState::AcceptWait, ""));
    env.sim.inject(Fault::on(LIST, FaultKind::WrongState(DealState::WaitingForData)));
    let agent = env.miner_agent_with(&[("setting.confirmTimeout", "300ms")]).unwrap();
    eventually_eq!(env.import_field(&deal, "state").await.unwrap(), "retrying", "nothing came of the call");
    let reason = env.import_field(&deal, "reason").await.unwrap();
    assert!(reason.contains("answered success, but the deal still waits"), "{reason}");
    let counts = env.sim.import_counts(&deal);
    assert!(counts.succeeded >= 1 && counts.effective == 0, "{counts:?}");
    assert!(!env.is_imported(&deal).await.unwrap());

    env.sim.clear_faults();
    env.sim.hold_at(MINER, None);
    eventually!(env.is_imported(&deal).await.unwrap(), "the deal is imported once it waits for the data");
    agent.end().await.unwrap();
    assert_eq!(env.sim.import_counts(&deal).effective, 1);
}

fn is_import_of(call: &lotus_sim::Call, deal: &str) -> bool {
    call.method == IMPORT && call.params.to_string().contains(deal)
}
