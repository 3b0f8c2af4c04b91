//! (f) Four miner-agents for one miner and two client-agents on one database.

use std::time::Duration;

use lotus_sim::{Fault, FaultKind};
use tokio::time::sleep;

use crate::fault_cluster::{FaultCluster, FaultConfig};
use crate::iterations::{SeededRng, iterations};

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_agents_does_everything_once() {
    let mut seeded = SeededRng::of("crowd");
    // No agent dies here, so a lease is lost only to an agent that takes what another one has.
    let import_setting = &[("importsPerMiner", "2"), ("lease", "60s")];
    let mut cluster = FaultCluster::open(FaultConfig { import_setting, ..FaultConfig::default() }).await;
    // Proposals take long enough for the other agent to plan the same CARs meanwhile.
    let kind = FaultKind::Delay(Duration::from_millis(150));
    cluster.env.sim.inject(Fault::on("Filecoin.ClientStatelessDeal", kind));
    let clients = [cluster.client("one", None), cluster.client("two", None)];
    let miners = [(); 4].map(|()| cluster.miner(None));
    let count = iterations(4, 60);
    for _ in 0..count {
        cluster.add_cars(seeded.rng.usize(1..15)).await;
        sleep(Duration::from_millis(seeded.rng.u64(0..1500))).await;
    }
    cluster.settled(Duration::from_secs(180)).await;
    let counts = cluster.check().await;
    assert_eq!(counts.imports_started, counts.deals, "nobody died, so nobody called twice");
    for miner in &miners {
        assert!(!miner.has_logged("the lease was lost").unwrap(), "a deal is in the hands of one agent");
    }
    seeded.tell(count, &format!("{counts:?}"));
    drop((clients, miners));
}
