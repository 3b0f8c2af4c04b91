//! Repeats database calls until the database answers or refuses for good.
//!
//! A server that is away comes back, and what waits for it must not be lost. While it is away, one call at a
//! time finds out whether it is back, and all others wait for that. A server that refuses for good (no
//! rights, a validator) never takes the call, and repeating it would hide that.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error_chain::{ErrorChain, Hint};
use crate::runtime::{Backoff, BackoffPolicy, Breaker, Permit};
use crate::store::{Store, StoreError};

/// Pauses between tries.
const PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    max: Duration::from_secs(5),
    quiet: Duration::from_secs(120),
};
/// Tries of an agent's call that the server refuses. Chosen: rights may be granted at this moment.
const REFUSALS_MAX: u32 = 3;
/// Tries of an agent's call that fails otherwise while the server answers: about 40 seconds.
const FAILURES_MAX: u32 = 12;

/// Repeats the database calls of one run, or of an agent; shared by all of them.
#[derive(Clone, Debug)]
pub struct RetryUntilAnswered {
    breaker: Arc<Breaker>,
    /// Whether the last that was heard of the database is that it does not answer. Shared also by calls with
    /// a breaker of their own, so that the end of an outage is told once.
    outage_seen: Arc<AtomicBool>,
    /// Is asked for the time, to tell a slow call from a server that is away.
    probe: Option<Store>,
    ends: Ends,
    /// The run is to end: a call has one more try.
    stop: CancellationToken,
    /// No call has any.
    given_up: CancellationToken,
    refusal: Arc<Mutex<Option<StoreError>>>,
}

/// What a call ends that the server never takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// The whole run, at the first refusal.
    Run,
    /// Itself, after some tries.
    Call,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The call has no more tries; this is what the last one met.
    #[error(transparent)]
    LastTry(StoreError),
    /// The run is to end, or a refusal ended it: this call has no try of its own.
    #[error("interrupted while the database is away")]
    Interrupted,
    /// The database refused for good; [`RetryUntilAnswered::take_refusal`] has the error.
    #[error("the database refused: {0}")]
    Refused(String),
}

impl Hint for Unanswered {
    fn hint(&self) -> Option<String> {
        match self {
            Self::LastTry(error) => error.hint(),
            Self::Interrupted | Self::Refused(_) => None,
        }
    }
}

impl RetryUntilAnswered {
    /// For a run that `stop` asks to end, and that `forced` ends without waiting. A refusal cancels neither,
    /// but the token of [`Self::stop`].
    pub fn new(stop: &CancellationToken, forced: &CancellationToken) -> Self {
        Self::with(None, Ends::Run, stop.child_token(), forced.child_token())
    }

    /// For an agent, which waits for its database without end. A call that the server refuses, or that fails
    /// while the server answers, ends after some tries; the others go on.
    pub fn endless(store: Store) -> Self {
        Self::with(Some(store), Ends::Call, CancellationToken::new(), CancellationToken::new())
    }

    fn with(probe: Option<Store>, ends: Ends, stop: CancellationToken, given_up: CancellationToken) -> Self {
        Self {
            breaker: Arc::new(Breaker::new(PAUSES)),
            outage_seen: Arc::default(),
            probe,
            ends,
            stop,
            given_up,
            refusal: Arc::default(),
        }
    }

    /// The same for calls that take long: no other call waits for what they find out.
    #[must_use]
    pub fn with_own_breaker(&self) -> Self {
        Self { breaker: Arc::new(Breaker::new(PAUSES)), ..self.clone() }
    }

    /// Cancelled when the run is to end: by its own token, or by a refusal.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The refusal that ended the run, if one did.
    pub fn take_refusal(&self) -> Option<StoreError> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The database did not answer a call made elsewhere.
    pub fn record_away(&self) {
        self.outage_seen.store(true, Ordering::Relaxed);
    }

    /// The database answered a call made elsewhere. The first answer after an outage is logged.
    pub fn record_answer(&self) {
        if self.outage_seen.swap(false, Ordering::Relaxed) {
            info!("the database answers again");
        }
    }

