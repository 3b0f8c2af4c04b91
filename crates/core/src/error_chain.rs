//! Shows an error on one line with all its causes, followed by a hint.
//!
//! Errors never print their source; [`ErrorChain`] walks the chain. [`crate::printer`] and the programs'
//! `main` write to the terminal.

use std::error::Error;
use std::fmt;

use crate::escaped::Escaped;

/// Displays an error and its causes as `outer: cause: cause` on one line.
///
/// A cause is left out if its text is part of the text before it: many libraries repeat their source in their
/// own message.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = one_line(&self.0.to_string());
        f.write_str(&printed)?;
        let mut next = self.0.source();
        // The bound ends a chain whose source is itself.
        for _ in 0..CAUSES_MAX {
            let Some(cause) = next else { break };
            let text = one_line(&cause.to_string());
            if !text.is_empty() && !printed.contains(&text) {
                write!(f, ": {text}")?;
                printed = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

const CAUSES_MAX: usize = 32;

/// A reason and its hint on one line: `text; hint: advice`.
pub fn with_hint(text: String, hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{text}; hint: {hint}"),
        None => text,
    }
}

/// An error that may have advice for the operator.
pub trait Hint: Error {
    /// How the operator can fix the cause, in one sentence without the word `hint`.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// What a program prints to stderr before it ends: `error: …`, and `hint: …` on the next line if there is a
/// hint.
#[derive(Debug)]
pub struct Report<'a> {
    error: &'a (dyn Error + 'static),
    hint: Option<String>,
}

impl<'a> Report<'a> {
    /// A report of an error with its own hint.
    pub fn of<E: Hint + 'static>(error: &'a E) -> Self {
        Self { hint: error.hint(), error }
    }

    /// A report of an error with this hint.
    pub fn with_hint(error: &'a (dyn Error + 'static), hint: Option<String>) -> Self {
        Self { error, hint }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", Escaped(ErrorChain(self.error)))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", Escaped(below(hint, HINT_COLUMN))),
            None => Ok(()),
        }
    }
}

/// The column at which the text of a hint begins, after `hint: `.
const HINT_COLUMN: usize = 6;

/// Shows the first line of a hint with single blanks. Further lines, which a user may copy, keep their blanks
/// and are indented to `column`.
pub fn below(hint: &str, column: usize) -> String {
    let mut lines = hint.lines();
    let mut shown = one_line(lines.next().unwrap_or_default());
    for line in lines {
        shown.push('\n');
        shown.push_str(&" ".repeat(column));
        shown.push_str(line.trim_end());
    }
    shown
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    impl Hint for Layer {
        fn hint(&self) -> Option<String> {
            self.text.contains("import").then(|| "start the node".to_owned())
        }
    }

    fn chain(texts: &[&'static str]) -> Layer {
        let (first, rest) = texts.split_first().expect("a chain has a first text");
        let source = (!rest.is_empty()).then(|| Box::new(chain(rest)));
        Layer { text: first, source }
    }

    #[test]
    fn causes_stand_on_one_line_without_repeats() {
        let cases: [(&[&str], &str); 4] = [
            (&["import failed", "timed out"], "import failed: timed out"),
            (&["import failed: timed out", "timed out"], "import failed: timed out"),
            (&["a", "b: c", "c", "d"], "a: b: c: d"),
            (&["two\n  lines", ""], "two lines"),
        ];
        for (texts, shown) in cases {
            assert_eq!(ErrorChain(&chain(texts)).to_string(), shown, "{texts:?}");
        }
    }

    #[test]
    fn report_puts_the_hint_below_the_error() {
        let error = chain(&["import failed", "refused"]);
        assert_eq!(Report::of(&error).to_string(), "error: import failed: refused\nhint: start the node");
        let error = chain(&["other"]);
        assert_eq!(Report::of(&error).to_string(), "error: other");
    }
}
