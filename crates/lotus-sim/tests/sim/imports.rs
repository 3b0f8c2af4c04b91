//! Imports: success, success without effect, leaked copies (§3).

use std::time::Duration;

use lotus_sim::{Fault, FaultKind, ImportCounts, LotusVersion, MinerConfig, SimConfig, Timings};
use serde_json::json;
use tempfile::tempdir;

use crate::support::{
    Car, MINER, Node, car_bytes, config, eventually, import, miner, propose_and_wait, provider_reaches,
    provider_state, start,
};

/// Slow imports, so that a test can act meanwhile.
fn slow(version: LotusVersion, copy: Duration, commp: Duration) -> SimConfig {
    let timings = Timings { import_copy: copy, import_commp: commp, ..Timings::default() };
    SimConfig { timings, ..config(version) }
}

fn counts(started: usize, succeeded: usize, effective: usize) -> ImportCounts {
    ImportCounts { started, succeeded, effective, beside: 0 }
}

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_the_right_one_works_after_it() {
    let dir = tempdir().unwrap();
    let (car, wrong) = (Car::write(dir.path(), 1, 5000), Car::write(dir.path(), 2, 5000));
    for version in [LotusVersion::V1_5, LotusVersion::V1_23] {
        let sim = start(version).await;
        let node = Node::miner(&sim, MINER);
        let cid = propose_and_wait(&sim, &car).await;
        let (code, text) = node.error("MarketImportDealData", import(&cid, wrong.path())).await;
        let (got, expected) = if version == LotusVersion::V1_5 {
            let hex = |text: &str| data_encoding::HEXLOWER.encode(text.as_bytes());
            (hex(&wrong.piece_cid), hex(&car.piece_cid))
        } else {
            (wrong.piece_cid.clone(), car.piece_cid.clone())
        };
        let expected = format!("given data does not match expected commP (got: {got}, expected {expected})");
        assert_eq!((code, text), (1, expected));
        assert_eq!(provider_state(&sim, &cid), Some(18));
        assert_eq!(std::fs::read_dir(sim.staging_dir(MINER)).unwrap().count(), 0);
        let answer = node.raw("MarketImportDealData", import(&cid, car.path())).await;
        assert_eq!(answer.body, "{\"jsonrpc\":\"2.0\",\"id\":7}\n");
        provider_reaches(&sim, &cid, 7).await;
        assert_eq!(sim.import_counts(&cid), counts(2, 1, 1));
        assert!(wrong.path.exists() && car.path.exists(), "the originals stay");
    }
}

#[tokio::test]
async fn a_second_import_succeeds_without_effect_and_leaks_its_copy() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let sim = start(LotusVersion::V1_23).await;
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    node.ok("DealsImportData", import(&cid, car.path())).await;
    provider_reaches(&sim, &cid, 7).await;
    node.ok("DealsImportData", import(&cid, car.path())).await;
    assert_eq!(provider_state(&sim, &cid), Some(7));
    assert_eq!(sim.import_counts(&cid), counts(2, 2, 1));
    assert_eq!(sim.imports_for(&cid), 2);
    assert_eq!(sim.temp_files_leaked(), 1);
    assert_eq!(std::fs::read_dir(sim.staging_dir(MINER)).unwrap().count(), 1);
}

#[tokio::test]
async fn of_two_imports_at_once_one_has_effect() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let delay = Duration::from_millis(100);
    let sim = lotus_sim::start(slow(LotusVersion::V1_23, delay, delay)).await.unwrap();
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    let (first, second) = tokio::join!(
        node.ok("DealsImportData", import(&cid, car.path())),
        node.ok("MarketImportDealData", import(&cid, car.path()))
    );
    assert!(first.is_null() && second.is_null());
    assert_eq!(sim.import_counts(&cid), ImportCounts { beside: 1, ..counts(2, 2, 1) });
    assert_eq!(sim.temp_files_leaked(), 1);
    assert_eq!(sim.max_concurrent_imports_seen(MINER), 2);
}

