//! The log of all calls, with counters of calls, imports and proposals for tests.
//!
//! What lives here: calls, counters, times per deal. What does not: anything that changes an answer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

/// Most calls in the log. Counters include older calls.
const CALLS_KEPT: usize = 100_000;

/// A node of the simulator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum NodeName {
    /// The full node; `"full"` in JSON.
    #[serde(serialize_with = "full")]
    Full,
    /// A miner, by its address.
    Miner(String),
}

fn full<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("full")
}

impl NodeName {
    /// `"full"`, or a miner's address.
    pub fn parse(text: &str) -> Self {
        if text == "full" { Self::Full } else { Self::Miner(text.replacen('t', "f", 1)) }
    }
}

impl std::fmt::Display for NodeName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Full => "full",
            Self::Miner(id) => id,
        })
    }
}

/// The transport of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// HTTP POST.
    Http,
    /// WebSocket.
    Ws,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The call still runs.
    Running,
    /// Answered with a result, or the void form.
    Answered,
    /// Answered with an error.
    Error {
        /// Its code.
        code: i64,
        /// Its text.
        message: String,
    },
    /// A fault withheld the answer, before or after the work.
    Withheld,
    /// The caller closed the connection or cancelled before the answer.
    Abandoned,
}

/// One call.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// Its number, counted from 0 since the start.
    pub number: u64,
    /// When it arrived.
    #[serde(serialize_with = "unix_millis")]
    pub at: SystemTime,
    /// The called node.
    pub node: NodeName,
    /// Its transport.
    pub transport: Transport,
    /// Name of the method, such as `Filecoin.Version`.
    pub method: String,
    /// Its parameters.
    pub params: Value,
    /// Its outcome.
    pub outcome: Outcome,
    /// Its duration, after it ended.
    pub took: Option<Duration>,
}

fn unix_millis<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Imports of one deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ImportCounts {
    /// Calls whose work began.
    pub started: usize,
    /// Calls whose work ended in success, with or without effect.
    pub succeeded: usize,
    /// Calls that changed the deal's state: at most one.
    pub effective: usize,
    /// Calls whose work began while another import of the same deal ran.
    pub beside: usize,
}

/// One import's work at a miner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRun {
    /// The miner.
    pub miner: String,
    /// The deal.
    pub proposal_cid: String,
    /// PADDED size of the deal's piece.
    pub piece_bytes: u64,
    /// When it began.
    pub began: Instant,
    /// When it ended, with or without success; `None` while it runs.
    pub ended: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct CallLog {
    calls: VecDeque<Call>,
    next: u64,
    methods: HashMap<String, usize>,
    imports: HashMap<String, ImportCounts>,
    runs: Vec<ImportRun>,
    proposals: HashMap<(String, String), usize>,
    activated: HashMap<String, SystemTime>,
    imported: HashMap<String, SystemTime>,
}

impl CallLog {
    pub(crate) fn begin(
        &mut self,
        node: NodeName,
        transport: Transport,
        method: &str,
        params: &Value,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        *self.methods.entry(method.to_owned()).or_default() += 1;
        if self.calls.len() >= CALLS_KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(Call {
            number,
            at: SystemTime::now(),
            node,
            transport,
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

    pub(crate) fn imports(&self, cid: &str) -> ImportCounts {
        self.imports.get(cid).copied().unwrap_or_default()
    }

    pub(crate) fn imports_mut(&mut self, cid: &str) -> &mut ImportCounts {
        self.imports.entry(cid.to_owned()).or_default()
    }

    /// Records the start of an import's work; returns its number.
    pub(crate) fn import_begins(&mut self, miner: &str, proposal_cid: &str, piece_bytes: u64) -> usize {
        self.runs.push(ImportRun {
            miner: miner.to_owned(),
            proposal_cid: proposal_cid.to_owned(),
            piece_bytes,
            began: Instant::now(),
            ended: None,
        });
        self.runs.len() - 1
    }

    pub(crate) fn import_ends(&mut self, number: usize) {
        if let Some(run) = self.runs.get_mut(number) {
            run.ended = Some(Instant::now());
        }
    }

    pub(crate) fn import_runs(&self) -> Vec<ImportRun> {
        self.runs.clone()
    }

    pub(crate) fn proposed(&mut self, root: String, miner: String) {
        *self.proposals.entry((root, miner)).or_default() += 1;
    }

    pub(crate) fn proposals(&self, root: &str, miner: &str) -> usize {
        self.proposals.get(&(root.to_owned(), miner.to_owned())).copied().unwrap_or(0)
    }

    pub(crate) fn activated(&mut self, cid: &str) {
        self.activated.entry(cid.to_owned()).or_insert_with(SystemTime::now);
    }

    pub(crate) fn imported(&mut self, cid: &str) {
        self.imported.entry(cid.to_owned()).or_insert_with(SystemTime::now);
    }

    pub(crate) fn activated_at(&self, cid: &str) -> Option<SystemTime> {
        self.activated.get(cid).copied()
    }

    pub(crate) fn imported_at(&self, cid: &str) -> Option<SystemTime> {
        self.imported.get(cid).copied()
    }
}
