//! Answers of a real Lotus v1.23.3 to the same requests, recorded as tests.

use std::time::Duration;

use lotus_sim::{DealState, LotusVersion, MinerConfig, NodeName, SimConfig, Timings};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{
    Car, MINER, Node, WALLET, client_reaches, config, eventually, import, miner, propose_and_wait,
    provider_reaches, soon, start, wallet_with,
};

#[tokio::test]
async fn a_collateral_beyond_twice_the_minimum_is_refused_by_the_provider() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let bounds =
        full.ok("StateDealProviderCollateralBounds", json!([car.unpadded / 127 * 128, false, []])).await;
    let least: u128 = bounds["Min"].as_str().unwrap().parse().unwrap();
    let propose = async |collateral: u128, start: i64| {
        let mut deal = car.deal(start);
        deal["ProviderCollateral"] = json!(collateral.to_string());
        full.call("ClientStatelessDeal", json!([deal])).await
    };
    let most = 2 * least;
    assert!(propose(most, 5000).await["result"]["/"].is_string(), "twice the minimum is taken");
    let refused = propose(most + 1, 5001).await;
    let text = refused["error"]["message"].as_str().unwrap();
    let reason = format!("deal rejected: proposed provider collateral above maximum: {} > {most}", most + 1);
    assert!(text.starts_with("provider returned unexpected state 11 for proposal "), "{text}");
    assert!(text.ends_with(&format!("with message: {reason}")), "{text}");
    // The node reports the network's bounds; the upper one is the whole supply of FIL. The provider's own
    // limit is not reported.
    assert_eq!(bounds["Max"], "2000000000000000000000000000");
}

#[tokio::test]
async fn errors_about_unknown_miners_have_the_real_words_and_no_meta() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let error = full.call("StateMinerInfo", json!(["f09999", []])).await["error"].clone();
    assert_eq!(error, json!({ "code": 1, "message": "failed to load miner actor: actor not found" }));
    let mut deal = car.deal(5000);
    deal["Miner"] = json!("f09999");
    for method in ["ClientStatelessDeal", "ClientStartDeal"] {
        let (code, text) = full.error(method, json!([deal])).await;
        assert_eq!(
            (code, text.as_str()),
            (1, "failed getting peer ID: failed to load miner actor: actor not found"),
            "{method}"
        );
    }
}

#[tokio::test]
async fn parameters_that_do_not_decode_are_named_by_their_go_type() {
    let sim = start(LotusVersion::V1_23).await;
    let (full, node) = (Node::full(&sim), Node::miner(&sim, MINER));
    let deal = json!({ "EpochPrice": 0 });
    for (node, method, params, go_type) in [
        (&full, "StateMinerInfo", json!(["x01000", []]), "address.Address"),
        (&full, "WalletBalance", json!([7]), "address.Address"),
        (&full, "MarketGetReserved", json!([7]), "address.Address"),
        (&full, "ClientGetDealInfo", json!([{ "/": "nonsense" }]), "cid.Cid"),
        (&full, "ClientStartDeal", json!([deal]), "*api.StartDealParams"),
        (&full, "ClientStatelessDeal", json!([deal]), "*api.StartDealParams"),
        (&full, "ClientImport", json!([7]), "api.FileRef"),
        (&full, "ClientQueryAsk", json!([7, MINER]), "peer.ID"),
        (&full, "ClientGetDealStatus", json!(["7"]), "uint64"),
        (&full, "StateMarketStorageDeal", json!(["7", []]), "abi.DealID"),
        (&node, "MarketImportDealData", json!([{ "/": "nonsense" }, "/x"]), "cid.Cid"),
        (&node, "DealsSetConsiderOfflineStorageDeals", json!(["yes"]), "bool"),
    ] {
        let answer = node.raw(method, params).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["code"]), (500, &json!(-32700)), "{method}");
        let text = error["message"].as_str().unwrap();
        let expected = format!("unmarshaling params for 'Filecoin.{method}' (param: *{go_type}): ");
        assert!(text.starts_with(&expected) && text.len() > expected.len(), "{text}");
    }
}

#[tokio::test]
async fn junk_is_no_token_and_a_foreign_token_does_not_verify() {
    let sim = start(LotusVersion::V1_23).await;
    let other = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    for (token, text) in [
        ("nonsense".to_owned(), "JWT Verification failed: jwt: malformed token"),
        (other.token(lotus_sim::Permission::Admin), "JWT Verification failed: jwt: HMAC verification failed"),
    ] {
        assert_eq!(full.error("AuthVerify", json!([token])).await, (1, text.to_owned()));
    }
}

