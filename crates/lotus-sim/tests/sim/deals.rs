//! The states of a deal on both sides (§2, §4).

use std::time::Duration;

use lotus_sim::{Ask, DealState, LotusVersion, MinerConfig, SimConfig, Timings};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{
    Car, MINER, Node, client_reaches, config, eventually, import, miner, propose, propose_and_wait,
    provider_reaches, provider_state, start, wallet_with,
};

#[tokio::test]
async fn a_deal_walks_to_active_on_both_sides() {
    for version in [LotusVersion::V1_5, LotusVersion::V1_11, LotusVersion::V1_23] {
        let dir = tempdir().unwrap();
        let car = Car::write(dir.path(), 1, 5000);
        let sim = start(version).await;
        let (full, miner) = (Node::full(&sim), Node::miner(&sim, MINER));
        let cid = propose_and_wait(&sim, &car).await;
        assert!(cid.starts_with("bafyrei"), "{cid}");
        let waiting = eventually("the client knows that the provider waits", async || {
            let info = full.ok("ClientGetDealInfo", json!([{ "/": cid }])).await;
            (info["Message"] == "Provider state: StorageDealWaitingForData").then_some(info)
        })
        .await;
        assert_eq!(waiting["State"], 13);
        assert_eq!(waiting["DealID"], 0);
        assert_eq!(waiting["Size"], car.unpadded);
        assert_eq!(waiting["PieceCID"]["/"], car.piece_cid.as_str());
        assert_eq!(waiting["DataRef"]["Root"]["/"], car.root.as_str());
        assert_eq!(waiting["TransferChannelID"], Value::Null);
        assert!(waiting["Duration"].as_i64().unwrap() >= 518_400, "{waiting}");
        assert!(waiting["CreationTime"].as_str().unwrap().ends_with("+08:00"), "{waiting}");
        let has_stages = version != LotusVersion::V1_5;
        assert_eq!(waiting.get("DealStages").is_some(), has_stages);
        if has_stages {
            let stages = &waiting["DealStages"]["Stages"];
            assert_eq!(stages[0]["Name"], "StorageDealReserveClientFunds");
            assert_eq!(stages[0]["ExpectedDuration"], "a few minutes");
            let list = full.ok("ClientListDeals", json!([])).await;
            assert_eq!(list[0]["DealStages"], Value::Null);
        }

        let local = miner.ok("MarketListIncompleteDeals", json!([])).await;
        assert_eq!(local[0]["State"], 18);
        assert_eq!(local[0]["ProposalCid"]["/"], cid.as_str());
        assert_eq!(local[0]["Proposal"]["PieceSize"], car.unpadded / 127 * 128);
        assert_eq!(local[0]["Ref"]["PieceSize"], car.unpadded);
        assert_eq!(local[0]["Proposal"]["StartEpoch"], 1_005_000);
        assert!(local[0]["Proposal"]["Label"].as_str().unwrap().starts_with('m'), "{local}");
        assert_eq!(local[0].get("StoreID").is_some(), version == LotusVersion::V1_5);
        assert_eq!(local[0].get("InboundCAR").is_some(), version != LotusVersion::V1_5);
        assert_eq!(local[0]["TransferChannelId"], Value::Null);

        miner.ok("MarketImportDealData", import(&cid, car.path())).await;
        provider_reaches(&sim, &cid, 7).await;
        let active = client_reaches(&sim, &cid, 7).await;
        let deal_id = active["DealID"].as_u64().unwrap();
        assert!(deal_id > 0);
        let chain = full.ok("StateMarketStorageDeal", json!([deal_id, []])).await;
        assert_eq!(chain["State"]["SectorStartEpoch"], 1_000_000);
        assert_eq!(chain["State"]["SlashEpoch"], -1);
        assert_eq!(chain["State"].get("VerifiedClaim").is_some(), version == LotusVersion::V1_23);
        assert!(chain["Proposal"]["Client"].as_str().unwrap().starts_with("f0"), "{chain}");
        let listed = miner.ok("MarketListDeals", json!([])).await;
        assert_eq!(listed[0], chain);
        assert_eq!(full.ok("StateMarketDeals", json!([[]])).await[deal_id.to_string()], chain);

        let staging = std::fs::read_dir(sim.staging_dir(MINER)).unwrap();
        assert_eq!(staging.count(), 0, "the copy goes when the sector has it");
        assert_eq!(sim.temp_files_leaked(), 0);
        sim.set_epoch(1_005_000 + 518_400 + 5760);
        provider_reaches(&sim, &cid, 8).await;
        client_reaches(&sim, &cid, 8).await;
    }
}