#[tokio::test]
async fn missing_files_and_unknown_deals_have_gos_words() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    let gone = "/nowhere/x.car";
    for (method, text) in [
        ("DealsImportData", "failed to open given file: open /nowhere/x.car: no such file or directory"),
        ("MarketImportDealData", "failed to open file: open /nowhere/x.car: no such file or directory"),
    ] {
        assert_eq!(node.error(method, import(&cid, gone)).await, (1, text.to_owned()));
    }
    let folder = dir.path().to_str().unwrap();
    let (_code, text) = node.error("DealsImportData", import(&cid, folder)).await;
    assert_eq!(text, format!("importing deal data failed: read {folder}: is a directory"));
    let unknown = "bafyreigxgwlcl4wxw6bzfbmpqvhpzejkqbf3kd4s5l6fxzwcuoynbtjdwq";
    let (_code, text) = node.error("DealsImportData", import(unknown, car.path())).await;
    assert_eq!(
        text,
        format!("failed getting deal {unknown}: No state for /{unknown}: datastore: key not found")
    );
    assert_eq!(provider_state(&sim, &cid), Some(18));
    assert_eq!(sim.temp_files_leaked(), 0);
}

#[tokio::test]
async fn a_deal_is_known_only_to_its_own_miner() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let two = SimConfig { miners: vec![miner(), MinerConfig::new("f01001")], ..config(LotusVersion::V1_23) };
    let sim = lotus_sim::start(two).await.unwrap();
    let cid = propose_and_wait(&sim, &car).await;
    let (_code, text) = Node::miner(&sim, "f01001").error("DealsImportData", import(&cid, car.path())).await;
    assert!(text.ends_with("datastore: key not found"), "{text}");
    assert!(Node::miner(&sim, "f01001").ok("MarketListIncompleteDeals", json!([])).await.is_null());
}

#[tokio::test]
async fn a_dead_deal_answers_with_an_error_but_for_the_first_time_after_a_restart() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    assert!(sim.set_provider_state(&cid, lotus_sim::DealState::Error, "lost"));
    let ended = (1, "normal shutdown of state machine".to_owned());
    assert_eq!(node.error("DealsImportData", import(&cid, car.path())).await, ended);
    sim.restart_miner(MINER);
    node.ok("DealsImportData", import(&cid, car.path())).await;
    assert_eq!(node.error("DealsImportData", import(&cid, car.path())).await, ended);
    assert_eq!(sim.import_counts(&cid), counts(3, 1, 0));
    assert_eq!(sim.temp_files_leaked(), 3);
}

#[tokio::test]
async fn small_files_are_padded_up_since_v1_11_1() {
    let dir = tempdir().unwrap();
    let small = Car::write(dir.path(), 1, 100);
    // The same bytes in a piece four times as large.
    let bytes = std::fs::read(&small.path).unwrap();
    let padded = dir.path().join("padded");
    std::fs::write(&padded, [&bytes[..], &vec![0; 1016 - bytes.len()][..]].concat()).unwrap();
    let piece =
        carferry_car::piece_of(std::fs::File::open(&padded).unwrap(), &carferry_car::NoProgress).unwrap();
    for version in [LotusVersion::V1_5, LotusVersion::V1_11, LotusVersion::V1_23] {
        let sim = start(version).await;
        let (full, node) = (Node::full(&sim), Node::miner(&sim, MINER));
        full.ok("ClientImport", json!([{ "Path": small.path(), "IsCAR": true }])).await;
        let mut deal = small.deal(5000);
        deal["Data"]["PieceCid"] = json!({ "/": piece.piece_cid.to_string() });
        deal["Data"]["PieceSize"] = json!(1016);
        deal["ProviderCollateral"] = json!("0");
        let cid = full.ok("ClientStartDeal", json!([deal])).await;
        let cid = cid["/"].as_str().unwrap();
        provider_reaches(&sim, cid, 18).await;
        if version == LotusVersion::V1_5 {
            let (_code, text) = node.error("DealsImportData", import(cid, small.path())).await;
            assert!(text.starts_with("given data does not match expected commP"), "{text}");
        } else {
            node.ok("DealsImportData", import(cid, small.path())).await;
            provider_reaches(&sim, cid, 7).await;
        }
    }
}

