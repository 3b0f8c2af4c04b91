//! Frames over HTTP: shapes, status codes, permissions, per release (§1.1, §5.1, §5.2).

use lotus_sim::{LotusVersion, Permission, SimConfig};
use serde_json::{Value, json};

use crate::support::{Node, config, http, request, start};

const ALL: [LotusVersion; 4] =
    [LotusVersion::V1_5, LotusVersion::V1_11, LotusVersion::V1_23, LotusVersion::V1_27_1];

#[tokio::test]
async fn value_answers_end_in_a_newline_and_are_plain_text() {
    let sim = start(LotusVersion::V1_23).await;
    let answer = Node::full(&sim).raw("Session", json!([])).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with(r#"{"jsonrpc":"2.0","result":""#), "{}", answer.body);
    assert!(answer.body.ends_with("\"id\":7}\n"), "{}", answer.body);
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{}", answer.head);
}

#[tokio::test]
async fn void_answers_have_neither_result_nor_error() {
    for version in [LotusVersion::V1_5, LotusVersion::V1_11, LotusVersion::V1_23] {
        let sim = start(version).await;
        let answer = Node::miner(&sim, "f01000").raw("MarketPublishPendingDeals", json!([])).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{\"jsonrpc\":\"2.0\",\"id\":7}\n"));
    }
}

#[tokio::test]
async fn markets_are_gone_from_v1_27_1() {
    let sim = start(LotusVersion::V1_27_1).await;
    let (full, miner) = (Node::full(&sim), Node::miner(&sim, "f01000"));
    for (node, method) in [
        (&full, "ClientStartDeal"),
        (&full, "ClientStatelessDeal"),
        (&full, "ClientListDeals"),
        (&miner, "MarketImportDealData"),
        (&miner, "DealsImportData"),
        (&miner, "MarketListIncompleteDeals"),
    ] {
        let answer = node.raw(method, json!([])).await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.json()["error"]["code"], -32601);
        assert_eq!(answer.json()["error"]["message"], format!("method 'Filecoin.{method}' not found"));
    }
    let version = full.ok("Version", json!([])).await;
    assert!(version["Version"].as_str().unwrap().starts_with("1.27.1"), "{version}");
    assert_eq!(miner.ok("ActorAddress", json!([])).await, "f01000");
}

#[tokio::test]
async fn empty_lists_are_null_at_the_miner_and_empty_at_the_client() {
    let sim = start(LotusVersion::V1_23).await;
    let miner = Node::miner(&sim, "f01000");
    for method in ["MarketListIncompleteDeals", "MarketListDeals", "DealsList"] {
        let answer = miner.raw(method, json!([])).await;
        assert_eq!(answer.body, "{\"jsonrpc\":\"2.0\",\"result\":null,\"id\":7}\n", "{method}");
    }
    assert_eq!(Node::full(&sim).ok("ClientListDeals", json!([])).await, json!([]));
}

#[tokio::test]
async fn protocol_errors_are_http_500() {
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let no_channel =
        "method 'Filecoin.ClientGetDealUpdates' not supported in this mode (no out channel support)";
    for (body, code, message) in [
        (request("Nope", &json!([])), -32601, "method 'Filecoin.Nope' not found"),
        (request("ClientGetDealUpdates", &json!([])), -32601, no_channel),
        (
            request("StateMinerInfo", &json!(["f01000"])),
            -32602,
            "wrong param count (method 'Filecoin.StateMinerInfo'): 1 != 2",
        ),
        ("{nonsense".to_owned(), -32700, "Parse error"),
    ] {
        let answer = full.send(&body).await.unwrap();
        assert_eq!(answer.status, 500, "{body}");
        assert_eq!(answer.json()["error"]["code"], code, "{body}");
        assert_eq!(answer.json()["error"]["message"], message, "{body}");
    }
    let answer = full.send(r#"{"jsonrpc":"2.0","id":{},"method":"Filecoin.Session"}"#).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!(-32600)));
    let answer = full.raw("StateMinerInfo", json!({ "Address": "f01000" })).await;
    assert_eq!(answer.status, 500);
    let answer = full.raw("ClientGetDealInfo", json!([{ "/": "" }])).await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("cid was incorrectly formatted"), "{}", answer.body);
}

