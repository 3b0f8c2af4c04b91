//! Frames, status codes, permissions, methods and the record.

use boost_sim::{BoostVersion, DealFault, DealFaultKind, Permission};
use serde_json::{Value, json};

use crate::support::{ROOT, call, car, http, instant, must_import, propose, rested, try_call};

#[tokio::test]
async fn methods_that_boost_does_not_have_are_not_found() {
    let sim = instant(BoostVersion::V2_5_2).await;
    for method in ["Version", "ActorAddress", "MarketListIncompleteDeals", "BoostMakeDeal"] {
        let answer = try_call(&sim, Permission::Admin, method, &json!([])).await.unwrap();
        assert_eq!(answer.status, 500, "{method}");
        let text = format!(
            "{{\"error\":{{\"code\":-32601,\"message\":\"method 'Filecoin.{method}' not found\"}},\"id\":1,\
             \"jsonrpc\":\"2.0\"}}\n"
        );
        assert_eq!(answer.body, text);
    }
}

#[tokio::test]
async fn legacy_methods_end_with_v2_1_2() {
    let sim = instant(BoostVersion::V2_1_2).await;
    assert_eq!(call(&sim, "MarketListIncompleteDeals", json!([])).await, Ok(Value::Null));
    // go-jsonrpc before its sorted answers.
    let answer = try_call(&sim, Permission::Admin, "ID", &json!([])).await.unwrap();
    assert!(answer.body.starts_with("{\"jsonrpc\":\"2.0\",\"result\":\"12D3KooW"), "{}", answer.body);
}

#[tokio::test]
async fn the_import_has_two_parameters_before_v1_7_0_and_three_since() {
    for (version, count) in [
        (BoostVersion::V1_5_0, 2),
        (BoostVersion::V1_6_4, 2),
        (BoostVersion::V1_7_0, 3),
        (BoostVersion::V2_1_2, 3),
        (BoostVersion::V2_5_2, 3),
    ] {
        let sim = instant(version).await;
        let uuid = "d771faf5-d74e-4035-8341-e2537d270e25";
        let (short, long) = (json!([uuid, "/x.car"]), json!([uuid, "/x.car", false]));
        let (right, wrong, given) = if count == 2 { (short, long, 3) } else { (long, short, 2) };
        let answer = try_call(&sim, Permission::Admin, "BoostOfflineDealWithData", &wrong).await.unwrap();
        assert_eq!(answer.status, 500, "{version}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], -32602, "{version}");
        let text =
            format!("wrong param count (method 'Filecoin.BoostOfflineDealWithData'): {given} != {count}");
        assert_eq!(error["message"], text, "{version}");
        let error = call(&sim, "BoostOfflineDealWithData", right).await.unwrap_err();
        let text = format!(
            "no pre-existing deal proposal for offline deal {uuid}: scanning deal row: sql: no rows in result set"
        );
        assert_eq!(error, text, "{version}");
    }
}

#[tokio::test]
async fn boost_methods_need_admin_and_a_good_token() {
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = "d771faf5-d74e-4035-8341-e2537d270e25";
    for (method, params) in [
        ("BoostOfflineDealWithData", json!([uuid, "/x.car", false])),
        ("BoostDeal", json!([uuid])),
        ("BoostDealBySignedProposalCid", json!([{ "/": ROOT }])),
        ("BoostDummyDeal", json!([{}])),
        ("AuthNew", json!([["read"]])),
    ] {
        let answer = try_call(&sim, Permission::Sign, method, &params).await.unwrap();
        assert_eq!(answer.status, 200, "{method}");
        let text = format!("missing permission to invoke '{method}' (need 'admin')");
        assert_eq!(answer.json()["error"], json!({ "code": 1, "message": text }), "{method}");
    }
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "Filecoin.ID", "params": [] }).to_string();
    for header in ["Bearer nonsense", "Basic YTpi"] {
        let answer = http(sim.rpc_addr(), "POST", "/rpc/v0", Some(header), &body).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (401, ""), "{header}");
    }
    let answer = http(sim.rpc_addr(), "POST", "/rpc/v0", None, &body).await.unwrap();
    assert_eq!(answer.status, 200, "reading needs no token");
}

#[tokio::test]
async fn tokens_are_made_and_verified() {
    let sim = instant(BoostVersion::V2_5_2).await;
    let token = call(&sim, "AuthNew", json!([["write"]])).await.unwrap();
    let token = data_encoding::BASE64.decode(token.as_str().unwrap().as_bytes()).unwrap();
    let token = String::from_utf8(token).unwrap();
    assert_eq!(call(&sim, "AuthVerify", json!([token])).await, Ok(json!(["write"])));
    assert_eq!(
        call(&sim, "AuthVerify", json!(["nonsense"])).await,
        Err("JWT Verification failed: jwt: malformed token".to_owned())
    );
}

#[tokio::test]
async fn the_ask_names_the_miner() {
    let sim = instant(BoostVersion::V2_5_2).await;
    let ask = call(&sim, "MarketGetAsk", json!([])).await.unwrap();
    assert_eq!(ask["Ask"]["Miner"], "f01000");
    assert_eq!((&ask["Ask"]["Price"], &ask["Ask"]["MinPieceSize"]), (&json!("0"), &json!(256)));
    let listen = call(&sim, "NetAddrsListen", json!([])).await.unwrap();
    assert_eq!(listen["ID"], call(&sim, "ID", json!([])).await.unwrap());
}