#[tokio::test]
async fn a_piece_larger_than_the_deal_dies_at_hand_off() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let sim = start(LotusVersion::V1_23).await;
    let (full, node) = (Node::full(&sim), Node::miner(&sim, MINER));
    full.ok("ClientImport", json!([{ "Path": car.path(), "IsCAR": true }])).await;
    let mut deal = car.deal(5000);
    deal["Data"]["PieceSize"] = json!(4064);
    deal["ProviderCollateral"] = json!("0");
    let cid = full.ok("ClientStartDeal", json!([deal])).await;
    let cid = cid["/"].as_str().unwrap();
    provider_reaches(&sim, cid, 18).await;
    node.ok("DealsImportData", import(cid, car.path())).await;
    provider_reaches(&sim, cid, 26).await;
    let message = sim.deal(cid).unwrap().provider.unwrap().message;
    assert!(
        message.ends_with("supplied readerTotalSize 8128 is larger than the target PieceSize 4064"),
        "{message}"
    );
}

#[tokio::test]
async fn a_lost_answer_does_not_undo_the_import() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim = start(LotusVersion::V1_23).await;
    let node = Node::miner(&sim, MINER);
    let cid = propose_and_wait(&sim, &car).await;
    sim.inject(Fault::on("Filecoin.DealsImportData", FaultKind::DropAfterWork).times(1));
    let body = crate::support::request("DealsImportData", &import(&cid, car.path()));
    assert!(node.send(&body).await.is_none());
    provider_reaches(&sim, &cid, 7).await;
    assert_eq!(sim.import_counts(&cid), counts(1, 1, 1));
    // The fault is used up.
    node.ok("DealsImportData", import(&cid, car.path())).await;
}

#[tokio::test]
async fn a_caller_that_leaves_during_the_copy_loses_the_import_and_later_does_not() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let moment = Duration::from_secs(1);
    for (copy, commp, effect) in [(moment, Duration::ZERO, false), (Duration::ZERO, moment, true)] {
        let sim = lotus_sim::start(slow(LotusVersion::V1_23, copy, commp)).await.unwrap();
        let node = Node::miner(&sim, MINER);
        let cid = propose_and_wait(&sim, &car).await;
        let body = crate::support::request("DealsImportData", &import(&cid, car.path()));
        let leaving = tokio::time::timeout(moment / 4, node.send(&body));
        assert!(leaving.await.is_err(), "the import is still under way");
        eventually("the call is over", async || {
            let over = sim.calls().iter().any(|call| call.outcome == lotus_sim::Outcome::Abandoned);
            over.then_some(())
        })
        .await;
        if effect {
            provider_reaches(&sim, &cid, 7).await;
        } else {
            eventually("the copy is gone", async || {
                (std::fs::read_dir(sim.staging_dir(MINER)).unwrap().count() == 0).then_some(())
            })
            .await;
            assert_eq!(provider_state(&sim, &cid), Some(18));
        }
        assert_eq!(sim.temp_files_leaked(), 0);
    }
}

#[tokio::test]
async fn a_restart_loses_a_running_import_and_keeps_the_deal_waiting() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let sim =
        lotus_sim::start(slow(LotusVersion::V1_23, Duration::from_secs(600), Duration::ZERO)).await.unwrap();
    let node = Node::miner(&sim, MINER);
    let session = node.ok("Session", json!([])).await;
    let cid = propose_and_wait(&sim, &car).await;
    let body = crate::support::request("DealsImportData", &import(&cid, car.path()));
    let (answer, ()) = tokio::join!(node.send(&body), async {
        eventually("the import runs", async || (sim.imports_for(&cid) == 1).then_some(())).await;
        eventually("the copy is there", async || {
            let staged = std::fs::read_dir(sim.staging_dir(MINER)).map_or(0, Iterator::count);
            (staged == 1).then_some(())
        })
        .await;
        sim.restart_node();
    });
    assert!(answer.is_none(), "{answer:?}");
    eventually("the copy is leaked", async || (sim.temp_files_leaked() == 1).then_some(())).await;
    assert_eq!(provider_state(&sim, &cid), Some(18));
    assert_ne!(node.ok("Session", json!([])).await, session);
    assert_eq!(std::fs::read_dir(sim.staging_dir(MINER)).unwrap().count(), 1);
}

