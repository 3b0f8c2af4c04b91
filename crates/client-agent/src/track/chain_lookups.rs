//! Chain lookups of deals. Each is a call of its own, so their number is bounded by the time that has passed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::FullNode;
use carferry_core::lotus::wire::MarketDeal;
use carferry_core::model::address::MinerId;
use carferry_core::model::{ChainEpoch, DealId, DealPhase, DealStatus};
use carferry_core::rpc::RpcError;
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::track::reconcile::{ChainActivity, ChainDeal, FollowedDeal, OnChain};
use crate::track::{CONCURRENCY, reconcile};

/// How often an active deal is looked up: it changes only when slashed or at its end.
const SETTLED_LOOKUP_EVERY: Duration = Duration::from_secs(3600);
/// Deals looked up for each second since the lookups before; a node answers thousands. Chosen: well below
/// that.
const LOOKUPS_PER_SECOND: u64 = 50;
/// Bounds of the deals looked up in one pass, however soon or late it comes.
const LOOKUPS_MIN: u64 = 500;
const LOOKUPS_MAX: u64 = 10_000;
/// The part of them that settled deals are sure of, however many others there are: these are looked at each
/// time.
const SETTLED_PART: usize = 5;
/// Deals looked up before what was found is recorded.
const BATCH: usize = 500;
/// Looks in a row without an answer after which a node is taken to be in trouble. A single one may be the
/// deal's doing.
const UNANSWERED_MAX: usize = 3;

/// When deals were looked up last, and which are next: the longest not looked up first, so that each comes to
/// its turn, however many there are.
#[derive(Debug, Default)]
pub(super) struct ChainLookups {
    last: HashMap<String, LastLook>,
    /// Active deals, and failed ones that the chain may still have.
    settled: Vec<FollowedDeal>,
    moving: Vec<FollowedDeal>,
    allowance: usize,
    began: Option<Instant>,
}

/// When a deal was last looked up.
#[derive(Clone, Copy, Debug)]
struct LastLook {
    when: Instant,
    /// The answer holds for a while.
    was_answered: bool,
}

/// What looking at one deal came to.
#[derive(Debug)]
pub(super) enum Lookup {
    Answered(OnChain),
    /// The node's error for this deal, or an answer that cannot be read.
    Failed(String),
    /// The node did not answer, or refuses all such calls: the next one may fail alike.
    Unanswered(String),
}

impl ChainLookups {
    /// Begins a pass. A pass that failed may have left some deals waiting.
    pub(super) fn start(&mut self) {
        self.settled.clear();
        self.moving.clear();
        let now = Instant::now();
        let passed = self.began.replace(now).map_or(Duration::ZERO, |before| now.duration_since(before));
        let allowance = (passed.as_secs().saturating_mul(LOOKUPS_PER_SECOND)).clamp(LOOKUPS_MIN, LOOKUPS_MAX);
        self.allowance = usize::try_from(allowance).unwrap_or(usize::MAX);
    }

    /// Has a deal wait for its look.
    pub(super) fn offer(&mut self, followed: FollowedDeal) {
        let is_settled = followed
            .deal
            .deal_status()
            .is_some_and(|status| status == DealStatus::ACTIVE || status.phase() == DealPhase::Failed);
        let last = self.last.get(followed.proposal_cid());
        let rests = last.is_some_and(|last| last.was_answered && last.when.elapsed() < SETTLED_LOOKUP_EVERY);
        match (is_settled, rests) {
            (true, true) => {}
            (true, false) => self.settled.push(followed),
            (false, _) => self.moving.push(followed),
        }
    }

    /// Drops deals whose turn cannot come in this pass.
    pub(super) fn trim(&mut self) {
        for waiting in [&mut self.settled, &mut self.moving] {
            if waiting.len() > self.allowance {
                waiting.sort_by_key(|followed| self.last.get(followed.proposal_cid()).map(|last| last.when));
                waiting.truncate(self.allowance);
            }
        }
    }

