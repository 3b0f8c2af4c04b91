//! What both agents share: records, store, Lotus client, configuration, runtime.
//!
//! A room may use the rooms above it, in the order of the list below; nothing here knows which agent it is
//! in.

#![warn(clippy::indexing_slicing)]

pub mod command_names;

pub mod words;

pub mod escaped;

pub mod error_chain;

pub mod exit_status;

pub mod config;

pub mod runtime;

pub mod fsx;

pub mod path_mapping;

pub mod telemetry;

pub mod printer;

pub mod model;

pub mod rpc;

pub mod lotus;

pub mod store;

pub mod doctor;
