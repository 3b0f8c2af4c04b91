//! Deals whose start comes too near: marked, not imported, and made anew with miners that still have time.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::doc;
use harness::eventually_eq;
use harness::test_env::move_file;

use crate::fault_cluster::{FaultCluster, FaultConfig, REPLICAS, sim};
use crate::iterations::SeededRng;

#[tokio::test(flavor = "multi_thread")]
async fn deals_that_missed_their_start_are_replaced_once_and_never_imported() {
    let seeded = SeededRng::of("deadlines");
    let mut cluster = FaultCluster::open(FaultConfig { sim: sim(4), ..FaultConfig::default() }).await;
    let cars = cluster.add_cars(3).await;
    for car in &cars {
        move_file(&car.path, &car.path.with_extension("away")).unwrap();
    }
    let agents = (cluster.client("client", None), cluster.miner(None));
    let deals = cluster.env.deals();
    let count = async |state: &str| deals.count_documents(doc! { "import.state": state }).await.unwrap();
    let wanted = u64::try_from(cars.len() * REPLICAS).unwrap();
    eventually_eq!(within Duration::from_secs(60), count("waiting").await, wanted, "the deals wait for their CARs");

    let first = cluster.env.sim.deals();
    let start = first.iter().map(|deal| deal.start_epoch).min().unwrap();
    // Sealing takes 480.
    cluster.env.sim.set_epoch(start - 300);
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
    for deal in cluster.env.sim.deals() {
        let is_first = first.iter().any(|other| other.proposal_cid == deal.proposal_cid);
        assert_eq!(deal.imports.started, usize::from(!is_first), "{deal:?}");
        *with_miner.entry((deal.payload_cid, deal.miner)).or_default() += 1;
    }
    assert!(with_miner.values().all(|deals| *deals == 1), "{with_miner:?}");
    seeded.tell(1, &format!("{wanted} deals missed, {wanted} made anew"));
    drop(agents);
}
