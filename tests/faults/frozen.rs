//! (h) Agents that are stopped, and wake up when their lease has long been another's.

use std::time::Duration;

use lotus_sim::{SimConfig, Timings};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    rounds::{Dice, rounds},
    scene::{Scene, Stage, miners, timings},
};

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_sleep_through_their_lease_do_no_harm() {
    let mut dice = Dice::of("frozen");
    // Imports take their time, so that many are under way when an agent falls asleep.
    let timings = Timings { import_commp: Duration::from_millis(150), ..timings() };
    let sim = SimConfig { miners: miners(3), timings, ..SimConfig::default() };
    let mut scene = Scene::open(Stage { sim, ..Stage::default() }).await;
    let clients = [scene.client("one", None), scene.client("two", None)];
    let agents = [scene.miner(None), scene.miner(None)];
    let count = rounds(5, 80);
    for _ in 0..count {
        scene.add_cars(5).await;
        sleep(Duration::from_millis(dice.rng.u64(0..700))).await;
        let sleeper = if dice.rng.bool() { dice.pick(&agents) } else { dice.pick(&clients) };
        sleeper.signal(Signal::STOP).unwrap();
        // The lease is two seconds.
        sleep(Duration::from_millis(dice.rng.u64(1500..4500))).await;
        sleeper.signal(Signal::CONT).unwrap();
    }
    scene.settled(Duration::from_secs(180)).await;
    let counts = scene.check().await;
    dice.tell(count, &format!("{counts:?}"));
    drop((clients, agents));
}
