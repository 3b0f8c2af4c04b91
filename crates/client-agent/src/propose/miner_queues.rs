//! Proposal queues, one per provider: a slow or failing provider delays only its own proposals.
//!
//! A queue calls the node for one intent at a time ([`attempt`]). What an answer says of the provider pauses
//! the queue; what it says of the CAR postpones that intent alone, in the database; what it says of the node
//! opens the breaker that all queues share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use carferry_core::model::IntentDoc;
use carferry_core::runtime::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument, info_span, warn};

use crate::propose::attempt;
use crate::propose::attempt::NextStep;
use crate::propose::queue_context::{Lifetime, PAUSES, Shared, lock};
use crate::propose::report::Report;

/// Intents that may wait in one queue: enough to keep it busy while a pass plans the next.
pub(super) const QUEUE_CAPACITY: usize = 64;
/// Of these, intents whose last call settled nothing: the rest of the queue is kept for new ones.
const RETRIES_MAX: usize = 16;
/// Failures in a row after which a queue pauses, where none of them was the provider's own: one that takes
/// nothing now is not asked for every CAR at once, and words that no table knows may be about all of them.
const FAILURES_IN_A_ROW: u32 = 5;
/// Failures of a provider, or of the database, in a row after which a run that is to end leaves the rest of
/// its queue to the next.
const FAILURES_TO_GIVE_UP: u32 = 3;

/// Why an intent stays in the database although it had no call in this run.
const GIVEN_UP: &str = "left to the next run: the proposals to this provider before it failed";

/// What became of an intent that was put into its provider's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Pushed {
    /// The queue has it.
    Queued,
    /// The intent stays in the database for a later pass.
    QueueIsFull,
}

/// The queues of one agent; they live as long as it does.
#[derive(Debug)]
pub(super) struct MinerQueues {
    queues: BTreeMap<String, Queue>,
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<IntentDoc>,
    state: Arc<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Pauses because its provider is in trouble, or too many proposals failed in a row.
    pauses: AtomicBool,
    /// Its provider gets no further proposal in this run.
    given_up: AtomicBool,
    /// Intents in it whose last call settled nothing.
    retries: AtomicUsize,
}

impl MinerQueues {
    /// Queues that share this.
    pub(super) fn new(shared: Shared) -> Self {
        Self { queues: BTreeMap::new(), shared: Arc::new(shared), workers: JoinSet::new() }
    }

    /// Whether this provider's queue cannot take this many more intents, or as many as it holds at most; a
    /// queue that pauses takes none.
    pub(super) fn is_full(&self, miner: &str, intents: usize) -> bool {
        self.queues.get(miner).is_some_and(|queue| {
            queue.state.pauses.load(Ordering::Relaxed)
                || queue.sender.capacity() < intents.min(QUEUE_CAPACITY)
        })
    }

    /// Whether this provider gets no further proposal in this run.
    pub(super) fn has_given_up(&self, miner: &str) -> bool {
        self.queues.get(miner).is_some_and(|queue| queue.state.given_up.load(Ordering::Relaxed))
    }

    /// Whether this intent is in a queue, or had its call in a run in which it gets no other.
    pub(super) fn has(&self, intent: &str) -> bool {
        lock(&self.shared.in_flight).contains(intent) || lock(&self.shared.postponed).contains(intent)
    }

    /// Puts an intent into its provider's queue.
    pub(super) fn push(&mut self, intent: IntentDoc) -> Pushed {
        let id = intent.id.clone();
        let is_retry = intent.tries.is_some_and(|tries| tries > 0);
        let queue = self.queues.entry(intent.miner.clone()).or_insert_with_key(|miner| {
            let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
            let state = Arc::new(QueueState::default());
            let worker = drive(Arc::clone(&self.shared), Arc::clone(&state), receiver);
            self.workers.spawn(worker.instrument(info_span!("queue", miner = %miner)));
            Queue { sender, state }
        });
        if is_retry && queue.state.retries.load(Ordering::Relaxed) >= RETRIES_MAX {
            return Pushed::QueueIsFull;
        }
        // Before it is sent: its worker may be done with it at once.
        lock(&self.shared.in_flight).insert(id.clone());
        queue.state.retries.fetch_add(usize::from(is_retry), Ordering::Relaxed);
        if queue.sender.try_send(intent).is_ok() {
            return Pushed::Queued;
        }
        lock(&self.shared.in_flight).remove(&id);
        queue.state.retries.fetch_sub(usize::from(is_retry), Ordering::Relaxed);
        Pushed::QueueIsFull
    }

    /// What the queues did since this was last called.
    pub(super) fn take_report(&self) -> Report {
        std::mem::take(&mut lock(&self.shared.report))
    }

    /// Whether nothing is queued or called.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.shared.in_flight).is_empty()
    }

    /// How many intents are queued or called.
    pub(super) fn in_flight(&self) -> usize {
        lock(&self.shared.in_flight).len()
    }

    /// When an intent last left a queue without being settled: what the node listed before says nothing of
    /// it.
    pub(super) fn last_unsettled(&self) -> Instant {
        *lock(&self.shared.last_unsettled)
    }

    /// Whether the node is known to be in trouble: no proposal goes out.
    pub(super) fn node_is_down(&self) -> bool {
        self.shared.node.is_open()
    }

    /// Waits until a queue has become half empty or all of them idle. What came before the call counts.
    pub(super) async fn wants_more(&self) {
        self.shared.wants_more.notified().await;
    }

    /// Lets the queues run empty and end.
    pub(super) async fn finish(mut self) -> Report {
        self.queues.clear();
        while self.workers.join_next().await.is_some() {}
        std::mem::take(&mut lock(&self.shared.report))
    }
}

async fn drive(shared: Arc<Shared>, state: Arc<QueueState>, mut intents: mpsc::Receiver<IntentDoc>) {
    let mut pauses = Backoff::new(PAUSES);
    let (mut failures, mut of_provider) = (0, 0);
    while let Some(intent) = intents.recv().await {
        // A stop leaves what is queued as it is: written down, and settled by the next start.
        if state.given_up.load(Ordering::Relaxed) {
            shared.leave_to_next_run(&intent, GIVEN_UP);
        } else if !shared.stop.is_cancelled() {
            let next = attempt::one(&shared, &intent).await;
            match next {
                NextStep::GoOn => (failures, of_provider) = (0, 0),
                NextStep::CountFailure => (failures, of_provider) = (failures + 1, 0),
                NextStep::Pause => of_provider += 1,
                NextStep::Pass => {}
            }
            if of_provider >= FAILURES_TO_GIVE_UP && shared.lifetime == Lifetime::OneRun {
                warn!(
                    failures = of_provider,
                    "proposals to this provider fail; the others are left to the next run"
                );
                state.given_up.store(true, Ordering::Relaxed);
            } else if next == NextStep::Pause || failures >= FAILURES_IN_A_ROW {
                // The next proposal would meet the same.
                state.pauses.store(true, Ordering::Relaxed);
                let pause = tokio::time::sleep(pauses.next_delay());
                shared.stop.run_until_cancelled(pause).await;
                state.pauses.store(false, Ordering::Relaxed);
            } else if next == NextStep::GoOn {
                pauses.reset();
            }
        }
        if intent.tries.is_some_and(|tries| tries > 0) {
            state.retries.fetch_sub(1, Ordering::Relaxed);
        }
        if intents.len() == QUEUE_CAPACITY / 2 {
            shared.wants_more.notify_one();
        }
        shared.release(&intent.id);
    }
}
