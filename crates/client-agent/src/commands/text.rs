//! Texts that commands print: lines and sizes.

use std::fmt::Write as _;

/// Appends a line.
pub(super) fn line(text: &mut String, what: impl std::fmt::Display) {
    let _infallible = writeln!(text, "{what}");
}

/// Bytes for people, in binary units.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
