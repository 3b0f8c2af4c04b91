//! Faults of calls and of listeners.

use std::time::Duration;

use boost_sim::{BoostVersion, Checkpoint, Endpoint, Fault, FaultKind, Hold, Outcome, Permission};
use serde_json::{Value, json};

use crate::support::{call, car, http, import, instant, must_import, propose, rested, try_call, wait_until};

const IMPORT: &str = "Filecoin.BoostOfflineDealWithData";

#[tokio::test]
async fn an_answer_can_be_lost_after_the_import() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "lost");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject(Fault::on(IMPORT, FaultKind::DropAfterWork).times(1));
    let params = json!([uuid, car.path, false]);
    assert!(try_call(&sim, Permission::Admin, "BoostOfflineDealWithData", &params).await.is_none());
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
    let calls = sim.calls();
    assert_eq!((calls.len(), &calls[0].outcome), (1, &Outcome::Withheld));
    assert_eq!((calls[0].method.as_str(), &calls[0].params), (IMPORT, &params));
    assert!(calls[0].took.is_some());
}

#[tokio::test]
async fn faults_without_work_leave_the_deal_alone() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "alone");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    let params = json!([uuid, car.path, false]);
    for (kind, status) in [
        (FaultKind::DropBefore, None),
        (FaultKind::Http500, Some(500)),
        (FaultKind::Unauthorized, Some(401)),
        (FaultKind::ApplicationError("busy".to_owned()), Some(200)),
    ] {
        sim.inject(Fault::on(IMPORT, kind.clone()).containing(&uuid).times(1));
        let answer = try_call(&sim, Permission::Admin, "BoostOfflineDealWithData", &params).await;
        assert_eq!(answer.map(|answer| answer.status), status, "{kind:?}");
        assert_eq!(sim.deal(&uuid).unwrap().imports, 0, "{kind:?}");
    }
    must_import(&sim, &uuid, &car.path).await;
}

#[tokio::test]
async fn hung_and_delayed_calls_do_their_work_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "hung");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Commp);
    let uuid = propose(&sim, &car).uuid;
    for (kind, imports) in [
        (FaultKind::Hang, 0),
        (FaultKind::Delay(Duration::from_secs(3600)), 0),
        (FaultKind::HangAfterWork, 1),
        (FaultKind::DelayAnswer(Duration::from_secs(3600)), 2),
    ] {
        sim.inject(Fault::on(IMPORT, kind.clone()).times(1));
        let before = sim.count(IMPORT);
        tokio::select! {
            answer = import(&sim, &uuid, &car.path) => panic!("{kind:?}: {answer:?}"),
            () = wait_until(&sim, "the call", |sim| {
                sim.count(IMPORT) > before && sim.deal(&uuid).unwrap().imports == imports
            }) => {}
        }
    }
    // Callers went away.
    wait_until(&sim, "the ends of all calls", |sim| sim.counters().import_calls.now == 0).await;
    assert_eq!(sim.counters().import_calls.ever, 4);
    sim.release(Hold::Commp);
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn imports_at_once_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "once");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject(Fault::on(IMPORT, FaultKind::Hang));
    let calls = async { tokio::join!(import(&sim, &uuid, &car.path), import(&sim, &uuid, &car.path)) };
    tokio::select! {
        answers = calls => panic!("{answers:?}"),
        () = wait_until(&sim, "both calls", |sim| sim.counters().import_calls.now == 2) => {}
    }
    assert_eq!(sim.counters().import_calls.most, 2);
}

#[tokio::test]
async fn a_stopped_boostd_refuses_connections_and_its_control_answers() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "down");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    for _round in 0..3 {
        sim.kill_boost().await;
        for address in [sim.rpc_addr(), sim.graphql_addr()] {
            let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        sim.start_boost().await.unwrap();
        assert_eq!(call(&sim, "BoostDeal", json!([uuid])).await.unwrap()["DealUuid"], uuid.as_str());
    }
}

#[tokio::test]
async fn one_listener_goes_down_and_comes_up_alone() {
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.take_down(Endpoint::Graphql).await;
    assert!(tokio::net::TcpStream::connect(sim.graphql_addr()).await.is_err());
    assert!(call(&sim, "ID", json!([])).await.is_ok());
    sim.bring_up(Endpoint::Graphql).unwrap();
    assert_eq!(crate::support::data(&sim, "{ dealsCount }").await["dealsCount"], 0);
}

#[tokio::test]
async fn a_frozen_graphql_never_answers_while_the_rpc_does() {
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.inject(Fault::at(Endpoint::Graphql, FaultKind::Hang));
    tokio::select! {
        answer = crate::support::graphql(&sim, "{ dealsCount }") => panic!("{answer}"),
        () = wait_until(&sim, "the call", |sim| sim.count("dealsCount") == 1) => {}
    }
    assert!(call(&sim, "ID", json!([])).await.is_ok());
    sim.clear_faults();
    assert_eq!(crate::support::data(&sim, "{ dealsCount }").await["dealsCount"], 0);
}

#[tokio::test]
async fn graphql_has_the_same_faults() {
    let sim = instant(BoostVersion::V2_5_2).await;
    let body = json!({ "query": "{ dealsCount }" }).to_string();
    let ask = || http(sim.graphql_addr(), "POST", "/graphql/query", None, &body);
    sim.inject(Fault::on("dealsCount", FaultKind::Http500).times(1));
    assert_eq!(ask().await.unwrap().status, 500);
    sim.inject(Fault::on("dealsCount", FaultKind::ApplicationError("locked".to_owned())).times(1));
    assert_eq!(ask().await.unwrap().json(), json!({ "errors": [{ "message": "locked" }] }));
    sim.inject(Fault::on("dealsCount", FaultKind::CutAnswer).times(1));
    let cut = ask().await.unwrap();
    assert!(serde_json::from_str::<Value>(&cut.body).is_err(), "{}", cut.body);
    sim.inject(Fault::on("dealsCount", FaultKind::DropBefore).times(1));
    assert!(ask().await.is_none());
    assert_eq!(ask().await.unwrap().json(), json!({ "data": { "dealsCount": 0 } }));
}
