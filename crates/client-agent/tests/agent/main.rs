//! The agent as it is built, run as people run it, without database and node.

#![expect(clippy::disallowed_methods, reason = "tests measure real time")]
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod common;
mod datasets;
mod foreign;

mod cli;
mod makecars;
mod tools;