#[tokio::test]
async fn the_same_terms_are_the_same_deal() {
    let dir = tempdir().unwrap();
    let (car, other) = (Car::write(dir.path(), 1, 100), Car::write(dir.path(), 2, 100));
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let cid = propose(&sim, &car).await;
    let again = full.error("ClientStartDeal", json!([car.deal(5000)])).await;
    assert_eq!(
        again,
        (
            1,
            format!(
                "failed to start deal: setting up deal tracking: Begin: already tracking identifier `{cid}`"
            )
        )
    );
    assert_eq!(sim.proposals_for(&car.root, MINER), 1);
    assert_ne!(propose(&sim, &other).await, cid);

    // Without a start epoch of its own, a repeat in a later epoch is another deal.
    let mut vague = car.deal(0);
    vague["DealStartEpoch"] = json!(-1);
    let first = full.ok("ClientStartDeal", json!([vague])).await;
    sim.advance_epochs(1);
    assert_ne!(full.ok("ClientStartDeal", json!([vague])).await, first);
    assert_eq!(sim.proposals_for(&car.root, MINER), 3);
    assert_eq!(sim.count("Filecoin.ClientStartDeal"), 5);

    // Another simulator gives the same CID for the same terms.
    let twin = start(LotusVersion::V1_23).await;
    assert_eq!(propose(&twin, &car).await, cid);
}

#[tokio::test]
async fn the_root_must_be_imported_since_v1_11_2() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    for version in [LotusVersion::V1_11, LotusVersion::V1_23] {
        let sim = start(version).await;
        let full = Node::full(&sim);
        let (_code, text) = full.error("ClientStartDeal", json!([car.deal(5000)])).await;
        let root = &car.root;
        assert_eq!(
            text,
            format!(
                "failed to start deal: failed to get blockstore for imported root {root}: no client blockstore for \
                 root {root}"
            )
        );
        let import = full.ok("ClientImport", json!([{ "Path": car.path(), "IsCAR": true }])).await;
        assert_eq!(import, json!({ "Root": { "/": root }, "ImportID": 1 }));
        let listed = full.ok("ClientListImports", json!([])).await;
        assert_eq!((&listed[0]["FilePath"], &listed[0]["Root"]["/"]), (&json!(car.path()), &json!(root)));
        full.ok("ClientStartDeal", json!([car.deal(5000)])).await;
        full.ok("ClientRemoveImport", json!([1])).await;
        assert_eq!(full.ok("ClientListImports", json!([])).await, json!([]));
    }
    let sim = start(LotusVersion::V1_5).await;
    Node::full(&sim).ok("ClientStartDeal", json!([car.deal(5000)])).await;
    let relaxed = SimConfig { root_must_be_imported: Some(false), ..config(LotusVersion::V1_23) };
    let sim = lotus_sim::start(relaxed).await.unwrap();
    Node::full(&sim).ok("ClientStartDeal", json!([car.deal(5000)])).await;
}

