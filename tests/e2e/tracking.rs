//! Who is believed about a deal's state: the chain before the client's node, and both before the provider.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bson::{DateTime, Document, doc};
use carferry_core::model::{DealStatus, StatusSource};
use carferry_core::store::{NumberChange, StatusChange};
use client_agent::node_deals::NodeDeals;
use client_agent::propose::terms::{Limits, MethodChoice};
use client_agent::propose::{DealState as Proposed, Mode};
use client_agent::track::Tracker;
use harness::eventually;
use harness::test_env::{MINER, TestEnv};
use lotus_sim::{DealState, Fault, FaultKind, LostAt, LostSight, Watcher};
use mongodb::Collection;

use crate::deals::{DataPrep, START, deals, write_cars};

fn intents(env: &TestEnv) -> Collection<Document> {
    env.db.collection("dealintents")
}

/// Passes of tracking until so many records match.
async fn tracked(
    env: &TestEnv,
    tracker: &mut Tracker,
    expected: u64,
    filter: Document,
) -> anyhow::Result<()> {
    eventually!(
        {
            tracker.pass().await?;
            let found = env.deals().count_documents(filter.clone()).await?;
            anyhow::ensure!(found == expected, "{found} of {expected}: {:?}", deals(env).await?);
            anyhow::Ok(())
        },
        "{expected} records match {filter}"
    );
    Ok(())
}

/// The watchers of client and provider fail under load, and the chain publishes and seals all the same.
async fn lost_watchers(method: MethodChoice) -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 2).await?;
    env.sim.lose_sight(LostSight::new(Watcher::Both, LostAt::Sealing));
    env.sim.hold_at(MINER, Some(DealState::Sealing));
    let client = DataPrep::of(&env, method).await?;
    assert!(client.pass().await?.is_clean());
    eventually!(
        env.sim
            .deals()
            .iter()
            .all(|deal| deal.provider.as_ref().is_some_and(|side| side.state == DealState::WaitingForData)),
        "the provider waits for the data"
    );
    // Past miner-agent: when it comes up, the market has failed already.
    for deal in env.sim.deals() {
        let car = cars.iter().find(|car| car.payload_cid == deal.payload_cid).context("no CAR")?;
        env.import_by_hand(&deal.proposal_cid, car).await?;
    }
    eventually!(
        env.sim
            .deals()
            .iter()
            .all(|deal| deal.provider.as_ref().is_some_and(|side| side.state == DealState::Error)),
        "the provider has given the deals up"
    );
    let agent = env.miner_agent()?;
    let mut tracker = client.tracker();
    let words = doc! { "$regex": "^StorageDealAwaitingPreCommit: .*StorageDealError" };
    let sealing = doc! {
        "isdeal": 1, "status": 29, "statusby": "chain", "statusmsg": words, "dealid": { "$gt": 0 }
    };
    tracked(&env, &mut tracker, 2, sealing).await?;
    env.sim.hold_at(MINER, None);
    let active = doc! { "isdeal": 1, "status": 7, "statusby": "chain" };
    tracked(&env, &mut tracker, 2, active.clone()).await?;
    assert_eq!(client.store.troubled_deals(20).await?.len(), 0, "nothing is stuck");

    // As an earlier version left them: believed to have failed.
    let given_up = vec![
        doc! { "$set": { "status": 26, "statusmsg": "StorageDealError: not found", "isdeal": 0 } },
        doc! { "$set": { "import.state": "failed", "import.reason": "the deal failed at the provider" } },
        doc! { "$unset": "statusby" },
    ];
    env.deals().update_many(doc! {}, given_up).await?;
    let forgotten = vec![doc! { "$set": { "dealstatus": 26 } }, doc! { "$unset": "dealstatusby" }];
    intents(&env).update_many(doc! {}, forgotten).await?;
    tracked(&env, &mut client.tracker(), 2, active).await?;
    assert_eq!(intents(&env).count_documents(doc! { "dealstatus": 7, "dealstatusby": "chain" }).await?, 2);

    assert_eq!(client.pass().await?.count(Proposed::Published), 0, "no deal is replaced");
    agent.end().await?;
    for deal in env.sim.deals() {
        assert_eq!(env.sim.imports_for(&deal.proposal_cid), 1);
    }
    Ok(())
}

#[tokio::test]
async fn deals_of_start_deal_go_on_when_node_and_provider_lose_sight_of_them() -> anyhow::Result<()> {
    lost_watchers(START).await
}

