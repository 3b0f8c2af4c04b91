//! The engine against vectors of other tools, damaged CARs, and sources that change.

#![expect(clippy::disallowed_methods, reason = "tests measure real time")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first thing that is wrong")]

mod blocks;
mod damage;
mod extract;
mod hostile;
mod inputs;
mod parts;
mod public;
mod published;
mod shards;
mod sources;
mod threads;
mod trees;
