//! One deal as its market lists it, in types that belong to no market: whether it waits for the data, the
//! provider's view to record, and the terms that the provider signed.
//!
//! A market's own records are converted here once, when its list is read. The rest of the agent knows no
//! state numbers and no wire types.

use bson::DateTime;
use carferry_car::{PaddedPieceSize, PieceCid};
use carferry_core::lotus::wire::MinerDeal;
use carferry_core::model::{ChainEpoch, DealId, DealPhase, DealStatus};
use carferry_core::store::ProviderView;

/// A deal in the list of its market.
#[derive(Clone, Debug)]
pub struct ListedDeal {
    /// Whether the provider waits for the data.
    pub data: DataState,
    /// State, message and number on chain, as `offlinedeals.provider` records them.
    pub view: ProviderView,
    /// What the provider signed.
    pub terms: SignedTerms,
    /// When the proposal reached the provider, by the provider's clock.
    pub received: Option<DateTime>,
}

/// Whether a provider waits for the data of a deal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataState {
    /// It waits for the data: an import has an effect.
    Awaited,
    /// It has the data.
    Received,
    /// It will never take the data, for this reason.
    Failed(String),
    /// It does not take the data yet, for this reason.
    NotYet(String),
}

/// The terms of a deal that decide which file is imported, and until when.
#[derive(Clone, Copy, Debug)]
pub struct SignedTerms {
    /// The piece; `None` if the market does not say, or says no piece CID.
    pub piece_cid: Option<PieceCid>,
    /// The piece's size; `None` if what the market says is no piece size.
    pub piece_size: Option<PaddedPieceSize>,
    /// Epoch by which the deal must be sealed.
    pub start: ChainEpoch,
}

impl SignedTerms {
    /// PADDED bytes of the piece; 0 where the size is not known.
    pub fn piece_bytes(&self) -> u64 {
        self.piece_size.map_or(0, PaddedPieceSize::get)
    }
}

impl ListedDeal {
    /// Whether the provider waits for the data.
    pub fn awaits_data(&self) -> bool {
        self.data == DataState::Awaited
    }
}

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
            view: ProviderView { status, message: deal.message, deal_id: DealId::from_lotus(deal.deal_id) },
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
            };
            assert_eq!(seen, expected, "state {state}");
        }
        let transfers = ListedDeal::example(17, "", 0, 128);
        assert!(matches!(transfers.data, DataState::NotYet(why) if why.contains("network")));
    }
}
