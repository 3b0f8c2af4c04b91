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
pub mod car_files;
pub mod cli;
pub mod commands;
pub mod config;
pub mod dispatch;
pub mod error;
pub mod import;
pub mod market;
pub mod miner_state;
pub mod provider_sync;

pub use crate::commands::{main_entry, run_agent};
pub use crate::config::Config;
pub use crate::error::AgentError;