    /// Repeats a call until it is answered. Once the run is to end, each call has one more try, until the
    /// first that fails; what it would have kept is found again by the next run.
    ///
    /// # Errors
    ///
    /// [`Unanswered`]; never while the database is only away and nothing asks the run to end.
    pub async fn call<T, F>(&self, what: &str, mut ask: impl FnMut() -> F) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pauses = Backoff::new(PAUSES);
        let mut failures = 0;
        loop {
            if self.given_up.is_cancelled() {
                return Err(Unanswered::Interrupted);
            }
            let is_last = self.stop.is_cancelled();
            let permit = if is_last {
                None
            } else {
                // A stop meanwhile: the next round is the last.
                let Some(permit) = self.stop.run_until_cancelled(self.breaker.acquire()).await else {
                    continue;
                };
                Some(permit)
            };
            let error = match self.given_up.run_until_cancelled(ask()).await {
                None => return Err(Unanswered::Interrupted),
                Some(Ok(answer)) => {
                    self.record_answer();
                    if let Some(permit) = permit {
                        permit.record_success();
                    }
                    return Ok(answer);
                }
                Some(Err(error)) => error,
            };
            let hint = error.hint().unwrap_or_default();
            if self.ends == Ends::Run && error.is_refusal() {
                return Err(self.refuse(error));
            }
            if is_last {
                self.given_up.cancel();
                return Err(Unanswered::LastTry(error));
            }
            if self.is_away(&error).await {
                self.record_away();
                if permit.is_some_and(Permit::record_failure) {
                    warn!(what, reason = %ErrorChain(&error), hint, "the database does not answer, trying again");
                }
                continue;
            }
            // The trouble of this call alone: the others go on.
            if let Some(permit) = permit {
                permit.record_success();
            }
            // A slow call is not counted: the server may be busy for an hour.
            failures += u32::from(!matches!(error, StoreError::Timeout { .. }));
            if !self.has_another_try(&error, failures) {
                return Err(Unanswered::LastTry(error));
            }
            warn!(what, reason = %ErrorChain(&error), hint, "a database call failed, trying again");
            // Cancelled or not, the next round tries again.
            let _waited = self.stop.run_until_cancelled(tokio::time::sleep(pauses.next_delay())).await;
        }
    }

    fn has_another_try(&self, error: &StoreError, failures: u32) -> bool {
        match (error, self.ends) {
            (StoreError::BadDocument { .. }, _) => false,
            (_, Ends::Run) => true,
            (error, Ends::Call) => failures < if error.is_permanent() { REFUSALS_MAX } else { FAILURES_MAX },
        }
    }

    /// Whether an error is the whole database's trouble, and not one call's.
    pub async fn is_away(&self, error: &StoreError) -> bool {
        match (error, &self.probe) {
            (StoreError::Unreachable { .. } | StoreError::LoginFailed { .. }, _) => true,
            // One slow call, or a server that does not answer at all.
            (StoreError::Timeout { .. }, Some(store)) => {
                self.breaker.is_open() || store.server_time().await.is_err()
            }
            (StoreError::Timeout { .. }, None) => self.breaker.is_open(),
            _ => false,
        }
    }

    /// Waits until an agent's database answers.
    pub async fn until_back(&self) {
        if let Some(store) = &self.probe {
            // An answer of any kind: the time is about no document.
            let _time = self.call("hello", || store.server_time()).await;
        }
    }

    fn refuse(&self, error: StoreError) -> Unanswered {
        let words = ErrorChain(&error).to_string();
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.cancel();
        self.given_up.cancel();
        Unanswered::Refused(words)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn away() -> StoreError {
        StoreError::Timeout { what: "find", seconds: 1 }
    }

    fn retry() -> (RetryUntilAnswered, CancellationToken, CancellationToken) {
        let (stop, forced) = (CancellationToken::new(), CancellationToken::new());
        (RetryUntilAnswered::new(&stop, &forced), stop, forced)
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_away_is_asked_until_it_answers() {
        let (retry, ..) = retry();
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            if asked.get() < 9 { Err(away()) } else { Ok(7) }
        };
        assert_eq!(retry.call("test", ask).await.unwrap(), 7);
        assert!(retry.take_refusal().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_an_agent_that_is_refused_ends_after_some_tries_and_no_other_does() {
        let (stop, given_up) = (CancellationToken::new(), CancellationToken::new());
        let retry = RetryUntilAnswered::with(None, Ends::Call, stop, given_up);
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            Err::<(), _>(StoreError::NotReplicaSet)
        };
        assert!(matches!(retry.call("test", ask).await, Err(Unanswered::LastTry(_))));
        assert_eq!(asked.get(), REFUSALS_MAX);
        assert_eq!(retry.call("test", || async { Ok(7) }).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_met_once_and_ends_the_run() {
        let (retry, stop, _) = retry();
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            Err::<(), _>(StoreError::NotReplicaSet)
        };
        assert!(matches!(retry.call("test", ask).await, Err(Unanswered::Refused(_))));
        assert!(matches!(retry.call("test", ask).await, Err(Unanswered::Interrupted)));
        assert_eq!(asked.get(), 1);
        assert!(retry.stop().is_cancelled() && !stop.is_cancelled());
        assert!(matches!(retry.take_refusal(), Some(StoreError::NotReplicaSet)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_to_end_has_one_more_try_until_the_first_that_fails() {
        let (retry, stop, _) = retry();
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            Err::<(), _>(away())
        };
        stop.cancel();
        assert!(matches!(retry.call("test", ask).await, Err(Unanswered::LastTry(_))));
        assert!(matches!(retry.call("test", ask).await, Err(Unanswered::Interrupted)));
        assert_eq!(asked.get(), 1);
    }
}