#[tokio::test]
async fn the_client_checks_in_the_contracts_order() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let nameless = MinerConfig { peer_id: None, ..MinerConfig::new("f01001") };
    let sim = lotus_sim::start(SimConfig {
        miners: vec![MinerConfig { sector_size: 2048, ..miner() }, nameless],
        ..config(LotusVersion::V1_23)
    })
    .await
    .unwrap();
    let full = Node::full(&sim);
    let with = |field: &str, value: Value| {
        let mut deal = car.deal(5000);
        deal[field] = value;
        json!([deal])
    };
    for (params, text) in [
        (with("Wallet", json!("f2aaaaaaaaaaaa")), "failed resolving params.Wallet addr (f2aaaaaaaaaaaa): "),
        (with("Wallet", json!("f1aaaaaaaaaaaa")), "provided address doesn't exist in wallet"),
        (with("Miner", json!("f0777")), "failed getting peer ID: "),
        (
            with("Data", json!({ "TransferType": "manual", "PieceSize": 4064, "Root": { "/": car.root } })),
            "data doesn't fit in a sector",
        ),
    ] {
        let (code, found) = full.error("ClientStartDeal", params).await;
        assert!(code == 1 && found.starts_with(text), "{found}");
    }
    full.ok("ClientImport", json!([{ "Path": car.path(), "IsCAR": true }])).await;
    let no_piece = json!({ "TransferType": "manual", "Root": { "/": car.root } });
    let (_code, text) = full.error("ClientStartDeal", with("Data", no_piece)).await;
    assert_eq!(
        text,
        "failed to start deal: computing commP failed: Piece CID and size must be set for manual transfer"
    );
    let panic = full.raw("ClientStartDeal", with("Miner", json!("f01001"))).await;
    assert_eq!((panic.status, &panic.json()["error"]["code"]), (500, &json!(0)));
    assert!(panic.body.contains("invalid memory address or nil pointer dereference"), "{}", panic.body);
    // A number where Go expects a decimal string.
    let answer = full.raw("ClientStartDeal", with("EpochPrice", json!(0))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!(-32700)));
}

#[tokio::test]
async fn the_provider_rejects_with_the_contracts_reasons() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let strict = MinerConfig {
        ask: Ask { price: 1 << 30, verified_price: 0, min_piece_size: 8192, max_piece_size: None },
        ..miner()
    };
    let sim =
        lotus_sim::start(SimConfig { miners: vec![strict], ..config(LotusVersion::V1_23) }).await.unwrap();
    let full = Node::full(&sim);
    full.ok("ClientImport", json!([{ "Path": car.path(), "IsCAR": true }])).await;
    let change = |changes: Value| {
        let mut deal = car.deal(5000);
        deal["EpochPrice"] = json!("8192");
        // By size, as the node itself offers it.
        deal["ProviderCollateral"] = json!("0");
        for (field, value) in changes.as_object().unwrap() {
            if field == "PieceSize" {
                deal["Data"][field] = value.clone();
            } else {
                deal[field] = value.clone();
            }
        }
        deal
    };
    for (changes, reason) in [
        (
            json!({ "PieceSize": 8192 }),
            "proposal piece size is invalid: padded piece size must be a power of 2",
        ),
        (json!({ "PieceSize": 4064 }), "piece size less than minimum required size: 4096 < 8192"),
        (json!({ "EpochPrice": "8191" }), "storage price per epoch less than asking price: 8191 < 8192"),
        (json!({ "DealStartEpoch": 999_999 }), "deal start epoch has already elapsed"),
        (json!({ "DealStartEpoch": 1_002_879 }), "cannot seal a sector before 1002879"),
        (
            json!({ "DealStartEpoch": 1_043_201 }),
            "deal start epoch is too far in the future: 1043201 > 1043200",
        ),
        (json!({ "ProviderCollateral": "1" }), "proposed provider collateral below minimum: 1 < 1947753528"),
        (
            json!({ "VerifiedDeal": true }),
            "node error fetching verified data cap: data cap missing -- client not verified",
        ),
        (
            json!({ "MinBlocksDuration": 500_000 }),
            "deal duration out of bounds (min, max, provided): 518400, 1555200, ",
        ),
    ] {
        let cid = full.ok("ClientStartDeal", json!([change(changes)])).await;
        let cid = cid["/"].as_str().unwrap();
        let failed = client_reaches(&sim, cid, 26).await;
        let text = failed["Message"].as_str().unwrap();
        let expected = format!(
            "unexpected deal status while waiting for data request: 11 (StorageDealFailing). Provider message: deal \
             rejected: {reason}"
        );
        assert!(text.starts_with(&expected), "{text}\n{expected}");
        provider_reaches(&sim, cid, 26).await;
    }
    sim.reject_next(MINER, "no thanks");
    let cid = full.ok("ClientStartDeal", json!([change(json!({}))])).await;
    let failed = client_reaches(&sim, cid["/"].as_str().unwrap(), 26).await;
    assert!(failed["Message"].as_str().unwrap().ends_with("deal rejected: no thanks"), "{failed}");
}

