//! Keeps `status`, `statusmsg` and `updatedtime` true until a deal is final.
//!
//! By polling: one list of the node for all deals it follows, one call on chain for each stateless deal
//! whose state there can still change. Update streams lose what happens while they are closed, and can
//! block the node's own notifications (lotus-contract §5.4).

mod guard;
mod reconcile;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use carferry_core::{
    error_chain::ErrorChain,
    lotus::{FullNode, LotusError, wire::DealInfo},
    model::{ChainEpoch, DealStatus, OfflineDealDoc},
    runtime::fail_point,
    store::{StatusChange, Store, StoreError},
};
use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::propose::preflight;
use guard::Guard;
use reconcile::OnChain;

/// How often an active stateless deal is looked up on chain: it changes only when slashed or at its end.
const ACTIVE_LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Deals looked up on chain in one pass, each with a call of its own.
const LOOKS_MAX: usize = 500;
/// Places among them that active deals are sure of, however many others there are: these are looked at each time.
const ACTIVE_LOOKS: usize = 100;
/// Looks in a row without an answer after which a node is taken to be in trouble. A single one may be the deal's doing.
const UNANSWERED_MAX: usize = 3;
/// Changes written in one go.
const CHANGES: usize = 1000;
/// Calls and writes side by side.
const CONCURRENCY: usize = 8;

/// Why a pass could not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// The node failed.
    #[error(transparent)]
    Lotus(#[from] LotusError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TrackError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lotus(error) => error.hint(),
            Self::Store(error) => error.hint(),
        }
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrackReport {
    /// Deals whose state can still change.
    pub followed: u64,
    /// Deals whose record changed.
    pub changed: u64,
    /// Deals of `ClientStartDeal` that this node does not list: made through another node, or the node's
    /// repository was reset.
    pub unknown: u64,
    /// Deals that could not be looked up this time.
    pub failed: u64,
    /// Deals whose `isdeal` was put back to 0: their provider has no data.
    #[serde(rename = "putback")]
    pub put_back: u64,
    /// Records brought back to what was agreed and known: others had changed them.
    pub restored: u64,
}

/// Follows the deals of one wallet.
#[derive(Debug)]
pub struct Tracker {
    store: Store,
    node: FullNode,
    wallet: String,
    looked_up: HashMap<String, LastLook>,
    guard: Guard,
}

/// When a deal was last looked up on chain.
#[derive(Clone, Copy, Debug)]
struct LastLook {
    when: Instant,
    /// It need not be asked for again soon.
    was_answered: bool,
}

impl Tracker {
    /// Follows this wallet's deals through this node.
    pub fn new(store: Store, node: FullNode, wallet: String) -> Self {
        Self { store, node, wallet, looked_up: HashMap::new(), guard: Guard::default() }
    }

    /// Looks at every deal that is not final and records what changed.
    ///
    /// # Errors
    ///
    /// [`TrackError`] when node or database cannot be asked at all.
    pub async fn pass(&mut self) -> Result<TrackReport, TrackError> {
        let restored = self.guard.restore(&self.store, &self.wallet).await;
        let deals = self.store.deals_to_track(&self.wallet).await?;
        let mut report = TrackReport { followed: count(deals.len()), restored, ..TrackReport::default() };
        if deals.is_empty() {
            return Ok(report);
        }
        let cids: Vec<&str> = deals.iter().filter_map(|deal| deal.dealcid.as_deref()).collect();
        let terms = self.store.agreed_terms(&cids).await?;
        let deals =
            deals.into_iter().map(|deal| match deal.dealcid.as_ref().and_then(|cid| terms.get(cid)) {
                Some(intent) => reconcile::by_intent(deal, intent),
                None => deal,
            });
        let (stateless, started): (Vec<_>, Vec<_>) =
            deals.partition(|deal| deal.method.as_deref() == Some("stateless"));
        let mut changes = Vec::new();
        let mut doubted: Vec<&OfflineDealDoc> =
            stateless.iter().filter(|deal| reconcile::is_unwitnessed(deal)).collect();
        if !started.is_empty() {
            let mut listed = self.node.list_deals().await?;
            // A node lists every deal it ever made.
            let followed: HashSet<&str> = started.iter().filter_map(|deal| deal.dealcid.as_deref()).collect();
            listed.retain(|info| followed.contains(info.proposal_cid.cid.as_str()));
            let listed: HashMap<String, DealInfo> =
                listed.into_iter().map(|info| (info.proposal_cid.cid.clone(), info)).collect();
            for deal in &started {
                match deal.dealcid.as_ref().and_then(|cid| listed.get(cid)) {
                    Some(info) => {
                        changes.extend(reconcile::from_list(deal, info));
                        doubted.extend(Some(deal).filter(|deal| reconcile::contradicts_import(deal, info)));
                    }
                    None => report.unknown += 1,
                }
            }
        }
        if !stateless.is_empty() {
            let (found, failed) = self.on_chain(&stateless).await?;
            changes.extend(found);
            report.failed += failed;
        }
        report.put_back = self.guard.put_back(&self.store, &doubted).await?;
        report.changed = self.record(&changes).await?;
        debug!(?report, "tracking pass");
        Ok(report)
    }

