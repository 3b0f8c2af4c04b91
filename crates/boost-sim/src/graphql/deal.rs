//! The fields of a deal.
//!
//! Source: boost v2.5.2 `gql/resolver.go`.

use serde_json::{Value, json};

use crate::graphql::parse::Field;
use crate::graphql::selection::{big, object, pick};
use crate::record::{Checkpoint, ClientPeer, DUMMY_PEER, Record, Retry, client_peer_id, go_time};
use crate::world::World;

/// One row that cannot be read fails its whole list: boost v2.5.2 `db/deals.go` (`list`).
pub(super) fn readable(deal: &Record) -> Result<(), String> {
    match deal.client_peer {
        ClientPeer::Libp2p => Ok(()),
        ClientPeer::Dummy => Err(DUMMY_PEER.to_owned()),
    }
}

/// A deal with the selected fields.
pub(super) fn deal_json(world: &World, deal: &Record, selected: &[Field]) -> Value {
    object("Deal", selected, |field| deal_field(world, deal, field))
}

/// One field of a deal.
pub(super) fn deal_field(world: &World, deal: &Record, field: &Field) -> Value {
    let terms = &deal.terms;
    let prefix = world.config.network_prefix;
    match field.name.as_str() {
        "ID" => json!(deal.uuid()),
        "ClientAddress" => json!(terms.client.print(prefix)),
        "ProviderAddress" => json!(terms.provider.print(prefix)),
        "CreatedAt" => json!(go_time(deal.created_at)),
        "PieceCid" => json!(terms.piece_cid.to_string()),
        "PieceSize" => big(terms.piece_size),
        "IsVerified" => json!(terms.verified),
        "AnnounceToIPNI" => json!(deal.announce),
        "KeepUnsealedCopy" => json!(deal.fast_retrieval),
        "ProposalLabel" => json!(terms.label),
        "ProviderCollateral" => big(terms.provider_collateral),
        "ClientCollateral" => big(terms.client_collateral),
        "StoragePricePerEpoch" => big(terms.price_per_epoch),
        "StartEpoch" => big(terms.start_epoch),
        "EndEpoch" => big(terms.end_epoch),
        "ClientPeerID" => json!(client_peer_id()),
        "DealDataRoot" => json!(terms.payload_cid),
        "SignedProposalCid" => json!(terms.names.signed_proposal_cid),
        "InboundFilePath" => json!(deal.inbound_file_path),
        "ChainDealID" => big(deal.chain_deal_id),
        "PublishCid" => json!(deal.publish_cid.as_deref().unwrap_or_default()),
        "IsOffline" => json!(deal.is_offline),
        "CleanupData" => json!(deal.cleanup_data),
        "Transfer" => {
            let kind = if deal.is_offline { "manual" } else { "http" };
            let whole = json!({ "Type": kind, "Size": big(terms.car_size), "Params": "{}", "ClientID": "" });
            pick("TransferParams", &field.fields, &whole)
        }
        "Checkpoint" => json!(deal.checkpoint.name()),
        "CheckpointAt" => json!(go_time(deal.checkpoint_at)),
        "Err" => json!(deal.err),
        "Retry" => json!(deal.retry.name()),
        "Transferred" => big(0),
        "Sector" => {
            let place = deal.place;
            let whole =
                json!({ "ID": big(place.sector), "Offset": big(place.offset), "Length": big(place.length) });
            pick("Sector", &field.fields, &whole)
        }
        "Message" => json!(message(deal)),
        "SealingState" => json!(sealing_state(deal)),
        "IsTransferStalled" => json!(false),
        // Transfer samples and logs.
        _ => json!([]),
    }
}

/// Source: boost v2.5.2 `gql/resolver.go` (`Message`).
fn message(deal: &Record) -> String {
    let message = match deal.checkpoint {
        Checkpoint::Accepted if !deal.is_offline => "Transfer Queued".to_owned(),
        Checkpoint::Accepted if deal.inbound_file_path.is_empty() => {
            "Awaiting Offline Data Import".to_owned()
        }
        Checkpoint::Accepted => "Verifying Commp".to_owned(),
        Checkpoint::Transferred => "Ready to Publish".to_owned(),
        Checkpoint::Published => "Awaiting Publish Confirmation (0/10 epochs)".to_owned(),
        Checkpoint::PublishConfirmed => "Adding to Sector".to_owned(),
        Checkpoint::AddedPiece => "Indexing".to_owned(),
        Checkpoint::IndexedAndAnnounced => "Indexed and Announced".to_owned(),
        Checkpoint::Complete if deal.err.is_empty() => "Complete".to_owned(),
        Checkpoint::Complete => format!("Error: {}", deal.err),
    };
    if deal.retry != Retry::Fatal && !deal.err.is_empty() {
        return format!("Paused at '{message}': {}", deal.err);
    }
    message
}

fn sealing_state(deal: &Record) -> &'static str {
    match deal.checkpoint {
        Checkpoint::Complete => "Complete",
        Checkpoint::AddedPiece => "Sealer: WaitDeals",
        Checkpoint::IndexedAndAnnounced => "Sealer: Proving",
        _ => "To be sealed",
    }
}
