//! The agent of the data-prep box: packs CARs, publishes offline deals, tracks them.
//!
//! What lives here: the command line, this agent's configuration, the rooms of its work ([`pack`],
//! [`propose`], [`track`]), the tools that need no database ([`tools`]), the checks of `doctor`. What does
//! not: the bytes of CARs (`carferry_car`), what both agents share (`carferry_core`).

#![warn(clippy::indexing_slicing)]

pub mod cli;
pub mod config;
pub mod dataset;
pub mod deals;
pub mod doctor;
pub mod makedeals;
pub mod node_deals;
pub mod pack;
pub mod propose;
pub mod report;
pub mod retry;
mod start;
mod stop;
pub mod tools;
pub mod track;
pub mod upkeep;

pub use start::main_entry;
pub use stop::Stop;
