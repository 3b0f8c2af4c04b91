//! Failures that count against a CAR with a provider: refusals and failed deals of the last days, met with
//! the terms in force.

use std::time::{Duration, SystemTime};

use carferry_core::model::{AttoFil, DealDuration, DealPhase, IntentDoc, IntentState, Refusal};
use carferry_core::store::StoredDeal;

use crate::propose::policy::{HoldReason, PayloadDeals, Situation, is_live};

/// First pause after a refusal; doubles with each further one.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(600);
/// First pause after a refusal that a failure of the provider's own programs gave. The provider keeps the
/// refused proposal for ever: the next one needs a later start, so this is longer than an epoch.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What deals are proposed with, apart from the provider's price. A refusal of other terms says nothing of
/// these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermsInForce {
    /// How long deals run.
    pub duration: DealDuration,
    /// Epochs from a proposal to its start.
    pub start_delay_epochs: i64,
    /// Collateral as the settings have it; `None`: chosen by the network's minimum.
    pub collateral: Option<AttoFil>,
    /// Whether deals spend datacap.
    pub verified: bool,
}

/// How the settings' collateral is stored in an intent.
pub(in crate::propose) fn stored_collateral(setting: Option<AttoFil>) -> String {
    setting.map_or_else(|| "auto".to_owned(), AttoFil::to_lotus)
}

impl TermsInForce {
    /// Whether this proposal was made with these terms, at this price. What older documents do not say is
    /// taken for equal.
    fn are_those_of(&self, intent: &IntentDoc, price: AttoFil) -> bool {
        intent.priceattofil == price.to_lotus()
            && intent.duration == self.duration.get()
            && intent.verified == self.verified
            && intent.startdelay.is_none_or(|delay| delay == self.start_delay_epochs)
            && intent
                .collateralsetting
                .as_deref()
                .is_none_or(|setting| setting == stored_collateral(self.collateral))
    }
}

/// A refusal or failure that is not forgotten.
struct Failure {
    when: SystemTime,
    about: Refusal,
}

/// Why a provider is left alone with this payload now.
pub(super) fn pause_of(
    payload_deals: &PayloadDeals,
    miner: &str,
    price: AttoFil,
    situation: &Situation<'_>,
) -> Option<HoldReason> {
    let refused = payload_deals
        .intents
        .iter()
        .filter(|intent| intent.miner == miner && intent.state == IntentState::Refused)
        .filter_map(|intent| of_intent(intent, price, situation));
    let failed = payload_deals
        .deals
        .iter()
        .filter(|deal| {
            let expired = deal.status.phase() == DealPhase::Expired;
            deal.miner == miner && !expired && !is_live(payload_deals, deal, situation)
        })
        .filter_map(|deal| of_deal(payload_deals, deal, price, situation));
    let failures: Vec<Failure> =
        refused.chain(failed).filter(|failure| is_recent(failure, situation)).collect();
    let last = failures.iter().max_by_key(|failure| failure.when)?;
    if failures.iter().filter(|failure| failure.about.counts()).count() >= situation.limits.failures_max {
        return Some(HoldReason::GivenUp);
    }
    let doublings = u32::try_from(failures.len().saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let first = if last.about == Refusal::Trouble { PAUSE_AFTER_TROUBLE } else { PAUSE_AFTER_FAILURE };
    let pause = first.saturating_mul(1 << doublings).min(PAUSE_MAX);
    (situation.now < last.when + pause).then_some(HoldReason::Pausing)
}

fn is_recent(failure: &Failure, situation: &Situation<'_>) -> bool {
    situation.now < failure.when + situation.limits.failures_within
}

fn of_intent(intent: &IntentDoc, price: AttoFil, situation: &Situation<'_>) -> Option<Failure> {
    let stands = intent.failurecleared.is_none() && situation.terms.are_those_of(intent, price);
    stands.then_some(())?;
    Some(Failure { when: intent.updatedtime?.to_system_time(), about: intent.refusal_class() })
}

fn of_deal(
    payload_deals: &PayloadDeals,
    deal: &StoredDeal,
    price: AttoFil,
    situation: &Situation<'_>,
) -> Option<Failure> {
    let intent = payload_deals.intents.iter().find(|intent| deal.intent.as_deref() == Some(&intent.id));
    let is_of_other_terms = |intent: &IntentDoc| !situation.terms.are_those_of(intent, price);
    let is_cleared = deal.failure_cleared || intent.is_some_and(|intent| intent.failurecleared.is_some());
    if is_cleared || intent.is_some_and(is_of_other_terms) {
        return None;
    }
    let by_words = || deal.status_message.as_deref().map_or(Refusal::Deal, Refusal::of_words);
    let about = match intent.and_then(|intent| intent.refusal) {
        // The data came too late, or not at all.
        _ if deal.missed => Refusal::Moment,
        Some(refusal) => refusal,
        None => by_words(),
    };
    let when = deal.updated.map_or(SystemTime::UNIX_EPOCH, bson::DateTime::to_system_time);
    Some(Failure { when, about })
}
