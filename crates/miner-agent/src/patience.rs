//! Database calls that must not be given up: repeated until the database answers.

use std::{future::Future, sync::Arc, time::Duration};

use carferry_core::{
    error_chain::ErrorChain,
    runtime::{BackoffPolicy, Breaker},
    store::StoreError,
};
use tracing::warn;

/// Shared by everybody who waits for the database: thousands of deals may be in hand when it goes, and one of them
/// finds out whether it is back.
#[derive(Clone, Debug)]
pub struct Patience(Arc<Breaker>);

const PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    max: Duration::from_secs(5),
    quiet: Duration::from_secs(120),
};

impl Default for Patience {
    fn default() -> Self {
        Self(Arc::new(Breaker::new(PAUSES)))
    }
}

impl Patience {
    /// Repeats a call until it succeeds or its failure is about a document.
    ///
    /// Every call of the store may be repeated. It ends when the caller is dropped; the database coming back is
    /// the only other way, so a deal whose import is under way keeps its place meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadDocument`] only.
    pub async fn until_answered<T, F>(
        &self,
        what: &'static str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            let leave = self.0.leave().await;
            match call().await {
                Ok(answer) => {
                    leave.answered();
                    return Ok(answer);
                }
                Err(error @ StoreError::BadDocument { .. }) => {
                    leave.answered();
                    return Err(error);
                }
                Err(error) => {
                    if leave.trouble() {
                        let hint = error.hint().unwrap_or_default();
                        warn!(what, reason = %ErrorChain(&error), hint, "the database does not answer, trying again");
                    }
                }
            }
        }
    }
}
