//! Shared code of both agents: records, MongoDB store, Lotus client, configuration, runtime.
//!
//! A module uses only modules that are above it in the list below. No module depends on which agent runs it.

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

pub mod boost;

pub mod curio;

pub mod store;

pub mod car_server;

pub mod doctor;
