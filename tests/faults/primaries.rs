//! (b) Primaries that step down, are killed, end in good order and come back, while deals flow.

use std::time::Duration;

use harness::eventually;
use tokio::time::sleep;

use crate::{
    rounds::{Dice, rounds},
    scene::{BY_EVENTS, Scene, Stage, sim},
};

/// Deals between two changes of the primary, at two per CAR.
const CARS_A_ROUND: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn deals_flow_through_changing_primaries() {
    let mut dice = Dice::of("primaries");
    let import_setting = &[BY_EVENTS, ("importsPerMiner", "4")];
    let mut scene = Scene::open(Stage { sim: sim(8), import_setting, ..Stage::default() }).await;
    let count = rounds(3, 40);
    let agents = (scene.client("client", None), scene.miner(None), scene.miner(None));
    for round in 0..count {
        scene.add_cars(CARS_A_ROUND).await;
        match round % 3 {
            0 => {
                scene.set.step_down().await.unwrap();
            }
            1 => {
                let killed = scene.set.kill9_primary().await.unwrap();
                scene.set.wait_for_primary().await.unwrap();
                sleep(Duration::from_millis(dice.rng.u64(0..2000))).await;
                scene.set.restart(killed).await.unwrap();
            }
            _ => {
                // Everybody hears of it; whoever reads a change stream must not wait for the old address.
                let primary = scene.set.wait_for_primary().await.unwrap();
                scene.set.end(primary).unwrap();
                eventually!(scene.set.wait_for_primary().await.unwrap() != primary, "another primary");
                sleep(Duration::from_millis(dice.rng.u64(0..2000))).await;
                scene.set.restart(primary).await.unwrap();
            }
        }
    }
    scene.settled_and_watched(Duration::from_secs(300)).await;
    let counts = scene.check().await;
    // Both watches have followed to the last primary.
    let opened = scene.streams_opened().await;
    assert!(opened >= 2, "{opened} streams at the last primary");
    dice.tell(count, &format!("{opened} streams at the last primary, {counts:?}"));
    drop(agents);
}
