//! Tests of the simulator over real sockets against the contract, without a client library.

#![expect(clippy::disallowed_methods, reason = "tests measure real time")]
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
