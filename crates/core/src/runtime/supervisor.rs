//! Supervises named tasks: the first that fails ends the agent with its error, and none is detached.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, debug, warn};

use crate::runtime::Shutdown;

/// The error of a task, of any type.
pub type TaskError = Box<dyn Error + Send + Sync + 'static>;

/// Why the agent did not end well.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A task gave up.
    #[error("{task} failed")]
    Failed {
        /// The task's name.
        task: String,
        /// Its error.
        source: TaskError,
    },
    /// A task panicked.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// The task's name.
        task: String,
        /// The message of the panic.
        message: String,
    },
    /// Tasks did not end within the grace period and were cut off.
    #[error("still under way at the end of the grace period: {}", tasks.join(", "))]
    Stubborn {
        /// Their names.
        tasks: Vec<String>,
    },
}

/// Starts tasks, waits for them, ends them.
///
/// Dropping it cuts off every task at its next `await`.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), TaskError>>,
    names: HashMap<Id, Cow<'static, str>>,
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task in a span of the current one. The task must end itself when its shutdown is requested.
    pub fn spawn<F, E>(&mut self, name: impl Into<Cow<'static, str>>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskError>,
    {
        let task = async move { task.await.map_err(Into::into) }.in_current_span();
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name.into());
    }

    /// The names of the tasks that run, sorted.
    pub fn running(&self) -> Vec<String> {
        let mut names: Vec<_> = self.names.values().map(ToString::to_string).collect();
        names.sort();
        names
    }

    /// Runs until a task fails, all have ended, or a shutdown is requested. Then requests every task to end
    /// and waits for them, at most for `grace` or until the shutdown is forced.
    ///
    /// # Errors
    ///
    /// The first failure; else the names of the tasks that had to be cut off.
    pub async fn run(mut self, shutdown: &Shutdown, grace: Duration) -> Result<(), SupervisorError> {
        // Cancel safety: `join_next_with_id` loses no result when dropped.
        let first = tokio::select! {
            biased;
            first = self.first_failure() => first,
            () = shutdown.token().cancelled() => Ok(()),
        };
        shutdown.request();
        let rest = self.shutdown(shutdown, grace).await;
        first.and(rest)
    }

    /// Waits for running tasks that were asked to end, at most for `grace` or until the shutdown is forced;
    /// cuts off the others.
    ///
    /// # Errors
    ///
    /// The first failure; else the names of the tasks that had to be cut off.
    pub async fn shutdown(mut self, shutdown: &Shutdown, grace: Duration) -> Result<(), SupervisorError> {
        let deadline = Instant::now() + grace;
        let mut outcome = Ok(());
        loop {
            // Cancel safety: as in `run`; a forced shutdown leaves the loop.
            let ended = tokio::select! {
                biased;
                ended = timeout_at(deadline, self.next_ended()) => ended,
                () = shutdown.forced().cancelled() => break,
            };
            match ended {
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(error))) if outcome.is_ok() => outcome = Err(error),
                Ok(Some(Err(error))) => {
                    warn!(error = %crate::error_chain::ErrorChain(&error), "another task failed");
                }
                Ok(None) | Err(_) => break,
            }
        }
        let tasks = self.running();
        self.tasks.shutdown().await;
        if tasks.is_empty() {
            return outcome;
        }
        warn!(tasks = tasks.join(", "), "cut off");
        outcome.and(Err(SupervisorError::Stubborn { tasks }))
    }

    async fn first_failure(&mut self) -> Result<(), SupervisorError> {
        while let Some(ended) = self.next_ended().await {
            ended?;
        }
        Ok(())
    }

    async fn next_ended(&mut self) -> Option<Result<(), SupervisorError>> {
        let joined = self.tasks.join_next_with_id().await?;
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let task = self.names.remove(&id).unwrap_or(Cow::Borrowed("task")).into_owned();
        Some(match joined {
            Ok((_, Ok(()))) => {
                debug!(task, "ended");
                Ok(())
            }
            Ok((_, Err(source))) => Err(SupervisorError::Failed { task, source }),
            Err(error) => Err(SupervisorError::Panicked { task, message: panic_message(error) }),
        })
    }
}

fn panic_message(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "cancelled".to_owned() };
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use super::*;
    use crate::error_chain::ErrorChain;

    const GRACE: Duration = Duration::from_secs(5);

    fn obedient(shutdown: &Shutdown) -> impl Future<Output = Result<(), Infallible>> + use<> {
        let token = shutdown.token().clone();
        async move {
            token.cancelled().await;
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_failure_ends_the_others_and_is_reported() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new();
        supervisor.spawn("watch", obedient(&shutdown));
        supervisor.spawn("track", async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(std::io::Error::other("disk on fire"))
        });
        assert_eq!(supervisor.running(), ["track", "watch"]);
        let error = supervisor.run(&shutdown, GRACE).await.unwrap_err();
        assert_eq!(ErrorChain(&error).to_string(), "track failed: disk on fire");
        assert!(shutdown.token().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn asked_tasks_end_well() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new();
        supervisor.spawn("watch", obedient(&shutdown));
        shutdown.request();
        supervisor.run(&shutdown, GRACE).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn all_tasks_ended_is_a_good_end() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("once", async { Ok::<(), Infallible>(()) });
        supervisor.run(&Shutdown::new(), GRACE).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn stubborn_tasks_are_named_after_the_grace_period() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new();
        supervisor.spawn("import", pending::<Result<(), Infallible>>());
        supervisor.spawn("watch", obedient(&shutdown));
        shutdown.request();
        let started = Instant::now();
        let error = supervisor.run(&shutdown, GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "still under way at the end of the grace period: import");
        assert_eq!(started.elapsed().as_secs(), GRACE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_shutdown_does_not_wait() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new();
        supervisor.spawn("import", pending::<Result<(), Infallible>>());
        shutdown.force();
        let started = Instant::now();
        let error = supervisor.run(&shutdown, GRACE).await.unwrap_err();
        assert!(matches!(error, SupervisorError::Stubborn { .. }), "{error}");
        assert!(started.elapsed() < GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_with_a_name() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("watch", async {
            Vec::<u8>::new().first().expect("a byte");
            Ok::<(), Infallible>(())
        });
        let error = supervisor.run(&Shutdown::new(), GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "watch panicked: a byte");
    }
}