#[tokio::test]
async fn application_errors_are_http_200_with_code_1() {
    let sim = start(LotusVersion::V1_23).await;
    let unknown = "bafyreigxgwlcl4wxw6bzfbmpqvhpzejkqbf3kd4s5l6fxzwcuoynbtjdwq";
    let answer = Node::full(&sim).raw("ClientGetDealInfo", json!([{ "/": unknown }])).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json()["error"],
        json!({ "code": 1, "message": format!("No state for /{unknown}: datastore: key not found") })
    );
}

#[tokio::test]
async fn a_bare_actor_not_found_carries_meta_in_v1_23() {
    let param = json!(["f0777", []]);
    let sim = start(LotusVersion::V1_23).await;
    let error = Node::full(&sim).call("StateAccountKey", param.clone()).await["error"].clone();
    assert_eq!(error, json!({ "code": 3, "message": "actor not found", "meta": {} }));
    let sim = start(LotusVersion::V1_5).await;
    let error = Node::full(&sim).call("StateAccountKey", param).await["error"].clone();
    assert_eq!(error, json!({ "code": 1, "message": "actor not found" }));
}

#[tokio::test]
async fn ids_are_integers_until_v1_20() {
    let body = r#"{"jsonrpc":"2.0","id":"one","method":"Filecoin.Session","params":[]}"#;
    let sim = start(LotusVersion::V1_5).await;
    let answer = Node::full(&sim).send(body).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (500, ""));
    let sim = start(LotusVersion::V1_23).await;
    let answer = Node::full(&sim).send(body).await.unwrap();
    assert_eq!((answer.status, &answer.json()["id"]), (200, &json!("one")));
    let zero = r#"{"jsonrpc":"2.0","id":0,"method":"Filecoin.Session"}"#;
    assert_eq!(Node::full(&sim).send(zero).await.unwrap().json()["id"], 0);
}

#[tokio::test]
async fn a_request_without_an_id_is_done_and_not_answered() {
    let sim = start(LotusVersion::V1_23).await;
    let body = r#"{"jsonrpc":"2.0","method":"Filecoin.Session","params":[]}"#;
    let answer = Node::full(&sim).send(body).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(sim.count("Filecoin.Session"), 1);
}

#[tokio::test]
async fn batches_came_with_v1_23() {
    let batch = format!("[{},{}]", request("Session", &json!([])), request("Nope", &json!([])));
    let sim = start(LotusVersion::V1_23).await;
    let answers = Node::full(&sim).send(&batch).await.unwrap().json();
    assert!(answers[0]["result"].is_string(), "{answers}");
    assert_eq!(answers[1]["error"]["code"], -32601);
    for version in [LotusVersion::V1_5, LotusVersion::V1_11] {
        let sim = start(version).await;
        assert_eq!(Node::full(&sim).send(&batch).await.unwrap().status, 500, "{version:?}");
    }
}

#[tokio::test]
async fn tokens_come_as_bearer_or_in_the_query_and_bad_ones_are_401_without_a_body() {
    let sim = start(LotusVersion::V1_23).await;
    let addr = sim.full_node_addr();
    let body = request("WalletDefaultAddress", &json!([]));
    let token = sim.token(Permission::Write);
    let bearer = format!("Bearer {token}");
    let query = format!("/rpc/v0?token={token}");
    for (path, authorization) in [("/rpc/v0", Some(bearer.as_str())), (&query, None)] {
        let answer = http(addr, "POST", path, authorization, &body).await.unwrap();
        assert!(answer.json()["result"].is_string(), "{path}: {}", answer.body);
    }
    let forged = format!("Bearer {}x", sim.token(Permission::Admin));
    for authorization in [token.as_str(), "Bearer nonsense", &forged] {
        let answer = http(addr, "POST", "/rpc/v0", Some(authorization), &body).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (401, ""), "{authorization}");
    }
    let answer = http(addr, "POST", "/rpc/v0", None, &body).await.unwrap();
    assert_eq!(
        answer.json()["error"]["message"],
        "missing permission to invoke 'WalletDefaultAddress' (need 'write')"
    );
    let allowed = Node::full(&sim).ok("AuthVerify", json!([token])).await;
    assert_eq!(allowed, json!(["read", "write"]));
}

