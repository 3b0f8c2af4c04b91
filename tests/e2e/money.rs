//! What client-agent plans with: money, the node's calls, the chain's time.

use std::time::Duration;

use anyhow::Context as _;
use bson::{Document, doc};
use carferry_core::error_chain::Hint as _;
use carferry_core::model::AttoFil;
use carferry_core::store::FailuresOf;
use client_agent::config::SyncRule;
use client_agent::propose::lotus::preflight::PreflightError;
use client_agent::propose::policy::HoldReason;
use client_agent::propose::terms::MethodChoice;
use client_agent::propose::{DealState, Held, Mode, ProposeError};
use harness::eventually;
use harness::test_env::{MINER, TestEnv};
use lotus_sim::{Fault, FaultKind, SimConfig};

use super::deals::{DataPrep, OTHER, START, deals, two_miners, write_cars};

/// 200 days and the alignment, 1 attoFIL each.
const COST: u128 = 200 * 2880 + 5758;

#[tokio::test]
async fn two_passes_with_money_for_one_deal_make_one() -> anyhow::Result<()> {
    money_for_one_deal(&TestEnv::open().await?).await
}

#[tokio::test]
async fn a_node_that_does_not_tell_what_it_reserved_spends_nothing_twice() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let refusal = "missing permission to invoke 'MarketGetReserved' (need 'sign')".to_owned();
    env.sim.inject(Fault::on("Filecoin.MarketGetReserved", FaultKind::ApplicationError(refusal)));
    money_for_one_deal(&env).await?;
    assert_eq!(env.sim.count("Filecoin.MarketGetReserved"), 1, "it is asked once");
    Ok(())
}

async fn money_for_one_deal(env: &TestEnv) -> anyhow::Result<()> {
    write_cars(env, 2).await?;
    let mut client = DataPrep::of(env, START).await?;
    env.sim.set_wallet(&client.terms.wallet, COST + COST / 2, None);
    if let Some(target) = client.targets.first_mut() {
        target.price = AttoFil::new(1);
    }
    let mut proposer = client.proposer();
    proposer.pass(Mode::Publish).await?;
    // The node has moved the money into escrow, where nothing is locked before the deal is published.
    eventually!(
        {
            let market = client.node.market_balance(&client.terms.wallet).await?;
            anyhow::ensure!(market.escrow.0 > 0 && market.locked.0 == 0, "{market:?}");
            anyhow::Ok(())
        },
        "the first deal's money is in escrow"
    );
    for pass in 0..2 {
        let report = proposer.pass(Mode::Publish).await?;
        assert_eq!(report.totals().deals, 0, "{pass}: {report:?}");
        assert!(report.car_problems.iter().any(|line| line.contains("the wallet has")), "{report:?}");
    }
    proposer.finish().await;
    assert_eq!((deals(env).await?.len(), env.sim.deals().len()), (1, 1));
    let intents = env.db.collection::<Document>("dealintents");
    assert_eq!(intents.count_documents(doc! { "state": "confirmed", "startdelay": 5000 }).await?, 1);
    assert_eq!(intents.count_documents(doc! {}).await?, 1, "nothing was even written down");
    Ok(())
}

#[tokio::test]
async fn a_node_is_asked_once_which_calls_it_has() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    let mut proposer = client.proposer();
    for _ in 0..3 {
        proposer.pass(Mode::Publish).await?;
    }
    let report = proposer.finish().await;
    assert_eq!(report.count(DealState::Refused), 0, "{report:?}");
    // Each probe is an error in the node's log. One of the calls is a deal.
    let calls = |method: &str| env.sim.count(&format!("Filecoin.{method}"));
    assert_eq!((calls("ClientStartDeal"), calls("ClientStatelessDeal")), (1, 2));
    Ok(())
}

