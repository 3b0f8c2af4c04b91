//! Counters of work that runs at the same time.

use serde::Serialize;

/// Work that is counted while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A call of `BoostOfflineDealWithData`.
    ImportCall,
    /// A deal's thread from its import until the commitment agrees.
    Import,
    /// The computation of a commitment.
    Commp,
}

/// How much ran at the same time, and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Gauge {
    /// At this moment.
    pub now: usize,
    /// At most, since the start.
    pub most: usize,
    /// Altogether.
    pub ever: usize,
}

impl Gauge {
    pub(crate) fn enter(&mut self) {
        self.now += 1;
        self.ever += 1;
        self.most = self.most.max(self.now);
    }

    pub(crate) fn leave(&mut self) {
        self.now = self.now.saturating_sub(1);
    }
}

/// Counters of a simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Calls of `BoostOfflineDealWithData`.
    pub import_calls: Gauge,
    /// Deals between import and agreement of their commitment, queued ones included.
    pub imports: Gauge,
    /// Computations of commitments.
    pub commps: Gauge,
    /// Most threads of one deal at the same time: more than one after a duplicate proposal.
    pub threads_of_a_deal_most: usize,
    /// Publish messages.
    pub publish_messages: usize,
}

impl Counters {
    pub(crate) fn of(&mut self, work: Work) -> &mut Gauge {
        match work {
            Work::ImportCall => &mut self.import_calls,
            Work::Import => &mut self.imports,
            Work::Commp => &mut self.commps,
        }
    }
}

/// Threads and imports of one deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DealCounts {
    /// Imports that were accepted.
    pub(crate) imports: usize,
    /// Threads.
    pub(crate) threads: Gauge,
}
