//! The Lotus API over JSON-RPC: full nodes and markets nodes.
//!
//! [`full_node`] and [`provider`] hold the calls that the agents make, [`wire`] their JSON shapes, and
//! `hints` the advice about failed calls. Calls go over HTTP: polling loses nothing, while Lotus' WebSocket
//! streams lose what happens while they are closed. Shapes and error texts are those of the legacy market,
//! Lotus v1.5.0 to v1.27.0.

pub mod full_node;
mod hints;
pub mod provider;
pub mod wire;

pub use crate::lotus::full_node::FullNode;
pub use crate::lotus::provider::Provider;