    async fn on_chain(&mut self, deals: &[OfflineDealDoc]) -> Result<(Vec<StatusChange>, u64), TrackError> {
        let tipset = self.node.chain_head().await?;
        if preflight::head_age(&tipset, SystemTime::now()).is_some_and(|age| age > preflight::HEAD_AGE_MAX) {
            // What a node that is behind does not know of a deal is no news of the deal.
            warn!(
                endpoint = self.node.endpoint(),
                "the node is behind the chain: deals are not judged by it now"
            );
            return Ok((Vec::new(), count(deals.len())));
        }
        let head = ChainEpoch::new(tipset.height);
        let now = Instant::now();
        let followed: HashSet<&str> = deals.iter().filter_map(|deal| deal.dealcid.as_deref()).collect();
        self.looked_up.retain(|cid, _| followed.contains(cid.as_str()));
        self.guard.retain(|cid| followed.contains(cid));
        let (on_chain, in_records): (Vec<&OfflineDealDoc>, Vec<&OfflineDealDoc>) =
            deals.iter().partition(|deal| reconcile::chain_question(deal).is_some());
        let mut changes = Vec::new();
        for deal in in_records {
            let look = judged(deal, None, head);
            changes.extend(self.believed(deal, look));
        }
        let asked = in_turn(on_chain, |deal| self.looked_up.get(deal.dealcid.as_ref()?).copied(), now);
        // Futures first, then the stream: a closure over borrowed deals would not be `Send` for every lifetime.
        let this = &*self;
        let looks: Vec<_> =
            asked.iter().map(|deal| async move { (*deal, this.look(deal, head).await) }).collect();
        let mut answers = stream::iter(looks).buffered(CONCURRENCY);
        let mut looked_at = Vec::with_capacity(asked.len());
        let mut unanswered = 0;
        // A node that is gone would fail all of them.
        while unanswered < UNANSWERED_MAX
            && let Some((deal, look)) = answers.next().await
        {
            unanswered = if matches!(look, Look::Unanswered(_)) { unanswered + 1 } else { 0 };
            looked_at.push((deal, look));
        }
        drop(answers);
        let mut failed = asked.len() - looked_at.len();
        let mut first_reason = None;
        for (deal, look) in looked_at {
            let was_answered = match &look {
                Look::Failed(reason) | Look::Unanswered(reason) => {
                    failed += 1;
                    first_reason.get_or_insert_with(|| reason.clone());
                    false
                }
                Look::Changed { .. } | Look::Same => true,
            };
            // One that failed goes to the back as well: else it would be the first of every pass.
            let last_look = LastLook { when: now, was_answered };
            self.looked_up.extend(deal.dealcid.clone().map(|cid| (cid, last_look)));
            changes.extend(self.believed(deal, look));
        }
        if let Some(reason) = first_reason {
            warn!(deals = failed, reason = %reason, "deals could not be looked up on chain");
        }
        Ok((changes, count(failed)))
    }

    /// What is to be recorded of a look.
    fn believed(&mut self, deal: &OfflineDealDoc, look: Look) -> Option<StatusChange> {
        match look {
            Look::Changed { change, by_chain: false } => self.guard.stands(&change).then_some(change),
            Look::Changed { change, by_chain: true } => {
                self.guard.goes_on(&change.proposal_cid);
                Some(change)
            }
            Look::Same => {
                self.guard.goes_on(deal.dealcid.as_deref().unwrap_or_default());
                None
            }
            Look::Failed(_) | Look::Unanswered(_) => None,
        }
    }

    async fn look(&self, deal: &OfflineDealDoc, head: ChainEpoch) -> Look {
        let on_chain = match reconcile::chain_question(deal) {
            None => None,
            Some(deal_id) => match self.node.market_deal(deal_id).await {
                Ok(market) if reconcile::is_same_deal(deal, &market) => {
                    Some(OnChain::Found(Box::new(market)))
                }
                Ok(_) => {
                    let proposal_cid = deal.dealcid.as_deref().unwrap_or_default();
                    warn!(deal.id = %deal_id, deal.proposal_cid = proposal_cid, "the number recorded for this deal is another deal's on chain");
                    None
                }
                // The node's own sentence for this deal; "block not found" and the like say nothing of it.
                Err(error)
                    if error
                        .message()
                        .is_some_and(|words| words.contains(&format!("deal {deal_id} not found"))) =>
                {
                    Some(OnChain::Gone)
                }
                Err(error) => {
                    let reason = ErrorChain(&error).to_string();
                    debug!(deal.id = %deal_id, reason = %reason, "deal could not be looked up on chain");
                    let is_node = error.is_about_the_node();
                    return if is_node { Look::Unanswered(reason) } else { Look::Failed(reason) };
                }
            },
        };
        judged(deal, on_chain.as_ref(), head)
    }

