//! Deal policy: which deals are wanted, by CARs, providers and limits, less the deals that exist. Pure.

mod failures;

use std::collections::BTreeMap;
use std::time::SystemTime;

use carferry_core::model::{ChainEpoch, DealPhase, DealStatus, IntentDoc, IntentState, PublishMethod};
use carferry_core::store::StoredDeal;

use crate::propose::budget::{Need, PassBudget};
pub use crate::propose::policy::failures::TermsInForce;
use crate::propose::policy::failures::pause_of;
pub(super) use crate::propose::policy::failures::stored_collateral;
use crate::propose::terms::{Limits, Target};

/// A deal that could be proposed: to whom, by which call, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// With whom.
    pub target: Target,
    /// By which call.
    pub method: PublishMethod,
    /// What it takes from the budget.
    pub need: Need,
}

/// What is the same for all payloads of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What a run may do.
    pub limits: &'a Limits,
    /// What deals are proposed with.
    pub terms: &'a TermsInForce,
    /// The database server's time.
    pub now: SystemTime,
    /// Head of the chain.
    pub head: ChainEpoch,
    /// Epochs that a day has on this network.
    pub epochs_per_day: i64,
}

/// All that is known of one payload's deals.
#[derive(Clone, Debug, Default)]
pub struct PayloadDeals {
    /// Recorded deals.
    pub deals: Vec<StoredDeal>,
    /// Every intent ever written.
    pub intents: Vec<IntentDoc>,
}

impl PayloadDeals {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldReason {
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
    /// The wallet has not enough left for it.
    NoFunds,
    /// The wallet has not enough datacap left for it.
    NoDatacap,
}

impl HoldReason {
    /// For reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EnoughReplicas => "enough replicas (maxDealNums)",
            Self::EnoughWithMiner => "enough deals with this miner (minerMaxDeals)",
            Self::TooManyOpen => "too many open deals with this miner (maxOpenDealsPerMiner)",
            Self::RunIsFull => "run is full (maxDealsPerRun)",
            Self::Pausing => "failed lately, tried again later",
            Self::GivenUp => "failed too often (maxFailedDeals)",
            Self::NoFunds => "not enough money in the wallet",
            Self::NoDatacap => "not enough datacap",
        }
    }
}

/// What one payload gets in this pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One proposal each, in this order. A provider may stand more than once.
    pub wanted: Vec<Offer>,
    /// Offers that are not taken, or not once more, and why. Nothing where nothing is missing.
    pub held: Vec<(Offer, HoldReason)>,
    /// Replicas that stand or are wanted.
    pub replicas: usize,
}

/// Deals wanted for one payload: as many as limits and budget leave, the provider with the fewest first.
/// `offers` are the deals that providers would take at all (see `preflight`). What is wanted is taken from
/// the budget.
pub fn decide(
    payload_deals: &PayloadDeals,
    offers: &[Offer],
    budget: &mut PassBudget,
    situation: &Situation<'_>,
) -> Decision {
    let mut decision = Decision::default();
    let limits = situation.limits;
    let mut live_with: BTreeMap<&str, usize> = BTreeMap::new();
    for miner in live_miners(payload_deals, situation) {
        *live_with.entry(miner).or_insert(0) += 1;
    }
    decision.replicas = live_with.values().sum();

    let mut candidates: Vec<&Offer> = Vec::new();
    for offer in offers {
        match pause_of(payload_deals, &offer.target.miner, offer.target.price, situation) {
            Some(held) => decision.held.push((offer.clone(), held)),
            None => candidates.push(offer),
        }
    }

    while decision.replicas < limits.replicas_max && !candidates.is_empty() {
        if limits.deals_per_pass_max.is_some_and(|max| budget.planned() >= max) {
            decision.held.extend(candidates.drain(..).map(|offer| (offer.clone(), HoldReason::RunIsFull)));
            return decision;
        }
        candidates.retain(|offer| {
            let live = live_with.get(offer.target.miner.as_str()).copied().unwrap_or(0);
            let held = held_now(offer, live, budget, limits);
            decision.held.extend(held.map(|held| ((*offer).clone(), held)));
            held.is_none()
        });
        // The configuration's order breaks ties: `min_by_key` keeps the first.
        let fewest = |offer: &&&Offer| live_with.get(offer.target.miner.as_str()).copied().unwrap_or(0);
        let Some(next) = candidates.iter().min_by_key(fewest) else { break };
        *live_with.entry(next.target.miner.as_str()).or_insert(0) += 1;
        decision.replicas += 1;
        budget.take(&next.target.miner, next.need);
        decision.wanted.push((*next).clone());
    }
    if decision.replicas >= limits.replicas_max {
        decision.held.retain(|(_, held)| !matches!(held, HoldReason::NoFunds | HoldReason::NoDatacap));
        decision.held.extend(candidates.into_iter().map(|offer| (offer.clone(), HoldReason::EnoughReplicas)));
    }
    decision
}

