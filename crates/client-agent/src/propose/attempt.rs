//! One attempt to publish an intent: the call, the record of its outcome, and what its provider's queue does
//! next.

use std::time::Duration;

use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::model::{IntentDoc, IntentState};
use carferry_core::rpc::{BootInstant, RpcError};
use carferry_core::runtime::{BackoffPolicy, Breaker, Permit, fail_point};
use carferry_core::store::{INTENT_PAUSE_MAX, LeaseState, RetryUntilAnswered, StoreError};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::propose::lotus::answers::{About, Outcome};
use crate::propose::queue_context::{Lifetime, Shared};
use crate::propose::report::{DealLine, DealState};

/// How often a long call tells the other agents that its intent is still worked on.
const TOUCH_EVERY: Duration = Duration::from_secs(600);
/// A proposal goes out within this time of the look at its intent, or not at all: after an hour without a
/// touch, another agent takes the intent for abandoned.
const SEND_WITHIN: Duration = Duration::from_secs(1800);
/// After a stop, how long a call under way may still take; then its intent is left for the next start.
const ABANDON_AFTER: Duration = Duration::from_secs(5);
/// How long a command tries to write an outcome while the database is away. The next run finds out the same.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);

/// Pauses of an intent of which nothing is known, by the number of its calls.
const INTENT_PAUSES: BackoffPolicy =
    BackoffPolicy { first: Duration::from_secs(1), max: INTENT_PAUSE_MAX, quiet: INTENT_PAUSE_MAX };
/// The longest where the provider is at fault: it may be back any time, and its queue pauses besides.
const PROVIDER_PAUSE_MAX: Duration = Duration::from_secs(300);

/// What a queue does after a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// It takes the next: its provider takes proposals.
    GoOn,
    /// It takes the next; nothing was learnt of the provider, or the node's breaker holds everything back.
    Pass,
    /// It takes the next, unless too many failed in a row.
    CountFailure,
    /// Provider or database are in trouble.
    Pause,
}

/// Permission to propose. A node in trouble is probed with a short call first: a proposal may wait an hour
/// for its provider, and would keep every other queue waiting.
async fn acquire<F: Future<Output = Result<(), RpcError>>>(
    node: &Breaker,
    is_there: impl Fn() -> F,
) -> Permit<'_> {
    loop {
        let permit = node.acquire().await;
        if !permit.is_probe() {
            return permit;
        }
        match is_there().await {
            Err(error) if error.is_about_the_node() => {
                warn!(reason = %ErrorChain(&error), "the node is still in trouble; proposals wait");
                permit.record_failure();
            }
            Ok(()) | Err(_) => permit.record_probe_ok(),
        }
    }
}

/// Calls the node for this intent and writes down what came of it.
pub(super) async fn one(shared: &Shared, intent: &IntentDoc) -> NextStep {
    let permit = acquire(&shared.node, || shared.publisher.is_there());
    let Some(permit) = shared.stop.run_until_cancelled(permit).await else { return NextStep::Pass };
    let send_before = BootInstant::now().plus(SEND_WITHIN);
    // It may have waited here for long, and another agent have taken it for abandoned.
    match shared.store.touch_intent(intent).await {
        Ok(LeaseState::Held) => {}
        Ok(LeaseState::Lost) => return NextStep::Pass,
        Err(error) => {
            warn!(reason = %ErrorChain(&error), "proposal left to a later pass");
            return NextStep::Pause;
        }
    }
    let Some(outcome) = call(shared, intent, send_before).await else { return NextStep::Pass };
    match &outcome {
        Outcome::Unknown { about: About::Node, .. } => {
            permit.record_failure();
        }
        Outcome::Made { .. } | Outcome::Refused(_) => permit.record_success(),
        // No answer in time, or words that say nothing of the node.
        Outcome::Unknown { .. } => drop(permit),
    }
    let next = next_step(&outcome, intent);
    record_outcome(shared, intent, outcome).await;
    fail_point("publish.settled");
    next
}

/// The call itself; `None` when a stop leaves it to the next start.
async fn call(shared: &Shared, intent: &IntentDoc, send_before: BootInstant) -> Option<Outcome> {
    let call = shared.publisher.publish(intent, send_before);
    tokio::pin!(call);
    let mut touch = tokio::time::interval_at(Instant::now() + TOUCH_EVERY, TOUCH_EVERY);
    loop {
        tokio::select! {
            outcome = &mut call => return Some(outcome),
            () = stopped(&shared.stop) => {
                info!(payload_cid = %intent.filecid, miner = %intent.miner, "proposal left to the next start");
                return None;
            }
            _ = touch.tick() => {
                if let Err(error) = shared.store.touch_intent(intent).await {
                    warn!(reason = %ErrorChain(&error), "intent could not be touched");
                }
            }
        }
    }
}

fn next_step(outcome: &Outcome, intent: &IntentDoc) -> NextStep {
    match outcome {
        Outcome::Made { .. } => NextStep::GoOn,
        Outcome::Refused(_) => NextStep::CountFailure,
        Outcome::Unknown { about, .. } => match about {
            About::Provider => NextStep::Pause,
            // An intent that failed so before says nothing new.
            About::Unclear if intent.tries.is_none_or(|tries| tries == 0) => NextStep::CountFailure,
            About::Unclear | About::Car | About::Node => NextStep::Pass,
        },
    }
}

