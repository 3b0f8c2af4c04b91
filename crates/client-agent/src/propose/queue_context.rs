//! What the queues of all providers share: database, publisher, the node's breaker, the intents in flight,
//! the report.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carferry_core::model::IntentDoc;
use carferry_core::runtime::{BackoffPolicy, Breaker};
use carferry_core::store::Store;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::propose::lotus::publish::Publisher;
use crate::propose::report::{DealLine, DealState, Report};

/// Pauses between tries of a node that is in trouble, and of a queue whose provider is.
pub(super) const PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(500),
    max: Duration::from_secs(60),
    quiet: Duration::from_secs(600),
};

/// Whether the queues are to be empty some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// They work until they are stopped: what fails is tried again.
    Endless,
    /// Each intent has one call at most: what settles nothing is left to the next run.
    OneRun,
}

/// What the queues of all providers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) publisher: Publisher,
    /// All queues call the same node.
    pub(super) node: Breaker,
    pub(super) lifetime: Lifetime,
    /// Intents in a queue, waiting or called: not to be settled by a later pass meanwhile.
    pub(super) in_flight: Mutex<HashSet<String>>,
    /// Intents that had their call in this run and are not settled.
    pub(super) postponed: Mutex<HashSet<String>>,
    pub(super) report: Mutex<Report>,
    /// When an intent last left a queue without being settled.
    pub(super) last_unsettled: Mutex<Instant>,
    /// Told when a queue is half empty, and when nothing is queued any more.
    pub(super) wants_more: Notify,
    pub(super) stop: CancellationToken,
}

impl Shared {
    /// For queues that write to this store and call through this publisher until `stop`.
    pub(super) fn new(
        store: Store,
        publisher: Publisher,
        lifetime: Lifetime,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            publisher,
            node: Breaker::new(PAUSES),
            lifetime,
            in_flight: Mutex::default(),
            postponed: Mutex::default(),
            report: Mutex::default(),
            last_unsettled: Mutex::new(Instant::now()),
            wants_more: Notify::new(),
            stop,
        }
    }

    /// Notes what became of a proposal.
    pub(super) fn report(&self, line: DealLine) {
        lock(&self.report).deals.push(line);
    }

    /// Notes that an intent stays as it is for the rest of this run.
    pub(super) fn leave_to_next_run(&self, intent: &IntentDoc, reason: &str) {
        *lock(&self.last_unsettled) = Instant::now();
        if self.lifetime == Lifetime::OneRun {
            lock(&self.postponed).insert(intent.id.clone());
        }
        self.report(DealLine::of(intent, DealState::Unsettled, Some(reason.to_owned())));
    }

    /// Notes that a queue is done with an intent.
    pub(super) fn release(&self, intent: &str) {
        let mut in_flight = lock(&self.in_flight);
        in_flight.remove(intent);
        if in_flight.is_empty() {
            self.wants_more.notify_one();
        }
    }
}

/// Locks, whatever happened to a thread that held the lock before.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
