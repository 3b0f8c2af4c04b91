//! Keeps `status`, `statusmsg` and `updatedtime` true until a deal is final.
//!
//! By polling: one list of the node for all deals it follows, one call on chain for each stateless deal
//! whose state there can still change. Update streams lose what happens while they are closed, and can
//! block the node's own notifications (lotus-contract §5.4). Records are read and written by the page.

mod chain;
mod guard;
mod reconcile;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use carferry_core::{
    lotus::{FullNode, LotusError, wire::DealState},
    model::{ChainEpoch, OfflineDealDoc},
    runtime::fail_point,
    store::{StatusChange, Store, StoreError},
};
use futures::{StreamExt, stream};
use serde::Serialize;
use tracing::{debug, info, warn};

use crate::propose::preflight;
use chain::{Look, Looks, judged};
use guard::Guard;

/// Calls and writes side by side.
const CONCURRENCY: usize = 8;
/// A deal that is not in the node's list need not have been in it for so long: the list was read before the deal.
const LISTED_AFTER: Duration = Duration::from_secs(3600);

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
    /// Whether the database refuses for good: no later pass meets anything else.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_refusal())
    }

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
    looks: Looks,
    guard: Guard,
    /// Whether the pass before met deals that the node lists; the first one asks the database.
    lists: Option<bool>,
}

/// What a pass has met so far.
#[derive(Debug, Default)]
struct Pass {
    report: TrackReport,
    /// Proposal CIDs.
    followed: HashSet<String>,
    /// The node's list, by proposal CID; read before the records.
    listed: Option<HashMap<String, DealState>>,
    head: Head,
    /// Deals that are closed although something speaks against it, and their miners.
    doubted: HashMap<String, String>,
    /// Whether there are deals that the node lists.
    met_listed: bool,
    changes: Vec<StatusChange>,
}

/// Where the chain is.
#[derive(Clone, Copy, Debug, Default)]
enum Head {
    #[default]
    NotAsked,
    /// What a node that is behind does not know of a deal is no news of the deal.
    Behind,
    At(ChainEpoch),
}

impl Tracker {
    /// Follows this wallet's deals through this node.
    pub fn new(store: Store, node: FullNode, wallet: String) -> Self {
        Self { store, node, wallet, looks: Looks::default(), guard: Guard::default(), lists: None }
    }

    /// Looks at every deal that is not final and records what changed.
    ///
    /// # Errors
    ///
    /// [`TrackError`] when node or database cannot be asked at all; what was found before is recorded.
    pub async fn pass(&mut self) -> Result<TrackReport, TrackError> {
        let mut pass = Pass::default();
        self.looks.start();
        pass.report.restored = self.guard.restore(&self.store, &self.wallet).await;
        let lists = match self.lists {
            Some(lists) => lists,
            None => self.store.tracks_listed_deals(&self.wallet).await?,
        };
        if lists {
            pass.listed = Some(self.list().await?);
        }
        let mut pages = self.store.deals_to_track(&self.wallet).await?;
        while let Some(page) = pages.page().await? {
            self.meet(page, &mut pass).await?;
            pass.report.changed += self.record(std::mem::take(&mut pass.changes)).await?;
        }
        drop(pages);
        self.lists = Some(pass.met_listed);
        self.looks.retain(&pass.followed);
        self.guard.retain(|cid| pass.followed.contains(cid));
        if let Head::At(head) = pass.head {
            self.look_up(head, &mut pass).await;
        }
        pass.report.put_back = self.guard.put_back(&self.store, pass.doubted).await?;
        pass.report.changed += self.record(pass.changes).await?;
        pass.report.followed = count(pass.followed.len());
        debug!(report = ?pass.report, "tracking pass");
        Ok(pass.report)
    }

    /// Every deal that the node ever made.
    async fn list(&self) -> Result<HashMap<String, DealState>, LotusError> {
        let listed = self.node.list_deal_states().await?;
        Ok(listed.into_iter().map(|info| (info.proposal_cid.cid.clone(), info)).collect())
    }

    /// Deals of one page: judged by the node's list or by what is recorded, or put in line for a look on chain.
    async fn meet(&mut self, page: Vec<OfflineDealDoc>, pass: &mut Pass) -> Result<(), TrackError> {
        let cids: Vec<&str> = page.iter().filter_map(|deal| deal.dealcid.as_deref()).collect();
        let terms = self.store.agreed_terms(&cids).await?;
        for deal in page {
            let Some(proposal_cid) = deal.dealcid.clone() else { continue };
            let deal = match terms.get(&proposal_cid) {
                Some(intent) => reconcile::by_intent(deal, intent),
                None => deal,
            };
            if !pass.followed.insert(proposal_cid.clone()) {
                continue;
            }
            if deal.method.as_deref() != Some("stateless") {
                pass.meet_listed(&deal, &proposal_cid);
                continue;
            }
            if reconcile::is_unwitnessed(&deal) {
                pass.doubt(&deal);
            }
            if matches!(pass.head, Head::NotAsked) {
                pass.head = self.chain_head().await?;
            }
            let Head::At(head) = pass.head else {
                pass.report.failed += 1;
                continue;
            };
            if reconcile::chain_question(&deal).is_some() {
                self.looks.offer(deal);
            } else {
                let look = judged(&deal, None, head);
                pass.changes.extend(self.believed(&deal, look));
            }
        }
        self.looks.trim();
        Ok(())
    }

    async fn chain_head(&self) -> Result<Head, LotusError> {
        let tipset = self.node.chain_head().await?;
        if preflight::head_age(&tipset, SystemTime::now()).is_some_and(|age| age > preflight::HEAD_AGE_MAX) {
            warn!(
                endpoint = self.node.endpoint(),
                "the node is behind the chain: deals are not judged by it now"
            );
            return Ok(Head::Behind);
        }
        Ok(Head::At(ChainEpoch::new(tipset.height)))
    }

    /// Looks those up on chain whose turn it is.
    async fn look_up(&mut self, head: ChainEpoch, pass: &mut Pass) {
        let (looked_at, failed) = self.looks.look(&self.node, head).await;
        pass.report.failed += failed;
        for (deal, look) in looked_at {
            pass.changes.extend(self.believed(&deal, look));
        }
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

    /// Writes changes down; how many. A database that does not answer is not asked for the rest.
    async fn record(&self, changes: Vec<StatusChange>) -> Result<u64, StoreError> {
        let (mut recorded, mut failed) = (0, None);
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

impl Pass {
    /// A deal that the node follows itself.
    fn meet_listed(&mut self, deal: &OfflineDealDoc, proposal_cid: &str) {
        self.met_listed = true;
        // Without a list it is the first of its kind, and waits for the next pass.
        let Some(listed) = &self.listed else { return };
        match listed.get(proposal_cid) {
            Some(info) => {
                self.changes.extend(reconcile::from_list(deal, info));
                if reconcile::contradicts_import(deal, info) {
                    self.doubt(deal);
                }
            }
            None => self.report.unknown += u64::from(!is_new(deal)),
        }
    }

    fn doubt(&mut self, deal: &OfflineDealDoc) {
        self.doubted.extend(deal.dealcid.clone().zip(deal.miner.clone()));
    }
}

/// Whether the deal may have been made after the list was read. Decides nothing but what is counted.
fn is_new(deal: &OfflineDealDoc) -> bool {
    let made = deal.createdtime.map(bson::DateTime::to_system_time);
    made.is_some_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age < LISTED_AFTER))
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
