//! A deal as Lotus' own market lists it, in the types of this agent.

use bson::DateTime;
use carferry_car::PaddedPieceSize;
use carferry_core::lotus::wire::MinerDeal;
use carferry_core::model::{ChainEpoch, DealId, DealPhase, DealStatus};
use carferry_core::store::ProviderView;

use crate::market::listed_deal::{DataState, ListedDeal, SignedTerms};

impl From<MinerDeal> for ListedDeal {
    fn from(deal: MinerDeal) -> Self {
        let status = DealStatus::from_lotus(deal.state);
        let signed = deal.proposal;
        Self {
            data: data_state(status, &deal.message),
            terms: SignedTerms {
                piece_cid: signed.piece_cid.and_then(|link| link.cid.parse().ok()),
                piece_size: PaddedPieceSize::new(signed.piece_size).ok(),
                start: ChainEpoch::new(signed.start_epoch),
            },
            received: DateTime::parse_rfc3339_str(&deal.creation_time).ok(),
            view: ProviderView {
                status,
                name: None,
                message: deal.message,
                deal_id: DealId::from_lotus(deal.deal_id),
            },
        }
    }
}

fn data_state(status: DealStatus, message: &str) -> DataState {
    match status.phase() {
        DealPhase::AwaitsData => DataState::Awaited,
        DealPhase::Progressing | DealPhase::Active | DealPhase::Expired => DataState::Received,
        DealPhase::Failed => {
            let words = if message.trim().is_empty() { "without a message" } else { message.trim() };
            DataState::Failed(format!("the deal failed at the provider ({status}): {words}"))
        }
        DealPhase::Proposed if takes_data_by_network(status) => DataState::NotYet(format!(
            "the provider fetches the data over the network ({status}): this is no manual-transfer deal"
        )),
        DealPhase::Proposed => {
            DataState::NotYet(format!("the provider has not accepted the proposal yet ({status})"))
        }
    }
}

/// Starting, running, interrupted and queued data transfers.
/// Source: go-fil-markets v1.28.3 `storagemarket/dealstatus.go`.
fn takes_data_by_network(status: DealStatus) -> bool {
    matches!(status.get(), 16 | 17 | 27 | 28 | 30)
}

#[cfg(test)]
impl ListedDeal {
    /// A deal with this state number, message and number on chain, as Lotus lists it.
    pub(crate) fn example(state: u64, message: &str, deal_id: u64, piece_bytes: u64) -> Self {
        let deal: MinerDeal = serde_json::from_value(serde_json::json!({
            "Proposal": {
                "PieceCID": null, "PieceSize": piece_bytes, "Provider": "f01", "StartEpoch": 9, "EndEpoch": 10,
            },
            "ProposalCid": {"/": "bafyrei"}, "State": state, "Message": message, "DealID": deal_id,
        }))
        .expect("a deal as Lotus lists it");
        deal.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deal_that_awaits_data_is_imported() {
        for (state, expected) in [
            (18, "import"),
            (20, "data"),
            (24, "data"),
            (29, "data"),
            (7, "data"),
            (8, "data"),
            (26, "failed"),
            (11, "failed"),
            (10, "failed"),
            (9, "failed"),
            (14, "not yet"),
            (15, "not yet"),
            (17, "not yet"),
            (99, "not yet"),
        ] {
            let seen = match ListedDeal::example(state, "because", 0, 128).data {
                DataState::Awaited => "import",
                DataState::Received => "data",
                DataState::Failed(reason) => {
                    assert!(reason.ends_with(": because"), "{reason}");
                    "failed"
                }
                DataState::NotYet(_) => "not yet",
                DataState::Taking | DataState::Refused { .. } => "Lotus takes the data before it answers",
            };
            assert_eq!(seen, expected, "state {state}");
        }
        let transfers = ListedDeal::example(17, "", 0, 128);
        assert!(matches!(transfers.data, DataState::NotYet(why) if why.contains("network")));
    }
}