#[tokio::test]
async fn filters_refuse_kinds_of_deals() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    for (config_of, reason) in [
        (MinerConfig { accepts_offline: false, ..miner() }, "miner is not accepting offline storage deals"),
        (
            MinerConfig { accepts_unverified: false, ..miner() },
            "miner is not accepting unverified storage deals",
        ),
        (MinerConfig { reject: Some("closed".to_owned()), ..miner() }, "closed"),
        (
            MinerConfig { blocklist: vec![car.piece_cid.clone()], ..miner() },
            "miner has blocklisted piece CID ",
        ),
    ] {
        let sim = lotus_sim::start(SimConfig { miners: vec![config_of], ..config(LotusVersion::V1_23) })
            .await
            .unwrap();
        let cid = propose(&sim, &car).await;
        let failed = client_reaches(&sim, &cid, 26).await;
        assert!(failed["Message"].as_str().unwrap().contains(reason), "{failed}");
    }
}

#[tokio::test]
async fn a_waiting_client_gives_up_after_the_start_and_the_provider_does_not() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    for version in [LotusVersion::V1_5, LotusVersion::V1_23] {
        let sim = start(version).await;
        let cid = propose_and_wait(&sim, &car).await;
        client_reaches(&sim, &cid, 13).await;
        sim.set_epoch(1_005_010);
        client_reaches(&sim, &cid, 13).await;
        sim.set_epoch(1_005_011);
        if version == LotusVersion::V1_23 {
            let failed = client_reaches(&sim, &cid, 26).await;
            assert_eq!(failed["Message"], "deal failed: (State=13) start epoch already elapsed");
        } else {
            client_reaches(&sim, &cid, 13).await;
        }
        assert_eq!(provider_state(&sim, &cid), Some(18));
        // The import still copies and succeeds; the deal fails when it is published.
        Node::miner(&sim, MINER).ok("DealsImportData", import(&cid, car.path())).await;
        provider_reaches(&sim, &cid, 26).await;
        let message = sim.deal(&cid).unwrap().provider.unwrap().message;
        assert_eq!(
            message,
            format!(
                "error calling node: publishing deal: publish validation failed: cannot publish deal with piece CID \
                 {}: current epoch 1005011 has passed deal proposal start epoch 1005000",
                car.piece_cid
            )
        );
        assert_eq!(sim.temp_files_leaked(), 0);
    }
}

#[tokio::test]
async fn v1_23_wants_480_epochs_for_sealing_after_publishing() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    let cid = propose_and_wait(&sim, &car).await;
    sim.set_epoch(1_005_000 - 479);
    Node::miner(&sim, MINER).ok("DealsImportData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 26).await;
    let failed = client_reaches(&sim, &cid, 26).await;
    let text = failed["Message"].as_str().unwrap();
    assert!(text.starts_with("deal failed: (State="), "{text}");
    assert!(text.contains("has passed deal proposal start epoch"), "{text}");
}

