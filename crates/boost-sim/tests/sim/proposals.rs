//! Proposals: rejections, duplicates, dummy deals.

use boost_sim::{BoostConfig, BoostVersion, Checkpoint, Hold, Proposal};
use serde_json::{Value, json};

use crate::support::{ROOT, call, car, graphql, import, instant, must_import, proposal, propose, rested};

#[tokio::test]
async fn bad_terms_are_rejected_in_the_words_of_boost() {
    let folder = tempfile::tempdir().unwrap();
    let good = proposal(&car(folder.path(), "terms"));
    let config = BoostConfig { start_epoch: 333, ..BoostConfig::instant() };
    let sim = boost_sim::start(config).await.unwrap();
    let good = good.starting(5000);
    let long = |end: i64| Proposal { end_epoch: end, ..good.clone() };
    for (bad, reason) in [
        (good.clone().starting(5), "deal start epoch 5 has already elapsed (current epoch: 333)".to_owned()),
        (
            Proposal { piece_size: 1_048_577, ..good.clone() },
            "proposal piece size is invalid: padded piece size must be a power of 2".to_owned(),
        ),
        (
            Proposal { piece_size: 128, ..good.clone() },
            "piece size less than minimum required size: 128 < 256".to_owned(),
        ),
        (Proposal { piece_cid: String::new(), ..good.clone() }, "proposal PieceCID undefined".to_owned()),
        (
            Proposal { piece_cid: ROOT.to_owned(), ..good.clone() },
            "proposal PieceCID had wrong prefix".to_owned(),
        ),
        (
            Proposal { provider: Some("f01001".to_owned()), ..good.clone() },
            "incorrect provider for deal; proposal.Provider: f01001; provider.Address: f01000".to_owned(),
        ),
        (long(4999), "proposal end 4999 before proposal start 5000".to_owned()),
        (long(5001), "deal duration out of bounds (min, max, provided): 518400, 3680640, 1".to_owned()),
        (
            long(5000 + 3_680_640),
            "invalid deal end epoch 3685640: cannot be more than 3680640 past current epoch 333".to_owned(),
        ),
        (
            Proposal { label: "x".repeat(257), ..good.clone() },
            "deal label can be at most 256 bytes, is 257".to_owned(),
        ),
    ] {
        assert_eq!(sim.propose(&bad), Err(format!("failed validation: {reason}")));
    }
    assert!(sim.deals().is_empty());
    assert!(sim.propose(&good.starting(353)).is_ok(), "20 epochs ahead");
}

#[tokio::test]
async fn the_ask_is_a_price_for_a_gib() {
    let folder = tempfile::tempdir().unwrap();
    let cheap = proposal(&car(folder.path(), "price"));
    let mut config = BoostConfig::instant();
    config.ask.price = 1 << 30;
    let sim = boost_sim::start(config).await.unwrap();
    assert_eq!(
        sim.propose(&cheap),
        Err("failed validation: storage price per epoch less than asking price: 0 < 2048".to_owned())
    );
    assert!(sim.propose(&Proposal { price_per_epoch: 2048, ..cheap.clone() }).is_ok());
    assert!(sim.propose(&Proposal { verified: true, ..cheap }).is_ok(), "verified deals are free");
}

#[tokio::test]
async fn duplicates_are_named_and_a_resend_starts_a_second_thread() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "twice");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Commp);
    let mut proposal = proposal(&car);
    let names = sim.propose(&proposal).unwrap();
    proposal.uuid = Some(names.uuid.clone());
    // A made-up signature depends on the UUID alone, so the same UUID gives the same proposal.
    let identical = sim.propose(&proposal).unwrap_err();
    let start = format!("deal proposal is identical to deal {} (proposed at ", names.uuid);
    assert!(identical.starts_with(&start) && identical.ends_with("+0000 UTC)"), "{identical}");
    must_import(&sim, &names.uuid, &car.path).await;
    must_import(&sim, &names.uuid, &car.path).await;
    assert_eq!(sim.deal(&names.uuid).unwrap().threads, 1);
    let later = proposal.start_epoch + 1;
    let other = proposal.starting(later);
    let same_uuid = sim.propose(&other).unwrap_err();
    assert!(
        same_uuid.starts_with(&format!("deal has the same uuid as deal {} (", names.uuid)),
        "{same_uuid}"
    );
    // The rejection closed the running deal's handler.
    must_import(&sim, &names.uuid, &car.path).await;
    let deal = sim.deal(&names.uuid).unwrap();
    assert_eq!((deal.threads, deal.threads_most), (2, 2));
    assert_eq!(sim.counters().threads_of_a_deal_most, 2);
}

