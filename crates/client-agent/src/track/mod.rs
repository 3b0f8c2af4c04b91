//! Keeps `status`, `statusmsg` and `updatedtime` true until a deal is final.
//!
//! By polling: one list of the node for all deals it follows, one call on chain for each stateless deal
//! whose state there can still change. Update streams lose what happens while they are closed, and can
//! block the node's own notifications (lotus-contract §5.4).

mod guard;
mod reconcile;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use carferry_core::{
    error_chain::ErrorChain,
    lotus::{FullNode, LotusError, wire::DealInfo},
    model::{ChainEpoch, DealStatus, OfflineDealDoc},
    runtime::fail_point,
    store::{StatusChange, Store, StoreError},
};
use futures::{StreamExt, future::ready, stream};
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
    looked_up: HashMap<String, Instant>,
    guard: Guard,
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
        let restored = self.guard.restore(&self.store, &self.wallet).await?;
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
            let listed: HashMap<String, DealInfo> = self
                .node
                .list_deals()
                .await?
                .into_iter()
                .map(|info| (info.proposal_cid.cid.clone(), info))
                .collect();
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
        report.changed = self.record(changes).await?;
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
        let active = i64::try_from(DealStatus::ACTIVE.get()).unwrap_or(0);
        let last_look = |deal: &OfflineDealDoc| self.looked_up.get(deal.dealcid.as_ref()?).copied();
        let (mut on_chain, in_records): (Vec<&OfflineDealDoc>, Vec<&OfflineDealDoc>) =
            deals.iter().partition(|deal| reconcile::chain_question(deal).is_some());
        on_chain.retain(|deal| {
            let rested = last_look(deal).is_none_or(|last| now.duration_since(last) >= ACTIVE_LOOK_EVERY);
            deal.status != Some(active) || rested
        });
        // The longest not looked up first: each in its turn, however many there are.
        on_chain.sort_by_key(|deal| last_look(deal));
        on_chain.truncate(LOOKS_MAX);
        let asked: Vec<&OfflineDealDoc> = on_chain.into_iter().chain(in_records).collect();
        // Futures first, then the stream: a closure over borrowed deals would not be `Send` for every lifetime.
        let looks: Vec<_> = asked.iter().map(|deal| self.look(deal, head)).collect();
        // A node that is gone would fail all of them: the first that meets it is the last.
        let answers = stream::iter(looks).buffered(CONCURRENCY);
        let answers: Vec<Look> =
            answers.take_while(|look| ready(!matches!(look, Look::NodeTrouble))).collect().await;
        let failed = answers.iter().filter(|look| matches!(look, Look::Failed)).count();
        let failed = count(failed + asked.len() - answers.len());
        let looked_up = asked.iter().take(answers.len());
        self.looked_up.extend(looked_up.filter_map(|deal| deal.dealcid.clone()).map(|cid| (cid, now)));
        let guard = &mut self.guard;
        let changes = answers.into_iter().filter_map(|look| match look {
            Look::Changed { change, by_chain } => (by_chain || guard.stands(&change)).then_some(change),
            Look::Same | Look::Failed | Look::NodeTrouble => None,
        });
        Ok((changes.collect(), failed))
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
                    warn!(deal.id = %deal_id, reason = %ErrorChain(&error), "deal could not be looked up on chain");
                    let is_node = error.effect_is_unknown() || error.is_about_the_node();
                    return if is_node { Look::NodeTrouble } else { Look::Failed };
                }
            },
        };
        let by_chain =
            matches!(&on_chain, Some(OnChain::Found(_))) || on_chain.is_some() && deal.dealid.is_some();
        reconcile::from_chain(deal, on_chain.as_ref(), head)
            .map_or(Look::Same, |change| Look::Changed { change, by_chain })
    }

    async fn record(&self, changes: Vec<StatusChange>) -> Result<u64, StoreError> {
        let writes: Vec<_> = changes.iter().map(|change| self.write(change)).collect();
        let written: Vec<Result<(), StoreError>> = stream::iter(writes).buffered(CONCURRENCY).collect().await;
        written.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(count(changes.len()))
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
    Failed,
    /// The next one would fail alike.
    NodeTrouble,
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
