//! The Boost API: one deal and the hand-over of its data over JSON-RPC, and the deals that wait over GraphQL.
//!
//! [`api`] holds the JSON-RPC calls that miner-agent makes, [`wire`] their JSON shapes. Boost v1.5.0 to
//! v2.5.2. Every call but the ask needs an `admin` token.

pub mod api;
pub mod graphql;
pub mod wire;

pub use crate::boost::api::Boost;
pub use crate::boost::graphql::{Graphql, WaitingDeal};
