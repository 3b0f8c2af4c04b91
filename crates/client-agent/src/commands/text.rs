//! Texts that commands print: tables, lines, sizes.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

/// A table without lines.
pub(super) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    table
}

/// Appends a line.
pub(super) fn line(text: &mut String, what: impl std::fmt::Display) {
    let _infallible = writeln!(text, "{what}");
}

/// Bytes for people, in binary units.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
