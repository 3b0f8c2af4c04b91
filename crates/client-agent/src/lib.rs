//! The agent of the data-prep box: packs CARs, publishes offline deals, tracks them.
//!
//! What lives here: the command line, this agent's configuration, the rooms of its work ([`pack`],
//! [`propose`], [`track`]), the tools that need no database ([`tools`]), the checks of `doctor`. What does
//! not: the bytes of CARs (`carferry_car`), what both agents share (`carferry_core`).

#![warn(clippy::indexing_slicing)]

pub mod agent;
pub mod cli;
pub mod commands;
pub mod config;
pub mod exit;
pub mod makecars;
pub mod node_deals;
pub mod progress;
pub mod propose;
pub mod track;

pub use crate::commands::main_entry;
pub use crate::exit::CommandError;
