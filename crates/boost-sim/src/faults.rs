//! Faults that a test injects into calls and into deals.
//!
//! What does not live here: their injection (`serve`, `import`, `execution`).

use std::time::Duration;

use serde::Serialize;

/// A listener of the simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// JSON-RPC, `/rpc/v0`.
    Rpc,
    /// GraphQL, `/graphql/query`.
    Graphql,
}

/// Kind of a fault of a call.
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
    /// HTTP 500 without any work.
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
    /// The answer is cut in the middle.
    CutAnswer,
}

/// A fault, and the calls that it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The listener; `None` is both.
    pub endpoint: Option<Endpoint>,
    /// The method, such as `Filecoin.BoostDeal`, or the first field of a GraphQL operation, such as `deals`;
    /// `None` is every method.
    pub method: Option<String>,
    /// Text that the parameters contain, such as a UUID; `None` is every call.
    pub params_contain: Option<String>,
    /// Kind of the fault.
    pub kind: FaultKind,
    /// Number of calls; `None` until [`BoostSim::clear_faults`](crate::BoostSim::clear_faults).
    pub times: Option<usize>,
}

impl Fault {
    /// A fault for every call of a method.
    pub fn on(method: impl Into<String>, kind: FaultKind) -> Self {
        Self { endpoint: None, method: Some(method.into()), params_contain: None, kind, times: None }
    }

    /// A fault for every call at a listener.
    pub fn at(endpoint: Endpoint, kind: FaultKind) -> Self {
        Self { endpoint: Some(endpoint), method: None, params_contain: None, kind, times: None }
    }

    /// Limits the fault to this number of calls.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Limits the fault to calls whose parameters contain this text.
    #[must_use]
    pub fn containing(self, text: impl Into<String>) -> Self {
        Self { params_contain: Some(text.into()), ..self }
    }

    fn concerns(&self, endpoint: Endpoint, method: &str, params: &str) -> bool {
        self.endpoint.is_none_or(|wanted| wanted == endpoint)
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.params_contain.as_ref().is_none_or(|text| params.contains(text))
    }
}

/// Kind of a fault of a deal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DealFaultKind {
    /// An import is refused for lack of funds: every tagged row of the deal is deleted.
    InsufficientFunds,
    /// An import is refused because funds cannot be tagged: every tagged row of the deal is deleted.
    TagFails,
    /// The sealer that computes commitments fails: the deal waits for a manual retry at checkpoint 0.
    RemoteCommpFails(String),
    /// Publishing fails: the deal waits for a manual retry at `Transferred`.
    PublishFails(String),
    /// Waiting for the publish message fails: the deal goes on at the next start.
    ConfirmFails(String),
    /// Adding the piece to a sector fails: the deal goes on at the next start.
    AddPieceFails(String),
    /// Indexing fails: the deal is well, at `AddedPiece` with an error, and goes on at the next start.
    IndexFails(String),
    /// The deal's row cannot be read: `BoostDeal` answers a record of zeros, as every release's source has
    /// it.
    LookupFails,
    /// The deal's row cannot be read, and `BoostDeal` answers `null`.
    LookupNull,
}

/// A fault, and the deals that it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DealFault {
    /// The deal's UUID; `None` is every deal.
    pub uuid: Option<String>,
    /// Kind of the fault.
    pub kind: DealFaultKind,
    /// How often it strikes; `None` until [`BoostSim::clear_faults`](crate::BoostSim::clear_faults).
    pub times: Option<usize>,
}

impl DealFault {
    /// A fault of every deal.
    pub fn of_all(kind: DealFaultKind) -> Self {
        Self { uuid: None, kind, times: None }
    }

    /// A fault of one deal.
    pub fn of(uuid: impl Into<String>, kind: DealFaultKind) -> Self {
        Self { uuid: Some(uuid.into()), kind, times: None }
    }

    /// Limits how often the fault strikes.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }
}

/// All injected faults.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    calls: Vec<Fault>,
    deals: Vec<DealFault>,
}

impl Faults {
    pub(crate) fn push(&mut self, fault: Fault) {
        self.calls.push(fault);
    }

    pub(crate) fn push_deal(&mut self, fault: DealFault) {
        self.deals.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.calls.clear();
        self.deals.clear();
    }

    /// Takes the first fault that concerns a call, and counts it.
    pub(crate) fn take(&mut self, endpoint: Endpoint, method: &str, params: &str) -> Option<FaultKind> {
        let index = self.calls.iter().position(|fault| fault.concerns(endpoint, method, params))?;
        let fault = self.calls.get_mut(index)?;
        let kind = fault.kind.clone();
        if count_down(&mut fault.times) {
            self.calls.remove(index);
        }
        Some(kind)
    }

    /// Takes the first fault of a deal that `read` makes something of, and counts it.
    pub(crate) fn take_of_deal<T>(
        &mut self,
        uuid: &str,
        read: impl Fn(&DealFaultKind) -> Option<T>,
    ) -> Option<T> {
        let concerns = |fault: &DealFault| {
            fault.uuid.as_ref().is_none_or(|wanted| wanted == uuid).then(|| read(&fault.kind)).flatten()
        };
        let (index, found) =
            self.deals.iter().enumerate().find_map(|(index, fault)| Some((index, concerns(fault)?)))?;
        if count_down(&mut self.deals.get_mut(index)?.times) {
            self.deals.remove(index);
        }
        Some(found)
    }
}

/// Whether a fault is used up.
fn count_down(times: &mut Option<usize>) -> bool {
    match times {
        Some(left) => {
            *left = left.saturating_sub(1);
            *left == 0
        }
        None => false,
    }
}
