//! What both agents share: records, store, Lotus client, configuration, runtime.
//!
//! A room may use the rooms above it, in the order of the list below; nothing here knows which agent it is in.

#![warn(clippy::indexing_slicing)]

pub mod error_chain;
pub mod lotus;
pub mod model;
pub mod runtime;
pub mod store;
