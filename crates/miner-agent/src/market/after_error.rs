//! What follows from a hand-over that a market answered with an error, or not at all.
//!
//! Each market has one table of its texts (`lotus/errors`, `boost/errors`); what concerns the node or the
//! connection is the same for all.

use carferry_core::error_chain::{ErrorChain, Hint as _, with_hint};
use carferry_core::rpc::RpcError;

use crate::market::node::Remedy;

/// What follows from a hand-over that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterError {
    /// The call may have had its effect: the deal's state tells.
    LookAtState(String),
    /// It had none; another try may succeed.
    Retry(String),
    /// It had none: the file is another piece. Another file may succeed.
    WrongFile(String),
    /// The provider does not know the deal any more, or not yet.
    NotYet(String),
    /// No try of this deal can succeed.
    Never(String),
    /// The node is in trouble, and every other deal would fail alike.
    NodeTrouble(String, Remedy),
}

/// What a text in the error of a hand-over means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    WrongFile,
    Retry,
    NotYet,
    Never,
    LookAtState,
    NodeTrouble,
}

/// A text that an error contains, its class, and the advice for the operator.
pub(super) type KnownText = (&'static str, ErrorClass, Option<&'static str>);

/// Classifies the error of a hand-over. The first text of the table that the error contains decides; an error
/// without any of them is tried again as often as `setting.maxTries` allows.
pub(super) fn classify(error: &RpcError, table: &[KnownText]) -> AfterError {
    let chain = ErrorChain(error).to_string();
    if error.effect_is_unknown() {
        return AfterError::LookAtState(chain);
    }
    if error.is_about_the_node() {
        return AfterError::NodeTrouble(with_hint(chain, error.hint()), Remedy::of_call(error));
    }
    let words = error.message().unwrap_or(&chain);
    let known = table.iter().find(|(text, ..)| words.contains(text));
    let Some((_, class, hint)) = known else { return AfterError::Retry(words.to_owned()) };
    let advised = with_hint(words.to_owned(), hint.map(str::to_owned));
    match class {
        ErrorClass::WrongFile => AfterError::WrongFile(words.to_owned()),
        ErrorClass::Retry => AfterError::Retry(advised),
        ErrorClass::NotYet => AfterError::NotYet(format!("the provider does not know the proposal: {words}")),
        ErrorClass::Never => AfterError::Never(advised),
        ErrorClass::LookAtState => AfterError::LookAtState(advised),
        ErrorClass::NodeTrouble => AfterError::NodeTrouble(advised, Remedy::Time),
    }
}

#[cfg(test)]
impl AfterError {
    /// A word for tables of tests.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::LookAtState(_) => "look",
            Self::Retry(_) => "retry",
            Self::WrongFile(_) => "wrong",
            Self::NotYet(_) => "not yet",
            Self::Never(_) => "never",
            Self::NodeTrouble(..) => "node",
        }
    }
}
