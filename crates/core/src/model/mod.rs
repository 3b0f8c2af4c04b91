//! The records: identifiers, chain numbers, deal states, and the documents as they are stored.
//!
//! [`CarDoc`], [`OfflineDealDoc`], [`IntentDoc`] and [`PlanDoc`] with its pieces are the only places that know stored field names.
//! Everything read from the database may come from the first prototype (doubles for integers, naive
//! dates, missing fields) or from a newer agent (unknown fields): reading is lenient, writing never
//! replaces whole documents.

pub mod address;
mod car_doc;
mod chain;
mod deal_status;
mod ids;
mod intent_doc;
mod offline_deal_doc;
mod plan_doc;
mod refusal;
mod status_source;
pub mod stored;

pub use car_doc::CarDoc;
pub use chain::{AttoFil, ChainEpoch, DealDuration, ParseDurationError, ParseFilError};
pub use deal_status::{DealPhase, DealStatus};
pub use ids::{DealId, IntentId, ParseProposalCidError, ProposalCid};
pub use intent_doc::{IntentDoc, IntentState, PublishMethod};
pub use offline_deal_doc::{ClaimDoc, ImportDoc, ImportState, OfflineDealDoc, ProviderViewDoc};
pub use plan_doc::{
    PackEntryDoc, PackFilesDoc, PackPartDoc, PackPieceDoc, PieceState, PlanDoc, PlanKey, PlanSeen, PlanState,
};
pub use refusal::Refusal;
pub use status_source::StatusSource;
