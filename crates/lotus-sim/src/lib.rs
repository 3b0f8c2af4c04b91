//! Simulates a Lotus full node and its miners in one process, on real sockets.
//!
//! For tests and rehearsals. It has the JSON-RPC of Lotus' legacy markets with the differences of each
//! release, both state machines of a deal, and a log of all calls. It has no chain, consensus, proofs or
//! signatures. Commitments of imported files are really computed.
//!
//! ```text
//!            HTTP, WebSocket                    HTTP, WebSocket
//! client ───────────────────► full node  miner ◄─────────────── storage provider's agent
//!                              client.rs  provider.rs, import.rs
//!                                   └──── World ────┘   one lock, one clock task
//! ```
//!
//! What does not live here: the wire types of the agents. The JSON is written by hand from the contract, so
//! that tests find mistakes in the agents' types.

#![expect(clippy::disallowed_methods, reason = "the simulated chain goes by this host's clock")]

mod calls;
mod chain_state;
mod client;
mod config;
mod control;
mod faults;
mod full_node;
mod http;
mod ids;
mod import;
mod inner;
mod json;
mod jwt;
mod lost_sight;
mod methods;
mod miner_node;
mod params;
mod payload;
mod proposal;
mod provider;
mod publishing;
mod reply;
mod rpc;
mod server;
mod sight;
mod sim;
mod start_deal;
mod states;
mod view;
mod wire;
mod world;
mod ws;

pub use crate::calls::{Call, ImportCounts, ImportRun, NodeName, Outcome, Transport};
pub use crate::config::{Ask, LotusVersion, MinerConfig, SimConfig, TimeScale, Timings, WalletConfig};
pub use crate::faults::{Fault, FaultKind};
pub use crate::ids::{ATTO_PER_FIL, made_up_cid, peer_id, rfc3339, uuid};
pub use crate::jwt::{Permission, Secret};
pub use crate::lost_sight::{LostAt, LostSight, Watcher};
pub use crate::server::start;
pub use crate::sim::Sim;
pub use crate::states::DealState;
pub use crate::view::{DealView, SideView};
