//! What both agents share: records, store, Lotus client, configuration, runtime.
//!
//! A room uses rooms above it, never below.

pub mod error_chain;