#[tokio::test]
async fn a_deal_not_sealed_by_its_start_fails_on_both_sides() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let held = MinerConfig { hold_at: Some(DealState::AwaitingPreCommit), ..miner() };
    let sim =
        lotus_sim::start(SimConfig { miners: vec![held], ..config(LotusVersion::V1_23) }).await.unwrap();
    let cid = propose_and_wait(&sim, &car).await;
    Node::miner(&sim, MINER).ok("DealsImportData", import(&cid, car.path())).await;
    let waiting = client_reaches(&sim, &cid, 29).await;
    let deal_id = waiting["DealID"].as_u64().unwrap();
    sim.set_epoch(1_005_001);
    provider_reaches(&sim, &cid, 26).await;
    let failed = client_reaches(&sim, &cid, 26).await;
    assert_eq!(
        failed["Message"],
        format!(
            "error waiting for deal pre-commit: deal with piece CID {} was not activated by proposed deal start \
             epoch 1005000",
            car.piece_cid
        )
    );
    let (_code, text) = Node::full(&sim).error("StateMarketStorageDeal", json!([deal_id, []])).await;
    assert!(text.starts_with(&format!("deal {deal_id} not found")), "{text}");
}

#[tokio::test]
async fn a_slashed_deal_is_slashed_everywhere() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    let cid = propose_and_wait(&sim, &car).await;
    assert!(sim.set_provider_state(&cid, DealState::Active, ""));
    let info = client_reaches(&sim, &cid, 7).await;
    let chain = || async { Node::full(&sim).ok("StateMarketStorageDeal", json!([info["DealID"], []])).await };
    assert_eq!(chain().await["State"]["SectorStartEpoch"], 1_000_000);
    sim.advance_epochs(7);
    assert!(sim.set_provider_state(&cid, DealState::Slashed, ""));
    client_reaches(&sim, &cid, 9).await;
    assert_eq!(chain().await["State"]["SlashEpoch"], 1_000_007);
    assert!(!sim.set_provider_state("bafyrei", DealState::Active, ""));
}

#[tokio::test]
async fn stateless_deals_wait_for_the_answer_and_leave_no_trace_on_the_client() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    let (full, miner) = (Node::full(&sim), Node::miner(&sim, MINER));
    let cid = full.ok("ClientStatelessDeal", json!([car.deal(5000)])).await;
    let cid = cid["/"].as_str().unwrap().to_owned();
    assert_eq!(provider_state(&sim, &cid), Some(18));
    assert_eq!(full.ok("ClientListDeals", json!([])).await, json!([]));
    let (_code, text) = full.error("ClientGetDealInfo", json!([{ "/": cid }])).await;
    assert_eq!(text, format!("No state for /{cid}: datastore: key not found"));
    let local = miner.ok("MarketListIncompleteDeals", json!([])).await;
    assert!(local[0]["Proposal"]["Label"].as_str().unwrap().starts_with('u'), "{local}");

    // Still waiting: the same answer again. Advanced: its state, as an error.
    assert_eq!(full.ok("ClientStatelessDeal", json!([car.deal(5000)])).await["/"], cid.as_str());
    assert_eq!(sim.proposals_for(&car.root, MINER), 1);
    miner.ok("MarketImportDealData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 7).await;
    let (_code, text) = full.error("ClientStatelessDeal", json!([car.deal(5000)])).await;
    assert_eq!(text, format!("provider returned unexpected state 7 for proposal {cid}, with message: "));

    let mut paid = car.deal(5001);
    paid["EpochPrice"] = json!("1");
    let (_code, text) = full.error("ClientStatelessDeal", json!([paid])).await;
    assert_eq!(text, "stateless storage deals can only be initiated with storage price of 0");
    sim.reject_next(MINER, "full");
    let (_code, text) = full.error("ClientStatelessDeal", json!([car.deal(5002)])).await;
    assert!(text.starts_with("provider returned unexpected state 11 for proposal bafyrei"), "{text}");
    assert!(text.ends_with("with message: deal rejected: full"), "{text}");
}