/// Rows of the contract's permission table, for v1.5 and later.
#[tokio::test]
async fn permissions_are_those_of_each_release() {
    use Permission::{Admin, Read, Sign, Write};
    let rows: &[(&str, &str, [Permission; 2], usize)] = &[
        ("full", "Version", [Read, Read], 0),
        ("full", "ChainHead", [Read, Read], 0),
        ("full", "WalletDefaultAddress", [Write, Write], 0),
        ("full", "WalletBalance", [Read, Read], 1),
        ("full", "WalletHas", [Write, Write], 1),
        ("full", "StateMinerInfo", [Read, Read], 2),
        ("full", "StateMarketBalance", [Read, Read], 2),
        ("full", "StateNetworkVersion", [Read, Read], 1),
        ("full", "MarketGetReserved", [Sign, Sign], 1),
        ("full", "ClientStartDeal", [Admin, Admin], 1),
        ("full", "ClientGetDealInfo", [Read, Read], 1),
        ("full", "ClientListDeals", [Write, Write], 0),
        ("full", "ClientQueryAsk", [Read, Read], 2),
        ("full", "ClientCalcCommP", [Read, Write], 1),
        ("full", "ClientImport", [Admin, Admin], 1),
        ("miner", "ActorAddress", [Read, Read], 0),
        ("miner", "SectorsSummary", [Read, Read], 0),
        ("miner", "DealsImportData", [Write, Admin], 2),
        ("miner", "MarketImportDealData", [Write, Write], 2),
        ("miner", "DealsList", [Read, Admin], 0),
        ("miner", "MarketListDeals", [Read, Read], 0),
        ("miner", "MarketListIncompleteDeals", [Read, Read], 0),
        ("miner", "MarketGetAsk", [Read, Read], 0),
        ("miner", "MarketPendingDeals", [Write, Write], 0),
        ("miner", "MarketPublishPendingDeals", [Admin, Admin], 0),
        ("miner", "DealsConsiderOfflineStorageDeals", [Read, Admin], 0),
        ("miner", "DealsSetConsiderOfflineStorageDeals", [Admin, Admin], 1),
    ];
    for version in [LotusVersion::V1_5, LotusVersion::V1_11, LotusVersion::V1_23] {
        let sim = start(version).await;
        for (side, method, needed, params) in rows {
            let needed = needed[usize::from(version != LotusVersion::V1_5)];
            let node = if *side == "full" { Node::full(&sim) } else { Node::miner(&sim, "f01000") };
            let params: Value = std::iter::repeat_n(Value::Null, *params).collect();
            let refusal = format!("missing permission to invoke '{method}' (need '{}')", needed.name());
            for permission in [Read, Write, Sign, Admin] {
                let node = node.with(Some(sim.token(permission)));
                let answer = node.raw(method, params.clone()).await;
                assert_eq!(
                    answer.body.contains(&refusal),
                    permission < needed,
                    "{method} with {permission:?} in {version:?}: {}",
                    answer.body
                );
            }
        }
    }
}

#[tokio::test]
async fn stateless_deals_need_write_and_came_after_v1_5() {
    let sim = start(LotusVersion::V1_5).await;
    let answer = Node::full(&sim).raw("ClientStatelessDeal", json!([{}])).await;
    assert_eq!(answer.json()["error"]["code"], -32601);
    for version in [LotusVersion::V1_11, LotusVersion::V1_23] {
        let sim = start(version).await;
        let full = Node::full(&sim);
        let refused =
            full.with(Some(sim.token(Permission::Read))).error("ClientStatelessDeal", json!([{}])).await;
        assert_eq!(refused.1, "missing permission to invoke 'ClientStatelessDeal' (need 'write')");
        let write = full.with(Some(sim.token(Permission::Write)));
        let refused = write.error("ClientStatelessDeal", json!([{}])).await;
        assert_eq!(refused.1, "invalid transfer type  for stateless storage deal");
    }
}

#[tokio::test]
async fn without_permissions_everyone_may_do_everything() {
    let open = SimConfig { permissions: false, ..config(LotusVersion::V1_23) };
    let sim = lotus_sim::start(open).await.unwrap();
    let node = Node::full(&sim).with(None);
    assert!(node.ok("WalletDefaultAddress", json!([])).await.is_string());
}

