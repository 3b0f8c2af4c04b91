//! Database calls that must not be given up: repeated until the database answers.

use std::{future::Future, time::Duration};

use carferry_core::{error_chain::ErrorChain, store::StoreError};
use tracing::warn;

/// Repeats a call, with growing pauses, until it succeeds or its failure is about a document.
///
/// Every call of the store may be repeated. It ends when the caller is dropped; the database coming back is
/// the only other way, so a deal whose import is under way keeps its place meanwhile.
///
/// # Errors
///
/// [`StoreError::BadDocument`] only.
pub async fn patiently<T, F>(what: &'static str, mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = PAUSE_MIN;
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error @ StoreError::BadDocument { .. }) => return Err(error),
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                warn!(what, reason = %ErrorChain(&error), hint, "the database does not answer, trying again");
            }
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
