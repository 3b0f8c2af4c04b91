//! Errors of calls, and how a call is answered.

use serde_json::Value;

/// An error of a call, and its HTTP status.
#[derive(Debug, Clone)]
pub(crate) struct CallError {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) status: u16,
}

impl CallError {
    /// An error that a method returns: HTTP 200, code 1.
    pub(crate) fn application(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), status: 200 }
    }

    /// An error of go-jsonrpc itself: HTTP 500.
    pub(crate) fn protocol(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: 500 }
    }

    /// A parameter that does not decode; `go_type` is its type as Go prints it.
    pub(crate) fn param(method: &str, go_type: &str, error: impl std::fmt::Display) -> Self {
        Self::protocol(-32700, format!("unmarshaling params for '{method}' (param: *{go_type}): {error}"))
    }
}

/// The result of a call.
pub(crate) type Answer = Result<Value, CallError>;

/// How a call is answered.
#[derive(Debug)]
pub(crate) enum Handled {
    Answer(Answer),
    /// Sends the first half of this answer, then closes the connection.
    CutAnswer(Answer),
    /// 401.
    Unauthorized,
    /// The connection closes.
    Close,
}
