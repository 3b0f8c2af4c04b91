//! Which deals are wanted: cars × providers × limits − what stands already. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use carferry_core::{
    model::{AttoFil, ChainEpoch, DealPhase, DealStatus, IntentDoc, IntentState},
    store::StoredDeal,
};

use super::passing::is_passing;

/// What a run may do. See `configs/client-agent.yaml` for the keys.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Replicas of a payload over all providers (`maxDealNums`).
    pub replicas_max: usize,
    /// Deals of one payload with one provider (`minerMaxDeals`).
    pub deals_per_payload_and_miner_max: usize,
    /// Deals of one provider that wait for their import (`maxOpenDealsPerMiner`).
    pub open_deals_per_miner_max: Option<u64>,
    /// New deals in one pass (`maxDealsPerRun`).
    pub deals_per_pass_max: Option<u64>,
    /// Refused or failed deals of one payload with one provider after which it is left alone
    /// (`maxFailedDeals`); refusals for reasons that pass do not count.
    pub failures_max: usize,
}

/// A provider from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address, as written in the configuration.
    pub miner: String,
    /// FIL per epoch for the whole piece.
    pub price: AttoFil,
}

/// All that is known of one payload's deals.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Recorded deals.
    pub deals: Vec<StoredDeal>,
    /// Every intent ever written.
    pub intents: Vec<IntentDoc>,
}

impl Picture {
    /// Takes what was agreed from the intents: records of deals can be written by every provider.
    pub fn by_intents(&mut self) {
        for deal in &mut self.deals {
            let made_of = |intent: &&IntentDoc| intent.dealcid.as_deref() == Some(&deal.proposal_cid);
            if let Some(intent) = self.intents.iter().find(made_of) {
                deal.miner.clone_from(&intent.miner);
                deal.start_epoch = Some(intent.startepoch);
                deal.intent = Some(intent.id.clone());
            }
        }
    }
}

/// Why a payload gets no (further) deal with a provider now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// `maxDealNums` is reached: nothing is missing.
    EnoughReplicas,
    /// `minerMaxDeals` is reached with this provider.
    EnoughWithMiner,
    /// `maxOpenDealsPerMiner` is reached.
    TooManyOpen,
    /// `maxDealsPerRun` is reached.
    RunIsFull,
    /// Failed lately: tried again later.
    Pausing,
    /// Failed `maxFailedDeals` times: an operator must look.
    GivenUp,
}

impl Held {
    /// For reports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::EnoughReplicas => "enough replicas (maxDealNums)",
            Self::EnoughWithMiner => "enough deals with this miner (minerMaxDeals)",
            Self::TooManyOpen => "too many open deals with this miner (maxOpenDealsPerMiner)",
            Self::RunIsFull => "run is full (maxDealsPerRun)",
            Self::Pausing => "failed lately, tried again later",
            Self::GivenUp => "failed too often (maxFailedDeals)",
        }
    }
}

/// First pause after a refusal; doubles with each further one.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(600);
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Counts that a pass carries from payload to payload.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    open_per_miner: BTreeMap<String, u64>,
    planned: u64,
}

impl Ledger {
    /// Starts from the open deals that stand.
    pub fn new(open_per_miner: impl IntoIterator<Item = (String, u64)>) -> Self {
        Self { open_per_miner: open_per_miner.into_iter().collect(), planned: 0 }
    }

    /// Deals planned so far in this pass.
    pub fn planned(&self) -> u64 {
        self.planned
    }

    /// Counts a proposal that is under way.
    pub fn add_open(&mut self, miner: &str) {
        *self.open_per_miner.entry(miner.to_owned()).or_insert(0) += 1;
    }

    fn open_with(&self, miner: &str) -> u64 {
        self.open_per_miner.get(miner).copied().unwrap_or(0)
    }

    fn take(&mut self, miner: &str) {
        self.add_open(miner);
        self.planned += 1;
    }
}

/// What one payload gets in this pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One proposal each, in this order. A provider may stand more than once.
    pub wanted: Vec<Target>,
    /// Providers that get none, and why.
    pub held: Vec<(String, Held)>,
}

