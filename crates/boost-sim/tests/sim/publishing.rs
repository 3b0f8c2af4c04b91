//! Publish messages: batches, failures, numbers on chain.

use std::collections::BTreeSet;
use std::time::Duration;

use boost_sim::{BoostConfig, BoostVersion, Checkpoint, DealFault, DealFaultKind, PublishBatch, Retry};

use crate::support::{
    Car, car, data, deal_when, graphql, import, instant, must_import, proposal, propose, rested, wait_until,
};

async fn imported(sim: &boost_sim::BoostSim, car: &Car, count: i64) -> Vec<String> {
    let mut uuids = Vec::new();
    for number in 0..count {
        let uuid = sim.propose(&proposal(car).starting(1_010_000 + number)).unwrap().uuid;
        must_import(sim, &uuid, &car.path).await;
        uuids.push(uuid);
    }
    uuids
}

#[tokio::test]
async fn a_full_batch_is_one_message_with_a_number_for_each_deal() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "batch");
    let batch = PublishBatch { deals_max: 3, period: Duration::from_secs(3600) };
    let sim = boost_sim::start(BoostConfig { batch, ..BoostConfig::instant() }).await.unwrap();
    let uuids = imported(&sim, &car, 3).await;
    let mut messages = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for uuid in &uuids {
        let deal = rested(&sim, uuid).await;
        messages.insert(deal.publish_cid.unwrap());
        ids.insert(deal.chain_deal_id);
    }
    assert_eq!((messages.len(), sim.counters().publish_messages), (1, 1));
    assert_eq!(ids, BTreeSet::from([1, 2, 3]));
}

#[tokio::test]
async fn a_batch_waits_for_its_period_or_for_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "period");
    let batch = PublishBatch { deals_max: 8, period: Duration::from_secs(3600) };
    let sim = boost_sim::start(BoostConfig { batch, ..BoostConfig::instant() }).await.unwrap();
    let uuids = imported(&sim, &car, 2).await;
    for uuid in &uuids {
        deal_when(&sim, uuid, |deal| deal.checkpoint == Checkpoint::Transferred).await;
    }
    let pending = || data(&sim, "{ dealPublish { MaxDealsPerMsg Deals { ID IsLegacy } } }");
    for _attempt in 0..3000 {
        if pending().await["dealPublish"]["Deals"].as_array().unwrap().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(data(&sim, "mutation { dealPublishNow }").await["dealPublishNow"], true);
    for uuid in &uuids {
        assert_eq!(rested(&sim, uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
    }
    // A short period ends by itself.
    let batch = PublishBatch { deals_max: 8, period: Duration::from_millis(20) };
    let sim = boost_sim::start(BoostConfig { batch, ..BoostConfig::instant() }).await.unwrap();
    let uuids = imported(&sim, &car, 2).await;
    for uuid in &uuids {
        assert_eq!(rested(&sim, uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
    }
}

#[tokio::test]
async fn a_failed_publish_waits_for_a_retry_over_graphql() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "failed");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::PublishFails("gas".to_owned())).times(1));
    must_import(&sim, &uuid, &car.path).await;
    let deal = deal_when(&sim, &uuid, |deal| deal.retry == Retry::Manual).await;
    assert_eq!(deal.checkpoint, Checkpoint::Transferred);
    assert_eq!(deal.err, format!("recoverable error to publish deal {uuid}: gas"));
    assert_eq!(
        import(&sim, &uuid, &car.path).await,
        Err(format!("deal {uuid} has already been imported and reached checkpoint Transferred"))
    );
    rested(&sim, &uuid).await;
    sim.restart_boost().await.unwrap();
    assert_eq!(sim.deal(&uuid).unwrap().threads, 1, "a manual deal stays");
    let answer = data(&sim, &format!("mutation {{ dealRetryPaused(id: \"{uuid}\") }}")).await;
    assert_eq!(answer["dealRetryPaused"], uuid.as_str());
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn a_failed_confirmation_goes_on_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "confirm");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::ConfirmFails("timeout".to_owned())).times(1));
    must_import(&sim, &uuid, &car.path).await;
    let deal = deal_when(&sim, &uuid, |deal| !deal.err.is_empty()).await;
    assert_eq!((deal.checkpoint, deal.retry), (Checkpoint::Published, Retry::Auto));
    let cid = deal.publish_cid.unwrap();
    assert_eq!(deal.err, format!("wait for confirmation of publish message {cid} failed: timeout"));
    rested(&sim, &uuid).await;
    sim.restart_boost().await.unwrap();
    let deal = rested(&sim, &uuid).await;
    assert_eq!((deal.checkpoint, deal.publish_cid), (Checkpoint::IndexedAndAnnounced, Some(cid)));
    assert_eq!(sim.counters().publish_messages, 1);
}

#[tokio::test]
async fn a_failed_sector_goes_on_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "sector");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::AddPieceFails("no space".to_owned())).times(1));
    must_import(&sim, &uuid, &car.path).await;
    let deal = deal_when(&sim, &uuid, |deal| !deal.err.is_empty()).await;
    assert_eq!((deal.checkpoint, deal.retry), (Checkpoint::PublishConfirmed, Retry::Auto));
    let piece = deal.piece_cid;
    assert_eq!(deal.err, format!("failed to add piece: packing piece {piece}: AddPiece failed: no space"));
    rested(&sim, &uuid).await;
    sim.restart_boost().await.unwrap();
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn pieces_fill_sectors_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "fill");
    let sim = boost_sim::start(BoostConfig { sector_size: 4096, ..BoostConfig::instant() }).await.unwrap();
    let mut places = BTreeSet::new();
    for uuid in imported(&sim, &car, 3).await {
        let place = rested(&sim, &uuid).await.place;
        places.insert((place.sector, place.offset));
    }
    assert_eq!(places, BTreeSet::from([(1, 0), (1, 2048), (2, 0)]));
}

#[tokio::test]
async fn a_paused_deal_can_be_failed_and_a_dead_one_not_retried() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "paused");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::PublishFails("gas".to_owned())));
    must_import(&sim, &uuid, &car.path).await;
    wait_until(&sim, "the failure", |sim| {
        let deal = sim.deal(&uuid).unwrap();
        deal.retry == Retry::Manual && !deal.is_running
    })
    .await;
    data(&sim, &format!("mutation {{ dealFailPaused(id: \"{uuid}\") }}")).await;
    let deal = sim.deal(&uuid).unwrap();
    assert_eq!(deal.checkpoint, Checkpoint::Complete);
    assert_eq!(deal.err, "user manually terminated the deal");
    let answer = graphql(&sim, &format!("mutation {{ dealRetryPaused(id: \"{uuid}\") }}")).await;
    assert_eq!(answer["errors"][0]["message"], "deal is already complete");
}
