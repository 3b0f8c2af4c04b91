//! What tests see of a deal.

use serde::Serialize;

use crate::record::{Checkpoint, Record, Retry, SectorPlace, client_peer_id};
use crate::world::World;

/// A deal at the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DealView {
    /// Its UUID.
    pub uuid: String,
    /// CID of the signed proposal.
    pub signed_proposal_cid: String,
    /// CID of the unsigned proposal.
    pub proposal_cid: String,
    /// Piece CID.
    pub piece_cid: String,
    /// Padded piece size in bytes.
    pub piece_size: u64,
    /// Root of the CAR.
    pub payload_cid: String,
    /// Start epoch.
    pub start_epoch: i64,
    /// End epoch.
    pub end_epoch: i64,
    /// Peer ID of the client.
    pub client_peer: String,
    /// How far it has come.
    pub checkpoint: Checkpoint,
    /// Whether it goes on by itself.
    pub retry: Retry,
    /// Its error; empty without one.
    pub err: String,
    /// The imported file; empty before an import.
    pub inbound_file_path: String,
    /// Whether the file is deleted after `AddedPiece`.
    pub cleanup_data: bool,
    /// Its number on chain; zero before `PublishConfirmed`.
    pub chain_deal_id: u64,
    /// CID of its publish message.
    pub publish_cid: Option<String>,
    /// Its place in a sector.
    pub place: SectorPlace,
    /// Rows of `FundsTagged`.
    pub tagged_rows: usize,
    /// Imports that were accepted.
    pub imports: usize,
    /// Threads that were started.
    pub threads: usize,
    /// Most threads at the same time.
    pub threads_most: usize,
    /// Whether a thread runs.
    pub is_running: bool,
}

pub(crate) fn deal_view(world: &World, deal: &Record) -> DealView {
    let terms = &deal.terms;
    let names = terms.names.clone();
    let counts = world.counts(deal.index);
    DealView {
        uuid: names.uuid,
        signed_proposal_cid: names.signed_proposal_cid,
        proposal_cid: names.proposal_cid,
        piece_cid: terms.piece_cid.to_string(),
        piece_size: terms.piece_size.get(),
        payload_cid: terms.payload_cid.clone(),
        start_epoch: terms.start_epoch,
        end_epoch: terms.end_epoch,
        client_peer: client_peer_id(),
        checkpoint: deal.checkpoint,
        retry: deal.retry,
        err: deal.err.clone(),
        inbound_file_path: deal.inbound_file_path.clone(),
        cleanup_data: deal.cleanup_data,
        chain_deal_id: deal.chain_deal_id,
        publish_cid: deal.publish_cid.clone(),
        place: deal.place,
        tagged_rows: world.funds.rows_of(deal.index),
        imports: counts.imports,
        threads: counts.threads.ever,
        threads_most: counts.threads.most,
        is_running: counts.threads.now > 0,
    }
}
