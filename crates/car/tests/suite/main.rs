//! The engine against values made by others, damaged CARs, and sources that misbehave.

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
