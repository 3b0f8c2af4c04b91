//! Injected faults, and the log of calls.

use std::time::{Duration, Instant};

use lotus_sim::{Fault, FaultKind, LotusVersion, NodeName, Outcome, Transport};
use serde_json::json;
use tempfile::tempdir;

use crate::support::{Car, MINER, Node, Ws, propose_and_wait, request, soon, start};

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let method = "Filecoin.Session";
    let body = request("Session", &json!([]));

    for kind in [FaultKind::DropBefore, FaultKind::DropAfterWork] {
        sim.inject(Fault::on(method, kind).times(1));
        assert!(full.send(&body).await.is_none());
    }
    sim.inject(Fault::on(method, FaultKind::Http500).times(1));
    let answer = full.send(&body).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!(0)));
    sim.inject(Fault::on(method, FaultKind::Unauthorized).times(1));
    assert_eq!(full.send(&body).await.unwrap().status, 401);
    for kind in [
        FaultKind::ApplicationError("out of luck".to_owned()),
        FaultKind::ApplicationErrorAfterWork("out of luck".to_owned()),
    ] {
        sim.inject(Fault::on(method, kind).times(1));
        assert_eq!(full.error("Session", json!([])).await, (1, "out of luck".to_owned()));
    }
    for kind in
        [FaultKind::Delay(Duration::from_millis(50)), FaultKind::DelayAnswer(Duration::from_millis(50))]
    {
        sim.inject(Fault::on(method, kind).times(1));
        let begun = Instant::now();
        full.ok("Session", json!([])).await;
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }
    sim.inject(Fault::on(method, FaultKind::CutAnswer).times(1));
    let answer = full.send(&body).await.unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&answer.body).is_err(), "{}", answer.body);
    for kind in [FaultKind::Hang, FaultKind::HangAfterWork] {
        sim.inject(Fault::on(method, kind).times(1));
        let hanging = tokio::time::timeout(Duration::from_millis(100), full.send(&body));
        assert!(hanging.await.is_err());
    }
    full.ok("Session", json!([])).await;
}

#[tokio::test]
async fn faults_pick_their_node_method_and_parameters() {
    let sim = start(LotusVersion::V1_23).await;
    let (full, miner) = (Node::full(&sim), Node::miner(&sim, MINER));
    let error = FaultKind::ApplicationError("x".to_owned());
    sim.inject(Fault::on("Filecoin.Session", error.clone()).at(NodeName::Miner(MINER.to_owned())));
    full.ok("Session", json!([])).await;
    miner.error("Session", json!([])).await;
    miner.error("Session", json!([])).await;
    sim.inject(Fault {
        params_contain: Some("f01000".to_owned()),
        ..Fault::on("Filecoin.StateMinerInfo", error)
    });
    full.error("StateMinerInfo", json!(["f01000", []])).await;
    let (_code, text) = full.error("StateMinerInfo", json!(["f0777", []])).await;
    assert_eq!(text, "failed to load miner actor: actor not found");
    sim.clear_faults();
    miner.ok("Session", json!([])).await;
    full.ok("StateMinerInfo", json!(["f01000", []])).await;
}

#[tokio::test]
async fn deals_can_be_said_to_be_in_a_wrong_state() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    propose_and_wait(&sim, &car).await;
    let list = "Filecoin.MarketListIncompleteDeals";
    sim.inject(Fault::on(list, FaultKind::WrongState(lotus_sim::DealState::Active)).times(1));
    let miner = Node::miner(&sim, MINER);
    assert_eq!(miner.ok("MarketListIncompleteDeals", json!([])).await[0]["State"], 7);
    assert_eq!(miner.ok("MarketListIncompleteDeals", json!([])).await[0]["State"], 18);
}

#[tokio::test]
async fn a_dropped_answer_over_websocket_ends_the_connection() {
    let sim = start(LotusVersion::V1_23).await;
    for kind in [FaultKind::DropBefore, FaultKind::DropAfterWork, FaultKind::CutAnswer] {
        sim.inject(Fault::on("Filecoin.ChainHead", kind).times(1));
        let mut ws = Ws::connect(&Node::full(&sim)).await;
        ws.send(1, "ChainHead", json!([])).await;
        assert!(soon("the end", ws.message()).await.is_none());
    }
}

#[tokio::test]
async fn every_call_is_logged_with_its_end() {
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    full.ok("WalletBalance", json!(["f1aaaaaaaaaa"])).await;
    full.raw("Nope", json!([])).await;
    let mut ws = Ws::connect(&Node::miner(&sim, MINER)).await;
    ws.send(1, "ActorAddress", json!([])).await;
    ws.json().await;
    let calls = sim.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(
        (calls[0].method.as_str(), &calls[0].params),
        ("Filecoin.WalletBalance", &json!(["f1aaaaaaaaaa"]))
    );
    assert_eq!(calls[0].outcome, Outcome::Answered);
    assert!(matches!(&calls[1].outcome, Outcome::Error { code: -32601, .. }), "{:?}", calls[1]);
    assert_eq!((&calls[2].node, calls[2].transport), (&NodeName::Miner(MINER.to_owned()), Transport::Ws));
    assert_eq!(sim.count("Filecoin.ActorAddress"), 1);
    assert_eq!(sim.count("Filecoin.ChainHead"), 0);
}

#[tokio::test]
async fn a_node_that_is_down_answers_nobody() {
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    sim.take_down(&NodeName::Full);
    assert!(full.send(&request("Session", &json!([]))).await.is_none());
    sim.bring_up(&NodeName::Full);
    full.ok("Session", json!([])).await;
}

#[tokio::test]
async fn a_node_that_syncs_says_so() {
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let timestamp =
        || async { full.ok("ChainHead", json!([])).await["Blocks"][0]["Timestamp"].as_u64().unwrap() };
    let before = timestamp().await;
    sim.set_sync_lag(Duration::from_secs(3600));
    assert!(timestamp().await + 3500 < before);
    assert_eq!(full.ok("SyncState", json!([])).await["ActiveSyncs"][0]["Stage"], 3);
}