#[tokio::test]
async fn an_ask_of_a_peer_nobody_reaches_comes_late_or_never() {
    let late = Duration::from_millis(300);
    for dial in [late, Duration::MAX] {
        let timings = Timings { ask_dial: dial, ..Timings::default() };
        let sim = lotus_sim::start(SimConfig { timings, ..config(LotusVersion::V1_23) }).await.unwrap();
        let full = Node::full(&sim);
        let peer = full.ok("StateMinerInfo", json!([MINER, []])).await["PeerId"].clone();
        full.ok("ClientQueryAsk", json!([peer, MINER])).await;
        sim.set_reachable(MINER, false);
        let ask = full.call("ClientQueryAsk", json!([peer, MINER]));
        if dial == late {
            let text = soon("an error", ask).await["error"]["message"].clone();
            assert!(text.as_str().unwrap().starts_with("failed to open stream to miner: "), "{text}");
        } else {
            assert!(tokio::time::timeout(late, ask).await.is_err(), "it answered");
        }
        let took =
            sim.calls().into_iter().rfind(|call| call.method == "Filecoin.ClientQueryAsk").unwrap().took;
        assert!(took.is_none_or(|took| took >= late || dial != late), "{took:?}");
    }
}

#[tokio::test]
async fn a_published_deal_has_its_publish_message_however_it_came_there() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    for state in [DealState::Publishing, DealState::Staged, DealState::AwaitingPreCommit, DealState::Active] {
        let held = MinerConfig { hold_at: Some(state), ..miner() };
        let sim =
            lotus_sim::start(SimConfig { miners: vec![held], ..config(LotusVersion::V1_23) }).await.unwrap();
        let node = Node::miner(&sim, MINER);
        let cid = propose_and_wait(&sim, &car).await;
        let listed = node.ok("MarketListIncompleteDeals", json!([])).await;
        assert_eq!(listed[0]["PublishCid"], Value::Null);
        assert!(sim.set_provider_state(&cid, state, ""));
        let listed = node.ok("MarketListIncompleteDeals", json!([])).await;
        let publish = listed[0]["PublishCid"]["/"].as_str().unwrap_or_default();
        assert!(publish.starts_with("bafy2bz"), "{state:?}: {listed}");
    }
}

#[tokio::test]
async fn lists_and_tipsets_that_may_be_null_are() {
    let with = MinerConfig { has_addresses: true, ..MinerConfig::new("f01001") };
    let sim = lotus_sim::start(SimConfig { miners: vec![miner(), with], ..config(LotusVersion::V1_23) })
        .await
        .unwrap();
    let full = Node::full(&sim);
    let info = full.ok("StateMinerInfo", json!([MINER, []])).await;
    assert_eq!((&info["ControlAddresses"], &info["Multiaddrs"]), (&Value::Null, &Value::Null));
    let info = full.ok("StateMinerInfo", json!(["f01001", []])).await;
    assert_eq!(info["ControlAddresses"].as_array().map(Vec::len), Some(1));
    assert_eq!(info["Multiaddrs"], json!(["BH8AAAEGBNI="]));
    let sync = full.ok("SyncState", json!([])).await;
    let (done, idle) = (&sync["ActiveSyncs"][0], &sync["ActiveSyncs"][1]);
    assert_eq!((&done["Stage"], &done["Target"]["Height"]), (&json!(4), &json!(1_000_000)));
    assert_eq!((&idle["Stage"], &idle["Base"], &idle["Target"]), (&json!(0), &Value::Null, &Value::Null));
}

#[tokio::test]
async fn methods_that_only_a_real_node_had_are_there() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let devnet = SimConfig {
        block_delay_seconds: 4,
        network_name: "localnet".to_owned(),
        ..config(LotusVersion::V1_23)
    };
    let sim = lotus_sim::start(devnet).await.unwrap();
    let (full, node) = (Node::full(&sim), Node::miner(&sim, MINER));
    let params = full.ok("StateGetNetworkParams", json!([])).await;
    assert_eq!((&params["NetworkName"], &params["BlockDelaySecs"]), (&json!("localnet"), &json!(4)));
    assert_eq!(full.ok("Version", json!([])).await["BlockDelay"], 4);
    assert_eq!(full.ok("StateNetworkVersion", json!([[]])).await, 20);
    assert_eq!(node.ok("SectorsSummary", json!([])).await, json!({}));
    let cid = propose_and_wait(&sim, &car).await;
    let size = full.ok("ClientDealSize", json!([{ "/": car.root }])).await;
    assert_eq!(size["PieceSize"], car.unpadded / 127 * 128);
    node.ok("MarketImportDealData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 7).await;
    assert_eq!(node.ok("SectorsSummary", json!([])).await, json!({ "Proving": 1 }));
}

