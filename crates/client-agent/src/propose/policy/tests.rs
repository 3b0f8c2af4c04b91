use std::time::Duration;

use carferry_core::model::{AttoFil, DealDuration, Refusal};

use super::*;
use crate::propose::terms::{Limits, Target};
use crate::propose::test_intent::intent_of_tests;

const LIMITS: Limits = Limits {
    replicas_max: 10,
    deals_per_payload_and_miner_max: 2,
    open_deals_per_miner_max: None,
    deals_per_pass_max: None,
    failures_max: 3,
    failures_within: Duration::from_secs(30 * 24 * 3600),
};

const HEAD: ChainEpoch = ChainEpoch::new(0);

fn terms() -> TermsInForce {
    TermsInForce {
        duration: DealDuration::from_stored(518_400),
        start_delay_epochs: 20_160,
        collateral: None,
        verified: false,
    }
}

/// Offers at price 0, which take nothing.
fn offers(names: &[&str]) -> Vec<Offer> {
    names.iter().map(|name| offer(name, 0, 0)).collect()
}

/// An offer that costs so many attoFIL and bytes of datacap.
fn offer(miner: &str, cost: u128, datacap_bytes: u128) -> Offer {
    Offer {
        target: Target { miner: miner.to_owned(), price: AttoFil::ZERO },
        method: PublishMethod::Start,
        need: Need { cost: AttoFil::new(cost), datacap_bytes },
    }
}

fn budget(funds: u128, datacap_bytes: u128) -> PassBudget {
    PassBudget::new([], AttoFil::new(funds), datacap_bytes)
}

fn decided(
    payload_deals: &PayloadDeals,
    offers: &[Offer],
    limits: &Limits,
    budget: &mut PassBudget,
    now: SystemTime,
    head: ChainEpoch,
) -> Decision {
    let terms = terms();
    decide(
        payload_deals,
        offers,
        budget,
        &Situation { limits, terms: &terms, now, head, epochs_per_day: 2880 },
    )
}

fn pause(payload_deals: &PayloadDeals, miner: &str, now: SystemTime) -> Option<HoldReason> {
    pause_with(payload_deals, miner, now, &terms(), AttoFil::ZERO)
}

fn pause_with(
    payload_deals: &PayloadDeals,
    miner: &str,
    now: SystemTime,
    terms: &TermsInForce,
    price: AttoFil,
) -> Option<HoldReason> {
    let situation = Situation { limits: &LIMITS, terms, now, head: HEAD, epochs_per_day: 2880 };
    pause_of(payload_deals, miner, price, &situation)
}

fn deal(miner: &str, status: u64) -> StoredDeal {
    StoredDeal {
        proposal_cid: format!("deal with {miner}"),
        payload_cid: "p".into(),
        miner: miner.into(),
        status: DealStatus::from_lotus(status),
        status_message: None,
        imported: false,
        provider_status: None,
        intent: None,
        missed: false,
        failure_cleared: false,
        start_epoch: Some(10_000),
        updated: Some(bson::DateTime::from_millis(0)),
    }
}

fn intent(miner: &str, state: IntentState, updated_seconds: i64) -> IntentDoc {
    IntentDoc {
        id: format!("p#{miner}"),
        filecid: "p".into(),
        miner: miner.into(),
        state,
        updatedtime: Some(bson::DateTime::from_millis(updated_seconds * 1000)),
        ..intent_of_tests()
    }
}

