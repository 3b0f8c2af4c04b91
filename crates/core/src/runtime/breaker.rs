//! A circuit breaker for one server with many callers: while the server fails, one call at a time probes it.
//!
//! ```text
//!  closed ──failure──► open until … ──► half open (one call) ──answered──► closed
//!                        ▲                   │
//!                        └──────failure──────┘
//! ```
//!
//! Without it, every caller would call a failing server at its own pace, and all of them at once when it
//! recovers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// The state of one server, shared by its callers.
#[derive(Debug)]
pub struct Breaker {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    pauses: Backoff,
    breaker_state: BreakerState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BreakerState {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

/// Permission to call. The holder reports the result of the call; a permit that is dropped without a report
/// (the call was given up) lets the next caller probe.
#[derive(Debug)]
#[must_use]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
}

impl Breaker {
    /// A closed breaker: the server counts as available. Pauses between probes follow the policy.
    pub fn new(pauses: BackoffPolicy) -> Self {
        let state = State { pauses: Backoff::new(pauses), breaker_state: BreakerState::Closed };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits until the server may be called.
    pub async fn acquire(&self) -> Permit<'_> {
        loop {
            // Registered before the state is read, so that no change is missed.
            let changed = self.changed.notified();
            let until = {
                let mut state = self.lock();
                match state.breaker_state {
                    BreakerState::Closed => return Permit { breaker: self, is_probe: false },
                    BreakerState::Open { until } if until <= Instant::now() => {
                        state.breaker_state = BreakerState::HalfOpen;
                        return Permit { breaker: self, is_probe: true };
                    }
                    BreakerState::Open { until } => Some(until),
                    BreakerState::HalfOpen => None,
                }
            };
            match until {
                // In both cases the state is read again.
                Some(until) => drop(timeout_at(until, changed).await),
                None => changed.await,
            }
        }
    }

    /// Whether the server is known to fail.
    pub fn is_open(&self) -> bool {
        self.lock().breaker_state != BreakerState::Closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }
}

impl Permit<'_> {
    /// Whether this call is the probe, for whose result all other callers wait: it should be a short one.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The server answered another call than the one that failed: all may call, and the pauses of a further
    /// failure grow from where they were.
    pub fn record_probe_ok(mut self) {
        self.is_probe = false;
        self.breaker.set(|state| state.breaker_state = BreakerState::Closed);
    }

    /// The server answered, with a result or with an error of the call.
    pub fn record_success(mut self) {
        self.is_probe = false;
        self.breaker.set(|state| {
            state.breaker_state = BreakerState::Closed;
            state.pauses.reset();
        });
    }

    /// The server did not answer, or refuses every call. Returns whether this failure opened the breaker:
    /// calls that were under way during a probe add no pause of their own.
    pub fn record_failure(mut self) -> bool {
        let was_probe = std::mem::take(&mut self.is_probe);
        let mut is_news = false;
        self.breaker.set(|state| {
            is_news = was_probe || state.breaker_state == BreakerState::Closed;
            if is_news {
                state.breaker_state =
                    BreakerState::Open { until: Instant::now() + state.pauses.next_delay() };
            }
        });
        is_news
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.set(|state| state.breaker_state = BreakerState::Open { until: Instant::now() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};

    use super::*;

    const PAUSES: BackoffPolicy = BackoffPolicy {
        first: Duration::from_millis(500),
        max: Duration::from_secs(60),
        quiet: Duration::from_secs(600),
    };

    #[tokio::test(start_paused = true)]
    async fn twenty_callers_ask_a_dead_server_as_often_as_one_would_and_all_go_on_when_it_is_back() {
        let (breaker, calls) = (Arc::new(Breaker::new(PAUSES)), Arc::new(AtomicUsize::new(0)));
        let back = Instant::now() + Duration::from_secs(600);
        let mut callers = JoinSet::new();
        for _ in 0..20 {
            let (breaker, calls) = (Arc::clone(&breaker), Arc::clone(&calls));
            callers.spawn(async move {
                loop {
                    let permit = breaker.acquire().await;
                    calls.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(1)).await;
                    if Instant::now() >= back {
                        return permit.record_success();
                    }
                    permit.record_failure();
                }
            });
        }
        sleep(Duration::from_secs(599)).await;
        let while_dead = calls.load(Ordering::Relaxed);
        // Twenty calls at once before the breaker opens, then pauses up to a minute; full jitter makes some
        // of them short.
        assert!((25..80).contains(&while_dead), "{while_dead}");
        timeout(Duration::from_secs(121), callers.join_all()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_only_short_calls_is_tried_ever_more_rarely() {
        let breaker = Breaker::new(PAUSES);
        let (begun, mut tries) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(600) {
            let permit = breaker.acquire().await;
            if permit.is_probe() {
                permit.record_probe_ok();
                continue;
            }
            tries += 1;
            assert!(permit.record_failure());
        }
        assert!(tries < 60, "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_given_up_lets_the_next_one_try() {
        let breaker = Breaker::new(PAUSES);
        assert!(breaker.acquire().await.record_failure());
        let tried = breaker.acquire().await;
        timeout(Duration::from_secs(60), breaker.acquire()).await.unwrap_err();
        drop(tried);
        timeout(Duration::from_secs(1), breaker.acquire()).await.unwrap().record_success();
        timeout(Duration::from_secs(1), breaker.acquire()).await.unwrap().record_success();
    }
}