/// Why this offer is not taken now, given how many deals stand with its provider.
fn held_now(offer: &Offer, live: usize, budget: &PassBudget, limits: &Limits) -> Option<HoldReason> {
    let is_open_full = |max| budget.open_with(&offer.target.miner) >= max;
    if live >= limits.deals_per_payload_and_miner_max {
        Some(HoldReason::EnoughWithMiner)
    } else if limits.open_deals_per_miner_max.is_some_and(is_open_full) {
        Some(HoldReason::TooManyOpen)
    } else if offer.need.cost > budget.funds() {
        Some(HoldReason::NoFunds)
    } else if offer.need.datacap_bytes > budget.datacap_bytes() {
        Some(HoldReason::NoDatacap)
    } else {
        None
    }
}

/// The providers of every deal that counts: recorded and not dead, or intended and not yet recorded.
fn live_miners<'a>(
    payload_deals: &'a PayloadDeals,
    situation: &Situation<'_>,
) -> impl Iterator<Item = &'a str> {
    let is_live = move |deal: &&StoredDeal| is_live(payload_deals, deal, situation);
    let recorded = payload_deals.deals.iter().filter(is_live).map(|deal| deal.miner.as_str());
    let intended = payload_deals
        .intents
        .iter()
        .filter(|intent| {
            // A confirmed one whose record is gone, or does not name it any more, is a deal all the same.
            let stands = match intent.state {
                IntentState::Intended => true,
                IntentState::Confirmed => intent.status().is_none_or(DealStatus::is_live),
                IntentState::Refused | IntentState::Abandoned => false,
            };
            stands && !payload_deals.deals.iter().any(|deal| deal.intent.as_deref() == Some(&intent.id))
        })
        .map(|intent| intent.miner.as_str());
    recorded.chain(intended)
}

/// Whether a recorded deal counts as a replica.
///
/// Providers can write to `offlinedeals`, not to `dealintents`: a deal is dead when what client-agent noted
/// there says so too. A provider that calls the start missed is believed within a day of it, the time that
/// Lotus gives sealing by default (lotus v1.23.3 `node/config/def.go`, `ExpectedSealDuration`); earlier its
/// word would cost another deal.
fn is_live(payload_deals: &PayloadDeals, deal: &StoredDeal, situation: &Situation<'_>) -> bool {
    let intent = payload_deals.intents.iter().find(|intent| deal.intent.as_deref() == Some(&intent.id));
    let noted = intent.and_then(IntentDoc::status);
    let goes_on = |status: DealStatus| matches!(status.phase(), DealPhase::Progressing | DealPhase::Active);
    let in_a_day = situation.head.plus(situation.epochs_per_day);
    let is_near = deal.start_epoch.is_some_and(|start| in_a_day > ChainEpoch::new(start));
    let seen = [Some(deal.status), deal.provider_status, noted];
    if deal.missed && is_near && !seen.into_iter().flatten().any(goes_on) {
        return false;
    }
    deal.is_live() || noted.is_some_and(DealStatus::is_live)
}

#[cfg(test)]
mod tests;
