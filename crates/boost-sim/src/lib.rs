//! Simulates boostd, the storage market of a Filecoin provider, on real sockets.
//!
//! For tests and rehearsals. It has the JSON-RPC and the GraphQL that an importer of offline deals uses, with
//! the differences of each release, the states of a deal from its import to its index, and a log of all
//! calls. Files are really read and their commitments really computed; there is no chain, no sector, no
//! libp2p.
//!
//! ```text
//!            HTTP                             in the process, or /sim/
//! importer ───────► methods, graphql        test ───────► sim, control
//!                         └────── World: database, chain, memory ──┘
//!                                   │ one thread for each deal
//!                              execution: commP, publish, AddPiece, index
//! ```
//!
//! What does not live here: the wire types of the agents. The JSON is written by hand from the contract, so
//! that tests find mistakes in the agents' types.

#![expect(clippy::disallowed_methods, reason = "the simulated provider goes by this host's clock")]

mod acceptance;
mod address;
mod batch;
mod boot;
mod calls;
mod commp;
mod config;
mod control;
mod counters;
mod doors;
mod execution;
mod faults;
mod funds;
mod graphql;
mod handle;
mod http;
mod import;
mod inner;
mod methods;
mod params;
mod proposal;
mod publishing;
mod record;
mod reply;
mod server;
mod sim;
mod store;
mod uuid;
mod version;
mod view;
mod world;

pub use lotus_sim::Permission;

pub use crate::calls::{Call, Outcome};
pub use crate::config::{Ask, BoostConfig, PublishBatch, Timings};
pub use crate::counters::{Counters, Gauge};
pub use crate::faults::{DealFault, DealFaultKind, Endpoint, Fault, FaultKind};
pub use crate::funds::FundsLog;
pub use crate::inner::Hold;
pub use crate::proposal::{Proposal, Proposed};
pub use crate::record::{Checkpoint, Retry, SectorPlace};
pub use crate::server::start;
pub use crate::sim::BoostSim;
pub use crate::version::BoostVersion;
pub use crate::view::DealView;
