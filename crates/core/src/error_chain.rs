//! How an error is shown to people: one line with all its causes, then a hint.
//!
//! Errors themselves never print their source; this is the one place that walks the chain.
//! Writing to the terminal is the caller's: see [`crate::printer`] and the binaries' `main`.

use std::error::Error;
use std::fmt;

use crate::escaped::Escaped;

/// Displays an error and its causes as `outer: cause: cause` on one line.
///
/// A cause whose text already stands in what was printed before it is left out: many libraries
/// repeat their source in their own message.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = one_line(&self.0.to_string());
        f.write_str(&printed)?;
        let mut next = self.0.source();
        // A bound, because a source that names itself would never end.
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

/// A reason on one line with the advice that goes with it: `text; hint: advice`.
pub fn with_hint(text: String, hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{text}; hint: {hint}"),
        None => text,
    }
}

/// An error that may know what the operator can do about it.
pub trait Hint: Error {
    /// One sentence that tells how to get past this error, without the word `hint`.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// What a binary prints to stderr before it ends: `error: …`, and below it `hint: …` where there is one.
#[derive(Debug)]
pub struct Report<'a> {
    error: &'a (dyn Error + 'static),
    hint: Option<String>,
}

impl<'a> Report<'a> {
    /// A report of an error with the hint it carries.
    pub fn of<E: Hint + 'static>(error: &'a E) -> Self {
        Self { hint: error.hint(), error }
    }

    /// A report with a hint found elsewhere.
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

/// Where the text of a hint begins: behind `hint: `.
const HINT_COLUMN: usize = 6;

/// A hint of one sentence on one line; lines that a user may copy keep their blanks, and stand below it.
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
