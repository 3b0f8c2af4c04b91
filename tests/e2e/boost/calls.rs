//! Calls to Boost beside other callers, calls without an answer, and agents that are killed between them.

use boost_sim::{BoostConfig, Checkpoint, DealFault, DealFaultKind, Endpoint, Fault, FaultKind, Hold};
use harness::test_env::{Boost, BoostDeal};
use harness::{eventually, eventually_eq};

use crate::boost::{checkpoint, is_being_read, is_closed_by_one_call, looked_at_again};

const IMPORT: &str = "Filecoin.BoostOfflineDealWithData";

async fn reason(env: &Boost, deal: &BoostDeal) -> String {
    env.import_field(&deal.cid, "reason").await.unwrap()
}

fn path(deal: &BoostDeal) -> &str {
    deal.car.path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn deal_imported_by_hand_is_closed_without_a_call() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("by hand").await.unwrap();
    env.import_past_agents(&deal, path(&deal)).await.unwrap();
    eventually!(checkpoint(&env, &deal) >= Checkpoint::AddedPiece, "Boost has it");
    let _agent = env.agent(&[]).unwrap();
    is_closed_by_one_call(&env, &deal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deal_that_another_caller_has_handed_over_is_waited_for_without_a_call() {
    let env = Boost::open().await.unwrap();
    env.boost.hold(Hold::Commp);
    let deal = env.deal_recorded("taken").await.unwrap();
    env.import_past_agents(&deal, path(&deal)).await.unwrap();
    eventually!(is_being_read(&env, &deal), "Boost has a file");
    let _agent = env.agent(&[]).unwrap();
    eventually_eq!(env.import_field(&deal.cid, "state").await.unwrap(), "handed", "it is in Boost's hand");
    looked_at_again(&env, &deal).await;
    assert_eq!((env.import_calls().len(), env.tagged(&deal)), (1, 1), "the other caller's");
    assert!(!env.is_imported(&deal.cid).await.unwrap());
    env.boost.release(Hold::Commp);
    is_closed_by_one_call(&env, &deal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deal_that_is_dead_at_boost_fails_with_its_words_and_without_a_call() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("dead").await.unwrap();
    env.import_past_agents(&deal, "/nowhere/at/all.car").await.unwrap();
    eventually_eq!(checkpoint(&env, &deal), Checkpoint::Complete, "the deal dies of that");
    let _agent = env.agent(&[]).unwrap();
    eventually_eq!(env.import_field(&deal.cid, "state").await.unwrap(), "failed", "the deal fails");
    let words = env.boost.deal(&deal.uuid).unwrap().err;
    assert!(!words.is_empty() && reason(&env, &deal).await.contains(&words), "{words}");
    is_closed_by_one_call(&env, &env.deal_recorded("another").await.unwrap()).await;
    assert!(!env.is_imported(&deal.cid).await.unwrap());
    assert_eq!(env.tagged(&deal), 1, "the dead one's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn proposal_that_boost_does_not_know_waits_and_is_imported_when_it_comes() {
    let env = Boost::open().await.unwrap();
    let car = env.car("later").unwrap();
    let proposal = boost_sim::Proposal {
        uuid: Some("0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f".to_owned()),
        ..Boost::proposal(&car)
    };
    // Another Boost names it: the proposal CID depends on the terms and the signature alone.
    let elsewhere = boost_sim::start(BoostConfig::instant()).await.unwrap();
    let names = elsewhere.propose(&proposal).unwrap();
    let deal = BoostDeal {
        car: car.clone(),
        cid: names.signed_proposal_cid,
        uuid: names.uuid,
        start_epoch: proposal.start_epoch,
    };
    env.record_boost(&deal).await.unwrap();
    let _agent = env.agent(&[]).unwrap();
    let words = "the provider does not know the proposal yet";
    eventually_eq!(reason(&env, &deal).await, words, "the deal waits");
    looked_at_again(&env, &deal).await;
    assert_eq!(env.import_field(&deal.cid, "state").await.unwrap(), "waiting");
    assert_eq!(env.propose_as(&car, &proposal).unwrap().cid, deal.cid);
    is_closed_by_one_call(&env, &deal).await;
}

/// Boost's database fails now and then, and a row may be one that it never reads again.
#[tokio::test(flavor = "multi_thread")]
async fn row_that_boost_cannot_read_is_asked_for_again_and_holds_no_other_deal() {
    let env = Boost::open().await.unwrap();
    let null = env.deal_recorded("null").await.unwrap();
    let zeros = env.deal_recorded("zeros").await.unwrap();
    env.boost.inject_deal(DealFault::of(&null.uuid, DealFaultKind::LookupNull));
    env.boost.inject_deal(DealFault::of(&zeros.uuid, DealFaultKind::LookupFails));
    let _agent = env.agent(&[]).unwrap();
    for deal in [&null, &zeros] {
        eventually!(env.looks_at(deal) > 0, "the deal is looked at");
        looked_at_again(&env, deal).await;
    }
    for other in env.deals_recorded(3).await.unwrap() {
        is_closed_by_one_call(&env, &other).await;
    }
    for deal in [&null, &zeros] {
        assert_eq!(env.tagged(deal), 0);
        let state = env.import_field(&deal.cid, "state").await.unwrap();
        assert!(
            ["waiting", "retrying"].contains(&state.as_str()),
            "{state}: no end by a row that is not read"
        );
    }
    env.boost.clear_faults();
    for deal in [&null, &zeros] {
        is_closed_by_one_call(&env, deal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_whose_answer_is_lost_is_not_made_twice() {
    for kind in [FaultKind::DropAfterWork, FaultKind::CutAnswer] {
        let env = Boost::open().await.unwrap();
        env.boost.hold(Hold::Commp);
        let deal = env.deal_recorded("lost").await.unwrap();
        env.boost.inject(Fault::on(IMPORT, kind.clone()).times(1));
        let _agent = env.agent(&[]).unwrap();
        eventually!(is_being_read(&env, &deal), "{kind:?}: Boost has the file");
        looked_at_again(&env, &deal).await;
        assert_eq!(env.import_calls().len(), 1, "{kind:?}");
        env.boost.release(Hold::Commp);
        is_closed_by_one_call(&env, &deal).await;
        assert_eq!(env.import_calls().len(), 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_that_never_arrived_is_made_again() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("never arrived").await.unwrap();
    env.boost.inject(Fault::on(IMPORT, FaultKind::DropBefore).times(2));
    let _agent = env.agent(&[]).unwrap();
    is_closed_by_one_call(&env, &deal).await;
    assert_eq!(env.import_calls().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_around_its_call_leaves_one_call_in_effect_to_all_that_follow() {
    let env = Boost::open().await.unwrap();
    for point in ["import.assessed", "import.noted", "import.called", "import.confirmed", "import.finished"] {
        env.boost.hold(Hold::Commp);
        let deal = env.deal_recorded(point).await.unwrap();
        let mut killed = env.agent_to(point).unwrap();
        eventually!(!killed.is_running(), "the agent dies at {point}");
        let had_called = !["import.assessed", "import.noted"].contains(&point);
        assert_eq!(is_being_read(&env, &deal), had_called, "{point}");
        // The next one finds another deal as well, and has one slot.
        let other = env.deal_recorded(&format!("beside {point}")).await.unwrap();
        let mut next = env.agent(&["--imports-per-miner", "1"]).unwrap();
        eventually!(env.boost.counters().imports.now == 1, "{point}: one file is in Boost's hand");
        let taken = if is_being_read(&env, &deal) { &deal } else { &other };
        looked_at_again(&env, taken).await;
        env.boost.release(Hold::Commp);
        for deal in [&deal, &other] {
            is_closed_by_one_call(&env, deal).await;
        }
        next.kill9().unwrap();
    }
    assert_eq!(env.boost.counters().imports.most, 1, "one deal at a time in Boost's hand");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_at_once_hand_each_deal_over_once() {
    let env = Boost::open().await.unwrap();
    let before = env.deals_recorded(15).await.unwrap();
    let _agents = [env.agent(&[]).unwrap(), env.agent(&["--imports-per-miner", "4"]).unwrap()];
    let mut deals = before;
    for number in 0..15 {
        deals.push(env.deal_recorded(&format!("recorded later {number}")).await.unwrap());
    }
    for deal in &deals {
        is_closed_by_one_call(&env, deal).await;
    }
    assert_eq!(env.import_calls().len(), deals.len());
    assert_eq!(env.boost.counters().threads_of_a_deal_most, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn boost_that_is_away_for_a_while_is_waited_for() {
    let env = Boost::open().await.unwrap();
    env.boost.take_down(Endpoint::Rpc).await;
    let deals = env.deals_recorded(5).await.unwrap();
    let agent = env.agent(&[]).unwrap();
    eventually!(agent.has_logged("the market node cannot be worked with").unwrap(), "the agent says so");
    env.boost.bring_up(Endpoint::Rpc).unwrap();
    for deal in &deals {
        is_closed_by_one_call(&env, deal).await;
        let failed = env.import_of(&deal.cid).await.unwrap().get_i64("attempts").unwrap_or(0);
        assert_eq!(failed, 0, "no deal is blamed");
    }
}