/// Deals wanted for one payload: as many as the limits leave, the provider with the fewest first.
/// `eligible` are the providers that may get this payload at all (see `preflight`).
pub fn decide(
    picture: &Picture,
    eligible: &[Target],
    limits: &Limits,
    ledger: &mut Ledger,
    now: SystemTime,
    head: ChainEpoch,
) -> Decision {
    let mut decision = Decision::default();
    let mut live_with: BTreeMap<&str, usize> = BTreeMap::new();
    for miner in live_miners(picture, head) {
        *live_with.entry(miner).or_insert(0) += 1;
    }
    let mut live: usize = live_with.values().sum();

    let mut candidates: Vec<&Target> = Vec::new();
    for target in eligible {
        match pause_of(picture, &target.miner, limits, now, head) {
            Some(held) => decision.held.push((target.miner.clone(), held)),
            None => candidates.push(target),
        }
    }

    while live < limits.replicas_max && !candidates.is_empty() {
        if limits.deals_per_pass_max.is_some_and(|max| ledger.planned >= max) {
            decision.held.extend(candidates.drain(..).map(|target| (target.miner.clone(), Held::RunIsFull)));
            return decision;
        }
        candidates.retain(|target| {
            let held = if live_with.get(target.miner.as_str()).copied().unwrap_or(0)
                >= limits.deals_per_payload_and_miner_max
            {
                Held::EnoughWithMiner
            } else if limits
                .open_deals_per_miner_max
                .is_some_and(|max| ledger.open_with(&target.miner) >= max)
            {
                Held::TooManyOpen
            } else {
                return true;
            };
            decision.held.push((target.miner.clone(), held));
            false
        });
        // The configuration's order breaks ties: `min_by_key` keeps the first.
        let Some(next) =
            candidates.iter().min_by_key(|t| live_with.get(t.miner.as_str()).copied().unwrap_or(0))
        else {
            break;
        };
        *live_with.entry(next.miner.as_str()).or_insert(0) += 1;
        live += 1;
        ledger.take(&next.miner);
        decision.wanted.push((*next).clone());
    }
    decision.held.extend(candidates.into_iter().map(|target| (target.miner.clone(), Held::EnoughReplicas)));
    decision
}

/// Epochs before a deal's start within which its provider may call it missed (24 h, the time that Lotus gives
/// sealing by default: lotus v1.23.3 `node/config/def.go`, `ExpectedSealDuration`). Earlier, a provider that says
/// so is not believed: its word would cost another deal.
const MISSED_WITHIN: i64 = 2880;

/// The providers of every deal that counts: recorded and not dead, or intended and not yet recorded.
fn live_miners(picture: &Picture, head: ChainEpoch) -> impl Iterator<Item = &str> {
    let recorded =
        picture.deals.iter().filter(move |deal| is_live(picture, deal, head)).map(|deal| deal.miner.as_str());
    let intended = picture
        .intents
        .iter()
        .filter(|intent| {
            // A confirmed one whose record is gone, or does not name it any more, is a deal all the same.
            let stands = match intent.state {
                IntentState::Intended => true,
                IntentState::Confirmed => status_of(intent).is_none_or(DealStatus::is_live),
                IntentState::Refused | IntentState::Abandoned => false,
            };
            stands && !picture.deals.iter().any(|deal| deal.intent.as_deref() == Some(&intent.id))
        })
        .map(|intent| intent.miner.as_str());
    recorded.chain(intended)
}

/// Whether a recorded deal counts as a replica.
///
/// Providers can write to `offlinedeals`, not to `dealintents`: a deal is dead when what client-agent noted
/// there says so too.
fn is_live(picture: &Picture, deal: &StoredDeal, head: ChainEpoch) -> bool {
    let intent = picture.intents.iter().find(|intent| deal.intent.as_deref() == Some(&intent.id));
    let noted = intent.and_then(status_of);
    let goes_on = |status: DealStatus| matches!(status.phase(), DealPhase::Progressing | DealPhase::Active);
    let is_near = deal.start_epoch.is_some_and(|start| head.plus(MISSED_WITHIN) > ChainEpoch::new(start));
    let seen = [Some(deal.status), deal.provider_status, noted];
    if deal.missed && is_near && !seen.into_iter().flatten().any(goes_on) {
        return false;
    }
    deal.is_live() || noted.is_some_and(DealStatus::is_live)
}

fn status_of(intent: &IntentDoc) -> Option<DealStatus> {
    intent.dealstatus.and_then(|status| u64::try_from(status).ok()).map(DealStatus::from_lotus)
}

