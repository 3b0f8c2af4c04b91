//! miner-agent: imports the CARs of offline deals into the markets of storage providers.
//!
//! It watches the shared database for deals of its miners, finds each deal's CAR, calls the market's import
//! method, confirms that the deal moved on, and closes it.
//!
//! ```text
//! offlinedeals ─wake─► dispatch ─claim─► import ─┬─ market: states of deals, import call, head of the chain
//!      ▲                                         └─ car_files: the CAR in the folders here
//!      └──────────── outcome ────────────────────┘
//! offlinedeals ◄─ views ─ provider_sync ◄─ market: the list of all deals
//! ```
//!
//! This agent writes `claim`, `import`, `provider` and `isdeal` of its miners' deals. client-agent reopens a
//! deal whose `isdeal` is wrongly 1, because this agent may be away.

#![warn(clippy::indexing_slicing)]

pub mod agent;
pub mod car_files;
pub mod cli;
pub mod commands;
pub mod config;
pub mod dispatch;
pub mod error;
pub mod import;
mod locator;
pub mod market;
pub mod miner_state;
pub mod provider_sync;

pub use crate::commands::{main_entry, run_agent};
pub use crate::config::Config;
pub use crate::error::AgentError;
