//! Watches the shared database for offline deals of its miners, finds each deal's CAR, hands it to the
//! miner's market, sees that the deal moved on, and closes it.
//!
//! ```text
//! offlinedeals ─wake─► worker ─claim─► import ─┬─ market: the deal's state, before and after
//!      ▲                                       ├─ locate: the CAR in the folders here
//!      └──────────── outcome ──────────────────┴─ head: can the start epoch still be met?
//! ```
//!
//! This agent is the only writer of `claim`, `import` and `provider`, and of `isdeal`.

#![warn(clippy::indexing_slicing)]

pub mod agent;
pub mod calendar;
pub mod calls;
pub mod cli;
mod commands;
pub mod config;
pub mod doctor;
pub mod endings;
pub mod error;
pub mod explain;
pub mod gates;
pub mod head;
pub mod import;
pub mod incoming;
pub mod leases;
pub mod locate;
pub mod market;
pub mod pass;
pub mod paths;
pub mod patience;
pub mod pause;
pub mod piece_check;
pub mod policy;
pub mod provider_view;
pub mod queue;
pub mod standing;
pub mod status;
pub mod under_way;
pub mod worker;

pub use commands::{main_entry, run_agent};
pub use config::Config;
pub use error::AgentError;
