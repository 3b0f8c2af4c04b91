//! The log of all calls, with counters for tests.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;

use crate::faults::Endpoint;
use crate::record::unix_millis;

/// Most calls in the log. Counters include older calls.
const CALLS_KEPT: usize = 200_000;

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The call still runs.
    Running,
    /// Answered with a result.
    Answered,
    /// Answered with an error.
    Error {
        /// Its code; 0 for GraphQL.
        code: i64,
        /// Its text.
        message: String,
    },
    /// A fault withheld the answer, before or after the work.
    Withheld,
    /// The caller closed the connection, or boostd stopped, before the answer.
    Abandoned,
}

/// One call.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// Its number, counted from 0 since the start.
    pub number: u64,
    /// When it arrived.
    #[serde(serialize_with = "millis")]
    pub at: SystemTime,
    /// The listener.
    pub endpoint: Endpoint,
    /// Name of the method, such as `Filecoin.BoostDeal`, or the first field of a GraphQL operation.
    pub method: String,
    /// Its parameters; for GraphQL `{"query", "variables"}`.
    pub params: Value,
    /// Its outcome.
    pub outcome: Outcome,
    /// Its duration, after it ended.
    pub took: Option<Duration>,
}

fn millis<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(unix_millis(*time))
}

#[derive(Debug, Default)]
pub(crate) struct CallLog {
    calls: VecDeque<Call>,
    next: u64,
    methods: HashMap<String, usize>,
}

impl CallLog {
    pub(crate) fn begin(&mut self, endpoint: Endpoint, method: &str, params: &Value) -> u64 {
        let number = self.next;
        self.next += 1;
        *self.methods.entry(method.to_owned()).or_default() += 1;
        if self.calls.len() >= CALLS_KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(Call {
            number,
            at: SystemTime::now(),
            endpoint,
            method: method.to_owned(),
            params: params.clone(),
            outcome: Outcome::Running,
            took: None,
        });
        number
    }

    pub(crate) fn end(&mut self, number: u64, outcome: Outcome) {
        let first = self.calls.front().map_or(0, |call| call.number);
        let Some(index) = number.checked_sub(first).and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        if let Some(call) = self.calls.get_mut(index).filter(|call| call.outcome == Outcome::Running) {
            call.outcome = outcome;
            call.took = call.at.elapsed().ok();
        }
    }

    pub(crate) fn since(&self, number: u64) -> Vec<Call> {
        self.calls.iter().filter(|call| call.number >= number).cloned().collect()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.methods.get(method).copied().unwrap_or(0)
    }
}