#[tokio::test]
async fn online_deals_take_no_import() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "online");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = sim.propose(&Proposal { is_offline: false, ..proposal(&car) }).unwrap().uuid;
    assert_eq!(import(&sim, &uuid, &car.path).await, Err(format!("deal {uuid} is not an offline deal")));
}

fn deal_params(record: &Value, uuid: &str) -> Value {
    json!({
        "DealUUID": uuid, "IsOffline": true, "ClientDealProposal": record["ClientDealProposal"],
        "DealDataRoot": record["DealDataRoot"],
        "Transfer": { "Type": "manual", "ClientID": "", "Params": "", "Size": 0 },
        "RemoveUnsealedCopy": false, "SkipIPNIAnnounce": false,
    })
}

#[tokio::test]
async fn dummy_deals_are_accepted_and_never_imported() {
    const UUID: &str = "d771faf5-d74e-4035-8341-e2537d270e25";
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "dummy");
    let client = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&client, &car).uuid;
    let record = client.record(&uuid).unwrap();
    let sim = instant(BoostVersion::V2_5_2).await;
    let accepted = json!({ "Accepted": true, "Reason": "" });
    assert_eq!(call(&sim, "BoostDummyDeal", json!([deal_params(&record, UUID)])).await, Ok(accepted));
    let again = call(&sim, "BoostDummyDeal", json!([deal_params(&record, &uuid)])).await.unwrap();
    assert_eq!(again["Accepted"], false);
    let reason = again["Reason"].as_str().unwrap();
    assert!(reason.starts_with(&format!("deal proposal is identical to deal {UUID} (")), "{reason}");
    // The signed proposal is the same on both providers.
    let names = sim.deal(UUID).unwrap();
    assert_eq!(names.signed_proposal_cid, client.deal(&uuid).unwrap().signed_proposal_cid);
    let error = import(&sim, UUID, &car.path).await.unwrap_err();
    let text = format!(
        "getting offline deal {UUID}: unmarshalling db field ClientPeerID: parsing peer ID from string 'CLNFK4c': failed \
         to parse peer ID: "
    );
    assert!(error.starts_with(&text), "{error}");
    let deal = call(&sim, "BoostDeal", json!([UUID])).await.unwrap();
    assert_eq!(deal["DealUuid"], UUID);
    assert_eq!(deal["ClientDealProposal"]["Proposal"]["PieceCID"], Value::Null);
    // Nor can boostd list it, or start again.
    let list = graphql(&sim, "{ deals { totalCount deals { ID } } }").await;
    assert!(
        list["errors"][0]["message"].as_str().unwrap().starts_with("unmarshalling db field ClientPeerID")
    );
    let empty = call(&sim, "BoostDummyDeal", json!([{}])).await.unwrap();
    assert_eq!(empty["Reason"], "failed validation: proposal PieceCID undefined");
    let error = sim.restart_boost().await.unwrap_err().to_string();
    assert!(error.starts_with("failed to list active deals: unmarshalling db field"), "{error}");
    assert!(tokio::net::TcpStream::connect(sim.rpc_addr()).await.is_err());
}

#[tokio::test]
async fn paid_deals_and_bls_clients_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "bls");
    let sim = instant(BoostVersion::V2_5_2).await;
    let client = "f3wnkkjtd2mhkrsahyn7b3ikm67hrnwjtheqbfahlfvezujja3m64srznf4ordef33moa4c5ju7qymgvja2sea";
    let proposal =
        Proposal { client: client.to_owned(), price_per_epoch: 12_345, verified: true, ..proposal(&car) };
    let names = sim.propose(&proposal).unwrap();
    assert!(names.signed_proposal_cid.starts_with("bafyrei"), "{names:?}");
    let record = call(&sim, "BoostDeal", json!([names.uuid])).await.unwrap();
    let signed = &record["ClientDealProposal"];
    assert_eq!(signed["Proposal"]["Client"], client);
    assert_eq!(signed["Proposal"]["StoragePricePerEpoch"], "12345");
    assert_eq!(signed["ClientSignature"]["Type"], 2);
    must_import(&sim, &names.uuid, &car.path).await;
    assert_eq!(rested(&sim, &names.uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}
