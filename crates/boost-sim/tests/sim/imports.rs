//! What follows an import: checkpoints, errors, and which of them can be mended.

use std::path::Path;

use boost_sim::{BoostConfig, BoostVersion, Checkpoint, DealFault, DealFaultKind, Hold, Retry};
use serde_json::json;

use crate::support::{
    call, car, car_bytes, deal_when, import, instant, must_import, proposal, propose, rested, wait_until,
};

#[tokio::test]
async fn a_right_car_is_published_and_indexed() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "right");
    for version in BoostVersion::ALL {
        let sim = instant(version).await;
        let uuid = propose(&sim, &car).uuid;
        let params = if version < BoostVersion::V1_7_0 {
            json!([uuid, car.path])
        } else {
            json!([uuid, car.path, false])
        };
        let answer = call(&sim, "BoostOfflineDealWithData", params).await.unwrap();
        assert_eq!(answer, json!({ "Accepted": true, "Reason": "" }));
        let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::IndexedAndAnnounced).await;
        assert_eq!((deal.err.as_str(), deal.retry), ("", Retry::Auto), "{version}");
        assert_eq!((deal.chain_deal_id, deal.place.length), (1, 2048));
        let record = call(&sim, "BoostDeal", json!([uuid])).await.unwrap();
        assert_eq!(record["Checkpoint"], 5);
        assert_eq!(record["PublishCID"]["/"].as_str(), deal.publish_cid.as_deref());
        assert!(car.path.exists(), "nothing deletes the file");
    }
}

#[tokio::test]
async fn the_answer_comes_before_the_work_and_the_path_is_seen_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "early");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Commp);
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &car.path).await;
    let record = call(&sim, "BoostDeal", json!([uuid])).await.unwrap();
    assert_eq!(record["InboundFilePath"].as_str(), car.path.to_str());
    assert_eq!(record["Checkpoint"], 0);
    sim.release(Hold::Commp);
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn files_that_cannot_be_read_kill_the_deal() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "dead");
    let empty = folder.path().join("empty.car");
    std::fs::write(&empty, b"").unwrap();
    let junk = folder.path().join("junk.car");
    std::fs::write(&junk, [0xff; 300]).unwrap();
    let huge = folder.path().join("huge.car");
    std::fs::write(&huge, [0xff, 0xff, 0xff, 0x7f, 0x00]).unwrap();
    let length = folder.path().join("length.car");
    std::fs::write(&length, [0x0a]).unwrap();
    let cut = folder.path().join("cut.car");
    std::fs::write(&cut, &car_bytes(b"cut")[..10]).unwrap();
    let missing = folder.path().join("missing.car");
    let local = "error when matching commP for imported data for offline deal: failed to generate CommP: performing \
                 local commp: failed to open carv2 reader";
    let size = "failed to get size of imported offline deal file";
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    let sim = instant(BoostVersion::V2_5_2).await;
    for (number, (path, text)) in [
        (missing.clone(), format!("{size} '{0}': stat {0}: no such file or directory", at(&missing))),
        (
            "relative.car".into(),
            format!("{size} 'relative.car': stat relative.car: no such file or directory"),
        ),
        (folder.path().to_owned(), format!("{local}: read {}: is a directory", at(folder.path()))),
        (empty, format!("{local}: EOF")),
        (cut, format!("{local}: unexpected EOF")),
        (length, format!("{local}: EOF")),
        (junk, format!("{local}: varints larger than uint63 not supported")),
        (huge, format!("{local}: invalid header data, length of read beyond allowable maximum")),
    ]
    .into_iter()
    .enumerate()
    {
        let start = 1_010_000 + i64::try_from(number).unwrap();
        let uuid = sim.propose(&proposal(&car).starting(start)).unwrap().uuid;
        must_import(&sim, &uuid, &path).await;
        let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Complete).await;
        assert_eq!((deal.err, deal.retry), (text, Retry::Fatal));
        assert_eq!(
            import(&sim, &uuid, &car.path).await,
            Err(format!("deal {uuid} has already been imported and reached checkpoint Complete"))
        );
    }
}

