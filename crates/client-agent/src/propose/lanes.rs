//! One lane per provider: a slow or broken provider keeps only its own deals waiting.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use carferry_core::{
    error_chain::ErrorChain,
    lotus::LotusError,
    model::{IntentDoc, IntentState},
    runtime::{Backoff, BackoffPolicy, Breaker, Leave, fail_point},
    store::{Store, StoreError},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::{
    publish::{Outcome, Publisher},
    report::{DealLine, DealState, Report},
};

/// Intents that may wait in one lane: enough to keep it busy between two passes.
const LANE_CAPACITY: usize = 64;
/// Refusals in a row after which a lane rests: a provider that takes nothing now is not asked for every CAR at once.
const REFUSALS_IN_A_ROW: u32 = 5;
/// How often a long call tells the others that its intent is still worked on.
const TOUCH_EVERY: Duration = Duration::from_secs(600);
/// After a stop, how long a call under way may still take; then its intent is left for the next start.
const ABANDON_AFTER: Duration = Duration::from_secs(5);
/// Pauses between tries to write an outcome down, while the database is away.
const WRITE_RETRY: Duration = Duration::from_secs(2);

/// Pauses between tries of a node that is in trouble, and of a lane after a proposal of which nobody knows what became.
const PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(500),
    max: Duration::from_secs(60),
    quiet: Duration::from_secs(600),
};

/// The lanes of one agent; they live as long as it does.
#[derive(Debug)]
pub(super) struct Lanes {
    senders: BTreeMap<String, mpsc::Sender<IntentDoc>>,
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    publisher: Publisher,
    /// All lanes call the same node.
    node: Breaker,
    /// Intents in a lane, queued or called: not to be settled by a later pass meanwhile.
    in_flight: Mutex<HashSet<String>>,
    report: Mutex<Report>,
    stop: CancellationToken,
}

impl Lanes {
    /// Lanes that write to this store and call through this publisher until `stop`.
    pub(super) fn new(store: Store, publisher: Publisher, stop: CancellationToken) -> Self {
        let node = Breaker::new(PAUSES);
        let (in_flight, report) = (Mutex::default(), Mutex::default());
        let shared = Shared { store, publisher, node, in_flight, report, stop };
        Self { senders: BTreeMap::new(), shared: Arc::new(shared), workers: JoinSet::new() }
    }

    /// Whether this provider's lane has no room for so many more intents, or for all that it holds at most.
    pub(super) fn is_full(&self, miner: &str, intents: usize) -> bool {
        let room = self.senders.get(miner).map_or(LANE_CAPACITY, mpsc::Sender::capacity);
        room < intents.min(LANE_CAPACITY)
    }

    /// Whether this intent is in a lane.
    pub(super) fn has(&self, intent: &str) -> bool {
        lock(&self.shared.in_flight).contains(intent)
    }

    /// Puts an intent into its provider's lane. `false`: the lane is full; the intent stays for a later pass.
    pub(super) fn push(&mut self, intent: IntentDoc) -> bool {
        let miner = intent.miner.clone();
        let id = intent.id.clone();
        let sender = self.senders.entry(miner).or_insert_with_key(|miner| {
            let (sender, receiver) = mpsc::channel(LANE_CAPACITY);
            let lane = drive(Arc::clone(&self.shared), receiver);
            self.workers.spawn(lane.instrument(info_span!("lane", miner = %miner)));
            sender
        });
        lock(&self.shared.in_flight).insert(id.clone());
        let taken = sender.try_send(intent).is_ok();
        if !taken {
            lock(&self.shared.in_flight).remove(&id);
        }
        taken
    }

    /// What the lanes did since this was last called.
    pub(super) fn take_report(&self) -> Report {
        std::mem::take(&mut lock(&self.shared.report))
    }

    /// Whether nothing is queued or called.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.shared.in_flight).is_empty()
    }

    /// Lets the lanes run empty and end.
    pub(super) async fn finish(mut self) -> Report {
        self.senders.clear();
        while self.workers.join_next().await.is_some() {}
        std::mem::take(&mut lock(&self.shared.report))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drive(shared: Arc<Shared>, mut intents: mpsc::Receiver<IntentDoc>) {
    let mut pauses = Backoff::new(PAUSES);
    let mut refusals = 0;
    while let Some(intent) = intents.recv().await {
        // A stop leaves what is queued as it is: written down, and settled by the next start.
        if !shared.stop.is_cancelled() {
            let then = one(&shared, &intent).await;
            refusals = if then == Then::CountRefusal { refusals + 1 } else { 0 };
            if then == Then::Rest || refusals >= REFUSALS_IN_A_ROW {
                // The next proposal would meet the same.
                let pause = tokio::time::sleep(pauses.next_delay());
                shared.stop.run_until_cancelled(pause).await;
            } else if then == Then::GoOn {
                pauses.reset();
            }
        }
        lock(&shared.in_flight).remove(&intent.id);
    }
}

/// What a lane does after a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It takes the next: all is well, or the node's breaker holds it back.
    GoOn,
    /// It takes the next, unless it was refused too often in a row.
    CountRefusal,
    /// Provider or database are in trouble.
    Rest,
}