#[tokio::test]
async fn stateless_deals_go_on_when_their_provider_loses_sight_of_them() -> anyhow::Result<()> {
    lost_watchers(MethodChoice::Auto).await
}

/// The market lost its records, and client-agent has found the deal on chain.
#[tokio::test]
async fn an_import_that_the_chain_proves_is_done_though_the_market_does_not_list_it() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let unlisted = "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta";
    let record = |dealcid: &str, source: &str, import: &str| {
        doc! {
            "dealcid": dealcid, "miner": MINER, "isdeal": 0, "status": 29, "statusby": source, "dealid": 42,
            "startepoch": 1, "import": { "state": import },
        }
    };
    // One that rests already, and one that comes to its turn; of the third the chain says nothing.
    let rests = unlisted.replace("4ta", "5ta");
    let unproved = unlisted.replace("4ta", "6ta");
    let records = [
        record(unlisted, "chain", "waiting"),
        record(&rests, "chain", "missed"),
        record(&unproved, "node", "waiting"),
    ];
    env.deals().insert_many(records).await?;
    let agent = env.miner_agent()?;
    eventually!(
        env.is_imported(unlisted).await.unwrap() && env.is_imported(&rests).await.unwrap(),
        "the chain's word closes both"
    );
    eventually!(env.import_field(&unproved, "state").await.unwrap() == "missed", "the node's word does not");
    agent.end().await?;
    assert!(!env.is_imported(&unproved).await?);
    Ok(())
}

#[tokio::test]
async fn a_final_state_yields_to_the_chain_alone() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    client.pass().await?;
    let record = deals(&env).await?.pop().context("one")?;
    let (proposal_cid, intent) = (record.get_str("dealcid")?, record.get_str("intent")?);
    for (source, before, status, happens) in [
        (StatusSource::Node, 5, 26, false),
        (StatusSource::Node, 18, 26, true),
        (StatusSource::Node, 26, 7, false),
        (StatusSource::Chain, 26, 7, true),
        (StatusSource::Chain, 7, 26, true),
        (StatusSource::Chain, 26, 7, false),
    ] {
        let change = StatusChange {
            proposal_cid: proposal_cid.to_owned(),
            intent: Some(intent.to_owned()),
            before: Some(before),
            status: DealStatus::from_lotus(status),
            source,
            message: String::new(),
            deal_id: NumberChange::Kept,
        };
        assert_eq!(client.store.record_status(&change).await?, happens, "{source:?} {before} {status}");
    }
    let known = doc! { "dealstatus": 26, "dealstatusby": "chain" };
    assert_eq!(intents(&env).count_documents(known).await?, 1);
    Ok(())
}

#[tokio::test]
async fn an_end_that_a_provider_alone_says_stands_over_restarts() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    client.pass().await?;
    let view = async |status: i64| {
        let view = doc! { "$set": { "provider": { "status": status, "statusname": "x", "message": "" } } };
        env.deals().update_one(doc! {}, view).await
    };
    let counts = async || {
        let ended = env.deals().count_documents(doc! { "status": 26, "statusby": "provider" }).await?;
        let seen = intents(&env).count_documents(doc! { "endseen": { "$type": "date" } }).await?;
        anyhow::Ok((ended, seen))
    };
    view(26).await?;
    client.tracker().pass().await?;
    assert_eq!(counts().await?, (0, 1));
    view(18).await?;
    client.tracker().pass().await?;
    assert_eq!(counts().await?, (0, 0), "put right");
    view(26).await?;
    client.tracker().pass().await?;
    let earlier = DateTime::from_millis(DateTime::now().timestamp_millis() - 11 * 60 * 1000);
    intents(&env).update_one(doc! {}, doc! { "$set": { "endseen": earlier } }).await?;
    client.tracker().pass().await?;
    assert_eq!(counts().await?.0, 1);
    Ok(())
}

