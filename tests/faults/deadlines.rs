//! Deals whose start comes too near: marked, not imported, and made anew with miners that still have time.

use std::{collections::BTreeMap, time::Duration};

use bson::doc;
use harness::{eventually_eq, road::move_file};

use crate::{
    rounds::Dice,
    scene::{REPLICAS, Scene, Stage, sim},
};

#[tokio::test(flavor = "multi_thread")]
async fn deals_that_missed_their_start_are_replaced_once_and_never_imported() {
    let dice = Dice::of("deadlines");
    let mut scene = Scene::open(Stage { sim: sim(4), ..Stage::default() }).await;
    let cars = scene.add_cars(3).await;
    for car in &cars {
        move_file(&car.path, &car.path.with_extension("away")).unwrap();
    }
    let agents = (scene.client("client", None), scene.miner(None));
    let deals = scene.road.deals();
    let count = async |state: &str| deals.count_documents(doc! { "import.state": state }).await.unwrap();
    let wanted = u64::try_from(cars.len() * REPLICAS).unwrap();
    eventually_eq!(within Duration::from_secs(60), count("waiting").await, wanted, "the deals wait for their CARs");

    let first = scene.road.sim.deals();
    let start = first.iter().map(|deal| deal.start_epoch).min().unwrap();
    // Sealing takes 480.
    scene.road.sim.set_epoch(start - 300);
    eventually_eq!(within Duration::from_secs(60), count("missed").await, wanted, "they are marked");
    eventually_eq!(
        within Duration::from_secs(60),
        deals.count_documents(doc! {}).await.unwrap(), 2 * wanted, "each is made anew"
    );
    for car in &cars {
        move_file(&car.path.with_extension("away"), &car.path).unwrap();
    }
    eventually_eq!(
        within Duration::from_secs(60),
        deals.count_documents(doc! { "isdeal": 1, "status": 7 }).await.unwrap(), wanted, "the new ones are active"
    );
    let mut with_miner = BTreeMap::<_, usize>::new();
    for deal in scene.road.sim.deals() {
        let is_first = first.iter().any(|other| other.proposal_cid == deal.proposal_cid);
        assert_eq!(deal.imports.started, usize::from(!is_first), "{deal:?}");
        *with_miner.entry((deal.payload_cid, deal.miner)).or_default() += 1;
    }
    assert!(with_miner.values().all(|deals| *deals == 1), "{with_miner:?}");
    dice.tell(1, &format!("{wanted} deals missed, {wanted} made anew"));
    drop(agents);
}
