//! Work for disk and processors, away from the runtime's own threads.

use carferry_core::error_chain::Hint;
use carferry_core::runtime::Shutdown;
use tokio::task::spawn_blocking;

use crate::exit::CommandError;

/// A second signal came: the process ends without waiting for the work.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

impl Hint for Interrupted {}

/// Runs blocking work on a thread of its own, and returns early after a second signal.
///
/// # Errors
///
/// When the work panicked, or a second signal came; the work then goes on until the process ends.
pub(crate) async fn in_background<T: Send + 'static>(
    shutdown: &Shutdown,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    match shutdown.forced().run_until_cancelled(spawn_blocking(work)).await {
        Some(Ok(done)) => Ok(done),
        Some(Err(panicked)) => Err(CommandError::failure(&panicked)),
        None => Err(CommandError::user(&Interrupted)),
    }
}