/// When an intent of which nothing is known is called again: at once where the node was at fault.
fn pause_after(about: About, tries_before: Option<i64>) -> Option<Duration> {
    let calls = u32::try_from(tries_before.unwrap_or(0).max(0)).unwrap_or(u32::MAX).saturating_add(1);
    match about {
        About::Node => None,
        About::Provider => Some(INTENT_PAUSES.ceiling(calls).min(PROVIDER_PAUSE_MAX)),
        About::Car | About::Unclear => Some(INTENT_PAUSES.ceiling(calls)),
    }
}

async fn record_outcome(shared: &Shared, intent: &IntentDoc, outcome: Outcome) {
    match outcome {
        Outcome::Made { proposal_cid, status } => {
            let name = status.name();
            let confirm = || shared.store.confirm_intent(intent, &proposal_cid, status.get(), &name);
            if record(shared, confirm).await == Recorded::Yes {
                info!(deal.proposal_cid = %proposal_cid, payload_cid = %intent.filecid, miner = %intent.miner, method = intent.method.as_str(), "deal published");
                shared.report(DealLine::of(intent, DealState::Published, Some(proposal_cid.to_string())));
            } else {
                shared.leave_to_next_run(intent, "made, but not recorded: the database is away");
            }
        }
        Outcome::Refused(reason) => {
            let end = || shared.store.end_intent(intent, IntentState::Refused, &reason);
            if record(shared, end).await == Recorded::Yes {
                warn!(payload_cid = %intent.filecid, miner = %intent.miner, reason = %reason, "deal refused");
                shared.report(DealLine::of(intent, DealState::Refused, Some(reason)));
            } else {
                shared.leave_to_next_run(intent, &reason);
            }
        }
        Outcome::Unknown { about, reason } => {
            warn!(payload_cid = %intent.filecid, miner = %intent.miner, reason = %reason, "deal not confirmed, settled later");
            if let Some(pause) = pause_after(about, intent.tries) {
                let postpone = || shared.store.postpone_intent(intent, pause, &reason);
                // Not written, it is called again by the next pass.
                let _recorded = record(shared, postpone).await;
            }
            shared.leave_to_next_run(intent, &reason);
        }
    }
}

async fn stopped(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(ABANDON_AFTER).await;
}

/// How the writing of an outcome ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    Yes,
    /// The intent stands as it was, and the next start finds out the same.
    No,
}

/// Writes an outcome, repeated while the database is away; a command gives up after some time.
async fn record<F: Future<Output = Result<(), StoreError>>>(
    shared: &Shared,
    write: impl Fn() -> F,
) -> Recorded {
    let never = CancellationToken::new();
    let retry = RetryUntilAnswered::new(&shared.stop, &never);
    let call = retry.call("the outcome of a proposal is not written yet", write);
    let written = match shared.lifetime {
        Lifetime::Endless => call.await.is_ok(),
        Lifetime::OneRun => timeout(WRITE_TIMEOUT, call).await.is_ok_and(|written| written.is_ok()),
    };
    // The next pass meets a refusal too, and ends with it.
    if let Some(error) = retry.take_refusal() {
        let hint = error.hint().unwrap_or_default();
        warn!(reason = %ErrorChain(&error), hint, "outcome not written");
    }
    if written { Recorded::Yes } else { Recorded::No }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::propose::queue_context::PAUSES;

    #[tokio::test(start_paused = true)]
    async fn a_proposal_that_hangs_at_its_provider_keeps_no_queue_waiting_after_trouble() {
        let (node, asked) = (Breaker::new(PAUSES), Cell::new(0));
        let back = Instant::now() + Duration::from_secs(5);
        let is_there = || async {
            asked.set(asked.get() + 1);
            let no_answer = RpcError::Timeout { method: "m", endpoint: "e".into(), seconds: 1 };
            if Instant::now() < back { Err(no_answer) } else { Ok(()) }
        };
        acquire(&node, is_there).await.record_failure();
        assert_eq!(asked.get(), 0, "nobody asks a node that is well");
        let hanging = timeout(Duration::from_secs(120), acquire(&node, is_there)).await.unwrap();
        assert!(Instant::now() >= back);
        for _ in 0..10 {
            timeout(Duration::from_millis(1), acquire(&node, is_there)).await.unwrap().record_success();
        }
        drop(hanging);
    }

    #[test]
    fn pauses_of_an_intent_grow_and_the_nodes_trouble_adds_none() {
        let seconds = |about, tries| pause_after(about, tries).map(|pause| pause.as_secs());
        for (about, tries, pause) in [
            (About::Node, Some(7), None),
            (About::Car, None, Some(1)),
            (About::Car, Some(1), Some(2)),
            (About::Unclear, Some(10), Some(1024)),
            (About::Car, Some(12), Some(3600)),
            (About::Car, Some(i64::MAX), Some(3600)),
            (About::Car, Some(-1), Some(1)),
            (About::Provider, Some(1), Some(2)),
            (About::Provider, Some(12), Some(300)),
        ] {
            assert_eq!(seconds(about, tries), pause, "{about:?} after {tries:?}");
        }
    }
}
