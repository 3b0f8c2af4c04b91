//! Faults that a test injects: kinds, and the calls that they concern.
//!
//! What does not live here: their injection into calls (`rpc`).

use std::time::Duration;

use crate::calls::NodeName;
use crate::states::DealState;

/// Kind of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The work begins after this delay.
    Delay(Duration),
    /// The work is done at once, the answer is sent after this delay.
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
    /// Deals in the answer have this state.
    WrongState(DealState),
    /// Over WebSocket the answer is an error with `"id":null`, without any work.
    NullIdError,
    /// The answer is cut in the middle.
    CutAnswer,
}

/// A fault, and the calls that it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The node; `None` is every node.
    pub node: Option<NodeName>,
    /// The method, such as `Filecoin.Version`; `None` is every method.
    pub method: Option<String>,
    /// Text that the parameters contain, such as a CID; `None` is every call.
    pub params_contain: Option<String>,
    /// Kind of a fault.
    pub kind: FaultKind,
    /// Number of calls; `None` until [`Sim::clear_faults`](crate::Sim::clear_faults).
    pub times: Option<usize>,
}

impl Fault {
    /// A fault for every call of a method on any node.
    pub fn on(method: impl Into<String>, kind: FaultKind) -> Self {
        Self { node: None, method: Some(method.into()), params_contain: None, kind, times: None }
    }

    /// Limits the fault to this number of calls.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Limits the fault to one node.
    #[must_use]
    pub fn at(self, node: NodeName) -> Self {
        Self { node: Some(node), ..self }
    }
}
