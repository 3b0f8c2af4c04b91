//! (f) Four miner-agents for one miner and two client-agents on one database.

use std::time::Duration;

use lotus_sim::{Fault, FaultKind};
use tokio::time::sleep;

use crate::{
    rounds::{Dice, rounds},
    scene::{Scene, Stage},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_agents_does_everything_once() {
    let mut dice = Dice::of("crowd");
    // Nobody dies here, so a lease is lost only to an agent that takes what another one has.
    let import_setting = &[("importsPerMiner", "2"), ("lease", "60s")];
    let mut scene = Scene::open(Stage { import_setting, ..Stage::default() }).await;
    // Proposals take long enough for the other agent to plan the same CARs meanwhile.
    let kind = FaultKind::Delay(Duration::from_millis(150));
    scene.road.sim.inject(Fault::on("Filecoin.ClientStatelessDeal", kind));
    let clients = [scene.client("one", None), scene.client("two", None)];
    let miners = [(); 4].map(|()| scene.miner(None));
    let count = rounds(4, 60);
    for _ in 0..count {
        scene.add_cars(dice.rng.usize(1..15)).await;
        sleep(Duration::from_millis(dice.rng.u64(0..1500))).await;
    }
    scene.settled(Duration::from_secs(180)).await;
    let counts = scene.check().await;
    assert_eq!(counts.imports_started, counts.deals, "nobody died, so nobody called twice");
    for miner in &miners {
        assert!(!miner.has_logged("the lease was lost").unwrap(), "a deal is in the hands of one agent");
    }
    dice.tell(count, &format!("{counts:?}"));
    drop((clients, miners));
}
