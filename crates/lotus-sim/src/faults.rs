//! Faults a test asks for.
//!
//! What lives here: what can go wrong on purpose and for which calls. What does not: the playing of it
//! (`rpc`).

use std::time::Duration;

use crate::calls::NodeName;
use crate::states::DealState;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The work begins this much later.
    Delay(Duration),
    /// The work is done at once, the answer comes this much later.
    DelayAnswer(Duration),
    /// The connection closes before any work.
    DropBefore,
    /// The connection closes after the work, without an answer.
    DropAfterWork,
    /// HTTP 500 (an error of code 0 over WebSocket), without any work.
    Http500,
    /// HTTP 401, as after a change of the token's secret, without any work.
    Unauthorized,
    /// No answer ever, without any work.
    Hang,
    /// No answer ever, after the work.
    HangAfterWork,
    /// An application error with this text, without any work.
    ApplicationError(String),
    /// An application error with this text, after the work.
    ApplicationErrorAfterWork(String),
    /// Deals in the answer are said to be in this state.
    WrongState(DealState),
    /// Over WebSocket the answer is an error with `"id":null`, without any work.
    NullIdError,
    /// The answer breaks off in the middle.
    CutAnswer,
}

/// A fault, and the calls it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which node; `None` is every one.
    pub node: Option<NodeName>,
    /// Which method, `Filecoin.Version`; `None` is every one.
    pub method: Option<String>,
    /// Calls whose parameters have this text in them (a CID, say); `None` is every one.
    pub params_contain: Option<String>,
    /// What goes wrong.
    pub kind: FaultKind,
    /// For how many calls; `None` until [`Sim::clear_faults`](crate::Sim::clear_faults).
    pub times: Option<usize>,
}

impl Fault {
    /// A fault for every call of a method on any node.
    pub fn on(method: impl Into<String>, kind: FaultKind) -> Self {
        Self { node: None, method: Some(method.into()), params_contain: None, kind, times: None }
    }

    /// The same, for this many calls.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }

    /// The same, on one node.
    #[must_use]
    pub fn at(self, node: NodeName) -> Self {
        Self { node: Some(node), ..self }
    }
}