fn names(decision: &Decision) -> Vec<&str> {
    decision.wanted.iter().map(|offer| offer.target.miner.as_str()).collect()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn the_notes_limits_give_two_deals_with_each_of_three_miners() {
    let decision =
        decided(&PayloadDeals::default(), &offers(&["a", "b", "c"]), &LIMITS, &mut budget(0, 0), at(0), HEAD);
    assert_eq!(names(&decision), ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn replicas_are_counted_over_all_miners_and_dead_deals_are_none() {
    let payload_deals =
        PayloadDeals { deals: vec![deal("a", 7), deal("b", 26), deal("x", 13)], intents: vec![] };
    let limits = Limits { replicas_max: 3, ..LIMITS };
    let decision =
        decided(&payload_deals, &offers(&["a", "b"]), &limits, &mut budget(0, 0), at(10_000), HEAD);
    assert_eq!(names(&decision), ["b"]);
}

#[test]
fn a_deal_that_its_provider_goes_on_with_is_a_replica_whatever_the_client_says() {
    for (at_provider, wanted) in [(29, 0), (7, 0), (18, 1), (26, 1)] {
        let mut given_up = deal("a", 26);
        given_up.provider_status = Some(DealStatus::from_lotus(at_provider));
        let payload_deals = PayloadDeals { deals: vec![given_up], intents: vec![] };
        let limits = Limits { replicas_max: 1, ..LIMITS };
        let decision = decided(&payload_deals, &offers(&["b"]), &limits, &mut budget(0, 0), at(0), HEAD);
        assert_eq!(decision.wanted.len(), wanted, "{at_provider}");
    }
}

#[test]
fn an_unsettled_intent_counts_once() {
    let mut recorded = deal("a", 0);
    recorded.intent = Some("p#a".into());
    let limits = Limits { deals_per_payload_and_miner_max: 1, ..LIMITS };
    for deals in [vec![], vec![recorded]] {
        let payload_deals = PayloadDeals { deals, intents: vec![intent("a", IntentState::Intended, 0)] };
        let decision = decided(&payload_deals, &offers(&["a", "b"]), &limits, &mut budget(0, 0), at(0), HEAD);
        assert_eq!(names(&decision), ["b"]);
    }
}

#[test]
fn open_deals_and_run_size_are_limits_over_many_payloads() {
    let limits = Limits { open_deals_per_miner_max: Some(2), deals_per_pass_max: Some(3), ..LIMITS };
    let mut budget = PassBudget::new([("a".to_owned(), 1)], AttoFil::ZERO, 0);
    let first = decided(&PayloadDeals::default(), &offers(&["a", "b"]), &limits, &mut budget, at(0), HEAD);
    assert_eq!(names(&first), ["a", "b", "b"]);
    let second = decided(&PayloadDeals::default(), &offers(&["b"]), &limits, &mut budget, at(0), HEAD);
    assert_eq!(second.wanted, []);
    assert_eq!(second.held, [(offer("b", 0, 0), HoldReason::RunIsFull)]);
}

#[test]
fn a_refusing_miner_is_paused_then_given_up_and_others_go_on() {
    let refused =
        |n: usize| PayloadDeals { deals: vec![], intents: vec![intent("a", IntentState::Refused, 1000); n] };
    for (failures, now, held) in [
        (1, 1100, Some(HoldReason::Pausing)),
        (1, 1601, None),
        (2, 1601, Some(HoldReason::Pausing)),
        (2, 2201, None),
        (3, 1_000_000, Some(HoldReason::GivenUp)),
    ] {
        let limits = Limits { deals_per_payload_and_miner_max: 1, ..LIMITS };
        let decision =
            decided(&refused(failures), &offers(&["a", "b"]), &limits, &mut budget(0, 0), at(now), HEAD);
        assert_eq!(names(&decision).contains(&"a"), held.is_none(), "{failures} at {now}");
        assert!(names(&decision).contains(&"b"));
    }
}

#[test]
fn refusals_that_pass_pause_a_miner_and_never_give_it_up() {
    let words = "deal rejected: miner is not accepting offline storage deals";
    let refused = IntentDoc { reason: Some(words.into()), ..intent("a", IntentState::Refused, 1000) };
    let failed = StoredDeal {
        status_message: Some(format!("StorageDealError: {words}")),
        updated: Some(bson::DateTime::from_millis(1_000_000)),
        ..deal("a", 26)
    };
    for (deals, intents) in [(vec![], vec![refused.clone(); 9]), (vec![failed; 9], vec![])] {
        let payload_deals = PayloadDeals { deals, intents };
        for (now, held) in [(1000 + 24 * 3600 - 1, Some(HoldReason::Pausing)), (1000 + 24 * 3600, None)] {
            assert_eq!(pause(&payload_deals, "a", at(now)), held, "{now}");
        }
    }
    let mut intents = vec![refused; 9];
    intents.extend(vec![intent("a", IntentState::Refused, 1000); 3]);
    let payload_deals = PayloadDeals { deals: vec![], intents };
    assert_eq!(pause(&payload_deals, "a", at(2_000_000)), Some(HoldReason::GivenUp));
}

#[test]
fn a_deal_that_missed_its_start_is_replaced_and_not_before_its_start_is_near() {
    let mut missed = deal("a", 18);
    missed.missed = true;
    let limits = Limits { replicas_max: 1, ..LIMITS };
    for (head, wanted) in [(7_000, 0), (7_121, 1), (20_000, 1)] {
        let payload_deals = PayloadDeals { deals: vec![missed.clone()], intents: vec![] };
        let head = ChainEpoch::new(head);
        let decision = decided(&payload_deals, &offers(&["b"]), &limits, &mut budget(0, 0), at(0), head);
        assert_eq!(decision.wanted.len(), wanted, "{head}");
    }
}

#[test]
fn a_deal_called_missed_that_goes_on_is_a_replica() {
    let limits = Limits { replicas_max: 1, ..LIMITS };
    let near = ChainEpoch::new(9_999);
    for (status, at_provider, wanted) in [(29, None, 0), (7, None, 0), (18, Some(24), 0), (18, Some(18), 1)] {
        let mut missed = deal("a", status);
        missed.missed = true;
        missed.provider_status = at_provider.map(DealStatus::from_lotus);
        let payload_deals = PayloadDeals { deals: vec![missed], intents: vec![] };
        let decision = decided(&payload_deals, &offers(&["b"]), &limits, &mut budget(0, 0), at(0), near);
        assert_eq!(decision.wanted.len(), wanted, "{status} {at_provider:?}");
    }
}

#[test]
fn what_was_agreed_counts_not_what_the_record_says() {
    let mut record = deal("a", 18);
    (record.miner, record.start_epoch, record.missed) = ("f09".into(), Some(1), true);
    let made = IntentDoc {
        dealcid: Some(record.proposal_cid.clone()),
        dealstatus: Some(18),
        startepoch: 10_000,
        ..intent("a", IntentState::Confirmed, 0)
    };
    let mut payload_deals = PayloadDeals { deals: vec![record], intents: vec![made] };
    payload_deals.by_intents();
    let limits = Limits { deals_per_payload_and_miner_max: 1, ..LIMITS };
    let decision = decided(&payload_deals, &offers(&["a"]), &limits, &mut budget(0, 0), at(0), HEAD);
    assert_eq!(decision.wanted, []);
}

#[test]
fn what_providers_can_write_makes_no_second_deal() {
    let confirmed = |status| IntentDoc { dealstatus: status, ..intent("a", IntentState::Confirmed, 0) };
    let mut said_dead = deal("a", 26);
    said_dead.intent = Some("p#a".into());
    let limits = Limits { replicas_max: 1, ..LIMITS };
    for (deals, noted, wanted) in [
        (vec![said_dead.clone()], Some(18), 0),
        (vec![said_dead.clone()], Some(26), 1),
        (vec![said_dead], None, 1),
        // The record was made another payload's.
        (vec![], Some(18), 0),
        (vec![], Some(26), 1),
    ] {
        let payload_deals = PayloadDeals { deals, intents: vec![confirmed(noted)] };
        let decision = decided(&payload_deals, &offers(&["b"]), &limits, &mut budget(0, 0), at(0), HEAD);
        assert_eq!(decision.wanted.len(), wanted, "{payload_deals:?}");
    }
}

#[test]
fn a_provider_that_cannot_be_paid_takes_no_slot_from_one_that_can() {
    let limits = Limits { replicas_max: 1, ..LIMITS };
    let offers = [offer("a", 1, 0), offer("b", 0, 0)];
    let decision = decided(&PayloadDeals::default(), &offers, &limits, &mut budget(0, 0), at(0), HEAD);
    assert_eq!(names(&decision), ["b"]);
    assert!(
        decision.held.iter().all(|(_, held)| *held != HoldReason::NoFunds),
        "nothing is missing: {decision:?}"
    );
    let decision = decided(&PayloadDeals::default(), &offers[..1], &limits, &mut budget(0, 0), at(0), HEAD);
    assert_eq!(decision.wanted, []);
    assert_eq!(decision.held, [(offer("a", 1, 0), HoldReason::NoFunds)]);
    let decision = decided(&PayloadDeals::default(), &offers, &limits, &mut budget(1, 0), at(0), HEAD);
    assert_eq!(names(&decision), ["a"]);
}

#[test]
fn what_cannot_be_paid_leaves_the_runs_quota_to_others() {
    let limits = Limits { replicas_max: 1, deals_per_pass_max: Some(10), ..LIMITS };
    let mut budget = budget(0, 1 << 20);
    for _ in 0..10 {
        let large = [offer("a", 0, 32 << 30)];
        let decision = decided(&PayloadDeals::default(), &large, &limits, &mut budget, at(0), HEAD);
        assert_eq!(decision.held, [(offer("a", 0, 32 << 30), HoldReason::NoDatacap)]);
    }
    let small = [offer("a", 0, 1 << 20)];
    let decision = decided(&PayloadDeals::default(), &small, &limits, &mut budget, at(0), HEAD);
    assert_eq!((names(&decision), budget.planned(), budget.datacap_bytes()), (vec!["a"], 1, 0));
}

#[test]
fn money_is_taken_from_payload_to_payload() {
    let limits = Limits { replicas_max: 3, deals_per_payload_and_miner_max: 1, ..LIMITS };
    let mut budget = budget(25, 0);
    let offers = [offer("a", 10, 0), offer("b", 10, 0), offer("c", 10, 0)];
    let first = decided(&PayloadDeals::default(), &offers, &limits, &mut budget, at(0), HEAD);
    assert_eq!((names(&first), budget.funds()), (vec!["a", "b"], AttoFil::new(5)));
    assert_eq!((first.held.last(), first.replicas), (Some(&(offer("c", 10, 0), HoldReason::NoFunds)), 2));
    let second = decided(&PayloadDeals::default(), &offers, &limits, &mut budget, at(0), HEAD);
    assert_eq!(names(&second), [""; 0]);
}

/// Three refusals of the deal itself, which give a provider up.
fn given_up(change: impl Fn(&mut IntentDoc)) -> PayloadDeals {
    let mut refused = intent("a", IntentState::Refused, 1000);
    refused.refusal = Some(Refusal::Deal);
    change(&mut refused);
    PayloadDeals { deals: vec![], intents: vec![refused; 3] }
}

#[test]
fn failures_are_forgotten_after_a_time() {
    let payload_deals = given_up(|_| {});
    let end = 1000 + 30 * 24 * 3600;
    assert_eq!(pause(&payload_deals, "a", at(end - 1)), Some(HoldReason::GivenUp));
    assert_eq!(pause(&payload_deals, "a", at(end)), None);
    let failed = StoredDeal { updated: Some(bson::DateTime::from_millis(1_000_000)), ..deal("a", 26) };
    let payload_deals = PayloadDeals { deals: vec![failed; 3], intents: vec![] };
    assert_eq!(pause(&payload_deals, "a", at(end - 1)), Some(HoldReason::GivenUp));
    assert_eq!(pause(&payload_deals, "a", at(end)), None);
}

#[test]
fn failures_belong_to_the_terms_they_were_met_with() {
    let payload_deals = given_up(|intent| {
        intent.startdelay = Some(20_160);
        intent.collateralsetting = Some("auto".into());
    });
    let now = at(10_000);
    assert_eq!(pause(&payload_deals, "a", now), Some(HoldReason::GivenUp));
    for other in [
        TermsInForce { start_delay_epochs: 10_080, ..terms() },
        TermsInForce { duration: DealDuration::from_stored(600_000), ..terms() },
        TermsInForce { collateral: Some(AttoFil::new(5)), ..terms() },
        TermsInForce { verified: true, ..terms() },
    ] {
        assert_eq!(pause_with(&payload_deals, "a", now, &other, AttoFil::ZERO), None, "{other:?}");
        // Older documents do not say their start delay and collateral.
        let old = given_up(|_| {});
        let says = other.duration != terms().duration || other.verified;
        assert_eq!(pause_with(&old, "a", now, &other, AttoFil::ZERO).is_none(), says, "{other:?}");
    }
    assert_eq!(pause_with(&payload_deals, "a", now, &terms(), AttoFil::new(1)), None, "another price");
}

#[test]
fn what_an_operator_cleared_does_not_count() {
    let cleared = Some(bson::DateTime::from_millis(2_000_000));
    assert_eq!(pause(&given_up(|intent| intent.failurecleared = cleared), "a", at(1100)), None);
    let failed = StoredDeal { updated: cleared, ..deal("a", 26) };
    let of_prototype = StoredDeal { failure_cleared: true, ..failed.clone() };
    for (failed, intents) in [
        (of_prototype, vec![]),
        (
            StoredDeal { intent: Some("p#a".into()), ..failed },
            vec![IntentDoc {
                failurecleared: cleared,
                dealstatus: Some(26),
                ..intent("a", IntentState::Confirmed, 0)
            }],
        ),
    ] {
        let payload_deals = PayloadDeals { deals: vec![failed; 3], intents };
        assert_eq!(pause(&payload_deals, "a", at(2001)), None, "{payload_deals:?}");
    }
}

#[test]
fn the_stored_class_of_a_refusal_decides_and_not_its_words() {
    let words = "deal rejected: miner is not accepting offline storage deals";
    let (now, later) = (at(10_000), at(1000 + 24 * 3600));
    let by_words = given_up(|intent| (intent.refusal, intent.reason) = (None, Some(words.into())));
    assert_eq!(pause(&by_words, "a", later), None, "older documents are classified by their words");
    let by_class = given_up(|intent| intent.reason = Some(words.into()));
    assert_eq!(pause(&by_class, "a", later), Some(HoldReason::GivenUp));
    let settings = given_up(|intent| intent.refusal = Some(Refusal::Settings));
    assert_eq!(
        (pause(&settings, "a", at(1100)), pause(&settings, "a", now)),
        (Some(HoldReason::Pausing), None)
    );
}

#[test]
fn a_provider_whose_filter_of_deals_fails_is_asked_again_soon_and_ever_less_often() {
    let words = "provider returned unexpected state 11 for proposal bafy, with message: deal rejected: custom deal \
                 decision logic failed: open /mnt/config.toml: too many open files";
    let failed = |times| {
        let refused = IntentDoc { reason: Some(words.into()), ..intent("a", IntentState::Refused, 1000) };
        PayloadDeals { deals: vec![], intents: vec![refused; times] }
    };
    for (times, pause_seconds) in [(1, 60), (2, 120), (3, 240), (8, 7680), (40, 24 * 3600)] {
        let payload_deals = failed(times);
        assert_eq!(
            pause(&payload_deals, "a", at(1000 + pause_seconds - 1)),
            Some(HoldReason::Pausing),
            "{times}"
        );
        assert_eq!(pause(&payload_deals, "a", at(1000 + pause_seconds)), None, "{times}");
    }
}

#[test]
fn data_that_came_too_late_gives_no_provider_up() {
    let missed = StoredDeal { missed: true, start_epoch: Some(1), ..deal("a", 18) };
    let payload_deals = PayloadDeals { deals: vec![missed; 3], intents: vec![] };
    assert_eq!(pause(&payload_deals, "a", at(10_000)), None);
    assert_eq!(pause(&payload_deals, "a", at(1000)), Some(HoldReason::Pausing));
}
