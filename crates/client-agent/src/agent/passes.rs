//! Passes of [`crate::propose`] and [`crate::track`], repeated until the agent is told to stop.
//!
//! A pass that fails is repeated after a growing pause; only what the database refuses for good ends the
//! loop.

use std::collections::BTreeSet;
use std::time::Duration;

use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::runtime::{Backoff, BackoffPolicy};
use carferry_core::store::{IndexUser, Store};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::propose::{Mode, ProposeError, Proposer, Reason, Report};
use crate::track::{TrackError, Tracker};

/// The pause after a pass is at least this many times as long as the pass, so that node and database rest
/// after a pass over very many deals.
const PAUSE_TIMES_PASS: u32 = 2;
/// The pause after a pass is at most this many of the configured pauses: a pass may have been slow for
/// another reason than the number of deals.
const PAUSE_TIMES_INTERVAL_MAX: u32 = 20;
/// How often an index that could not be made is tried again.
const INDEXES_EVERY: Duration = Duration::from_secs(600);
/// The shortest time between two passes of which the second fills queues that became half empty.
const REFILL_EVERY: Duration = Duration::from_secs(1);

fn pause_after(pass: Duration, every: Duration) -> Duration {
    every.max((pass * PAUSE_TIMES_PASS).min(every * PAUSE_TIMES_INTERVAL_MAX))
}

/// The pause after a pass that failed: at least as long as the pass, because a node that let a call run into
/// its timeout is not called again at once.
fn pause_after_failure(pass: Duration, backoff: Duration, every: Duration) -> Duration {
    backoff.max(pass).min(every)
}

/// What the database still has to be asked before deals are published.
struct DatabaseChecks {
    store: Store,
    rights_are_known: bool,
    indexes_due: Option<Instant>,
}

impl DatabaseChecks {
    /// Tries the user's rights until they are known, and makes missing indexes.
    ///
    /// # Errors
    ///
    /// Rights that the database refuses.
    async fn run(&mut self) -> Result<(), ProposeError> {
        if !self.rights_are_known {
            match self.store.check_rights(IndexUser::ClientAgent).await {
                Ok(()) => self.rights_are_known = true,
                Err(error) if error.is_refusal() => return Err(error.into()),
                Err(error) => warn!(reason = %ErrorChain(&error), "this user's rights cannot be tried now"),
            }
        }
        if self.indexes_due.is_some_and(|due| due <= Instant::now()) {
            match self.store.ensure_indexes(IndexUser::ClientAgent).await {
                Ok(report) => {
                    let again = report.is_to_be_tried_again;
                    self.indexes_due = again.then(|| Instant::now() + INDEXES_EVERY);
                }
                Err(error) => warn!(reason = %ErrorChain(&error), "indexes could not be looked at"),
            }
        }
        Ok(())
    }
}

/// Publishes deals pass by pass; a problem that stays is logged once.
///
/// # Errors
///
/// What the database refuses for good.
pub(super) async fn publish(
    mut proposer: Proposer,
    store: Store,
    every: Duration,
    stop: CancellationToken,
) -> Result<(), ProposeError> {
    let mut backoff = Backoff::new(BackoffPolicy::default());
    let mut checks = DatabaseChecks { store, rights_are_known: false, indexes_due: Some(Instant::now()) };
    let mut logged = BTreeSet::new();
    while !stop.is_cancelled() {
        checks.run().await?;
        let begun = Instant::now();
        let mut is_more_wanted = false;
        let pause = match proposer.pass(Mode::Publish).await {
            Ok(report) => {
                log_pass(&report, &mut logged);
                backoff.reset();
                // Queues that were full are filled as soon as they are half empty.
                is_more_wanted = report.found_busy_miners();
                if is_more_wanted { every } else { pause_after(begun.elapsed(), every) }
            }
            Err(error) if error.is_refusal() => {
                proposer.finish().await;
                return Err(error);
            }
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                warn!(reason = %ErrorChain(&error), hint, "no deals can be published now");
                pause_after_failure(begun.elapsed(), backoff.next_delay(), every)
            }
        };
        tokio::select! {
            () = sleep(pause, &stop) => {}
            () = refill(&proposer), if is_more_wanted => {}
        }
    }
    let rest = proposer.finish().await;
    log_pass(&rest, &mut logged);
    Ok(())
}

/// Ends when a provider's queue wants more, and not before the shortest time between two passes.
async fn refill(proposer: &Proposer) {
    tokio::time::sleep(REFILL_EVERY).await;
    proposer.wants_more().await;
}

/// Logs a pass; a problem that stays is logged once.
fn log_pass(report: &Report, logged: &mut BTreeSet<Reason>) {
    logged.retain(|reason| report.car_problems.contains(reason));
    for (reason, problem) in report.car_problems.reasons() {
        if logged.insert(reason.clone()) {
            warn!(problem = %problem, "no deal for this CAR now");
        }
    }
    if !report.deals.is_empty() || !report.miners.is_empty() {
        let planned: u64 = report.miners.values().map(|total| total.deals).sum();
        info!(cars = report.cars, planned, ended = report.deals.len(), "publishing pass");
    }
}

/// Tracks deals pass by pass.
///
/// # Errors
///
/// What the database refuses for good.
pub(super) async fn track(
    mut tracker: Tracker,
    every: Duration,
    stop: CancellationToken,
) -> Result<(), TrackError> {
    let mut backoff = Backoff::new(BackoffPolicy::default());
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let pause = match tracker.pass().await {
            Ok(_report) => {
                backoff.reset();
                pause_after(begun.elapsed(), every)
            }
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                warn!(reason = %ErrorChain(&error), hint, "deals cannot be followed now");
                pause_after_failure(begun.elapsed(), backoff.next_delay(), every)
            }
        };
        sleep(pause, &stop).await;
    }
    Ok(())
}

async fn sleep(pause: Duration, stop: &CancellationToken) {
    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
}
