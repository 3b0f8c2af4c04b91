//! What both agents share: records, store, Lotus client, configuration, runtime.
//!
//! A room uses rooms above it, never below.

pub mod error_chain;

pub mod config;

pub mod runtime;

pub mod fsx;

pub mod telemetry;

pub mod printer;

pub mod model;

pub mod lotus;