#[tokio::test]
async fn a_restart_fails_deals_under_decision() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 100);
    let held = MinerConfig { hold_at: Some(lotus_sim::DealState::AcceptWait), ..miner() };
    let sim =
        lotus_sim::start(SimConfig { miners: vec![held], ..config(LotusVersion::V1_23) }).await.unwrap();
    let cid = crate::support::propose(&sim, &car).await;
    provider_reaches(&sim, &cid, 15).await;
    sim.restart_miner(MINER);
    provider_reaches(&sim, &cid, 26).await;
    let failed = crate::support::client_reaches(&sim, &cid, 26).await;
    assert_eq!(failed["Message"], "error reading Response message from provider: stream reset");
}

#[tokio::test]
async fn too_many_imports_at_once_bring_the_miner_down() {
    let dir = tempdir().unwrap();
    let cars: Vec<Car> = (0..2).map(|seed| Car::write(dir.path(), seed, 100)).collect();
    let fragile = MinerConfig { crash_at_imports: Some(2), ..miner() };
    let sim = lotus_sim::start(SimConfig {
        miners: vec![fragile],
        ..slow(LotusVersion::V1_23, Duration::from_secs(600), Duration::ZERO)
    })
    .await
    .unwrap();
    let node = Node::miner(&sim, MINER);
    let mut bodies = Vec::new();
    for car in &cars {
        let cid = propose_and_wait(&sim, car).await;
        bodies.push(crate::support::request("DealsImportData", &import(&cid, car.path())));
    }
    let (first, second) = tokio::join!(node.send(&bodies[0]), node.send(&bodies[1]));
    assert!(first.is_none() && second.is_none());
    assert_eq!(sim.max_concurrent_imports_seen(MINER), 2);
}

#[tokio::test]
async fn commitments_are_those_of_the_contract() {
    let dir = tempdir().unwrap();
    // The CAR of an empty file: root bafkqaaa, written as a section too.
    let path = dir.path().join("empty.car");
    std::fs::write(&path, car_bytes(&[0x01, 0x55, 0x00, 0x00], &[])).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 31);
    let sim = start(LotusVersion::V1_23).await;
    let full = Node::full(&sim);
    let piece = "baga6ea4seaqpkjkg76vdsnq2mwqwzquznvml4fttpaboec5lwotw5lixse6vohq";
    let answer = full.ok("ClientCalcCommP", json!([path])).await;
    assert_eq!(answer, json!({ "Root": { "/": piece }, "Size": 127 }));
    let (_code, text) = full.error("ClientDealSize", json!([{ "/": "bafkqaaa" }])).await;
    assert_eq!(text, "no import found for root bafkqaaa: no client blockstore for root bafkqaaa");
    full.ok("ClientImport", json!([{ "Path": path, "IsCAR": true }])).await;
    let answer = full.ok("ClientDealPieceCID", json!([{ "/": "bafkqaaa" }])).await;
    assert_eq!(answer, json!({ "PayloadSize": 31, "PieceSize": 128, "PieceCID": { "/": piece } }));
    let text = dir.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    let import = full.ok("ClientImport", json!([{ "Path": text, "IsCAR": false }])).await;
    let made = dir.path().join("text.car");
    let answer = full.raw("ClientGenCar", json!([{ "Path": text, "IsCAR": false }, made])).await;
    assert_eq!(answer.body, "{\"jsonrpc\":\"2.0\",\"id\":7}\n");
    let by_car = full.ok("ClientImport", json!([{ "Path": made, "IsCAR": true }])).await;
    assert_eq!(by_car["Root"], import["Root"], "import and generate-car give the same root");
    let (_code, error) = full.error("ClientGenCar", json!([{ "Path": dir.path() }, made])).await;
    assert_eq!(error, format!("read {}: is a directory", dir.path().display()));
    let (_code, error) = full.error("ClientCalcCommP", json!([text])).await;
    assert!(error.starts_with("not a car file: "), "{error}");
}
