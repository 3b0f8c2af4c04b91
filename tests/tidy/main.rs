//! What a machine can check of the layout and the style of this repository: `cargo test --test tidy`.
//!
//! The rules are ARCHITECTURE.md's. Each test reads the sources as text and names file and line of what
//! breaks its rule.

#![expect(clippy::unwrap_used, reason = "a source that cannot be read fails its check")]

mod architecture;
mod comments;
mod imports;
mod modules;
mod sources;
mod writers;
