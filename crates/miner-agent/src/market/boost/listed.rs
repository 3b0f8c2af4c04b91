//! A deal as Boost keeps it, in the types of this agent.

use bson::DateTime;
use carferry_car::PaddedPieceSize;
use carferry_core::boost::wire::{BoostDeal, Checkpoint, Retry};
use carferry_core::model::{ChainEpoch, DealId, DealStatus};
use carferry_core::store::ProviderView;

use crate::market::listed_deal::{Blame, DataState, ListedDeal, SignedTerms};

/// What Boost says of a file that is another piece. Source: boost v2.5.2 `storagemarket/deal_commp.go`,
/// `deal_execution.go`. v1.5.0 wrote `commP mismatch`, and ended the deal.
const OTHER_PIECE: &str = "commp mismatch";

impl From<BoostDeal> for ListedDeal {
    fn from(deal: BoostDeal) -> Self {
        let data = data_state(&deal);
        let signed = deal.client_deal_proposal.proposal;
        Self {
            view: ProviderView {
                status: status(deal.checkpoint, &data),
                name: Some(deal.checkpoint.name()),
                message: deal.err,
                deal_id: DealId::from_lotus(deal.chain_deal_id),
            },
            data,
            terms: SignedTerms {
                piece_cid: signed.piece_cid.and_then(|link| link.cid.parse().ok()),
                piece_size: PaddedPieceSize::new(signed.piece_size).ok(),
                start: ChainEpoch::new(signed.start_epoch),
            },
            received: DateTime::parse_rfc3339_str(&deal.created_at).ok(),
        }
    }
}

/// What a deal waits for. An error after the data was taken concerns publishing, sealing or indexing, and
/// another import could not mend it.
fn data_state(deal: &BoostDeal) -> DataState {
    let words = || {
        let err = deal.err.trim();
        if err.is_empty() { "without a message".to_owned() } else { err.to_owned() }
    };
    match (deal.checkpoint, deal.retry) {
        (Checkpoint::Complete, _) => {
            DataState::Failed(format!("the deal failed at the provider: {}", words()))
        }
        (Checkpoint::Unknown, _) => {
            DataState::NotYet("the provider's Boost says a checkpoint that is not known".to_owned())
        }
        (Checkpoint::Accepted, _) if !deal.is_offline => DataState::NotYet(
            "the provider fetches the data over the network: this is no offline deal".to_owned(),
        ),
        (Checkpoint::Accepted, Retry::Fatal) if !deal.err.is_empty() => {
            DataState::Failed(format!("the deal failed at the provider: {}", words()))
        }
        (Checkpoint::Accepted, Retry::Manual) if !deal.err.is_empty() => {
            let is_file = deal.err.to_ascii_lowercase().contains(OTHER_PIECE);
            let blame = if is_file { Blame::File } else { Blame::Market };
            DataState::Refused { reason: words(), blame }
        }
        (Checkpoint::Accepted, _) if deal.inbound_file_path.is_empty() => DataState::Awaited,
        (Checkpoint::Accepted, _) => DataState::Taking,
        _ => DataState::Received,
    }
}

/// The state number of Lotus' own market that means the same, which is what records hold.
/// Source: go-fil-markets v1.28.3 `storagemarket/dealstatus.go`.
fn status(checkpoint: Checkpoint, data: &DataState) -> DealStatus {
    DealStatus::from_lotus(match (checkpoint, data) {
        (_, DataState::Failed(_)) => 26,
        (Checkpoint::Accepted, DataState::Taking) => 19,
        (Checkpoint::Accepted, _) => 18,
        (Checkpoint::Transferred, _) => 24,
        (Checkpoint::Published, _) => 25,
        (Checkpoint::PublishConfirmed, _) => 4,
        (Checkpoint::AddedPiece | Checkpoint::IndexedAndAnnounced, _) => 5,
        (Checkpoint::Complete | Checkpoint::Unknown, _) => 0,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deal(checkpoint: i64, path: &str, retry: &str, err: &str) -> ListedDeal {
        let deal: BoostDeal = serde_json::from_value(json!({
            "DealUuid": "07070707-0707-0707-0707-070707070707", "CreatedAt": "2026-01-01T00:00:00Z",
            "ClientDealProposal": { "Proposal": { "PieceCID": null, "PieceSize": 2048, "StartEpoch": 10 } },
            "IsOffline": true, "DealDataRoot": null, "InboundFilePath": path, "ChainDealID": 0,
            "Checkpoint": checkpoint, "Err": err, "Retry": retry,
        }))
        .unwrap();
        deal.into()
    }

    #[test]
    fn checkpoint_path_retry_and_error_decide_together() {
        let mismatch = "error when matching commP for imported data for offline deal: commP expected=a, actual=b: \
                        commp mismatch";
        for (checkpoint, path, retry, err, expected, status) in [
            (0, "", "auto", "", "awaited", 18),
            (0, "/a.car", "auto", "", "taking", 19),
            (0, "/a.car", "manual", mismatch, "refused file", 18),
            (0, "/a.car", "manual", "remote commP failed: worker gone", "refused market", 18),
            (0, "/a.car", "auto", "shutting down", "taking", 19),
            (1, "/a.car", "auto", "", "received", 24),
            (1, "/a.car", "manual", "recoverable error to publish deal 7: no gas", "received", 24),
            (2, "/a.car", "auto", "", "received", 25),
            (3, "/a.car", "auto", "", "received", 4),
            (4, "/a.car", "auto", "failed to add index and announce deal: not unsealed", "received", 5),
            (5, "/a.car", "auto", "", "received", 5),
            (6, "/a.car", "fatal", "failed to get size of imported offline deal file", "failed", 26),
            (6, "/a.car", "fatal", "", "failed", 26),
            (42, "/a.car", "auto", "", "not yet", 0),
        ] {
            let seen = deal(checkpoint, path, retry, err);
            let word = match &seen.data {
                DataState::Awaited => "awaited",
                DataState::Taking => "taking",
                DataState::Refused { blame: Blame::File, .. } => "refused file",
                DataState::Refused { blame: Blame::Market, .. } => "refused market",
                DataState::Received => "received",
                DataState::Failed(_) => "failed",
                DataState::NotYet(_) => "not yet",
            };
            assert_eq!(word, expected, "{checkpoint} {path} {retry} {err}");
            assert_eq!(seen.view.status.get(), status, "{checkpoint} {path} {retry} {err}");
        }
    }
}
