//! (k) Watchers of the nodes that lose sight of deals while the chain goes on: whatever a node says, a deal
//! that is on chain lives.

use std::time::Duration;

use bson::doc;
use harness::eventually_eq;
use lotus_sim::{DealState, LostAt, LostSight, Watcher};
use tokio::time::sleep;

use crate::fault_cluster::{FaultCluster, FaultConfig, REPLICAS};
use crate::iterations::{SeededRng, iterations};

/// States that mean the end of a deal which is not over: failing, error.
const LOST: [i32; 2] = [11, 26];

async fn chain_wins(name: &'static str, method: &'static str) {
    let seeded = SeededRng::of(name);
    let mut cluster = FaultCluster::open(FaultConfig { method, ..FaultConfig::default() }).await;
    cluster.env.sim.lose_sight(LostSight::new(Watcher::Both, LostAt::Sealing));
    let miners = cluster.env.sim.miners();
    // Published, and not sealed.
    for miner in &miners {
        cluster.env.sim.hold_at(miner, Some(DealState::Sealing));
    }
    let client = cluster.client("client", None);
    // Some imports lose their agent between the call and the look at the deal.
    let mut miner = cluster.miner(Some("import.called:2"));
    let cars = iterations(6, 40);
    cluster.add_cars(cars).await;
    let wanted = cars * REPLICAS;
    let lost = || {
        let deals = cluster.env.sim.deals();
        let at_provider = deals.iter().filter(|deal| {
            deal.provider.as_ref().is_some_and(|side| side.state == DealState::Error)
                && deal.deal_id.is_some()
        });
        at_provider.count()
    };
    let deals = cluster.env.deals();
    // The agent dies once, and the next finds deals whose provider has lost them.
    for _ in 0..200 {
        if !miner.is_running() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_secs(1)).await;
    miner = cluster.miner(None);
    eventually_eq!(within Duration::from_secs(60), lost(), wanted, "every provider has lost sight of every deal");

    let published = doc! { "isdeal": 1, "dealid": { "$gt": 0 }, "status": { "$nin": [LOST[0], LOST[1], 7] } };
    let all = u64::try_from(wanted).unwrap();
    let count = async |filter| deals.count_documents(filter).await.unwrap();
    eventually_eq!(within Duration::from_secs(60), count(published.clone()).await, all, "{method}: all are published, sealing");
    // Several passes of tracking and planning.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(count(published).await, all, "{method}: they stay so");
    assert_eq!(cluster.env.sim.deals().len(), wanted, "{method}: none is replaced");

    for miner in &miners {
        cluster.env.sim.hold_at(miner, None);
    }
    cluster.settled(Duration::from_secs(120)).await;
    assert_eq!(lost(), wanted, "the words of the providers stay");
    let counts = cluster.check().await;
    seeded.tell(1, &format!("{counts:?}"));
    drop((client, miner));
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_wins_over_nodes_that_lost_sight_of_stateless_deals() {
    chain_wins("sight-stateless", "stateless").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_wins_over_nodes_that_lost_sight_of_deals_that_the_node_follows() {
    chain_wins("sight-start", "start").await;
}
