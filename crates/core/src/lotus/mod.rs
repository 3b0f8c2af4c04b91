//! A Lotus node over JSON-RPC.
//!
//! [`Client`] carries calls over HTTP (the same path serves WebSocket, which we do not need: polling loses
//! nothing, streams do); [`full_node`] and [`provider`] hold the calls we make; [`wire`] holds their JSON
//! shapes. Shapes and error texts are those of the legacy market, Lotus v1.5.0 to v1.27.0.

pub mod full_node;
mod hints;
pub mod provider;
pub mod wire;

pub use crate::lotus::full_node::FullNode;
pub use crate::lotus::provider::Provider;
