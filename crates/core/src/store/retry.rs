//! Database calls that are repeated until the database answers.
//!
//! A server that is away comes back, and what waits for it must not be lost. A server that refuses for good
//! (no rights, a validator) never takes the call, and repeating it would hide that: the first such refusal
//! ends the run.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error_chain::{ErrorChain, Hint as _};
use crate::runtime::{Backoff, BackoffPolicy};
use crate::store::StoreError;

/// Pauses between tries of a call.
pub const PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    max: Duration::from_secs(30),
    quiet: Duration::from_secs(120),
};

/// Repeats the database calls of one run; shared by all of them.
#[derive(Debug)]
pub struct RetryUntilAnswered {
    /// The run is to end: a call has one more try.
    stop: CancellationToken,
    /// No call has any.
    given_up: CancellationToken,
    refusal: Mutex<Option<StoreError>>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The run is to end; this is what its last try met.
    #[error(transparent)]
    LastTry(StoreError),
    /// The run is to end, or a refusal ended it: this call has no try of its own.
    #[error("interrupted while the database is away")]
    Interrupted,
    /// The database refused for good; [`RetryUntilAnswered::take_refusal`] has the error.
    #[error("the database refused: {0}")]
    Refused(String),
}

impl RetryUntilAnswered {
    /// For a run that `stop` asks to end, and that `forced` ends without waiting. A refusal cancels neither,
    /// but the token of [`Self::stop`].
    pub fn new(stop: &CancellationToken, forced: &CancellationToken) -> Self {
        Self { stop: stop.child_token(), given_up: forced.child_token(), refusal: Mutex::default() }
    }

    /// Cancelled when the run is to end: by its own token, or by a refusal.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The refusal that ended the run, if one did.
    pub fn take_refusal(&self) -> Option<StoreError> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Repeats a call until it is answered. Once the run is to end, each call has one more try, until the
    /// first that fails; what it would have kept is found again by the next run.
    ///
    /// # Errors
    ///
    /// [`Unanswered`]; never while the database is only away and nothing asks the run to end.
    pub async fn call<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(PAUSES);
        let mut has_failed = false;
        loop {
            if self.given_up.is_cancelled() {
                return Err(Unanswered::Interrupted);
            }
            let is_last = self.stop.is_cancelled();
            let error = match self.given_up.run_until_cancelled(ask()).await {
                None => return Err(Unanswered::Interrupted),
                Some(Ok(answer)) => {
                    if has_failed {
                        info!("{what}: the database answers again");
                    }
                    return Ok(answer);
                }
                Some(Err(error)) => error,
            };
            has_failed = true;
            if error.is_refusal() {
                return Err(self.refuse(error));
            }
            if is_last {
                self.given_up.cancel();
                return Err(Unanswered::LastTry(error));
            }
            let pause = backoff.next_delay();
            warn!(
                error = %ErrorChain(&error),
                hint = error.hint().unwrap_or_default(),
                retry_in_ms = pause.as_millis(),
                "{what}: trying again"
            );
            // Cancelled or not, the next round tries again.
            let _waited = self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
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