#[tokio::test]
async fn older_releases_name_the_carv2_reader() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "old");
    let empty = folder.path().join("empty.car");
    std::fs::write(&empty, b"").unwrap();
    let sim = instant(BoostVersion::V1_7_0).await;
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &empty).await;
    assert_eq!(
        rested(&sim, &uuid).await.err,
        "error when matching commP for imported data for offline deal: failed to generate CommP: performing local \
         commp: failed to get CARv2 reader: EOF"
    );
}

#[tokio::test]
async fn a_wrong_piece_waits_for_another_import() {
    let folder = tempfile::tempdir().unwrap();
    let (car, other) = (car(folder.path(), "wanted"), car(folder.path(), "other"));
    let sim = instant(BoostVersion::V2_5_2).await;
    let proposal = proposal(&car);
    let uuid = sim.propose(&proposal).unwrap().uuid;
    must_import(&sim, &uuid, &other.path).await;
    let deal = deal_when(&sim, &uuid, |deal| deal.retry == Retry::Manual).await;
    assert_eq!(deal.checkpoint, Checkpoint::Accepted);
    let actual = self::proposal(&other).piece_cid;
    assert_eq!(
        deal.err,
        format!(
            "error when matching commP for imported data for offline deal: commP expected={}, actual={actual}: commp \
             mismatch",
            proposal.piece_cid
        )
    );
    rested(&sim, &uuid).await;
    must_import(&sim, &uuid, &car.path).await;
    let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::IndexedAndAnnounced).await;
    assert_eq!((deal.err.as_str(), deal.imports, deal.threads), ("", 2, 2));
    assert_eq!(
        import(&sim, &uuid, &car.path).await,
        Err(format!("deal {uuid} has already been imported and reached checkpoint IndexedAndAnnounced"))
    );
}

#[tokio::test]
async fn a_wrong_piece_kills_the_deal_in_v1_5_0() {
    let folder = tempfile::tempdir().unwrap();
    let (car, other) = (car(folder.path(), "wanted"), car(folder.path(), "other"));
    let sim = instant(BoostVersion::V1_5_0).await;
    let uuid = propose(&sim, &car).uuid;
    call(&sim, "BoostOfflineDealWithData", json!([uuid, other.path])).await.unwrap();
    let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Complete).await;
    let (expected, actual) = (proposal(&car).piece_cid, proposal(&other).piece_cid);
    assert_eq!(
        deal.err,
        format!(
            "error when matching commP for imported data for offline deal: commP mismatch, expected={expected}, \
             actual={actual}"
        )
    );
}

#[tokio::test]
async fn a_carv2_is_hashed_whole_since_v2_1_2() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "inner");
    let inner = std::fs::read(&car.path).unwrap();
    let mut bytes = b"\x0a\xa1\x67version\x02".to_vec();
    bytes.extend_from_slice(&[0; 16]);
    let size = u64::try_from(inner.len()).unwrap();
    for number in [51, size, 0] {
        bytes.extend_from_slice(&u64::to_le_bytes(number));
    }
    assert_eq!(bytes.len(), 51);
    bytes.extend_from_slice(&inner);
    let wrapped = folder.path().join("wrapped.car");
    std::fs::write(&wrapped, bytes).unwrap();
    for (version, is_right) in [(BoostVersion::V1_7_0, true), (BoostVersion::V2_1_2, false)] {
        let sim = instant(version).await;
        let uuid = propose(&sim, &car).uuid;
        must_import(&sim, &uuid, &wrapped).await;
        let deal = rested(&sim, &uuid).await;
        assert_eq!(deal.checkpoint > Checkpoint::Accepted, is_right, "{version}: {}", deal.err);
    }
}

#[tokio::test]
async fn a_deal_whose_start_has_passed_dies_after_its_commitment() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "late");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = sim.propose(&proposal(&car).starting(1_000_010)).unwrap().uuid;
    sim.hold(Hold::Commp);
    must_import(&sim, &uuid, &car.path).await;
    wait_until(&sim, "the commitment", |sim| sim.counters().commps.now == 1).await;
    sim.set_epoch(1_000_011);
    assert_eq!(sim.deal(&uuid).unwrap().err, "", "nothing looks at the epoch before");
    sim.release(Hold::Commp);
    let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Complete).await;
    assert_eq!(
        deal.err,
        "deal proposal must be proven on chain by deal proposal start epoch 1000010, but it has expired: current chain \
         height: 1000011"
    );
    assert_eq!((deal.retry, deal.publish_cid), (Retry::Fatal, None));
}

