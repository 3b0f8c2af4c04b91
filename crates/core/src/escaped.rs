//! Escapes control characters in text for terminals: names of files and messages of other programs may
//! contain escape sequences.

use std::fmt;

/// Text without characters that control a terminal.
///
/// Control characters become `\u{1b}` and the like, except for line ends and tabs. So do the characters that
/// change the direction of text, with which one name can look like another.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        write!(Escaping { out: f, escape: |c, out| write!(out, "{}", c.escape_unicode()) }, "{}", self.0)
    }
}

/// JSON with the same characters as `\u009b`.
pub(crate) struct EscapedJson<'a>(pub(crate) &'a str);

impl fmt::Display for EscapedJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        // All of these characters are in the first plane, so one number is enough.
        Escaping { out: f, escape: |c, out| write!(out, "\\u{:04x}", u32::from(c)) }.write_str(self.0)
    }
}

/// Writes text, and gives characters that control a terminal to `escape`.
struct Escaping<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    escape: fn(char, &mut fmt::Formatter<'f>) -> fmt::Result,
}

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, works)) = rest.char_indices().find(|(_, c)| works_a_terminal(*c)) {
            let (before, after) = rest.split_at(at);
            self.out.write_str(before)?;
            (self.escape)(works, self.out)?;
            rest = after.get(works.len_utf8()..).unwrap_or_default();
        }
        self.out.write_str(rest)
    }
}

fn works_a_terminal(c: char) -> bool {
    let is_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_direction || c.is_control() && c != '\n' && c != '\t'
}
