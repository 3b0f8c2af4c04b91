//! Database calls that must not be given up: repeated until the database answers.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::runtime::{Backoff, BackoffPolicy, Breaker};
use carferry_core::store::{Store, StoreError};
use tokio::time::sleep;
use tracing::{info, warn};

/// Shared by everybody who waits for the database: thousands of deals may be in hand when it goes, and one of
/// them finds out whether it is back.
#[derive(Clone, Debug)]
pub struct Patience {
    store: Store,
    breaker: Arc<Breaker>,
    /// Whether the last that was heard of the database is that it does not answer. Of the whole process: one
    /// outage ends once, whoever notices.
    is_missed: Arc<AtomicBool>,
}

const PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    max: Duration::from_secs(5),
    quiet: Duration::from_secs(120),
};

/// Tries of a call that the server refuses: rights may be granted this moment.
const REFUSALS_MAX: u32 = 3;
/// Tries of a call that fails otherwise, while the server answers: about 40 seconds.
const FAILURES_MAX: u32 = 12;

impl Patience {
    /// For this database.
    pub fn new(store: Store) -> Self {
        Self { store, breaker: Arc::new(Breaker::new(PAUSES)), is_missed: Arc::default() }
    }

    /// For calls that take long: nobody else waits for what they find out.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { breaker: Arc::new(Breaker::new(PAUSES)), ..self.clone() }
    }

    /// The database did not answer somebody: whoever has the next answer tells.
    pub fn missed(&self) {
        self.is_missed.store(true, Ordering::Relaxed);
    }

    /// The database answered somebody.
    pub fn answered(&self) {
        if self.is_missed.swap(false, Ordering::Relaxed) {
            info!("the database answers again");
        }
    }

    /// Repeats a call until it succeeds, or fails for another reason than that the database is away.
    ///
    /// Every call of the store may be repeated. While the database is away it goes on without end, so a deal
    /// whose import is under way keeps its place meanwhile.
    ///
    /// # Errors
    ///
    /// What a server that answers says again and again: no rights, a validator, a document that is too large.
    pub async fn until_answered<T, F>(
        &self,
        what: &'static str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut own_pauses = Backoff::new(PAUSES);
        let mut failures = 0;
        loop {
            let leave = self.breaker.leave().await;
            let error = match call().await {
                Ok(answer) => {
                    self.answered();
                    leave.answered();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if matches!(error, StoreError::BadDocument { .. }) {
                leave.answered();
                return Err(error);
            }
            let hint = error.hint().unwrap_or_default();
            if self.is_away(&error).await {
                self.missed();
                if leave.trouble() {
                    warn!(what, reason = %ErrorChain(&error), hint, "the database does not answer, trying again");
                }
                continue;
            }
            // The trouble of this call alone: the others go on.
            leave.answered();
            failures += 1;
            // A slow call is not counted: the server may be busy for an hour.
            let is_slow = matches!(error, StoreError::Timeout { .. });
            if !is_slow && failures >= if error.is_permanent() { REFUSALS_MAX } else { FAILURES_MAX } {
                return Err(error);
            }
            warn!(what, reason = %ErrorChain(&error), hint, "a database call failed, trying again");
            sleep(own_pauses.next_delay()).await;
        }
    }

    /// Whether an error is the whole database's trouble, and not one call's.
    pub async fn is_away(&self, error: &StoreError) -> bool {
        match error {
            StoreError::Unreachable { .. } | StoreError::LoginFailed { .. } => true,
            // One slow call, or a server that does not answer at all.
            StoreError::Timeout { .. } => self.breaker.is_open() || self.store.server_time().await.is_err(),
            _ => false,
        }
    }

    /// Waits until the database answers.
    pub async fn until_back(&self) {
        // It is about no document.
        let _time = self.until_answered("hello", || self.store.server_time()).await;
    }
}
