//! The agent of the data-prep box: packs CARs, publishes offline deals, tracks them.
//!
//! What lives here: the command line and its commands (`commands`), this agent's configuration ([`config`]),
//! the parts of a running agent (`agent`), CARs of folders (`makecars`), CARs offered over HTTP
//! (`served_cars`), deals proposed ([`propose`]) and tracked ([`track`]). What does not: the bytes of CARs
//! (`carferry_car`), what both agents share (`carferry_core`).

#![warn(clippy::indexing_slicing)]

mod agent;
mod blocking;
mod car_line;
mod chain_head;
pub mod cli;
mod commands;
pub mod config;
mod console;
mod exit;
mod makecars;
pub mod node_deals;
mod progress;
pub mod propose;
mod served_cars;
pub mod track;

pub use crate::commands::main_entry;