    /// Forgets deals that are not followed any more.
    pub(super) fn retain(&mut self, followed: &HashSet<String>) {
        self.last.retain(|cid, _| followed.contains(cid));
    }

    /// Deals whose turn it is, at most so many as one batch holds; none after the last of this pass.
    pub(super) fn take_batch(&mut self) -> Vec<FollowedDeal> {
        let mut batch = self.take_turn();
        let rest = batch.split_off(batch.len().min(BATCH));
        self.moving = rest;
        batch
    }

    /// All whose turn it is in this pass, the longest not looked up first.
    fn take_turn(&mut self) -> Vec<FollowedDeal> {
        let (mut settled, mut moving) = (std::mem::take(&mut self.settled), std::mem::take(&mut self.moving));
        for waiting in [&mut settled, &mut moving] {
            waiting.sort_by_key(|followed| self.last.get(followed.proposal_cid()).map(|last| last.when));
        }
        moving.truncate(self.allowance - settled.len().min(self.allowance / SETTLED_PART));
        settled.truncate(self.allowance - moving.len());
        moving.extend(settled);
        moving
    }

    /// Looks at these; the node's answers, in the same order. Fewer where the node is in trouble: it would
    /// fail all of the others.
    pub(super) async fn look(
        &mut self,
        node: &FullNode,
        batch: Vec<FollowedDeal>,
    ) -> Vec<(FollowedDeal, Lookup)> {
        let asked = batch.len();
        let now = Instant::now();
        let lookups: Vec<_> = batch
            .into_iter()
            .map(|followed| async move {
                let look = look_at(node, &followed).await;
                (followed, look)
            })
            .collect();
        let mut answers = stream::iter(lookups).buffered(CONCURRENCY);
        let (mut looked_at, mut answered, mut unanswered, mut first_reason) = (Vec::new(), 0, 0, None);
        while unanswered < UNANSWERED_MAX
            && let Some((followed, look)) = answers.next().await
        {
            unanswered = if matches!(look, Lookup::Unanswered(_)) { unanswered + 1 } else { 0 };
            let was_answered = match &look {
                Lookup::Failed(reason) | Lookup::Unanswered(reason) => {
                    first_reason.get_or_insert_with(|| reason.clone());
                    false
                }
                Lookup::Answered(_) => true,
            };
            answered += usize::from(was_answered);
            // One that failed goes to the back as well: else it would be the first of every pass.
            self.last.insert(followed.proposal_cid().to_owned(), LastLook { when: now, was_answered });
            looked_at.push((followed, look));
        }
        if let Some(reason) = first_reason {
            warn!(deals = asked - answered, reason = %reason, "deals could not be looked up on chain");
        }
        looked_at
    }
}

/// Asks the chain for a deal, by one number after the other until it is found.
async fn look_at(node: &FullNode, followed: &FollowedDeal) -> Lookup {
    // The first number is the most trusted one: only that no deal has it any more says something of this
    // deal.
    let mut first = None;
    for deal_id in followed.numbers() {
        let on_chain = match node.market_deal(deal_id).await {
            Ok(market) => {
                let market = ChainDeal::from(market);
                if reconcile::is_same_deal(&followed.deal, &market) {
                    return Lookup::Answered(OnChain::Found { deal_id, market });
                }
                let proposal_cid = followed.proposal_cid();
                warn!(deal.id = %deal_id, deal.proposal_cid = proposal_cid, "the number recorded for this deal is another deal's on chain");
                OnChain::Unknown
            }
            Err(error) if says_gone(&error, deal_id) => OnChain::Gone,
            Err(error) => {
                let reason = ErrorChain(&error).to_string();
                debug!(deal.id = %deal_id, reason = %reason, "deal could not be looked up on chain");
                let is_node = error.is_about_the_node();
                return if is_node { Lookup::Unanswered(reason) } else { Lookup::Failed(reason) };
            }
        };
        first.get_or_insert(on_chain);
    }
    Lookup::Answered(first.unwrap_or(OnChain::Unknown))
}

