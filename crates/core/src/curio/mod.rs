//! Curio as a market node: what its web interface tells of deals, and the call that wakes its poller.
//!
//! What lives here: reads that need no credentials. What does not: deals that are published to Curio, and the
//! locator that Curio reads CARs from ([`crate::car_server`]).
//!
//! Source of all shapes: curio v1.28.4 `web/api/webrpc/market.go`; "Null" below names Go's `sql.Null…` types.

mod nullable;
mod wake;
mod web;

pub use crate::curio::wake::{WakeError, Woken, wake_poller};
pub use crate::curio::web::{CurioDeal, CurioPipeline, CurioWeb, PIPELINES_MAX};
