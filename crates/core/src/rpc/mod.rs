//! JSON-RPC over HTTP in the dialect of go-jsonrpc servers: Lotus, Boost and Curio.
//!
//! [`Client`] makes calls over HTTP; `go_jsonrpc` repairs the answers that a strict client refuses;
//! `send_deadline` keeps a call from being sent after its lease may have ended; [`endpoint`] finds address
//! and token of a node. The calls of a node and their shapes are in `crate::lotus`.

pub mod authority;
pub(crate) mod client;
pub mod endpoint;
pub(crate) mod error;
pub(crate) mod go_jsonrpc;
pub(crate) mod go_values;
pub(crate) mod send_deadline;

pub use client::{CallTimeouts, Client};
pub use error::RpcError;
pub use send_deadline::BootInstant;
