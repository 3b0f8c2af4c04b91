//! One deal as its market lists it, in types that belong to no market: whether it waits for the data, the
//! provider's view to record, and the terms that the provider signed.
//!
//! A market's own records are converted here once, when its list is read. The rest of the agent knows no
//! state numbers and no wire types.

use bson::DateTime;
use carferry_car::{PaddedPieceSize, PieceCid};
use carferry_core::model::ChainEpoch;
use carferry_core::store::{AdoptedDeal, ProviderView};

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
    /// It was given a file and refused it, and waits for the data again.
    Refused {
        /// In the market's words.
        reason: String,
        /// Whose fault that was.
        blame: Blame,
    },
    /// It was given a file, and has neither confirmed nor refused it. Another call would do harm.
    Taking,
    /// It has the data.
    Received,
    /// It will never take the data, for this reason.
    Failed(String),
    /// It does not take the data yet, for this reason.
    NotYet(String),
}

/// What a market refused a file for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The file is another piece.
    File,
    /// Something at the market failed; the same file may succeed.
    Market,
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
    /// The deal as it is recorded where no client has recorded it; `None` if it waits for no data, or its
    /// piece is not known.
    pub(super) fn adopted(&self, proposal_cid: &str, payload_cid: Option<String>) -> Option<AdoptedDeal> {
        let (piece_cid, size) = (self.terms.piece_cid?, self.terms.piece_size?);
        self.awaits_data().then(|| AdoptedDeal {
            proposal_cid: proposal_cid.to_owned(),
            payload_cid,
            piece_cid: piece_cid.to_string(),
            unpadded_bytes: i64::try_from(size.unpadded().get()).unwrap_or(i64::MAX),
            start_epoch: self.terms.start.get(),
        })
    }

    /// Whether the provider waits for the data.
    pub fn awaits_data(&self) -> bool {
        matches!(self.data, DataState::Awaited | DataState::Refused { .. })
    }
}