#[tokio::test]
async fn the_second_path_came_with_v1_9_and_wraps_the_ask() {
    for version in ALL {
        let sim = start(version).await;
        let node = Node { path: "/rpc/v1", ..Node::full(&sim) };
        let answer = node.raw("Version", json!([])).await;
        if version == LotusVersion::V1_5 {
            assert_eq!(answer.status, 404);
        } else {
            assert_eq!(answer.status, 200);
        }
        let miner = Node { path: "/rpc/v1", ..Node::miner(&sim, "f01000") };
        assert_eq!(miner.raw("Version", json!([])).await.status, 404);
    }
    let sim = start(LotusVersion::V1_23).await;
    let (v0, v1) = (Node::full(&sim), Node { path: "/rpc/v1", ..Node::full(&sim) });
    assert_eq!(v0.ok("Version", json!([])).await["APIVersion"], 66_816);
    assert_eq!(v1.ok("Version", json!([])).await["APIVersion"], 131_840);
    let peer = v0.ok("StateMinerInfo", json!(["f01000", []])).await["PeerId"].clone();
    let ask = v0.ok("ClientQueryAsk", json!([peer, "f01000"])).await;
    assert_eq!((&ask["MinPieceSize"], &ask["MaxPieceSize"]), (&json!(256), &json!(34_359_738_368_u64)));
    assert_eq!(v1.ok("ClientQueryAsk", json!([peer, "f01000"])).await["Response"], ask);
}

#[tokio::test]
async fn chain_wallet_and_miner_answers_have_the_contracts_names() {
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let head = full.ok("ChainHead", json!([])).await;
    assert_eq!(head["Height"], 1_000_000);
    assert_eq!(head["Blocks"][0]["Height"], 1_000_000);
    assert!(head["Blocks"][0]["Timestamp"].is_u64() && head["Cids"][0]["/"].is_string(), "{head}");
    assert_eq!(full.ok("SyncState", json!([])).await["ActiveSyncs"][0]["Stage"], 4);
    assert_eq!(full.ok("StateNetworkName", json!([])).await, "mainnet");
    assert_eq!(full.ok("WalletBalance", json!(["f1aaaaaaaaaa"])).await, "0");
    let wallet = full.ok("WalletDefaultAddress", json!([])).await;
    assert_eq!(full.ok("WalletBalance", json!([wallet])).await, "100000000000000000000");
    assert_eq!(full.ok("WalletHas", json!([wallet])).await, true);
    assert_eq!(
        full.ok("StateMarketBalance", json!([wallet, null])).await,
        json!({"Escrow": "0", "Locked": "0"})
    );
    assert_eq!(full.ok("StateVerifiedClientStatus", json!([wallet, []])).await, Value::Null);
    let id = full.ok("StateLookupID", json!([wallet, []])).await;
    assert_eq!(full.ok("StateAccountKey", json!([id, []])).await, wallet);
    let bounds = full.ok("StateDealProviderCollateralBounds", json!([34_359_738_368_u64, false, []])).await;
    assert_eq!(bounds["Min"], "8169470417249984");
    let info = full.ok("StateMinerInfo", json!(["t01000", []])).await;
    assert_eq!(info["SectorSize"], 34_359_738_368_u64);
    assert_eq!(info["NewWorker"], "<empty>");
    assert_eq!(full.ok("ClientGetDealStatus", json!([7])).await, "StorageDealActive");
    let unknown = full.error("ClientGetDealStatus", json!([99])).await;
    assert_eq!(unknown, (1, "no such deal state 99".to_owned()));
    let unknown = full.error("StateMinerInfo", json!(["f0777", []])).await;
    assert_eq!(unknown.1, "failed to load miner actor: actor not found");
    let unknown = full.error("StateMarketStorageDeal", json!([5432, []])).await;
    assert!(
        unknown.1.starts_with("deal 5432 not found - deal may not have completed sealing"),
        "{}",
        unknown.1
    );
    let deadline = full.ok("StateMinerProvingDeadline", json!(["f01000", []])).await;
    let (start, now) =
        (deadline["PeriodStart"].as_i64().unwrap(), deadline["CurrentEpoch"].as_i64().unwrap());
    assert!((0..2880).contains(&(now - start)), "{deadline}");
}

#[tokio::test]
async fn test_nets_print_their_own_prefix() {
    let calibration = SimConfig { network_prefix: 't', ..config(LotusVersion::V1_23) };
    let sim = lotus_sim::start(calibration).await.unwrap();
    assert_eq!(Node::miner(&sim, "t01000").ok("ActorAddress", json!([])).await, "t01000");
    let wallet = Node::full(&sim).ok("WalletDefaultAddress", json!([])).await;
    assert!(wallet.as_str().unwrap().starts_with("t1"), "{wallet}");
}
