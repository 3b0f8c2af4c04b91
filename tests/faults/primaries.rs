//! (b) Primaries that step down, are killed, end in good order and come back, while deals flow.

use std::time::Duration;

use harness::eventually;
use tokio::time::sleep;

use crate::fault_cluster::{BY_EVENTS, FaultCluster, FaultConfig, sim};
use crate::iterations::{SeededRng, iterations};

/// Deals between two changes of the primary, at two per CAR.
const CARS_A_ROUND: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn deals_flow_through_changing_primaries() {
    let mut seeded = SeededRng::of("primaries");
    let import_setting = &[BY_EVENTS, ("importsPerMiner", "4")];
    let mut cluster =
        FaultCluster::open(FaultConfig { sim: sim(8), import_setting, ..FaultConfig::default() }).await;
    let count = iterations(3, 40);
    let agents = (cluster.client("client", None), cluster.miner(None), cluster.miner(None));
    for round in 0..count {
        cluster.add_cars(CARS_A_ROUND).await;
        match round % 3 {
            0 => {
                cluster.set.step_down().await.unwrap();
            }
            1 => {
                let killed = cluster.set.kill9_primary().await.unwrap();
                cluster.set.wait_for_primary().await.unwrap();
                sleep(Duration::from_millis(seeded.rng.u64(0..2000))).await;
                cluster.set.restart(killed).await.unwrap();
            }
            _ => {
                // Every client learns of the new primary; a reader of a change stream must not wait for
                // the old address.
                let primary = cluster.set.wait_for_primary().await.unwrap();
                cluster.set.end(primary).unwrap();
                eventually!(cluster.set.wait_for_primary().await.unwrap() != primary, "another primary");
                sleep(Duration::from_millis(seeded.rng.u64(0..2000))).await;
                cluster.set.restart(primary).await.unwrap();
            }
        }
    }
    cluster.settled_and_watched(Duration::from_secs(300)).await;
    let counts = cluster.check().await;
    // Both watches follow to the last primary, perhaps after the deals, which other wakes may find first.
    eventually!(within Duration::from_secs(60), cluster.streams_opened().await >= 2, "streams at the last primary");
    let opened = cluster.streams_opened().await;
    seeded.tell(count, &format!("{opened} streams at the last primary, {counts:?}"));
    drop(agents);
}
