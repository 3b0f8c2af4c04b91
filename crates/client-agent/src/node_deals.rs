//! The deals that the client's Lotus node follows, from one list that proposals and tracking share.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use carferry_core::lotus::FullNode;
use carferry_core::lotus::wire::{DealInfo, DealState};
use carferry_core::model::address::MinerId;
use carferry_core::model::{DealId, DealStatus};
use carferry_core::rpc::RpcError;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The state of a deal as the node tells it.
#[derive(Clone, Debug)]
pub(crate) struct NodeDealState {
    /// The deal's key.
    pub(crate) proposal_cid: String,
    /// Its state.
    pub(crate) status: DealStatus,
    /// The state's message, for example `Provider state: StorageDealWaitingForData`.
    pub(crate) message: String,
    /// Its number on chain, once it is published.
    pub(crate) deal_id: Option<DealId>,
}

/// A deal as the node lists it: everything by which it is recognised as the deal of an intent.
#[derive(Clone, Debug)]
pub(crate) struct NodeDeal {
    /// The deal's key.
    pub(crate) proposal_cid: String,
    /// Its state.
    pub(crate) status: DealStatus,
    /// Payload CID.
    pub(crate) payload_cid: String,
    /// Piece CID.
    pub(crate) piece_cid: Option<String>,
    /// Storage provider.
    pub(crate) miner: String,
    /// attoFIL per epoch, decimal.
    pub(crate) epoch_price: String,
    /// End minus start epoch.
    pub(crate) duration: i64,
    /// Whether it spends datacap.
    pub(crate) verified: bool,
    /// When the node made it, by the node's clock; `None` where that cannot be read.
    pub(crate) created: Option<bson::DateTime>,
}

impl From<DealState> for NodeDealState {
    fn from(deal: DealState) -> Self {
        Self {
            proposal_cid: deal.proposal_cid.cid,
            status: DealStatus::from_lotus(deal.state),
            message: deal.message,
            deal_id: DealId::from_lotus(deal.deal_id),
        }
    }
}

impl NodeDeal {
    /// `None` for a deal of which the node does not say what is stored.
    fn of(deal: DealInfo) -> Option<Self> {
        Some(Self {
            proposal_cid: deal.proposal_cid.cid,
            status: DealStatus::from_lotus(deal.state),
            payload_cid: deal.data_ref?.root.cid,
            piece_cid: deal.piece_cid.map(|piece| piece.cid),
            miner: MinerId::canonical(&deal.provider),
            epoch_price: deal.price_per_epoch,
            duration: deal.duration,
            verified: deal.verified,
            created: bson::DateTime::parse_rfc3339_str(&deal.creation_time).ok(),
        })
    }
}

/// Lists the deals of a node. A list holds every deal that the node ever made: of most deals only the state
/// is read, and what no reader waits for is not kept.
#[derive(Debug)]
pub struct NodeDeals {
    node: FullNode,
    /// How long a list serves the other reader; `None`: there is one reader.
    window: Option<Duration>,
    /// Locked over a call: a reader that comes meanwhile gets the same list.
    kept: Mutex<Kept>,
}

/// What is left of the last list.
#[derive(Debug, Default)]
struct Kept {
    /// When it was asked for.
    begun: Option<Instant>,
    /// Payloads whose deals were last asked for.
    payloads: Arc<HashSet<String>>,
    /// The deals of these payloads.
    deals: Vec<NodeDeal>,
    /// The states of all deals, until they are taken.
    states: Option<Vec<NodeDealState>>,
}

impl Kept {
    fn is_within(&self, window: Option<Duration>) -> bool {
        self.begun.zip(window).is_some_and(|(begun, window)| begun.elapsed() < window)
    }
}

impl NodeDeals {
    /// For one reader.
    pub fn of(node: FullNode) -> Self {
        Self { node, window: None, kept: Mutex::default() }
    }

    /// For proposals that are recovered and deals that are tracked.
    pub fn shared(node: FullNode, window: Duration) -> Self {
        Self { node, window: Some(window), kept: Mutex::default() }
    }

    /// The states of all deals, from a list that is at most a window old.
    ///
    /// # Errors
    ///
    /// When the node does not list its deals.
    pub(crate) async fn states(&self) -> Result<Vec<NodeDealState>, RpcError> {
        let mut kept = self.kept.lock().await;
        if let Some(states) = kept.states.take()
            && kept.is_within(self.window)
        {
            return Ok(states);
        }
        self.list(&mut kept).await
    }

    /// The deals of these payloads, from a list that was asked for after this moment and is at most a window
    /// old.
    ///
    /// # Errors
    ///
    /// When the node does not list its deals.
    pub(crate) async fn of_payloads(
        &self,
        payloads: &HashSet<&str>,
        made_after: Instant,
    ) -> Result<Vec<NodeDeal>, RpcError> {
        let mut kept = self.kept.lock().await;
        let is_known = payloads.iter().all(|payload| kept.payloads.contains(*payload));
        let is_new = kept.begun.is_some_and(|begun| begun > made_after);
        kept.payloads = Arc::new(payloads.iter().map(|payload| (*payload).to_owned()).collect());
        if !(is_known && is_new && kept.is_within(self.window)) {
            let states = self.list(&mut kept).await?;
            kept.states = self.window.map(|_| states);
        }
        let is_asked_for = |deal: &&NodeDeal| payloads.contains(deal.payload_cid.as_str());
        Ok(kept.deals.iter().filter(is_asked_for).cloned().collect())
    }

    async fn list(&self, kept: &mut Kept) -> Result<Vec<NodeDealState>, RpcError> {
        let payloads = Arc::clone(&kept.payloads);
        // A call that fails, or is given up, leaves no list.
        *kept = Kept { payloads: Arc::clone(&payloads), ..Kept::default() };
        let begun = Instant::now();
        let listed = self.node.list_deals(payloads).await?;
        let mut states = Vec::with_capacity(listed.len());
        for deal in listed {
            states.push(deal.state.into());
            kept.deals.extend(deal.info.and_then(|info| NodeDeal::of(*info)));
        }
        kept.begun = Some(begun);
        Ok(states)
    }
}

#[cfg(test)]
impl NodeDeal {
    /// A deal as Lotus prints it.
    pub(crate) fn of_json(deal: serde_json::Value) -> Self {
        Self::of(serde_json::from_value(deal).unwrap()).unwrap()
    }
}
