//! WebSocket: fragments, pings, channels (§5.2 to §5.4).

use std::time::Duration;

use lotus_sim::{Fault, FaultKind, LotusVersion, SimConfig, Timings};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{
    Car, MINER, Node, Ws, config, eventually, import, propose, propose_and_wait, provider_reaches, soon,
    start,
};

#[tokio::test]
async fn long_answers_come_in_fragments() {
    let sim = start(LotusVersion::V1_23).await;
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    ws.send(0, "Session", json!([])).await;
    let (_text, frames) = soon("an answer", ws.message()).await.unwrap();
    assert_eq!(frames, 1);
    sim.pad_lists(11 << 20);
    ws.send(1, "ClientListDeals", json!([])).await;
    let (text, frames) = soon("an answer", ws.message()).await.unwrap();
    assert!(text.len() > 11 << 20 && frames == text.len().div_ceil(4096), "{} in {frames}", text.len());
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["result"], json!([]));
    let answer = Node::full(&sim).raw("ClientListDeals", json!([])).await;
    assert!(answer.body.len() > 11 << 20);
}

#[tokio::test]
async fn the_newer_server_pings_and_never_pongs() {
    let timings = Timings { websocket_ping: Duration::from_millis(20), ..Timings::default() };
    let sim = lotus_sim::start(SimConfig { timings, ..config(LotusVersion::V1_23) }).await.unwrap();
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    ws.send_frame(9, b"are you there").await;
    for _ in 0..3 {
        let frame = soon("a ping", ws.frame()).await.unwrap();
        assert_eq!(frame.opcode, 9);
    }
    // A pong would have arrived before this answer.
    ws.send(1, "Session", json!([])).await;
    loop {
        let frame = soon("a frame", ws.frame()).await.unwrap();
        assert_ne!(frame.opcode, 10);
        if frame.opcode == 1 {
            break;
        }
    }
}

#[tokio::test]
async fn the_old_server_pongs_and_never_pings() {
    let timings = Timings { websocket_ping: Duration::from_millis(5), ..Timings::default() };
    let sim = lotus_sim::start(SimConfig { timings, ..config(LotusVersion::V1_5) }).await.unwrap();
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    ws.send_frame(9, b"are you there").await;
    let frame = soon("a pong", ws.frame()).await.unwrap();
    assert_eq!((frame.opcode, frame.payload.as_slice()), (10, &b"are you there"[..]));
    // Ten periods of the pings it does not send.
    sim.inject(Fault::on("Filecoin.Session", FaultKind::DelayAnswer(Duration::from_millis(50))));
    ws.send(1, "Session", json!([])).await;
    assert_eq!(soon("an answer", ws.frame()).await.unwrap().opcode, 1);
}

#[tokio::test]
async fn batches_and_nonsense_are_dropped_and_the_connection_lives() {
    let sim = start(LotusVersion::V1_23).await;
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    ws.send_frame(1, br#"[{"jsonrpc":"2.0","id":1,"method":"Filecoin.Session","params":[]}]"#).await;
    ws.send_frame(1, b"{nonsense").await;
    ws.send(2, "Session", json!([])).await;
    assert_eq!(ws.json().await["id"], 2);
    assert_eq!(sim.count("Filecoin.Session"), 1);
}

#[tokio::test]
async fn void_answers_and_errors_over_websocket() {
    let sim = start(LotusVersion::V1_23).await;
    let mut ws = Ws::connect(&Node::miner(&sim, MINER)).await;
    ws.send(0, "MarketPublishPendingDeals", json!([])).await;
    assert_eq!(ws.json().await, json!({ "jsonrpc": "2.0", "id": 0 }));
    ws.send(1, "Nope", json!([])).await;
    assert_eq!(ws.json().await["error"]["code"], -32601);
    sim.inject(Fault::on("Filecoin.Session", FaultKind::NullIdError).times(1));
    ws.send(2, "Session", json!([])).await;
    let error = ws.json().await;
    assert!(error["id"].is_null() && error["error"]["code"] == -32700, "{error}");
    ws.send(3, "Session", json!([])).await;
    assert_eq!(ws.json().await["id"], 3);
}

#[tokio::test]
async fn calls_run_beside_each_other() {
    let sim = start(LotusVersion::V1_23).await;
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    sim.inject(Fault::on("Filecoin.ChainHead", FaultKind::Delay(Duration::from_secs(2))).times(1));
    ws.send(1, "ChainHead", json!([])).await;
    eventually("the slow call runs", async || (sim.count("Filecoin.ChainHead") == 1).then_some(())).await;
    ws.send(2, "Session", json!([])).await;
    assert_eq!(ws.json().await["id"], 2);
    assert_eq!(ws.json().await["id"], 1);
}

#[tokio::test]
async fn updates_of_both_sides_come_as_channel_values() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    let mut client = Ws::connect(&Node::full(&sim)).await;
    client.send(0, "ClientGetDealUpdates", json!([])).await;
    assert_eq!(client.json().await, json!({ "jsonrpc": "2.0", "id": 0, "result": 1 }));
    let mut provider = Ws::connect(&Node::miner(&sim, MINER)).await;
    provider.send(9, "MarketGetDealUpdates", json!([])).await;
    assert_eq!(provider.json().await["result"], 1);

    let cid = propose(&sim, &car).await;
    provider_reaches(&sim, &cid, 18).await;
    Node::miner(&sim, MINER).ok("DealsImportData", import(&cid, car.path())).await;
    let walk = |states: &[Value], value: &Value| {
        assert!(value.get("id").is_none(), "{value}");
        assert_eq!((&value["method"], &value["params"][0]), (&json!("xrpc.ch.val"), &json!(1)));
        assert_eq!(value["params"][1]["ProposalCid"]["/"], cid.as_str());
        let state = value["params"][1]["State"].clone();
        let news = states.last() != Some(&state);
        (state, news)
    };
    for (ws, expected) in [
        (&mut client, json!([21, 12, 16, 13, 3, 29, 5, 7])),
        (&mut provider, json!([14, 15, 18, 20, 24, 25, 4, 29, 5, 6, 7])),
    ] {
        let mut states = Vec::new();
        while states.last() != Some(&json!(7)) {
            let (state, news) = walk(&states, &ws.json().await);
            if news {
                states.push(state);
            }
        }
        assert_eq!(Value::Array(states), expected);
    }
}