#[tokio::test]
async fn a_test_network_may_be_behind_where_a_key_says_so_and_mainnet_never() -> anyhow::Result<()> {
    for (network, rule, publishes) in [
        ("localnet-7", SyncRule::Required, false),
        ("localnet-7", SyncRule::NotOnTestNetworks, true),
        ("mainnet", SyncRule::NotOnTestNetworks, false),
    ] {
        let config = SimConfig { network_name: network.to_owned(), ..SimConfig::default() };
        let env = TestEnv::open_with(config).await?;
        write_cars(&env, 1).await?;
        env.sim.set_sync_lag(Duration::from_secs(3600));
        let mut client = DataPrep::of(&env, MethodChoice::Auto).await?;
        client.terms.sync = rule;
        match client.pass().await {
            Ok(report) => assert!(publishes && report.is_clean(), "{network} {rule:?}: {report:?}"),
            Err(error) => {
                let behind = matches!(error, ProposeError::Preflight(PreflightError::NotSynced { .. }));
                assert!(behind && !publishes, "{network} {rule:?}: {error}");
                assert!(error.hint().context("no hint")?.contains("setting.allowUnsyncedNode"));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn retry_forgets_what_keeps_a_car_from_a_provider() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 2).await?;
    let mut client = DataPrep::of(&env, MethodChoice::Auto).await?;
    client.limits.failures_max = 1;
    let wallet = client.terms.wallet.clone();
    let (refused, failed) = (cars.first().context("one")?, cars.get(1).context("two")?);
    env.sim.reject_next(MINER, "miner has blocklisted piece CID");
    env.cars()
        .update_one(doc! { "filecid": &failed.payload_cid }, doc! { "$set": { "group": "later" } })
        .await?;
    client.terms.groups = vec![String::new()];
    env.cars().update_one(doc! { "filecid": &refused.payload_cid }, doc! { "$set": { "group": "" } }).await?;
    assert_eq!(client.pass().await?.count(DealState::Refused), 1);
    client.terms.groups = Vec::new();
    // A failed deal of the prototype: nothing but its record.
    let record = doc! {
        "filecid": &failed.payload_cid, "miner": MINER, "wallet": &wallet, "status": 26, "isdeal": 0,
        "dealcid": "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta",
        "updatedtime": bson::DateTime::now(),
    };
    env.deals().insert_one(record).await?;
    assert_eq!(client.pass().await?.held.get(&Held::By(HoldReason::GivenUp)), Some(&2));

    let one = client.store.failures(FailuresOf::Payload(&refused.payload_cid)).await?;
    assert_eq!((one.len(), client.store.failures(FailuresOf::Miner("t01000")).await?.len()), (1, 2));
    assert!(client.store.failures(FailuresOf::Miner("f09")).await?.is_empty());
    assert_eq!(client.store.forget_failures(&one).await?, 1);
    assert_eq!(client.pass().await?.count(DealState::Published), 1);
    let all = client.store.failures(FailuresOf::All).await?;
    assert_eq!((all.len(), client.store.forget_failures(&all).await?), (1, 1));
    assert_eq!(client.pass().await?.count(DealState::Published), 1);
    assert!(client.store.failures(FailuresOf::All).await?.is_empty());

    let intents = env.db.collection::<Document>("dealintents");
    let mut postponed = intents.find_one(doc! { "state": "confirmed" }).await?.context("none")?;
    let in_an_hour = bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 3_600_000);
    postponed.extend(doc! { "_id": "bafy#9", "state": "intended", "tries": 3, "nexttry": in_an_hour });
    intents.insert_one(postponed).await?;
    let put_off = client.store.failures(FailuresOf::All).await?;
    assert_eq!((put_off.len(), client.store.forget_failures(&put_off).await?), (1, 1));
    let due = doc! { "_id": "bafy#9", "nexttry": null, "tries": null };
    assert_eq!(intents.count_documents(due).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_provider_that_never_answers_keeps_no_other_waiting() -> anyhow::Result<()> {
    let mut config = two_miners();
    config.timings.ask_dial = Duration::MAX;
    let env = TestEnv::open_with(config).await?;
    let cars = write_cars(&env, 2).await?;
    env.sim.set_reachable(OTHER, false);
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    let mut proposer = client.proposer();
    let first = proposer.pass(Mode::Publish).await?;
    // Its call is still under way, so this pass did not wait for it, and another is due for it.
    assert_eq!(first.held.get(&Held::Awaited), Some(&1), "{first:?}");
    assert!(first.found_busy_miners() && first.miner_problems.is_empty(), "{first:?}");
    assert_eq!(first.totals().deals, 2);
    proposer.pass(Mode::Publish).await?;
    assert_eq!(env.sim.count("Filecoin.ClientQueryAsk"), 2, "one call each");
    let report = proposer.finish().await;
    assert_eq!(report.count(DealState::Refused), 0, "{report:?}");
    for car in &cars {
        assert_eq!(env.sim.proposals_for(&car.payload_cid, MINER), 1);
    }
    Ok(())
}
