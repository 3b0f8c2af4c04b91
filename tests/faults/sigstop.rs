//! (h) Agents that are stopped, and wake up when their lease has long been another's.

use std::time::Duration;

use lotus_sim::{SimConfig, Timings};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::fault_cluster::{FaultCluster, FaultConfig, miners, timings};
use crate::iterations::{SeededRng, iterations};

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_sleep_through_their_lease_do_no_harm() {
    let mut seeded = SeededRng::of("frozen");
    // Imports take their time, so that many are under way when an agent falls asleep.
    let timings = Timings { import_commp: Duration::from_millis(150), ..timings() };
    let sim = SimConfig { miners: miners(3), timings, ..SimConfig::default() };
    let mut cluster = FaultCluster::open(FaultConfig { sim, ..FaultConfig::default() }).await;
    let clients = [cluster.client("one", None), cluster.client("two", None)];
    let agents = [cluster.miner(None), cluster.miner(None)];
    let count = iterations(5, 80);
    for _ in 0..count {
        cluster.add_cars(5).await;
        sleep(Duration::from_millis(seeded.rng.u64(0..700))).await;
        let sleeper = if seeded.rng.bool() { seeded.pick(&agents) } else { seeded.pick(&clients) };
        sleeper.signal(Signal::STOP).unwrap();
        // The lease is two seconds.
        sleep(Duration::from_millis(seeded.rng.u64(1500..4500))).await;
        sleeper.signal(Signal::CONT).unwrap();
    }
    cluster.settled(Duration::from_secs(180)).await;
    let counts = cluster.check().await;
    seeded.tell(count, &format!("{counts:?}"));
    drop((clients, agents));
}