fn pause_of(
    picture: &Picture,
    miner: &str,
    limits: &Limits,
    now: SystemTime,
    head: ChainEpoch,
) -> Option<Held> {
    // Of each: when it was, and whether it counts. A reason that passes is worth a pause, but is none to give up.
    let refused = picture
        .intents
        .iter()
        .filter(|intent| intent.miner == miner && intent.state == IntentState::Refused)
        .filter_map(|intent| {
            let passes = intent.reason.as_deref().is_some_and(is_passing);
            Some((intent.updatedtime?.to_system_time(), !passes))
        });
    let failed = picture
        .deals
        .iter()
        .filter(|deal| {
            let expired = deal.status.phase() == DealPhase::Expired;
            deal.miner == miner && !expired && !is_live(picture, deal, head)
        })
        .map(|deal| {
            let when = deal.updated.map_or(SystemTime::UNIX_EPOCH, bson::DateTime::to_system_time);
            (when, !deal.status_message.as_deref().is_some_and(is_passing))
        });
    let failures: Vec<(SystemTime, bool)> = refused.chain(failed).collect();
    let last = failures.iter().map(|(when, _)| when).max()?;
    if failures.iter().filter(|(_, counts)| *counts).count() >= limits.failures_max {
        return Some(Held::GivenUp);
    }
    let doublings = u32::try_from(failures.len().saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let pause = PAUSE_AFTER_FAILURE.saturating_mul(1 << doublings).min(PAUSE_MAX);
    (now < *last + pause).then_some(Held::Pausing)
}

#[cfg(test)]
mod tests {
    use carferry_core::model::PublishMethod;

    use super::*;

    const LIMITS: Limits = Limits {
        replicas_max: 10,
        deals_per_payload_and_miner_max: 2,
        open_deals_per_miner_max: None,
        deals_per_pass_max: None,
        failures_max: 3,
    };

    const HEAD: ChainEpoch = ChainEpoch::new(0);

    fn targets(names: &[&str]) -> Vec<Target> {
        names.iter().map(|name| Target { miner: (*name).to_owned(), price: AttoFil::ZERO }).collect()
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
            start_epoch: Some(10_000),
            updated: Some(bson::DateTime::from_millis(0)),
        }
    }

    fn intent(miner: &str, state: IntentState, updated_seconds: i64) -> IntentDoc {
        IntentDoc {
            id: format!("p#{miner}"),
            filecid: "p".into(),
            miner: miner.into(),
            wallet: String::new(),
            piececid: String::new(),
            dealsizebytes: 127,
            carpath: String::new(),
            priceattofil: "0".into(),
            duration: 518_400,
            startepoch: 1,
            providercollateral: "0".into(),
            verified: false,
            fastretrieval: true,
            method: PublishMethod::Start,
            owner: "box".into(),
            state,
            dealcid: None,
            dealstatus: None,
            dealstatusby: None,
            endseen: None,
            dealid: None,
            reason: None,
            tries: None,
            nexttry: None,
            createdtime: None,
            updatedtime: Some(bson::DateTime::from_millis(updated_seconds * 1000)),
        }
    }

    fn names(decision: &Decision) -> Vec<&str> {
        decision.wanted.iter().map(|target| target.miner.as_str()).collect()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_notes_limits_give_two_deals_with_each_of_three_miners() {
        let decision = decide(
            &Picture::default(),
            &targets(&["a", "b", "c"]),
            &LIMITS,
            &mut Ledger::default(),
            at(0),
            HEAD,
        );
        assert_eq!(names(&decision), ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn replicas_are_counted_over_all_miners_and_dead_deals_are_none() {
        let picture = Picture { deals: vec![deal("a", 7), deal("b", 26), deal("x", 13)], intents: vec![] };
        let limits = Limits { replicas_max: 3, ..LIMITS };
        let decision =
            decide(&picture, &targets(&["a", "b"]), &limits, &mut Ledger::default(), at(10_000), HEAD);
        assert_eq!(names(&decision), ["b"]);
    }

    #[test]
    fn a_deal_that_its_provider_goes_on_with_is_a_replica_whatever_the_client_says() {
        for (at_provider, wanted) in [(29, 0), (7, 0), (18, 1), (26, 1)] {
            let mut given_up = deal("a", 26);
            given_up.provider_status = Some(DealStatus::from_lotus(at_provider));
            let picture = Picture { deals: vec![given_up], intents: vec![] };
            let limits = Limits { replicas_max: 1, ..LIMITS };
            let decision = decide(&picture, &targets(&["b"]), &limits, &mut Ledger::default(), at(0), HEAD);
            assert_eq!(decision.wanted.len(), wanted, "{at_provider}");
        }
    }

    #[test]
    fn an_unsettled_intent_counts_once() {
        let mut recorded = deal("a", 0);
        recorded.intent = Some("p#a".into());
        let limits = Limits { deals_per_payload_and_miner_max: 1, ..LIMITS };
        for deals in [vec![], vec![recorded]] {
            let picture = Picture { deals, intents: vec![intent("a", IntentState::Intended, 0)] };
            let decision =
                decide(&picture, &targets(&["a", "b"]), &limits, &mut Ledger::default(), at(0), HEAD);
            assert_eq!(names(&decision), ["b"]);
        }
    }

    #[test]
    fn open_deals_and_run_size_are_limits_over_many_payloads() {
        let limits = Limits { open_deals_per_miner_max: Some(2), deals_per_pass_max: Some(3), ..LIMITS };
        let mut ledger = Ledger::new([("a".to_owned(), 1)]);
        let first = decide(&Picture::default(), &targets(&["a", "b"]), &limits, &mut ledger, at(0), HEAD);
        assert_eq!(names(&first), ["a", "b", "b"]);
        let second = decide(&Picture::default(), &targets(&["b"]), &limits, &mut ledger, at(0), HEAD);
        assert_eq!(second.wanted, []);
        assert_eq!(second.held, [("b".to_owned(), Held::RunIsFull)]);
    }

    #[test]
    fn a_refusing_miner_is_paused_then_given_up_and_others_go_on() {
        let refused =
            |n: usize| Picture { deals: vec![], intents: vec![intent("a", IntentState::Refused, 1000); n] };
        for (failures, now, held) in [
            (1, 1100, Some(Held::Pausing)),
            (1, 1601, None),
            (2, 1601, Some(Held::Pausing)),
            (2, 2201, None),
            (3, 1_000_000, Some(Held::GivenUp)),
        ] {
            let limits = Limits { deals_per_payload_and_miner_max: 1, ..LIMITS };
            let decision = decide(
                &refused(failures),
                &targets(&["a", "b"]),
                &limits,
                &mut Ledger::default(),
                at(now),
                HEAD,
            );
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
            let picture = Picture { deals, intents };
            for (now, held) in [(1000 + 24 * 3600 - 1, Some(Held::Pausing)), (1000 + 24 * 3600, None)] {
                assert_eq!(pause_of(&picture, "a", &LIMITS, at(now), HEAD), held, "{now}");
            }
        }
        let mut intents = vec![refused; 9];
        intents.extend(vec![intent("a", IntentState::Refused, 1000); 3]);
        let picture = Picture { deals: vec![], intents };
        assert_eq!(pause_of(&picture, "a", &LIMITS, at(10_000_000), HEAD), Some(Held::GivenUp));
    }

    #[test]
    fn a_deal_that_missed_its_start_is_replaced_and_not_before_its_start_is_near() {
        let mut missed = deal("a", 18);
        missed.missed = true;
        let limits = Limits { replicas_max: 1, ..LIMITS };
        for (head, wanted) in [(7_000, 0), (7_121, 1), (20_000, 1)] {
            let picture = Picture { deals: vec![missed.clone()], intents: vec![] };
            let head = ChainEpoch::new(head);
            let decision = decide(&picture, &targets(&["b"]), &limits, &mut Ledger::default(), at(0), head);
            assert_eq!(decision.wanted.len(), wanted, "{head}");
        }
    }

    #[test]
    fn a_deal_called_missed_that_goes_on_is_a_replica() {
        let limits = Limits { replicas_max: 1, ..LIMITS };
        let near = ChainEpoch::new(9_999);
        for (status, at_provider, wanted) in
            [(29, None, 0), (7, None, 0), (18, Some(24), 0), (18, Some(18), 1)]
        {
            let mut missed = deal("a", status);
            missed.missed = true;
            missed.provider_status = at_provider.map(DealStatus::from_lotus);
            let picture = Picture { deals: vec![missed], intents: vec![] };
            let decision = decide(&picture, &targets(&["b"]), &limits, &mut Ledger::default(), at(0), near);
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
        let mut picture = Picture { deals: vec![record], intents: vec![made] };
        picture.by_intents();
        let limits = Limits { deals_per_payload_and_miner_max: 1, ..LIMITS };
        let decision = decide(&picture, &targets(&["a"]), &limits, &mut Ledger::default(), at(0), HEAD);
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
            let picture = Picture { deals, intents: vec![confirmed(noted)] };
            let decision = decide(&picture, &targets(&["b"]), &limits, &mut Ledger::default(), at(0), HEAD);
            assert_eq!(decision.wanted.len(), wanted, "{picture:?}");
        }
    }
}
