//! Deals whose watchers fail while the chain publishes and seals them.

use std::time::Duration;

use lotus_sim::{DealState, LostAt, LostSight, LotusVersion, Sim, SimConfig, Timings, Watcher};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{
    Car, MINER, Node, client_reaches, config, eventually, http, import, propose_and_wait, provider_reaches,
};

/// The client polls several times before the provider reaches its next step.
async fn node() -> Sim {
    let timings = Timings { precommit_wait: Duration::from_millis(500), ..Timings::default() };
    lotus_sim::start(SimConfig { timings, ..config(LotusVersion::V1_23) }).await.unwrap()
}

async fn imported(sim: &Sim, car: &Car) -> String {
    let cid = propose_and_wait(sim, car).await;
    Node::miner(sim, MINER).ok("MarketImportDealData", import(&cid, car.path())).await;
    cid
}

async fn listed(sim: &Sim) -> Value {
    Node::miner(sim, MINER).ok("MarketListIncompleteDeals", json!([])).await[0].clone()
}

async fn active_on_chain(sim: &Sim, cid: &str) -> u64 {
    let full = Node::full(sim);
    eventually("active on chain", async || {
        let id = sim.deal(cid)?.deal_id?;
        let deal = full.ok("StateMarketStorageDeal", json!([id, []])).await;
        (deal["State"]["SectorStartEpoch"] == 1_000_000 && deal["State"]["SlashEpoch"] == -1).then_some(id)
    })
    .await
}

#[tokio::test]
async fn both_sides_say_error_while_the_chain_publishes_and_seals() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let sim = node().await;
    sim.lose_sight(LostSight::new(Watcher::Both, LostAt::Sealing));
    // The chain gets as far as published, so that a test may look.
    sim.hold_at(MINER, Some(DealState::Sealing));
    let cid = imported(&sim, &car).await;
    let client = client_reaches(&sim, &cid, 26).await;
    provider_reaches(&sim, &cid, 26).await;
    let provider = listed(&sim).await;
    let publish = provider["PublishCid"]["/"].as_str().unwrap();
    let not_found = format!(
        "failed to set up called handler: called check error (h: 1000000): failed to look up deal on chain: looking \
         for publish deal message {publish}: not found"
    );
    assert_eq!(
        client["Message"],
        format!("error waiting for deal pre-commit message to appear on chain: {not_found}")
    );
    assert_eq!(provider["Message"], format!("error awaiting deal pre-commit: {not_found}"));
    let id = sim.deal(&cid).unwrap().deal_id.unwrap();
    assert_eq!((&client["DealID"], &provider["DealID"]), (&json!(id), &json!(id)));
    let chain = Node::full(&sim).ok("StateMarketStorageDeal", json!([id, []])).await;
    assert_eq!(chain["State"]["SectorStartEpoch"], -1, "published, not sealed");
    assert!(!sim.deal(&cid).unwrap().sealed_on_chain);

    sim.hold_at(MINER, None);
    assert_eq!(active_on_chain(&sim, &cid).await, id);
    assert!(sim.deal(&cid).unwrap().sealed_on_chain);
    assert_eq!(listed(&sim).await["State"], 26, "the provider's words stay");
    client_reaches(&sim, &cid, 26).await;
}

#[tokio::test]
async fn one_side_alone_may_lose_sight() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    for (watcher, client, provider) in [(Watcher::Provider, 7, 26), (Watcher::Client, 26, 7)] {
        let sim = node().await;
        sim.lose_sight(LostSight::new(watcher, LostAt::Sealing));
        let cid = imported(&sim, &car).await;
        active_on_chain(&sim, &cid).await;
        client_reaches(&sim, &cid, client).await;
        provider_reaches(&sim, &cid, provider).await;
    }
}

#[tokio::test]
async fn a_provider_that_loses_sight_of_publishing_never_learns_the_number() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let sim = node().await;
    sim.lose_sight(LostSight::new(Watcher::Both, LostAt::Publishing));
    let cid = imported(&sim, &car).await;
    provider_reaches(&sim, &cid, 26).await;
    let client = client_reaches(&sim, &cid, 26).await;
    let provider = listed(&sim).await;
    let text = provider["Message"].as_str().unwrap();
    assert!(text.starts_with("PublishStorageDeal error: "), "{text}");
    assert!(text.contains("looking for publish deal message bafy2bz"), "{text}");
    assert!(client["Message"].as_str().unwrap().starts_with("deal failed: (State="), "{client}");
    assert_eq!((&provider["DealID"], &client["DealID"]), (&json!(0), &json!(0)));
    active_on_chain(&sim, &cid).await;
}

#[tokio::test]
async fn what_is_not_sealed_by_its_start_leaves_the_chain() {
    let dir = tempdir().unwrap();
    let car = Car::write(dir.path(), 1, 5000);
    let sim = node().await;
    sim.lose_sight(LostSight::new(Watcher::Both, LostAt::Sealing));
    sim.hold_at(MINER, Some(DealState::Sealing));
    let cid = imported(&sim, &car).await;
    provider_reaches(&sim, &cid, 26).await;
    let id = sim.deal(&cid).unwrap().deal_id.unwrap();
    sim.set_epoch(1_005_001);
    let (_code, text) = Node::full(&sim).error("StateMarketStorageDeal", json!([id, []])).await;
    assert!(text.contains("not found"), "{text}");
}

#[tokio::test]
async fn only_the_deals_that_are_meant_are_lost_and_later_ones_are_seen() {
    let dir = tempdir().unwrap();
    let cars: Vec<Car> = (1..4).map(|seed| Car::write(dir.path(), seed, 100)).collect();
    let sim = node().await;
    // By the control call, as from another process.
    let body = json!({ "watcher": "provider", "at": "sealing", "deals": cars[0].root }).to_string();
    let answer = http(sim.full_node_addr(), "POST", "/sim/lost-sight", None, &body).await.unwrap();
    assert_eq!((answer.status, answer.body.trim()), (200, "{}"));
    let unheard_of = json!({ "watcher": "nobody" }).to_string();
    let answer = http(sim.full_node_addr(), "POST", "/sim/lost-sight", None, &unheard_of).await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.body);
    let (lost, seen) = (imported(&sim, &cars[0]).await, imported(&sim, &cars[1]).await);
    provider_reaches(&sim, &lost, 26).await;
    provider_reaches(&sim, &seen, 7).await;
    let answer = http(sim.full_node_addr(), "DELETE", "/sim/lost-sight", None, "").await.unwrap();
    assert_eq!(answer.status, 200);
    let later = imported(&sim, &cars[2]).await;
    provider_reaches(&sim, &later, 7).await;
    active_on_chain(&sim, &lost).await;
    client_reaches(&sim, &lost, 7).await;
}