#[tokio::test]
async fn money_is_reserved_until_the_deal_is_published_and_locked_from_then_on() {
    let dir = tempdir().unwrap();
    let (car, other) = (Car::write(dir.path(), 1, 5000), Car::write(dir.path(), 2, 5000));
    let held = MinerConfig { hold_at: Some(DealState::Publish), max_deals_per_publish: 1, ..miner() };
    let wallets = vec![wallet_with(10_000_000_000, None)];
    let sim = lotus_sim::start(SimConfig { miners: vec![held], wallets, ..config(LotusVersion::V1_23) })
        .await
        .unwrap();
    let full = Node::full(&sim);
    let money = async || {
        let balance = full.ok("StateMarketBalance", json!([WALLET, []])).await;
        let reserved = full.ok("MarketGetReserved", json!([WALLET])).await;
        [&balance["Escrow"], &balance["Locked"], &reserved]
            .map(|amount| amount.as_str().unwrap().parse::<i64>().unwrap())
    };
    assert_eq!(money().await, [0, 0, 0]);
    let paid = async |car: &Car| {
        full.ok("ClientImport", json!([{ "Path": car.path(), "IsCAR": true }])).await;
        let mut deal = car.deal(5000);
        deal["EpochPrice"] = json!("1000");
        full.ok("ClientStartDeal", json!([deal])).await["/"].as_str().unwrap().to_owned()
    };
    let cid = paid(&car).await;
    let info = client_reaches(&sim, &cid, 13).await;
    let total = 1000 * info["Duration"].as_i64().unwrap();
    assert_eq!(money().await, [total, 0, total]);
    // Imported, and not yet published.
    provider_reaches(&sim, &cid, 18).await;
    Node::miner(&sim, MINER).ok("MarketImportDealData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 24).await;
    assert_eq!(money().await, [total, 0, total]);
    sim.hold_at(MINER, None);
    client_reaches(&sim, &cid, 7).await;
    assert_eq!(money().await, [total, total, 0]);
    // The reserved funds of a failed deal are free again, and stay in escrow.
    sim.reject_next(MINER, "not today");
    let refused = paid(&other).await;
    client_reaches(&sim, &refused, 26).await;
    eventually("the money is free", async || (money().await == [2 * total, total, 0]).then_some(())).await;
}

#[tokio::test]
async fn an_import_is_answered_before_the_deal_has_moved() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let timings = Timings { event_lag: Duration::from_millis(500), ..Timings::default() };
    let sim = lotus_sim::start(SimConfig { timings, ..config(LotusVersion::V1_23) }).await.unwrap();
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    node.ok("MarketImportDealData", import(&cid, car.path())).await;
    let listed = node.ok("MarketListIncompleteDeals", json!([])).await;
    assert_eq!(listed[0]["State"], 18);
    // A second call is answered the same, and its event finds the deal moved.
    node.ok("MarketImportDealData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 7).await;
    eventually("the second copy is left behind", async || (sim.temp_files_leaked() == 1).then_some(())).await;
    let counts = sim.import_counts(&cid);
    assert_eq!((counts.started, counts.succeeded, counts.effective), (2, 2, 1));
}

#[tokio::test]
async fn an_event_that_is_under_way_when_the_market_restarts_is_lost() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let timings = Timings { event_lag: Duration::from_millis(200), ..Timings::default() };
    let sim = lotus_sim::start(SimConfig { timings, ..config(LotusVersion::V1_23) }).await.unwrap();
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    node.ok("MarketImportDealData", import(&cid, car.path())).await;
    sim.bring_up(&NodeName::Miner(MINER.to_owned()));
    eventually("the copy is left behind", async || (sim.temp_files_leaked() == 1).then_some(())).await;
    assert_eq!(sim.deal(&cid).unwrap().provider.unwrap().state, DealState::WaitingForData);
    node.ok("MarketImportDealData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 7).await;
}
