//! Deal tracking: keeps `status`, `statusmsg` and `updatedtime` of each deal true until the deal is final.
//!
//! By polling: one list of the node for all deals it follows, one call on chain for each stateless deal whose
//! state there can still change, and for each deal that node or provider call failed. Update streams lose
//! what happens while they are closed, and can block the node's own notifications (lotus-contract §5.4).
//! Records are read and written by the page.

mod chain_lookups;
mod pass;
mod reconcile;
mod tamper_repair;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bson::oid::ObjectId;
use carferry_core::error_chain::Hint;
use carferry_core::lotus::FullNode;
use carferry_core::model::{ChainEpoch, IntentDoc, OfflineDealDoc};
use carferry_core::rpc::RpcError;
use carferry_core::runtime::fail_point;
use carferry_core::store::{StatusChange, Store, StoreError};
use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::chain_head::ChainHead;
use crate::config::SyncRule;
use crate::node_deals::NodeDeals;
use crate::track::chain_lookups::{ChainLookups, Lookup};
use crate::track::pass::{Head, NodeList, Pass, is_new};
use crate::track::reconcile::{FollowedDeal, NodeWord, OnChain};
use crate::track::tamper_repair::TamperRepair;

/// Calls and writes side by side.
const CONCURRENCY: usize = 8;
/// Failed deals that one pass lookups up once more.
const RECHECKS: i64 = 500;
/// How long failed deals rest after all of them had their turn.
const RECHECK_EVERY: Duration = Duration::from_secs(600);
/// How often it is asked which wallets deals are recorded for.
const WALLETS_EVERY: Duration = Duration::from_secs(600);

/// Why a pass could not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// The node failed.
    #[error(transparent)]
    Lotus(#[from] RpcError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TrackError {
    /// Whether the database refuses for good: no later pass meets anything else.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_refusal())
    }
}