#[tokio::test]
async fn an_unreachable_provider_fails_proposals_late() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let timings = Timings { client_send_limit: Duration::from_millis(100), ..Timings::default() };
    let sim = lotus_sim::start(SimConfig { timings, ..config(LotusVersion::V1_23) }).await.unwrap();
    let full = Node::full(&sim);
    sim.set_reachable(MINER, false);
    let cid = propose(&sim, &car).await;
    let failed = client_reaches(&sim, &cid, 26).await;
    assert!(failed["Message"].as_str().unwrap().starts_with("sending proposal to storage provider failed: "));
    assert_eq!(provider_state(&sim, &cid), None);
    let (_code, text) = full.error("ClientStatelessDeal", json!([car.deal(5001)])).await;
    assert!(text.starts_with(&format!("opening dealstream to {MINER}/12D3KooW")), "{text}");
    let peer = full.ok("StateMinerInfo", json!([MINER, []])).await["PeerId"].clone();
    let (_code, text) = full.error("ClientQueryAsk", json!([peer, MINER])).await;
    assert!(text.starts_with("failed to open stream to miner: "), "{text}");

    // A waiting deal shows that the provider is unreachable.
    sim.set_reachable(MINER, true);
    let waiting = full.ok("ClientStartDeal", json!([car.deal(5003)])).await;
    let waiting = waiting["/"].as_str().unwrap();
    client_reaches(&sim, waiting, 13).await;
    sim.set_reachable(MINER, false);
    eventually("the client sees nobody", async || {
        let info = full.ok("ClientGetDealInfo", json!([{ "/": waiting }])).await;
        (info["Message"] == "Provider state: StorageDealUnknown").then_some(())
    })
    .await;
    sim.set_reachable(MINER, true);
    eventually("the client sees the provider again", async || {
        let info = full.ok("ClientGetDealInfo", json!([{ "/": waiting }])).await;
        (info["Message"] == "Provider state: StorageDealWaitingForData").then_some(())
    })
    .await;
}

#[tokio::test]
async fn publishing_waits_for_company_or_the_order_to_go() {
    let dir = tempdir().unwrap();
    let cars: Vec<Car> = (0..3).map(|seed| Car::write(dir.path(), seed, 100)).collect();
    let timings = Timings { publish_period: Duration::from_secs(3600), ..Timings::default() };
    let sim = lotus_sim::start(SimConfig {
        miners: vec![MinerConfig { max_deals_per_publish: 2, ..miner() }],
        timings,
        ..config(LotusVersion::V1_23)
    })
    .await
    .unwrap();
    let node = Node::miner(&sim, MINER);
    let mut cids = Vec::new();
    for car in &cars {
        let cid = propose_and_wait(&sim, car).await;
        node.ok("DealsImportData", import(&cid, car.path())).await;
        cids.push(cid);
    }
    provider_reaches(&sim, &cids[0], 7).await;
    provider_reaches(&sim, &cids[1], 7).await;
    provider_reaches(&sim, &cids[2], 24).await;
    let pending = node.ok("MarketPendingDeals", json!([])).await;
    assert_eq!(pending["Deals"].as_array().unwrap().len(), 1);
    assert_eq!(pending["PublishPeriod"], 3_600_000_000_000_u64);
    node.ok("MarketPublishPendingDeals", json!([])).await;
    provider_reaches(&sim, &cids[2], 7).await;
}

#[tokio::test]
async fn a_miner_without_funds_is_stuck_in_publish_until_asked_again() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let poor = || MinerConfig { can_pay_publish: false, max_deals_per_publish: 1, ..miner() };
    let sim =
        lotus_sim::start(SimConfig { miners: vec![poor()], ..config(LotusVersion::V1_23) }).await.unwrap();
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    node.ok("DealsImportData", import(&cid, car.path())).await;
    eventually("the batch was tried", async || {
        let pending = node.ok("MarketPendingDeals", json!([])).await;
        (provider_state(&sim, &cid) == Some(24) && pending["Deals"] == json!([])).then_some(())
    })
    .await;
    sim.set_can_pay_publish(MINER, true);
    node.ok("MarketRetryPublishDeal", json!([{ "/": cid }])).await;
    provider_reaches(&sim, &cid, 7).await;

    let sim =
        lotus_sim::start(SimConfig { miners: vec![poor()], ..config(LotusVersion::V1_5) }).await.unwrap();
    let cid = propose_and_wait(&sim, &car).await;
    Node::miner(&sim, MINER).ok("DealsImportData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 26).await;
}