#[tokio::test]
async fn the_start_epoch_itself_is_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "just");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = sim.propose(&proposal(&car).starting(1_000_010)).unwrap().uuid;
    sim.advance_epochs(10);
    must_import(&sim, &uuid, &car.path).await;
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn a_start_that_passes_before_the_sector_kills_a_published_deal() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "published");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = sim.propose(&proposal(&car).starting(1_000_010)).unwrap().uuid;
    sim.hold(Hold::AddPiece);
    must_import(&sim, &uuid, &car.path).await;
    deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::PublishConfirmed).await;
    sim.set_epoch(1_000_011);
    sim.release(Hold::AddPiece);
    let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Complete).await;
    assert!(
        deal.err.starts_with("failed to add piece: deal proposal must be proven on chain"),
        "{}",
        deal.err
    );
    assert!(deal.publish_cid.is_some());
}

#[tokio::test]
async fn commitments_are_computed_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "queue");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Commp);
    let mut uuids = Vec::new();
    for number in 0..5 {
        let uuid = sim.propose(&proposal(&car).starting(1_010_000 + number)).unwrap().uuid;
        must_import(&sim, &uuid, &car.path).await;
        uuids.push(uuid);
    }
    wait_until(&sim, "all imports", |sim| sim.counters().imports.now == 5).await;
    assert_eq!(sim.counters().commps.now, 1);
    // A queued deal looks like the one whose turn it is.
    for uuid in &uuids {
        let deal = sim.deal(uuid).unwrap();
        assert_eq!((deal.checkpoint, deal.retry, deal.err.as_str()), (Checkpoint::Accepted, Retry::Auto, ""));
    }
    sim.release(Hold::Commp);
    for uuid in &uuids {
        assert_eq!(rested(&sim, uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
    }
    let counters = sim.counters();
    assert_eq!((counters.commps.most, counters.commps.ever, counters.imports.most), (1, 5, 5));
}

#[tokio::test]
async fn remote_commitments_are_not_queued_and_name_the_header() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "remote");
    let empty = folder.path().join("empty.car");
    std::fs::write(&empty, b"").unwrap();
    let sim = boost_sim::start(BoostConfig { remote_commp: true, ..BoostConfig::instant() }).await.unwrap();
    sim.hold(Hold::Commp);
    let mut uuids = Vec::new();
    for (number, path) in [&car.path, &car.path, &empty].into_iter().enumerate() {
        let start = 1_010_000 + i64::try_from(number).unwrap();
        let uuid = sim.propose(&proposal(&car).starting(start)).unwrap().uuid;
        must_import(&sim, &uuid, path).await;
        uuids.push(uuid);
    }
    wait_until(&sim, "all commitments", |sim| sim.counters().commps.now == 3).await;
    sim.release(Hold::Commp);
    assert_eq!(rested(&sim, &uuids[0]).await.checkpoint, Checkpoint::IndexedAndAnnounced);
    assert_eq!(
        rested(&sim, &uuids[2]).await.err,
        "error when matching commP for imported data for offline deal: failed to generate CommP: performing remote \
         commp: failed to read car header: EOF"
    );
}

#[tokio::test]
async fn a_second_import_is_accepted_and_its_path_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let (car, other) = (car(folder.path(), "first"), car(folder.path(), "second"));
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::Commp);
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &car.path).await;
    must_import(&sim, &uuid, &other.path).await;
    let deal = sim.deal(&uuid).unwrap();
    assert_eq!(deal.inbound_file_path, car.path.to_str().unwrap());
    assert_eq!((deal.imports, deal.threads, deal.tagged_rows), (2, 1, 2));
    sim.release(Hold::Commp);
    let deal = rested(&sim, &uuid).await;
    assert_eq!((deal.checkpoint, deal.tagged_rows), (Checkpoint::IndexedAndAnnounced, 0));
}