    /// Writes changes down; how many. A database that does not answer is not asked for the rest.
    async fn record(&self, changes: &[StatusChange]) -> Result<u64, StoreError> {
        let (mut recorded, mut failed) = (0, None);
        for changes in changes.chunks(CHANGES) {
            let writes: Vec<_> = changes.iter().map(|change| self.write(change)).collect();
            let mut written = stream::iter(writes).buffered(CONCURRENCY);
            while let Some(result) = written.next().await {
                match result {
                    Ok(()) => recorded += 1,
                    Err(error @ (StoreError::Unreachable { .. } | StoreError::Timeout { .. })) => {
                        return Err(error);
                    }
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        failed.map_or(Ok(recorded), Err)
    }

    async fn write(&self, change: &StatusChange) -> Result<(), StoreError> {
        fail_point("track.writing");
        self.store.record_status(change).await?;
        fail_point("track.written");
        info!(deal.proposal_cid = %change.proposal_cid, status = change.status.get(), statusmsg = %change.message, "deal state changed");
        Ok(())
    }
}

/// What looking at one deal came to.
enum Look {
    /// `by_chain`: the chain says so, not only the provider's agent.
    Changed {
        change: StatusChange,
        by_chain: bool,
    },
    Same,
    /// The node's word for this deal, or one that cannot be read.
    Failed(String),
    /// The node did not answer, or lets us ask nothing: the next one may fail alike.
    Unanswered(String),
}

/// What is known of one deal.
fn judged(deal: &OfflineDealDoc, on_chain: Option<&OnChain>, head: ChainEpoch) -> Look {
    let by_chain = matches!(on_chain, Some(OnChain::Found(_))) || on_chain.is_some() && deal.dealid.is_some();
    reconcile::from_chain(deal, on_chain, head)
        .map_or(Look::Same, |change| Look::Changed { change, by_chain })
}

/// Those to look up on chain now, the longest not looked up first: each comes to its turn, however many there are.
fn in_turn(
    deals: Vec<&OfflineDealDoc>,
    last_look: impl Fn(&OfflineDealDoc) -> Option<LastLook>,
    now: Instant,
) -> Vec<&OfflineDealDoc> {
    let status = i64::try_from(DealStatus::ACTIVE.get()).unwrap_or(0);
    let (mut active, mut others): (Vec<_>, Vec<_>) =
        deals.into_iter().partition(|deal| deal.status == Some(status));
    active.retain(|deal| {
        let rests = |last: LastLook| last.was_answered && now.duration_since(last.when) < ACTIVE_LOOK_EVERY;
        !last_look(deal).is_some_and(rests)
    });
    active.sort_by_key(|deal| last_look(deal).map(|last| last.when));
    others.sort_by_key(|deal| last_look(deal).map(|last| last.when));
    others.truncate(LOOKS_MAX - active.len().min(ACTIVE_LOOKS));
    active.truncate(LOOKS_MAX - others.len());
    others.extend(active);
    others
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_deal_comes_to_its_turn_and_active_ones_keep_some_places() {
        let deals = |name: &str, status, number: usize| -> Vec<OfflineDealDoc> {
            (0..number)
                .map(|i| OfflineDealDoc {
                    dealcid: Some(format!("{name}{i}")),
                    status: Some(status),
                    ..OfflineDealDoc::default()
                })
                .collect()
        };
        let all = [deals("sealing", 29, 900), deals("active", 7, 300)].concat();
        let mut looked_up: HashMap<String, LastLook> = HashMap::new();
        let start = Instant::now();
        for pass in 0..3 {
            let now = start + Duration::from_secs(60 * pass);
            let last_look = |deal: &OfflineDealDoc| looked_up.get(deal.dealcid.as_ref()?).copied();
            let asked = in_turn(all.iter().collect(), last_look, now);
            assert_eq!(asked.len(), LOOKS_MAX);
            let active = asked.iter().filter(|deal| deal.status == Some(7)).count();
            assert_eq!(active, ACTIVE_LOOKS, "{pass}");
            let last_look = LastLook { when: now, was_answered: true };
            looked_up.extend(asked.iter().map(|deal| (deal.dealcid.clone().unwrap(), last_look)));
        }
        assert_eq!(looked_up.len(), all.len());

        let few = deals("active", 7, 600);
        let last_look = |deal: &OfflineDealDoc| {
            let failed = deal.dealcid.as_deref() == Some("active0");
            Some(LastLook { when: start, was_answered: !failed })
        };
        let asked = in_turn(few.iter().collect(), last_look, start + Duration::from_secs(60));
        assert_eq!(asked.len(), 1, "only the one that was not answered");
        let asked = in_turn(few.iter().collect(), |_| None, start);
        assert_eq!(asked.len(), LOOKS_MAX, "places that nobody else needs");
    }
}
