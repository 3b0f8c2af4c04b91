//! Views of deals for tests: the true state of both sides of a deal.
//!
//! What does not live here: JSON of Lotus (`wire`).

use std::time::SystemTime;

use serde::Serialize;

use crate::calls::ImportCounts;
use crate::inner::Inner;
use crate::states::DealState;
use crate::world::World;

/// One side of a deal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SideView {
    /// Its state; its name in JSON.
    pub state: DealState,
    /// Its message.
    pub message: String,
}

/// One deal with both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DealView {
    /// Its proposal CID.
    pub proposal_cid: String,
    /// Its miner.
    pub miner: String,
    /// Its root.
    pub payload_cid: String,
    /// Its piece CID.
    pub piece_cid: String,
    /// First epoch.
    pub start_epoch: i64,
    /// Last epoch.
    pub end_epoch: i64,
    /// State and message on the client node, if the node tracks the deal.
    pub client: Option<SideView>,
    /// State and message at the provider, after the proposal reached it.
    pub provider: Option<SideView>,
    /// Its number on chain, once published.
    pub deal_id: Option<u64>,
    /// Whether the chain shows its sector.
    pub sealed_on_chain: bool,
    /// Imports that started, succeeded, and took effect.
    pub imports: ImportCounts,
    /// When the proposal was made.
    #[serde(skip)]
    pub created: SystemTime,
    /// When an import took effect.
    #[serde(skip)]
    pub imported: Option<SystemTime>,
    /// When it became active at the provider.
    #[serde(skip)]
    pub activated: Option<SystemTime>,
}

pub(crate) fn deal_views(inner: &Inner) -> Vec<DealView> {
    inner.with(|world| world.deals.keys().filter_map(|cid| deal_view(world, cid)).collect())
}

pub(crate) fn deal_view(world: &World, cid: &str) -> Option<DealView> {
    let deal = world.deals.get(cid)?;
    Some(DealView {
        proposal_cid: deal.cid.clone(),
        miner: deal.proposal.provider.as_str().to_owned(),
        payload_cid: deal.proposal.root.to_string(),
        piece_cid: deal.proposal.piece_cid.to_string(),
        start_epoch: deal.proposal.start_epoch,
        end_epoch: deal.proposal.end_epoch,
        client: deal
            .client
            .as_ref()
            .map(|side| SideView { state: side.state, message: side.message.clone() }),
        provider: deal
            .provider
            .as_ref()
            .map(|side| SideView { state: side.state, message: side.message.clone() }),
        deal_id: deal.provider.as_ref().map(|side| side.deal_id).filter(|id| *id > 0),
        sealed_on_chain: world.is_sealed_on_chain(deal),
        imports: world.log.imports(cid),
        created: deal.created,
        imported: world.log.imported_at(cid),
        activated: world.log.activated_at(cid),
    })
}