/// A list that fails, a wallet that is not configured any more: neither keeps other deals from being
/// followed.
#[tokio::test]
async fn every_deal_is_followed_that_can_be() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 1).await?;
    DataPrep::of(&env, MethodChoice::Auto).await?.pass().await?;
    env.cars().insert_one(env.car("another payload ")?.document()).await?;
    let client = DataPrep::of(&env, START).await?;
    client.pass().await?;
    let failing = FaultKind::ApplicationError("datastore closed".to_owned());
    env.sim.inject(Fault::on("Filecoin.ClientListDeals", failing));
    let view = doc! { "provider": { "status": 24, "statusname": "StorageDealPublish", "message": "" } };
    env.deals().update_one(doc! { "method": "stateless" }, doc! { "$set": view }).await?;
    let other = "f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za".to_owned();
    let mut tracker = Tracker::new(client.store.clone(), client.node.clone(), other);
    assert!(tracker.pass().await.is_err(), "the operator hears of the list");
    assert_eq!(env.deals().count_documents(doc! { "method": "stateless", "status": 24 }).await?, 1);
    env.sim.clear_faults();
    let report = tracker.pass().await?;
    assert_eq!((report.followed, report.failed, report.unknown), (2, 0, 0), "{report:?}");
    Ok(())
}

#[tokio::test]
async fn failed_records_of_the_prototype_are_shown_and_count_for_nothing() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 1).await?;
    let mut client = DataPrep::of(&env, MethodChoice::Auto).await?;
    client.limits = Limits { replicas_max: 1, open_deals_per_miner_max: Some(2), ..client.limits };
    let payload_cid = &cars.first().context("one")?.payload_cid;
    let failed = |words: &str| {
        doc! {
            "filecid": payload_cid, "dealcid": words, "miner": MINER, "price": 0, "duration": 518_400,
            "wallet": &client.terms.wallet, "isdeal": 0,
        }
    };
    let words = ["ERROR: failed to start deal: actor not found", "", "bafkqaaa"].map(failed);
    env.deals().insert_many(words).await?;
    let report = client.pass().await?;
    assert_eq!(report.count(Proposed::Published), 1, "{report:?}");
    assert_eq!(client.tracker().pass().await?.followed, 1);
    let (count, shown) = client.store.no_deals(2).await?;
    assert_eq!((count, shown.len()), (3, 2));
    assert!(shown.iter().any(|words| words.contains("actor not found")), "{shown:?}");
    assert_eq!(client.store.deal_counts().await?.iter().map(|group| group.deals).sum::<i64>(), 1);
    Ok(())
}

/// Two lists serve two passes of each: a proposal stays open all the time, and another deal is followed.
#[tokio::test]
async fn proposer_and_tracker_share_a_list() -> anyhow::Result<()> {
    const LIST: &str = "Filecoin.ClientListDeals";
    let env = TestEnv::open().await?;
    write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, START).await?;
    client.pass().await?;
    let open = env.car("a payload of which nothing is known ")?;
    env.cars().insert_one(open.document()).await?;
    let mut unclear =
        Fault::on("Filecoin.ClientStartDeal", FaultKind::ApplicationError("datastore closed".to_owned()));
    unclear.params_contain = Some(open.payload_cid.clone());
    env.sim.inject(unclear);
    client.pass().await?;
    let due = || async {
        let now = doc! { "$set": { "nexttry": DateTime::from_millis(0) } };
        intents(&env).update_many(doc! { "state": "intended" }, now).await
    };
    let list = Arc::new(NodeDeals::shared(client.node.clone(), Duration::from_secs(60)));
    let mut proposer = client.proposer().with_node_deals(Arc::clone(&list));
    let mut tracker = client.tracker().with_node_deals(list);
    assert_eq!(env.sim.count(LIST), 0, "a first proposal is looked for nowhere");

    for lists in 1..=2 {
        due().await?;
        proposer.pass(Mode::Publish).await?;
        eventually!(within Duration::from_secs(30), proposer.is_idle(), "the proposal has been repeated");
        assert_eq!(env.sim.count(LIST), lists);
        let report = tracker.pass().await?;
        assert_eq!((report.followed, report.unknown, report.failed), (1, 0, 0), "{report:?}");
        assert_eq!(env.sim.count(LIST), lists, "the proposer's list serves tracking");
    }
    // Its list is taken by now, and what it lists serves the proposer.
    tracker.pass().await?;
    assert_eq!(env.sim.count(LIST), 3);
    due().await?;
    env.sim.clear_faults();
    proposer.pass(Mode::Publish).await?;
    assert_eq!(env.sim.count(LIST), 3, "the list of tracking serves the proposer");
    eventually!(within Duration::from_secs(30), proposer.is_idle(), "the proposal has been repeated");
    assert_eq!(deals(&env).await?.len(), 2);
    Ok(())
}