#[tokio::test]
async fn a_file_gone_before_its_sector_kills_the_deal() {
    let folder = tempfile::tempdir().unwrap();
    for (version, text) in [
        (
            BoostVersion::V2_5_2,
            "failed to add piece: failed to read piece data: failed to stat PATH: stat PATH: no such file or directory",
        ),
        (
            BoostVersion::V1_7_0,
            "failed to add piece: failed to open CARv2 file: open PATH: no such file or directory",
        ),
    ] {
        let car = car(folder.path(), "gone");
        let sim = instant(version).await;
        sim.hold(Hold::AddPiece);
        let uuid = propose(&sim, &car).uuid;
        must_import(&sim, &uuid, &car.path).await;
        deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::PublishConfirmed).await;
        std::fs::remove_file(&car.path).unwrap();
        sim.release(Hold::AddPiece);
        let deal = deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::Complete).await;
        assert_eq!(deal.err, text.replace("PATH", car.path.to_str().unwrap()));
        assert_eq!(deal.retry, Retry::Fatal);
    }
}

#[tokio::test]
async fn the_file_is_deleted_after_its_sector_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "deleted");
    let sim = instant(BoostVersion::V2_5_2).await;
    sim.hold(Hold::AddPiece);
    let uuid = propose(&sim, &car).uuid;
    call(&sim, "BoostOfflineDealWithData", json!([uuid, car.path, true])).await.unwrap();
    deal_when(&sim, &uuid, |deal| deal.checkpoint == Checkpoint::PublishConfirmed).await;
    assert!(car.path.exists());
    assert!(sim.deal(&uuid).unwrap().cleanup_data);
    sim.release(Hold::AddPiece);
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
    assert!(!car.path.exists());
}

#[tokio::test]
async fn a_failing_remote_sealer_is_not_the_fault_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "remote");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    let kind = DealFaultKind::RemoteCommpFails("no worker".to_owned());
    sim.inject_deal(DealFault::of(&uuid, kind).times(1));
    must_import(&sim, &uuid, &car.path).await;
    let deal = deal_when(&sim, &uuid, |deal| deal.retry == Retry::Manual).await;
    assert_eq!(deal.checkpoint, Checkpoint::Accepted);
    assert_eq!(
        deal.err,
        "error when matching commP for imported data for offline deal: failed to generate CommP: performing remote \
         commp: making remote API call to calculate commp: no worker"
    );
    rested(&sim, &uuid).await;
    must_import(&sim, &uuid, &car.path).await;
    assert_eq!(rested(&sim, &uuid).await.checkpoint, Checkpoint::IndexedAndAnnounced);
}

#[tokio::test]
async fn an_indexing_error_leaves_a_good_deal_at_added_piece() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "index");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    let kind = DealFaultKind::IndexFails("sector is not unsealed".to_owned());
    sim.inject_deal(DealFault::of(&uuid, kind).times(1));
    must_import(&sim, &uuid, &car.path).await;
    let deal = deal_when(&sim, &uuid, |deal| !deal.err.is_empty()).await;
    assert_eq!((deal.checkpoint, deal.retry), (Checkpoint::AddedPiece, Retry::Auto));
    assert_eq!(deal.err, "failed to add index and announce deal: sector is not unsealed");
    assert_eq!(
        import(&sim, &uuid, &car.path).await,
        Err(format!("deal {uuid} has already been imported and reached checkpoint AddedPiece"))
    );
}

#[tokio::test]
async fn a_slow_commitment_lasts_as_long_as_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "slow");
    // Hours for these bytes: the deal stays where it is.
    let config = BoostConfig { commp_bytes_per_second: Some(1), ..BoostConfig::instant() };
    let sim = boost_sim::start(config).await.unwrap();
    let uuid = propose(&sim, &car).uuid;
    must_import(&sim, &uuid, &car.path).await;
    wait_until(&sim, "the commitment", |sim| sim.counters().commps.now == 1).await;
    assert_eq!(sim.deal(&uuid).unwrap().checkpoint, Checkpoint::Accepted);
}
