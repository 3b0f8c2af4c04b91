//! Tests of the simulator over real sockets against the contract, without a client library.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod faults;
mod funds;
mod graphql;
mod imports;
mod process;
mod proposals;
mod publishing;
mod restarts;
mod rpc;
mod scale;
mod support;