/// Whether the node says that no deal has this number. Other texts, such as "block not found", say nothing of
/// the deal.
fn says_gone(error: &RpcError, deal_id: DealId) -> bool {
    error.message().is_some_and(|text| text.contains(&format!("deal {deal_id} not found")))
}

impl From<MarketDeal> for ChainDeal {
    fn from(deal: MarketDeal) -> Self {
        let MarketDeal { proposal, state } = deal;
        let activity = if state.slash_epoch > -1 {
            ChainActivity::Slashed
        } else if state.sector_start_epoch > -1 {
            ChainActivity::Active
        } else {
            ChainActivity::Published
        };
        Self {
            miner: MinerId::canonical(&proposal.provider),
            piece_cid: proposal.piece_cid.map(|piece| piece.cid),
            start: ChainEpoch::new(proposal.start_epoch),
            end: ChainEpoch::new(proposal.end_epoch),
            activity,
        }
    }
}

#[cfg(test)]
mod tests {
    use carferry_core::model::OfflineDealDoc;

    use super::*;
    use crate::track::reconcile::NodeWord;

    fn deals(name: &str, status: i64, number: usize) -> Vec<FollowedDeal> {
        let deal = |i| OfflineDealDoc {
            dealcid: Some(format!("{name}{i}")),
            status: Some(status),
            ..OfflineDealDoc::default()
        };
        (0..number).map(|i| FollowedDeal::new(deal(i), None, NodeWord::NotFollowed)).collect()
    }

    /// As a pass does: by the page.
    fn asked(lookups: &mut ChainLookups, deals: &[FollowedDeal]) -> Vec<FollowedDeal> {
        lookups.start();
        for page in deals.chunks(170) {
            for deal in page {
                lookups.offer(deal.clone());
            }
            lookups.trim();
        }
        let mut asked = Vec::new();
        loop {
            let batch = lookups.take_batch();
            if batch.is_empty() {
                return asked;
            }
            assert!(batch.len() <= BATCH);
            asked.extend(batch);
        }
    }

    fn looked_at(lookups: &mut ChainLookups, deals: &[FollowedDeal], was_answered: bool) {
        let last = LastLook { when: Instant::now(), was_answered };
        lookups.last.extend(deals.iter().map(|deal| (deal.proposal_cid().to_owned(), last)));
    }

    #[tokio::test(start_paused = true)]
    async fn every_deal_comes_to_its_turn_and_settled_ones_keep_a_part() {
        let all = [deals("sealing", 29, 900), deals("active", 7, 200), deals("failed", 26, 100)].concat();
        let mut lookups = ChainLookups::default();
        for pass in 0..3 {
            let asked = asked(&mut lookups, &all);
            assert_eq!(asked.len(), 500);
            let settled = asked.iter().filter(|followed| followed.deal.status != Some(29)).count();
            assert_eq!(settled, 100, "{pass}");
            looked_at(&mut lookups, &asked, true);
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        assert_eq!(lookups.last.len(), all.len());

        let few = deals("active", 7, 600);
        let mut lookups = ChainLookups::default();
        looked_at(&mut lookups, &few, true);
        looked_at(&mut lookups, &few[..1], false);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(asked(&mut lookups, &few).len(), 1, "only the one that was not answered");
        assert_eq!(asked(&mut ChainLookups::default(), &few).len(), 500, "places that no other deal needs");
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_rationed_by_time_and_not_by_pass() {
        let all = deals("active", 7, 12_000);
        let mut lookups = ChainLookups::default();
        for (seconds, expected) in [(0, 500), (1, 500), (20, 1000), (100, 5000), (4000, 10_000)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(asked(&mut lookups, &all).len(), expected, "after {seconds} s");
        }
    }
}
