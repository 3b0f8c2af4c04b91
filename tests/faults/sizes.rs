//! CARs of every size class while agents are killed, frozen and cut off in the middle of their imports.

use std::time::Duration;

use bson::doc;
use harness::eventually;
use lotus_sim::{Fault, FaultKind, SimConfig, Timings};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::fault_cluster::{FaultCluster, FaultConfig, REPLICAS, sim, timings};
use crate::iterations::{SeededRng, iterations};

const MIB: u64 = 1 << 20;
/// The first of them are played in the short form.
const SIZES: [u64; 5] = [MIB, 16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB];
const IMPORT: &str = "Filecoin.MarketImportDealData";

#[tokio::test(flavor = "multi_thread")]
async fn cars_of_every_size_are_imported_once_whatever_happens_to_the_agent() {
    let mut seeded = SeededRng::of("sizes");
    // The time that an import gets by its size is more than the market takes, and less than a test waits.
    let timings = Timings { import_commp: Duration::from_millis(200), ..timings() };
    let import_setting = &[("importTimeout", "300s"), ("confirmTimeout", "3s"), ("listTimeout", "30s")];
    let sim = SimConfig { timings, ..sim(2) };
    let mut cluster = FaultCluster::open(FaultConfig { sim, import_setting, ..FaultConfig::default() }).await;
    let client = cluster.client("client", None);
    let mut miner = cluster.miner(None);
    let sizes = &SIZES[..iterations(2, SIZES.len())];
    for bytes in sizes {
        let called = cluster.env.sim.count(IMPORT);
        cluster.add_car_of_bytes(*bytes).await;
        eventually!(within Duration::from_secs(120), cluster.env.sim.count(IMPORT) > called, "an import of {bytes} bytes begins");
        sleep(Duration::from_millis(seeded.rng.u64(0..300))).await;
        match seeded.rng.u8(0..3) {
            0 => {
                miner.kill9().unwrap();
                miner = cluster.miner(None);
            }
            1 => {
                miner.signal(Signal::STOP).unwrap();
                sleep(Duration::from_secs(3)).await;
                miner.signal(Signal::CONT).unwrap();
            }
            _ => {
                cluster.env.sim.inject(Fault::on(IMPORT, FaultKind::DropAfterWork).times(1));
                cluster.add_cars(1).await;
            }
        }
        cluster.settled(Duration::from_secs(300)).await;
    }
    cluster.env.sim.clear_faults();
    let counts = cluster.check().await;
    seeded.tell(sizes.len(), &format!("up to {} MiB, {counts:?}", sizes.iter().max().unwrap() / MIB));
    drop((client, miner));
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_per_miner_holds_when_the_agent_is_killed_and_started_anew() {
    let mut seeded = SeededRng::of("imports-per-miner");
    // The market is busy with a large piece for longer than a new agent needs to begin, and for less than the
    // size explains.
    let timings = Timings { import_commp: Duration::from_millis(2500), ..timings() };
    let import_setting = &[("importTimeout", "300s"), ("confirmTimeout", "3s"), ("listTimeout", "30s")];
    let sim = SimConfig { timings, ..sim(2) };
    let mut cluster = FaultCluster::open(FaultConfig { sim, import_setting, ..FaultConfig::default() }).await;
    let client = cluster.client("client", None);
    let mut miner = cluster.miner(None);
    let count = iterations(1, 40);
    for round in 0..count {
        // Files with holes of one size are one CAR.
        let bytes = 16 * MIB + u64::try_from(round).unwrap();
        let (called, deals) = (cluster.env.sim.count(IMPORT), cluster.env.sim.deals().len());
        cluster.add_car_of_bytes(bytes).await;
        eventually!(within Duration::from_secs(120), cluster.env.sim.count(IMPORT) > called, "an import begins");
        // What can be imported at once by an agent that knows of no other call.
        cluster.add_cars(1).await;
        let recorded = doc! { "isdeal": 0, "import": { "$exists": false } };
        eventually!(
            within Duration::from_secs(30),
            cluster.env.sim.deals().len() >= deals + 2 * REPLICAS
                && cluster.env.deals().count_documents(recorded.clone()).await.unwrap() > 0,
            "small deals wait"
        );
        sleep(Duration::from_millis(seeded.rng.u64(0..300))).await;
        miner.kill9().unwrap();
        miner = cluster.miner(None);
        cluster.settled(Duration::from_secs(120)).await;
    }
    let counts = cluster.check().await;
    seeded.tell(count, &format!("{counts:?}"));
    drop((client, miner));
}