impl Hint for TrackError {
    fn hint(&self) -> Option<String> {
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

/// Follows the deals of every wallet that deals are recorded for.
#[derive(Debug)]
pub struct Tracker {
    store: Store,
    node: FullNode,
    node_deals: Arc<NodeDeals>,
    wallet: String,
    sync: SyncRule,
    /// When the wallets of the records were last asked for, and which there are.
    wallets: Option<(Instant, Vec<String>)>,
    lookups: ChainLookups,
    tamper_repair: TamperRepair,
    rechecks: Rechecks,
    /// Whether the pass before met deals that the node lists; the first one asks the database.
    lists: Option<bool>,
}

/// How far the failed deals are that get a second look.
#[derive(Debug, Default)]
struct Rechecks {
    /// The record after which the next page begins.
    after: Option<ObjectId>,
    /// When all of them had had their turn.
    ended: Option<Instant>,
}

impl Tracker {
    /// Follows the deals of this wallet, and of every other one that deals are recorded for, through this
    /// node.
    pub fn new(store: Store, node: FullNode, wallet: String) -> Self {
        let (lookups, tamper_repair, rechecks) =
            (ChainLookups::default(), TamperRepair::default(), Rechecks::default());
        let node_deals = Arc::new(NodeDeals::of(node.clone()));
        let sync = SyncRule::Required;
        Self {
            store,
            node,
            node_deals,
            wallet,
            sync,
            wallets: None,
            lookups,
            tamper_repair,
            rechecks,
            lists: None,
        }
    }

    /// Whether the node's head must be of now; without this it must.
    #[must_use]
    pub fn with_sync(self, sync: SyncRule) -> Self {
        Self { sync, ..self }
    }

    /// Reads the node's deals from a list that others read too.
    #[must_use]
    pub fn with_node_deals(self, node_deals: Arc<NodeDeals>) -> Self {
        Self { node_deals, ..self }
    }

    /// Looks at every deal that is not final and records what changed.
    ///
    /// # Errors
    ///
    /// [`TrackError`] when node or database cannot be asked at all, or the node does not list its deals; what
    /// was found of other deals is recorded.
    pub async fn pass(&mut self) -> Result<TrackReport, TrackError> {
        let now = self.store.server_time().await?.to_system_time();
        let mut pass = Pass::new(now);
        self.lookups.start();
        pass.report.restored = self.tamper_repair.restore(&self.store).await;
        let wallets = self.wallets().await?;
        let lists = match self.lists {
            Some(lists) => lists,
            None => self.store.tracks_listed_deals(&wallets).await?,
        };
        if lists {
            self.list(&mut pass).await;
        }
        self.offer_failures(&wallets, &mut pass).await?;
        let mut pages = self.store.deals_to_track(&wallets).await?;
        while let Some(page) = pages.page().await? {
            self.meet(page, &mut pass).await?;
            self.record(&mut pass).await?;
        }
        drop(pages);
        self.lists = Some(pass.met_listed);
        let known: HashSet<String> = pass.followed.union(&pass.rechecked).cloned().collect();
        self.lookups.retain(&known);
        if let Head::At(head) = pass.head {
            self.look_up(head, &mut pass).await?;
        }
        let suspected = std::mem::take(&mut pass.suspected);
        pass.report.put_back = self.tamper_repair.reopen(&self.store, suspected).await?;
        pass.report.followed = count(pass.followed.len());
        debug!(report = ?pass.report, "tracking pass");
        pass.trouble.map_or(Ok(pass.report), |error| Err(error.into()))
    }

    /// The configured wallet, and every other one that deals are recorded for: a wallet that is not
    /// configured any more still has deals.
    async fn wallets(&mut self) -> Result<Vec<String>, StoreError> {
        if let Some((_, wallets)) = self.wallets.as_ref().filter(|(when, _)| when.elapsed() < WALLETS_EVERY) {
            return Ok(wallets.clone());
        }
        let mut wallets: BTreeSet<String> = self.store.deal_wallets().await?.into_iter().collect();
        wallets.insert(self.wallet.clone());
        let wallets: Vec<String> = wallets.into_iter().collect();
        self.wallets = Some((Instant::now(), wallets.clone()));
        Ok(wallets)
    }

    /// Every deal that the node ever made. A node that does not list them keeps only these deals waiting.
    async fn list(&self, pass: &mut Pass) {
        pass.list = match self.node_deals.states().await {
            Ok(listed) => {
                NodeList::Read(listed.into_iter().map(|deal| (deal.proposal_cid.clone(), deal)).collect())
            }
            Err(error) => {
                pass.trouble.get_or_insert(error);
                NodeList::Failed
            }
        };
    }

    /// Has failed deals looked up once more whose end the chain has not confirmed: node and provider may both
    /// be wrong.
    async fn offer_failures(&mut self, wallets: &[String], pass: &mut Pass) -> Result<(), TrackError> {
        if self.rechecks.ended.is_some_and(|ended| ended.elapsed() < RECHECK_EVERY) {
            return Ok(());
        }
        let page = self.store.unconfirmed_failures(wallets, self.rechecks.after, RECHECKS).await?;
        self.rechecks.after = page.last().and_then(|deal| deal.id);
        self.rechecks.ended = page.is_empty().then(Instant::now);
        if page.is_empty() {
            return Ok(());
        }
        let terms = self.terms_of(&page).await?;
        for deal in page {
            let Some(proposal_cid) = deal.dealcid.clone() else { continue };
            let intent = terms.get(&proposal_cid);
            let node = pass.node_word(&deal, intent).unwrap_or(NodeWord::Unlisted);
            if pass.rechecked.insert(proposal_cid) {
                self.lookups.offer(FollowedDeal::new(deal, intent, node));
            }
        }
        self.ask_head(pass).await;
        Ok(())
    }

    async fn terms_of(&self, page: &[OfflineDealDoc]) -> Result<HashMap<String, IntentDoc>, StoreError> {
        let cids: Vec<&str> = page.iter().filter_map(|deal| deal.dealcid.as_deref()).collect();
        self.store.agreed_terms(&cids).await
    }

    /// Deals of one page: judged by the node's list or by what is recorded, or made to wait for a look on
    /// chain.
    async fn meet(&mut self, page: Vec<OfflineDealDoc>, pass: &mut Pass) -> Result<(), TrackError> {
        let terms = self.terms_of(&page).await?;
        self.ask_head(pass).await;
        let head = pass.head.epoch();
        for deal in page {
            let Some(proposal_cid) = deal.dealcid.clone() else { continue };
            if !pass.followed.insert(proposal_cid.clone()) {
                continue;
            }
            let intent = terms.get(&proposal_cid);
            let node = pass.node_word(&deal, intent);
            pass.met_listed |= !matches!(node, Some(NodeWord::NotFollowed));
            let Some(node) = node else {
                pass.report.failed += u64::from(matches!(pass.list, NodeList::Failed));
                continue;
            };
            let followed = FollowedDeal::new(deal, intent, node);
            pass.suspect(&followed);
            match (&followed.node, head) {
                (NodeWord::Unlisted, _) if is_new(&followed.deal, pass.now) => {}
                // Only the node's word is known, and the chain might overrule it.
                (NodeWord::Says(_), None) if !followed.wants_look(None) => {
                    pass.judged(&followed, &OnChain::Unknown, None);
                }
                (_, None) => pass.report.failed += 1,
                (_, Some(_)) if followed.wants_look(head) => self.lookups.offer(followed),
                (_, Some(_)) => pass.judged(&followed, &OnChain::Unknown, head),
            }
        }
        self.lookups.trim();
        Ok(())
    }

    /// Asks where the chain is, once a pass.
    async fn ask_head(&self, pass: &mut Pass) {
        if !matches!(pass.head, Head::NotAsked) {
            return;
        }
        pass.head = match self.head(pass.now).await {
            Ok(head) => head,
            Err(error) => {
                pass.trouble.get_or_insert(error);
                Head::Unknown
            }
        };
    }

    async fn head(&self, now: SystemTime) -> Result<Head, RpcError> {
        match ChainHead::ask(&self.node, self.sync, now).await? {
            ChainHead::Current(height) => Ok(Head::At(height)),
            ChainHead::Behind { .. } => {
                warn!(
                    endpoint = self.node.endpoint(),
                    "the node is behind the chain: deals are not judged by it now"
                );
                Ok(Head::Unknown)
            }
        }
    }

    /// Looks deals up on chain whose turn it is, and records what was found by the batch.
    async fn look_up(&mut self, head: ChainEpoch, pass: &mut Pass) -> Result<(), TrackError> {
        loop {
            let batch = self.lookups.take_batch();
            if batch.is_empty() {
                return Ok(());
            }
            let asked = batch.len();
            let looked_at = self.lookups.look(&self.node, batch).await;
            let is_cut_short = looked_at.len() < asked;
            let mut failed = asked;
            for (followed, look) in looked_at {
                let Lookup::Answered(on_chain) = look else { continue };
                failed -= 1;
                pass.judged(&followed, &on_chain, Some(head));
            }
            pass.report.failed += count(failed);
            self.record(pass).await?;
            if is_cut_short {
                return Ok(());
            }
        }
    }

    /// Records what was judged since the last time.
    async fn record(&self, pass: &mut Pass) -> Result<(), StoreError> {
        let (seen, over) = (std::mem::take(&mut pass.ends_seen), std::mem::take(&mut pass.ends_over));
        self.store.record_ends_seen(&seen).await?;
        self.store.clear_ends_seen(&over).await?;
        pass.report.changed += self.write_all(std::mem::take(&mut pass.changes)).await?;
        Ok(())
    }

    /// Writes changes down; how many. A database that does not answer is not asked for the rest.
    async fn write_all(&self, changes: Vec<StatusChange>) -> Result<u64, StoreError> {
        let (mut recorded, mut failed) = (0, None);
        let writes: Vec<_> = changes.iter().map(|change| self.write(change)).collect();
        let mut written = stream::iter(writes).buffered(CONCURRENCY);
        while let Some(result) = written.next().await {
            match result {
                Ok(is_recorded) => recorded += u64::from(is_recorded),
                Err(error @ (StoreError::Unreachable { .. } | StoreError::Timeout { .. })) => {
                    return Err(error);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(recorded), Err)
    }

    /// Writes one change down; whether it matched what is recorded.
    async fn write(&self, change: &StatusChange) -> Result<bool, StoreError> {
        fail_point("track.writing");
        let is_recorded = self.store.record_status(change).await?;
        fail_point("track.written");
        let source = change.source.as_str();
        if is_recorded {
            info!(deal.proposal_cid = %change.proposal_cid, status = change.status.get(), source, statusmsg = %change.message, "deal state changed");
        } else {
            debug!(deal.proposal_cid = %change.proposal_cid, status = change.status.get(), source, "deal state changed meanwhile, looked at again with the next pass");
        }
        Ok(is_recorded)
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
