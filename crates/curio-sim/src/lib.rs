//! A stand-in for Curio's market side, as far as it reads offline data: the poller that asks piece locators,
//! the piece check, the read for sealing, and what its web interface tells.
//!
//! ```text
//! waiting ──HEAD 200──► started ──GET, commP──► published ──GET with ranges──► sealed, its row is gone
//!    ▲ 404: next locator     │ three failures          │ 15 tries a task, three tasks
//!    └ else: next pass       └► hangs for ever         └► sector failed
//! ```
//!
//! What it is not: a chain, a sealer, mk20, TLS, redirects. Publishing takes no time here. It shares no types
//! with the agents: a mistake in a shared type would be invisible to every test.
//!
//! Source: curio v1.28.4, file and line at each rule.

mod commp;
mod config;
mod deal;
mod fetch;
mod inner;
mod poller;
mod sim;
mod ssrf;
mod task;
mod tree_d;
mod web;

pub use crate::config::{CurioConfig, Locator, Release};
pub use crate::deal::{Deal, State};
pub use crate::inner::{Call, Proposal};
pub use crate::sim::{CurioSim, start};
