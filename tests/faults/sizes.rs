//! CARs of every size class while agents are killed, frozen and cut off in the middle of their imports.

use std::time::Duration;

use bson::doc;
use harness::eventually;
use lotus_sim::{Fault, FaultKind, SimConfig, Timings};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    rounds::{Dice, rounds},
    scene::{REPLICAS, Scene, Stage, sim, timings},
};

const MIB: u64 = 1 << 20;
/// The first of them are played in the short form.
const SIZES: [u64; 5] = [MIB, 16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB];
const IMPORT: &str = "Filecoin.MarketImportDealData";

#[tokio::test(flavor = "multi_thread")]
async fn cars_of_every_size_are_imported_once_whatever_happens_to_the_agent() {
    let mut dice = Dice::of("sizes");
    // The time that an import gets by its size is more than the market takes, and less than a test waits.
    let timings = Timings { import_commp: Duration::from_millis(200), ..timings() };
    let import_setting = &[("importTimeout", "300s"), ("confirmTimeout", "3s"), ("listTimeout", "30s")];
    let sim = SimConfig { timings, ..sim(2) };
    let mut scene = Scene::open(Stage { sim, import_setting, ..Stage::default() }).await;
    let client = scene.client("client", None);
    let mut miner = scene.miner(None);
    let sizes = &SIZES[..rounds(2, SIZES.len())];
    for bytes in sizes {
        let called = scene.road.sim.count(IMPORT);
        scene.add_car_of_bytes(*bytes).await;
        eventually!(within Duration::from_secs(120), scene.road.sim.count(IMPORT) > called, "an import of {bytes} bytes begins");
        sleep(Duration::from_millis(dice.rng.u64(0..300))).await;
        match dice.rng.u8(0..3) {
            0 => {
                miner.kill9().unwrap();
                miner = scene.miner(None);
            }
            1 => {
                miner.signal(Signal::STOP).unwrap();
                sleep(Duration::from_secs(3)).await;
                miner.signal(Signal::CONT).unwrap();
            }
            _ => {
                scene.road.sim.inject(Fault::on(IMPORT, FaultKind::DropAfterWork).times(1));
                scene.add_cars(1).await;
            }
        }
        scene.settled(Duration::from_secs(300)).await;
    }
    scene.road.sim.clear_faults();
    let counts = scene.check().await;
    dice.tell(sizes.len(), &format!("up to {} MiB, {counts:?}", sizes.iter().max().unwrap() / MIB));
    drop((client, miner));
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_per_miner_holds_when_the_agent_is_killed_and_started_anew() {
    let mut dice = Dice::of("imports-per-miner");
    // The market is busy with a large piece for longer than a new agent needs to begin, and for less than the size explains.
    let timings = Timings { import_commp: Duration::from_millis(2500), ..timings() };
    let import_setting = &[("importTimeout", "300s"), ("confirmTimeout", "3s"), ("listTimeout", "30s")];
    let sim = SimConfig { timings, ..sim(2) };
    let mut scene = Scene::open(Stage { sim, import_setting, ..Stage::default() }).await;
    let client = scene.client("client", None);
    let mut miner = scene.miner(None);
    let count = rounds(1, 40);
    for round in 0..count {
        // Files with holes of one size are one CAR.
        let bytes = 16 * MIB + u64::try_from(round).unwrap();
        let (called, deals) = (scene.road.sim.count(IMPORT), scene.road.sim.deals().len());
        scene.add_car_of_bytes(bytes).await;
        eventually!(within Duration::from_secs(120), scene.road.sim.count(IMPORT) > called, "an import begins");
        // What can be imported at once by an agent that knows of no other call.
        scene.add_cars(1).await;
        let recorded = doc! { "isdeal": 0, "import": { "$exists": false } };
        eventually!(
            within Duration::from_secs(30),
            scene.road.sim.deals().len() >= deals + 2 * REPLICAS
                && scene.road.deals().count_documents(recorded.clone()).await.unwrap() > 0,
            "small deals wait"
        );
        sleep(Duration::from_millis(dice.rng.u64(0..300))).await;
        miner.kill9().unwrap();
        miner = scene.miner(None);
        scene.settled(Duration::from_secs(120)).await;
    }
    let counts = scene.check().await;
    dice.tell(count, &format!("{counts:?}"));
    drop((client, miner));
}