/// Leave to propose. Whether a node is back is found out by a short call: a proposal may wait for its provider for an
/// hour, and every other lane with it.
async fn leave<F: Future<Output = Result<(), LotusError>>>(
    node: &Breaker,
    is_there: impl Fn() -> F,
) -> Leave<'_> {
    loop {
        let leave = node.leave().await;
        if !leave.is_try() {
            return leave;
        }
        match is_there().await {
            Err(error) if error.is_about_the_node() => {
                warn!(reason = %ErrorChain(&error), "the node is still in trouble; proposals wait");
                leave.trouble();
            }
            Ok(()) | Err(_) => leave.is_there(),
        }
    }
}

async fn one(shared: &Shared, intent: &IntentDoc) -> Then {
    let leave = leave(&shared.node, || shared.publisher.is_there());
    let Some(leave) = shared.stop.run_until_cancelled(leave).await else { return Then::GoOn };
    // It may have waited here for long, and another agent have taken it for abandoned.
    match shared.store.touch_intent(intent).await {
        Ok(true) => {}
        Ok(false) => return Then::GoOn,
        Err(error) => {
            warn!(reason = %ErrorChain(&error), "proposal left to a later pass");
            return Then::Rest;
        }
    }
    let call = shared.publisher.publish(intent);
    tokio::pin!(call);
    let mut touch = tokio::time::interval(TOUCH_EVERY);
    let outcome = loop {
        tokio::select! {
            outcome = &mut call => break outcome,
            () = stopped(&shared.stop) => {
                info!(payload_cid = %intent.filecid, miner = %intent.miner, "proposal left to the next start");
                return Then::GoOn;
            }
            _ = touch.tick() => {
                if let Err(error) = shared.store.touch_intent(intent).await {
                    warn!(reason = %ErrorChain(&error), "intent could not be touched");
                }
            }
        }
    };
    match &outcome {
        Outcome::NodeTrouble(_) => {
            leave.trouble();
        }
        Outcome::Made { .. } | Outcome::Refused(_) => leave.answered(),
        // Nobody answered in time, or a word that says nothing: of the provider, mostly.
        Outcome::Unknown(_) => drop(leave),
    }
    let then = match &outcome {
        Outcome::Unknown(_) => Then::Rest,
        Outcome::Refused(_) => Then::CountRefusal,
        Outcome::Made { .. } | Outcome::NodeTrouble(_) => Then::GoOn,
    };
    let line = |state, detail: Option<String>| DealLine {
        payload_cid: intent.filecid.clone(),
        miner: intent.miner.clone(),
        start_epoch: intent.startepoch,
        state,
        detail,
    };
    let line = match outcome {
        Outcome::Made { proposal_cid, status } => {
            let name = status.name();
            let confirm = || shared.store.confirm_intent(intent, &proposal_cid, status.get(), &name);
            if !written(shared, confirm).await {
                return Then::GoOn;
            }
            info!(deal.proposal_cid = %proposal_cid, payload_cid = %intent.filecid, miner = %intent.miner, method = intent.method.as_str(), "deal published");
            line(DealState::Published, Some(proposal_cid.to_string()))
        }
        Outcome::Refused(reason) => {
            let end = || shared.store.end_intent(intent, IntentState::Refused, &reason);
            if !written(shared, end).await {
                return Then::GoOn;
            }
            warn!(payload_cid = %intent.filecid, miner = %intent.miner, reason = %reason, "deal refused");
            line(DealState::Refused, Some(reason))
        }
        Outcome::Unknown(reason) | Outcome::NodeTrouble(reason) => {
            warn!(payload_cid = %intent.filecid, miner = %intent.miner, reason = %reason, "deal not confirmed, settled later");
            line(DealState::Unsettled, Some(reason))
        }
    };
    fail_point("publish.settled");
    lock(&shared.report).deals.push(line);
    then
}

async fn stopped(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(ABANDON_AFTER).await;
}

/// Writes an outcome, again and again while the database is away. `false` when told to stop first: the
/// intent then stands as it was, and the next start finds out the same.
async fn written<F: Future<Output = Result<(), StoreError>>>(shared: &Shared, write: impl Fn() -> F) -> bool {
    loop {
        match write().await {
            Ok(()) => return true,
            Err(error) => warn!(reason = %ErrorChain(&error), "outcome could not be written, trying again"),
        }
        tokio::select! {
            () = shared.stop.cancelled() => return false,
            () = tokio::time::sleep(WRITE_RETRY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_proposal_that_hangs_at_its_provider_keeps_no_lane_waiting_after_trouble() {
        let (node, asked) = (Breaker::new(PAUSES), Cell::new(0));
        let back = Instant::now() + Duration::from_secs(5);
        let is_there = || async {
            asked.set(asked.get() + 1);
            let no_answer = LotusError::Timeout { method: "m", endpoint: "e".into(), seconds: 1 };
            if Instant::now() < back { Err(no_answer) } else { Ok(()) }
        };
        leave(&node, is_there).await.trouble();
        assert_eq!(asked.get(), 0, "nobody asks a node that is well");
        let hanging = timeout(Duration::from_secs(120), leave(&node, is_there)).await.unwrap();
        assert!(Instant::now() >= back);
        for _ in 0..10 {
            timeout(Duration::from_millis(1), leave(&node, is_there)).await.unwrap().answered();
        }
        drop(hanging);
    }
}
