//! The simulator over real sockets, judged by the contract: no library of ours between.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod deals;
mod faults;
mod frames;
mod imports;
mod process;
mod real_node;
mod scale;
mod sight;
mod support;
mod websocket;