#[tokio::test]
async fn a_waiting_deal_makes_an_update_every_poll() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    propose_and_wait(&sim, &car).await;
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    ws.send(0, "ClientGetDealUpdates", json!([])).await;
    ws.json().await;
    for _ in 0..5 {
        assert_eq!(ws.json().await["params"][1]["State"], 13);
    }
}

#[tokio::test]
async fn cancel_takes_the_request_id_and_closes_the_miners_channel_only() {
    let sim = start(LotusVersion::V1_23).await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "xrpc.cancel", "params": [40] }).to_string();
    let mut provider = Ws::connect(&Node::miner(&sim, MINER)).await;
    provider.send(40, "MarketGetDealUpdates", json!([])).await;
    assert_eq!(provider.json().await["result"], 1);
    // The channel's number cancels nothing.
    provider.send_frame(1, br#"{"jsonrpc":"2.0","method":"xrpc.cancel","params":[1]}"#).await;
    provider.send_frame(1, cancel.as_bytes()).await;
    assert_eq!(provider.json().await, json!({ "jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [1] }));
    let mut client = Ws::connect(&Node::full(&sim)).await;
    client.send(40, "ClientGetDealUpdates", json!([])).await;
    client.json().await;
    client.send_frame(1, cancel.as_bytes()).await;
    client.send(41, "Session", json!([])).await;
    assert_eq!(client.json().await["id"], 41);
}

#[tokio::test]
async fn the_chain_is_told_of() {
    let sim = start(LotusVersion::V1_23).await;
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    ws.send(3, "ChainNotify", json!([])).await;
    assert_eq!(ws.json().await["result"], 1);
    let current = ws.json().await;
    assert_eq!(current["params"][1][0]["Type"], "current");
    assert_eq!(current["params"][1][0]["Val"]["Height"], 1_000_000);
    sim.advance_epochs(1);
    let applied = ws.json().await;
    assert_eq!(applied["params"][1][0]["Type"], "apply");
    assert_eq!(applied["params"][1][0]["Val"]["Height"], 1_000_001);
}

#[tokio::test]
async fn a_restart_drops_every_connection() {
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let mut ws = Ws::connect(&full).await;
    ws.send(0, "Session", json!([])).await;
    let session = ws.json().await["result"].clone();
    sim.restart_full_node();
    assert!(soon("the end", ws.frame()).await.is_none());
    assert_ne!(full.ok("Session", json!([])).await, session);
    // The miner is another process.
    let miner = Node::miner(&sim, MINER);
    let session = miner.ok("Session", json!([])).await;
    sim.restart_full_node();
    assert_eq!(miner.ok("Session", json!([])).await, session);
}

#[tokio::test]
async fn a_close_frame_is_answered() {
    let sim = start(LotusVersion::V1_23).await;
    let mut ws = Ws::connect(&Node::full(&sim)).await;
    ws.send_frame(8, &1000_u16.to_be_bytes()).await;
    assert_eq!(soon("a close frame", ws.frame()).await.unwrap().opcode, 8);
    assert!(soon("the end", ws.frame()).await.is_none());
}

#[tokio::test]
async fn a_bad_token_gets_no_upgrade() {
    let sim = start(LotusVersion::V1_23).await;
    let answer = crate::support::http(sim.full_node_addr(), "GET", "/rpc/v0", Some("Bearer x.y.z"), "").await;
    assert_eq!(answer.unwrap().status, 401);
}
