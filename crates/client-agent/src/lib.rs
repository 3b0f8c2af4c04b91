//! Packs CARs, publishes offline deals, tracks them.

#![warn(clippy::indexing_slicing)]

pub mod propose;
pub mod track;