/// The fields of `BoostDeal` in documentation/en/api-v1-methods.md of each tag.
#[tokio::test]
async fn the_record_has_the_fields_of_its_release() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "record");
    let old = "ChainDealID Checkpoint CheckpointAt ClientDealProposal ClientPeerID CreatedAt DealDataRoot DealUuid \
               Err InboundFilePath IsOffline Length NBytesReceived Offset PublishCID Retry SectorID Transfer";
    for (version, added) in [
        (BoostVersion::V1_5_0, vec![]),
        (BoostVersion::V1_6_4, vec!["AnnounceToIPNI", "FastRetrieval"]),
        (BoostVersion::V1_7_0, vec!["AnnounceToIPNI", "CleanupData", "FastRetrieval"]),
        (BoostVersion::V2_5_2, vec!["AnnounceToIPNI", "CleanupData", "FastRetrieval"]),
    ] {
        let sim = instant(version).await;
        let names = propose(&sim, &car);
        let deal = call(&sim, "BoostDeal", json!([names.uuid])).await.unwrap();
        let mut expected: Vec<&str> = old.split_whitespace().chain(added).collect();
        expected.sort_unstable();
        assert_eq!(deal.as_object().unwrap().keys().collect::<Vec<_>>(), expected, "{version}");
        assert_eq!(deal["Checkpoint"], 0);
        assert_eq!(deal["Retry"], "auto");
        assert_eq!(deal["PublishCID"], Value::Null);
        assert_eq!(deal["DealDataRoot"], json!({ "/": ROOT }));
        let proposal = &deal["ClientDealProposal"]["Proposal"];
        assert_eq!((&proposal["PieceSize"], &proposal["Label"]), (&json!(2048), &json!(ROOT)));
        assert_eq!(deal["ClientDealProposal"]["ClientSignature"]["Type"], 1);
    }
}

#[tokio::test]
async fn deals_are_found_by_uuid_and_by_signed_cid_only() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "found");
    let sim = instant(BoostVersion::V2_5_2).await;
    let names = propose(&sim, &car);
    let deal = call(&sim, "BoostDeal", json!([names.uuid])).await.unwrap();
    let by_cid = |cid: &str| call(&sim, "BoostDealBySignedProposalCid", json!([{ "/": cid }]));
    assert_eq!(by_cid(&names.signed_proposal_cid).await, Ok(deal));
    let unsigned = &names.proposal_cid;
    assert!(unsigned.starts_with("bafy2bza"), "{unsigned}");
    assert_eq!(by_cid(unsigned).await, Err(format!("getting deal {unsigned}: deal not found")));
    let other = "d771faf5-d74e-4035-8341-e2537d270e25";
    assert_eq!(
        call(&sim, "BoostDeal", json!([other])).await,
        Err(format!("getting deal {other}: deal not found"))
    );
}

#[tokio::test]
async fn parameters_that_do_not_decode_are_named() {
    let sim = instant(BoostVersion::V2_5_2).await;
    let answer = try_call(&sim, Permission::Admin, "BoostDeal", &json!(["abc"])).await.unwrap();
    assert_eq!(answer.status, 500);
    let message = "unmarshaling params for 'Filecoin.BoostDeal' (param: *uuid.UUID): invalid UUID length: 3";
    assert_eq!(answer.json()["error"], json!({ "code": -32700, "message": message }));
    // As a running v2.5.2 answers.
    for (method, param, words) in [
        ("BoostDeal", json!(5), "json: cannot unmarshal number into Go value of type *uuid.UUID"),
        ("BoostDealBySignedProposalCid", json!({}), "invalid cid: cid was incorrectly formatted"),
        (
            "BoostDealBySignedProposalCid",
            json!("bafy"),
            r#"invalid cid: json: cannot unmarshal string into Go value of type struct { CidTarget string "json:\"/\"" }"#,
        ),
    ] {
        let answer = try_call(&sim, Permission::Admin, method, &json!([param])).await.unwrap();
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with(words), "{message}");
    }
    let none = call(&sim, "BoostDealBySignedProposalCid", json!([null])).await;
    assert_eq!(none, Err("getting deal b: deal not found".to_owned()));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_record_of_zeros_or_null() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "unread");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::LookupNull).times(1));
    assert_eq!(call(&sim, "BoostDeal", json!([uuid])).await, Ok(Value::Null));
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::LookupFails).times(2));
    let deal = call(&sim, "BoostDeal", json!([uuid])).await.unwrap();
    assert_eq!(deal["DealUuid"], "00000000-0000-0000-0000-000000000000");
    assert_eq!(deal["ClientDealProposal"]["Proposal"]["PieceCID"], Value::Null);
    let error = call(&sim, "BoostOfflineDealWithData", json!([uuid, car.path, false])).await.unwrap_err();
    assert_eq!(error, format!("getting offline deal {uuid}: scanning deal row: database is locked"));
    // Both faults are used up.
    must_import(&sim, &uuid, &car.path).await;
    assert_eq!(rested(&sim, &uuid).await.err, "");
}

#[tokio::test]
async fn batches_are_answered_since_v2_1_2() {
    let sim = instant(BoostVersion::V2_1_2).await;
    let one = json!({ "jsonrpc": "2.0", "id": 1, "method": "Filecoin.ID", "params": [] });
    let body = json!([one, one]).to_string();
    let answer = http(sim.rpc_addr(), "POST", "/rpc/v0", None, &body).await.unwrap();
    assert_eq!(answer.json().as_array().unwrap().len(), 2);
    let sim = instant(BoostVersion::V1_7_0).await;
    let answer = http(sim.rpc_addr(), "POST", "/rpc/v0", None, &body).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (500, ""));
}
