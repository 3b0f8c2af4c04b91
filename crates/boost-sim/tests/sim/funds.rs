//! Funds that imports tag.

use boost_sim::{BoostConfig, Checkpoint, DealFault, DealFaultKind, Hold};

use crate::support::{car, data, import, instant, must_import, proposal, propose, rested};

const REFUSED: &str = "server error: provider has insufficient funds to accept deal";

#[tokio::test]
async fn a_refusal_for_funds_deletes_every_row_of_the_deal() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "funds");
    let sim = instant(boost_sim::BoostVersion::V2_5_2).await;
    sim.hold(Hold::Commp);
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &car.path).await;
    must_import(&sim, &uuid, &car.path).await;
    assert_eq!(sim.deal(&uuid).unwrap().tagged_rows, 2);
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::InsufficientFunds).times(1));
    assert_eq!(import(&sim, &uuid, &car.path).await, Ok((false, REFUSED.to_owned())));
    assert_eq!(sim.deal(&uuid).unwrap().tagged_rows, 0);
    // The first import goes on.
    sim.release(Hold::Commp);
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn a_refused_import_leaves_the_deal_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "waiting");
    let sim = instant(boost_sim::BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    for (kind, reason) in
        [(DealFaultKind::InsufficientFunds, REFUSED), (DealFaultKind::TagFails, "server error: tag funds")]
    {
        sim.inject_deal(DealFault::of_all(kind).times(1));
        assert_eq!(import(&sim, &uuid, &car.path).await, Ok((false, reason.to_owned())));
        let deal = sim.deal(&uuid).unwrap();
        assert_eq!((deal.inbound_file_path.as_str(), deal.threads, deal.imports), ("", 0, 0));
    }
}

#[tokio::test]
async fn funds_are_tagged_until_the_deal_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "tagged");
    let config =
        BoostConfig { publish_wallet: 150, publish_message_tag: 100, escrow: 7, ..BoostConfig::instant() };
    let sim = boost_sim::start(config).await.unwrap();
    let mut proposal = proposal(&car);
    proposal.provider_collateral = 7;
    let uuid = sim.propose(&proposal).unwrap().uuid;
    let other = sim.propose(&self::proposal(&car).starting(1_020_000)).unwrap().uuid;
    sim.hold(Hold::Publish);
    must_import(&sim, &uuid, &car.path).await;
    let funds = "{ funds { Escrow { Available Tagged } PubMsg { Balance Tagged } } }";
    let answer = data(&sim, funds).await;
    assert_eq!(answer["funds"]["Escrow"]["Tagged"]["n"], "7");
    assert_eq!(answer["funds"]["PubMsg"]["Tagged"]["n"], "100");
    assert_eq!(import(&sim, &other, &car.path).await, Ok((false, REFUSED.to_owned())), "50 are left of 150");
    sim.release(Hold::Publish);
    rested(&sim, &uuid).await;
    assert_eq!(data(&sim, funds).await["funds"]["PubMsg"]["Tagged"]["n"], "0");
    must_import(&sim, &other, &car.path).await;
    rested(&sim, &other).await;
    let log: Vec<(String, u128)> = sim
        .funds_logs()
        .into_iter()
        .filter(|line| line.uuid == uuid)
        .map(|line| (line.text, line.amount))
        .collect();
    let expected = [
        ("Tag funds for collateral".to_owned(), 7),
        ("Tag funds for deal publish message".to_owned(), 100),
        ("Untag funds for deal".to_owned(), 107),
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn a_dead_deal_frees_its_funds() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "dead");
    let sim = instant(boost_sim::BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &folder.path().join("missing.car")).await;
    let deal = rested(&sim, &uuid).await;
    assert_eq!((deal.checkpoint, deal.tagged_rows), (Checkpoint::Complete, 0));
    let logs = data(&sim, "{ fundsLogs(limit: 2) { totalCount more logs { DealUUID Amount Text } } }").await;
    assert_eq!(logs["fundsLogs"]["totalCount"], 3);
    assert_eq!(logs["fundsLogs"]["more"], true);
    assert_eq!(logs["fundsLogs"]["logs"][0]["Text"], "Untag funds for deal", "newest first");
    assert_eq!(logs["fundsLogs"]["logs"][1]["Text"], "Tag funds for collateral", "then by row");
    let none = data(&sim, "{ fundsLogs(cursor: 1) { totalCount logs { Text } } }").await;
    assert_eq!(none["fundsLogs"], serde_json::json!({ "totalCount": 3, "logs": [] }));
}
