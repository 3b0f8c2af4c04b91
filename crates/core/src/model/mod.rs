//! Records as they are stored: identifiers, chain units, deal states, and the documents of each collection.
//!
//! [`CarDoc`], [`OfflineDealDoc`], [`IntentDoc`] and [`PlanDoc`] with its pieces are the only places that
//! know stored field names. Everything read from the database may come from the first prototype (doubles for
//! integers, naive dates, missing fields) or from a newer agent (unknown fields): reading is lenient, writing
//! never replaces whole documents.

pub mod address;
mod car_doc;
pub mod chain;
mod deal_status;
mod ids;
mod intent_doc;
mod offline_deal_doc;
mod plan_doc;
mod refusal;
mod status_source;
pub mod stored;

pub use crate::model::car_doc::CarDoc;
pub use crate::model::chain::{AttoFil, ChainEpoch, DealDuration, ParseDurationError, ParseFilError};
pub use crate::model::deal_status::{DealPhase, DealStatus};
pub use crate::model::ids::{DealId, IntentId, ParseProposalCidError, ProposalCid};
pub use crate::model::intent_doc::{IntentDoc, IntentState, PublishMethod};
pub use crate::model::offline_deal_doc::{ClaimDoc, ImportDoc, ImportState, OfflineDealDoc, ProviderViewDoc};
pub use crate::model::plan_doc::{
    PackEntryDoc, PackFilesDoc, PackPartDoc, PackPieceDoc, PieceState, PlanDoc, PlanKey, PlanSeen, PlanState,
};
pub use crate::model::refusal::Refusal;
pub use crate::model::status_source::StatusSource;