#[tokio::test]
async fn datacap_is_spent_at_publishing_and_a_short_one_fails_the_batch() {
    let dir = tempdir().unwrap();
    let cars: Vec<Car> = (0..3).map(|seed| Car::write(dir.path(), seed, 100)).collect();
    let timings = Timings { publish_period: Duration::from_secs(3600), ..Timings::default() };
    let sim = lotus_sim::start(SimConfig {
        wallets: vec![wallet_with(0, Some(300))],
        timings,
        ..config(LotusVersion::V1_23)
    })
    .await
    .unwrap();
    let (full, node) = (Node::full(&sim), Node::miner(&sim, MINER));
    let status = || async { full.ok("StateVerifiedClientStatus", json!([crate::support::WALLET, []])).await };
    assert_eq!(status().await, "300");
    let mut cids = Vec::new();
    for car in &cars {
        let mut deal = car.deal(5000);
        deal["VerifiedDeal"] = json!(true);
        let cid = full.ok("ClientStatelessDeal", json!([deal])).await;
        cids.push(cid["/"].as_str().unwrap().to_owned());
    }
    // Each padded piece is 256 bytes: one fits into 300, two do not.
    for (cid, car) in cids.iter().zip(&cars).take(2) {
        node.ok("DealsImportData", import(cid, car.path())).await;
        provider_reaches(&sim, cid, 24).await;
    }
    node.ok("MarketPublishPendingDeals", json!([])).await;
    for cid in &cids[..2] {
        provider_reaches(&sim, cid, 26).await;
    }
    assert_eq!(status().await, "300");
    node.ok("DealsImportData", import(&cids[2], cars[2].path())).await;
    provider_reaches(&sim, &cids[2], 24).await;
    node.ok("MarketPublishPendingDeals", json!([])).await;
    provider_reaches(&sim, &cids[2], 7).await;
    assert_eq!(status().await, "44");
}

#[tokio::test]
async fn price_is_reserved_then_locked_and_a_short_wallet_fails_the_deal() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = lotus_sim::start(SimConfig {
        wallets: vec![wallet_with(1_000_000_000, None)],
        ..config(LotusVersion::V1_23)
    })
    .await
    .unwrap();
    let full = Node::full(&sim);
    full.ok("ClientImport", json!([{ "Path": car.path(), "IsCAR": true }])).await;
    let mut deal = car.deal(5000);
    deal["EpochPrice"] = json!("1000");
    let cid = full.ok("ClientStartDeal", json!([deal])).await;
    let cid = cid["/"].as_str().unwrap();
    let info = client_reaches(&sim, cid, 13).await;
    let total = 1000 * info["Duration"].as_i64().unwrap();
    let escrow = json!({ "Escrow": total.to_string(), "Locked": "0" });
    assert_eq!(full.ok("StateMarketBalance", json!([crate::support::WALLET, []])).await, escrow);
    provider_reaches(&sim, cid, 18).await;
    Node::miner(&sim, MINER).ok("DealsImportData", import(cid, car.path())).await;
    client_reaches(&sim, cid, 7).await;
    let locked = json!({ "Escrow": total.to_string(), "Locked": total.to_string() });
    assert_eq!(full.ok("StateMarketBalance", json!([crate::support::WALLET, []])).await, locked);
    deal["DealStartEpoch"] = json!(1_005_001);
    let second = full.ok("ClientStartDeal", json!([deal])).await;
    let failed = client_reaches(&sim, second["/"].as_str().unwrap(), 26).await;
    assert!(failed["Message"].as_str().unwrap().starts_with("adding market funds failed: "), "{failed}");
}
