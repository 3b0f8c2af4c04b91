//! Restarts of boostd.

use boost_sim::{BoostVersion, Checkpoint, DealFault, DealFaultKind, Hold, Retry};

use crate::support::{car, deal_when, instant, must_import, proposal, propose, rested, wait_until};

#[tokio::test]
async fn waiting_deals_wait_and_imported_ones_resume() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "resume");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Commp);
    let imported = propose(&sim, &car).uuid;
    let waiting = sim.propose(&proposal(&car).starting(1_020_000)).unwrap().uuid;
    must_import(&sim, &imported, &car.path).await;
    wait_until(&sim, "the commitment", |sim| sim.counters().commps.now == 1).await;
    sim.restart_boost().await.unwrap();
    let deal = sim.deal(&imported).unwrap();
    assert_eq!((deal.checkpoint, deal.threads, deal.tagged_rows), (Checkpoint::Accepted, 2, 1));
    sim.release(Hold::Commp);
    assert_eq!(rested(&sim, &imported).await.checkpoint, Checkpoint::IndexedAndAnnounced);
    let deal = sim.deal(&waiting).unwrap();
    assert_eq!((deal.checkpoint, deal.threads), (Checkpoint::Accepted, 0));
    must_import(&sim, &waiting, &car.path).await;
    assert_eq!(rested(&sim, &waiting).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn a_file_that_is_gone_at_a_restart_kills_the_deal() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "gone");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Publish);
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &car.path).await;
    deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Transferred).await;
    sim.kill_boost().await;
    std::fs::remove_file(&car.path).unwrap();
    sim.start_boost().await.unwrap();
    let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Complete).await;
    let path = car.path.display();
    assert_eq!(
        deal.err,
        format!(
            "failed to get size of imported offline deal file '{path}': stat {path}: no such file or directory"
        )
    );
    assert_eq!(deal.retry, Retry::Fatal);
}

#[tokio::test]
async fn a_start_that_passed_kills_waiting_deals_at_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "passed");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = sim.propose(&proposal(&car).starting(1_000_010)).unwrap().uuid;
    sim.set_epoch(1_000_011);
    assert_eq!(sim.deal(&uuid).unwrap().checkpoint, Checkpoint::Accepted);
    sim.restart_boost().await.unwrap();
    let deal = sim.deal(&uuid).unwrap();
    assert_eq!((deal.checkpoint, deal.retry), (Checkpoint::Complete, Retry::Fatal));
    assert!(deal.err.starts_with("deal proposal must be proven on chain by"), "{}", deal.err);
}

#[tokio::test]
async fn a_wrong_piece_stays_manual_through_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (car, other) = (car(folder.path(), "manual"), car(folder.path(), "other"));
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &other.path).await;
    let before = deal_when(&sim, &uuid, |deal| deal.retry == Retry::Manual && !deal.is_running).await;
    sim.restart_boost().await.unwrap();
    assert_eq!(sim.deal(&uuid).unwrap(), before);
}

#[tokio::test]
async fn an_indexing_error_is_tried_again_at_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "index");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    sim.inject_deal(DealFault::of(&uuid, DealFaultKind::IndexFails("sealed".to_owned())).times(2));
    must_import(&sim, &uuid, &car.path).await;
    for _start in 0..2 {
        let deal = deal_when(&sim, &uuid, |deal| !deal.err.is_empty() && !deal.is_running).await;
        assert_eq!(deal.checkpoint, Checkpoint::AddedPiece);
        sim.restart_boost().await.unwrap();
    }
    let deal = rested(&sim, &uuid).await;
    assert_eq!((deal.checkpoint, deal.threads), (Checkpoint::IndexedAndAnnounced, 3));
}

#[tokio::test]
async fn a_stopped_boostd_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "stopped");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Confirm);
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &car.path).await;
    deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Published).await;
    sim.kill_boost().await;
    sim.release(Hold::Confirm);
    let deal = rested(&sim, &uuid).await;
    assert_eq!((deal.checkpoint, deal.chain_deal_id), (Checkpoint::Published, 0));
    sim.start_boost().await.unwrap();
    let deal = rested(&sim, &uuid).await;
    assert_eq!((deal.checkpoint, deal.chain_deal_id), (Checkpoint::IndexedAndAnnounced, 1));
}
