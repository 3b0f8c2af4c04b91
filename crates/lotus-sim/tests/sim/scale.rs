//! Thousands of deals and hundreds of connections are cheap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lotus_sim::{DealState, LotusVersion, SimConfig};
use serde_json::json;
use tempfile::tempdir;
use tokio::task::JoinSet;

use crate::support::{Car, MINER, Node, config, eventually, import};

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_deals_over_two_hundred_connections() {
    const DEALS: i64 = 2000;
    const CALLERS: i64 = 200;
    let dir = tempdir().unwrap();
    let car = Arc::new(Car::write(dir.path(), 1, 100));
    let sim =
        lotus_sim::start(SimConfig { root_must_be_imported: Some(false), ..config(LotusVersion::V1_23) })
            .await
            .unwrap();
    let (full, node) = (Node::full(&sim), Node::miner(&sim, MINER));
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (full, car) = (full.clone(), car.clone());
        callers.spawn(async move {
            for number in 0..DEALS / CALLERS {
                let deal = car.deal(3000 + caller * DEALS / CALLERS + number);
                full.ok("ClientStartDeal", json!([deal])).await;
            }
        });
    }
    callers.join_all().await;
    let in_state = |state: DealState| {
        let deals = sim.deals();
        deals
            .into_iter()
            .filter(|deal| deal.provider.as_ref().is_some_and(|side| side.state == state))
            .collect::<Vec<_>>()
    };
    let waiting = eventually("all wait for data", async || {
        let waiting = in_state(DealState::WaitingForData);
        (waiting.len() == 2000).then_some(waiting)
    })
    .await;
    let proposed = begun.elapsed();
    let mut imports = JoinSet::new();
    for deal in waiting.into_iter().take(200) {
        let (node, car) = (node.clone(), car.clone());
        imports.spawn(async move {
            node.ok("MarketImportDealData", import(&deal.proposal_cid, car.path())).await;
        });
    }
    imports.join_all().await;
    eventually("the imported ones are active", async || {
        (in_state(DealState::Active).len() == 200).then_some(())
    })
    .await;
    let list = full.ok("ClientListDeals", json!([])).await;
    assert_eq!(list.as_array().unwrap().len(), 2000);
    let all = begun.elapsed();
    assert!(all < Duration::from_secs(60), "proposed after {proposed:?}, active after {all:?}");
    println!("2000 proposed after {proposed:?}, 200 of them active after {all:?}");
}
