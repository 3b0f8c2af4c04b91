//! State of one tracking pass: the node's list, the chain's head, changes to record.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use carferry_core::model::{ChainEpoch, IntentDoc, OfflineDealDoc, PublishMethod, StatusSource};
use carferry_core::rpc::RpcError;
use carferry_core::store::StatusChange;

use crate::node_deals::NodeDealState;
use crate::track::reconcile::{FollowedDeal, NodeWord, OnChain};
use crate::track::tamper_repair::ProvidersEnd;
use crate::track::{TrackReport, reconcile};

/// A deal that is not in the node's list need not have been in it for so long: the list was read before the
/// deal.
const LISTED_AFTER: Duration = Duration::from_secs(3600);

/// What a pass has met so far.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) report: TrackReport,
    /// By the database server's clock.
    pub(super) now: SystemTime,
    /// Proposal CIDs.
    pub(super) followed: HashSet<String>,
    /// Proposal CIDs of failed deals that are looked up once more.
    pub(super) rechecked: HashSet<String>,
    pub(super) list: NodeList,
    pub(super) head: Head,
    /// Deals that are closed although their import is contradicted or not confirmed, and their miners.
    pub(super) suspected: HashMap<String, String>,
    /// Whether there are deals that the node lists.
    pub(super) met_listed: bool,
    pub(super) changes: Vec<StatusChange>,
    /// Deals whose end a provider alone says, for the first time.
    pub(super) ends_seen: Vec<String>,
    /// Deals whose end a provider alone said, and that go on.
    pub(super) ends_over: Vec<String>,
    /// Why a part of the deals could not be judged; the others were.
    pub(super) trouble: Option<RpcError>,
}

/// The deals that the node follows, read before the records.
#[derive(Debug)]
pub(super) enum NodeList {
    /// No deal was known to be in it.
    NotRead,
    /// The node did not list its deals.
    Failed,
    /// By proposal CID.
    Read(HashMap<String, NodeDealState>),
}

/// Where the chain is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Head {
    #[default]
    NotAsked,
    /// The node is behind the chain, or did not tell: what it does not know of a deal is no news of the deal.
    Unknown,
    At(ChainEpoch),
}

impl Head {
    pub(super) fn epoch(self) -> Option<ChainEpoch> {
        match self {
            Self::NotAsked | Self::Unknown => None,
            Self::At(epoch) => Some(epoch),
        }
    }
}

impl Pass {
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            report: TrackReport::default(),
            now,
            followed: HashSet::new(),
            rechecked: HashSet::new(),
            list: NodeList::NotRead,
            head: Head::NotAsked,
            suspected: HashMap::new(),
            met_listed: false,
            changes: Vec::new(),
            ends_seen: Vec::new(),
            ends_over: Vec::new(),
            trouble: None,
        }
    }

    /// What the node says of a deal; `None`: the node's list is not known, and the deal waits for another
    /// pass.
    pub(super) fn node_word(&self, deal: &OfflineDealDoc, intent: Option<&IntentDoc>) -> Option<NodeWord> {
        let recorded = || deal.method.as_deref() == Some(PublishMethod::Stateless.as_str());
        if intent.map_or_else(recorded, |intent| intent.method == PublishMethod::Stateless) {
            return Some(NodeWord::NotFollowed);
        }
        match &self.list {
            NodeList::NotRead | NodeList::Failed => None,
            NodeList::Read(listed) => {
                let word = deal.dealcid.as_ref().and_then(|cid| listed.get(cid)).cloned();
                Some(word.map_or(NodeWord::Unlisted, NodeWord::Says))
            }
        }
    }

    /// Records a deal that is closed although the node contradicts that or no record confirms it, and counts
    /// a deal that the node does not list.
    pub(super) fn suspect(&mut self, followed: &FollowedDeal) {
        let is_suspected = match &followed.node {
            NodeWord::Says(info) => reconcile::contradicts_import(&followed.deal, info),
            NodeWord::NotFollowed => reconcile::is_unconfirmed_import(&followed.deal),
            NodeWord::Unlisted => {
                self.report.unknown += u64::from(!is_new(&followed.deal, self.now));
                false
            }
        };
        if is_suspected {
            self.suspected.extend(followed.deal.dealcid.clone().zip(followed.deal.miner.clone()));
        }
    }

    /// Collects what is to be recorded of a deal. A provider's word alone of a deal's end must have
    /// stood for a while, in which the provider's own agent would have put right what another user wrote.
    pub(super) fn judged(&mut self, followed: &FollowedDeal, on_chain: &OnChain, head: Option<ChainEpoch>) {
        let change = reconcile::judge(followed, on_chain, head);
        if self.rechecked.contains(followed.proposal_cid()) {
            self.changes.extend(change.filter(|change| change.source == StatusSource::Chain));
            return;
        }
        let is_providers_end = change
            .as_ref()
            .is_some_and(|change| change.source == StatusSource::Provider && !change.status.is_live());
        if is_providers_end {
            match ProvidersEnd::at(followed.end_seen, self.now) {
                ProvidersEnd::New => self.ends_seen.push(followed.proposal_cid().to_owned()),
                ProvidersEnd::Young => {}
                ProvidersEnd::Stands => self.changes.extend(change),
            }
            return;
        }
        if followed.end_seen.is_some() {
            self.ends_over.push(followed.proposal_cid().to_owned());
        }
        self.changes.extend(change);
    }
}

/// Whether the deal may have been made after the list was read.
pub(super) fn is_new(deal: &OfflineDealDoc, now: SystemTime) -> bool {
    let made = deal.createdtime.map(bson::DateTime::to_system_time);
    made.is_some_and(|made| now.duration_since(made).is_ok_and(|age| age < LISTED_AFTER))
}
