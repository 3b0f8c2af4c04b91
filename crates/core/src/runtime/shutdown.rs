//! Graceful shutdown: the first SIGINT or SIGTERM requests it, the second ends the grace period.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Two tokens that all tasks share: stop taking new work, and stop waiting for the old.
///
/// Clones see the same tokens.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    forced: CancellationToken,
    signalled: CancellationToken,
}

impl Shutdown {
    /// A shutdown that only [`Self::request`] and [`Self::force`] trigger.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGINT and SIGTERM trigger, from the return of this function on.
    ///
    /// # Errors
    ///
    /// When the system refuses the handlers.
    pub fn listen() -> io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let shutdown = Self::new();
        let listen = shutdown.clone().listen_for_signals(interrupt, terminate);
        #[expect(clippy::disallowed_methods, reason = "lives as long as the process and cannot fail")]
        drop(tokio::spawn(listen));
        Ok(shutdown)
    }

    /// Cancelled when no new work may begin.
    pub fn token(&self) -> &CancellationToken {
        &self.requested
    }

    /// Cancelled when waiting for work under way is to end.
    pub fn forced(&self) -> &CancellationToken {
        &self.forced
    }

    /// Whether a signal requested the shutdown, and not a failed part of the program.
    pub fn was_signalled(&self) -> bool {
        self.signalled.is_cancelled()
    }

    /// Requests a graceful shutdown.
    pub fn request(&self) {
        self.requested.cancel();
    }

    /// Ends the grace period.
    pub fn force(&self) {
        self.requested.cancel();
        self.forced.cancel();
    }

    async fn listen_for_signals(self, mut interrupt: Signal, mut terminate: Signal) {
        let name = received(&mut interrupt, &mut terminate).await;
        self.signalled.cancel();
        tracing::info!(signal = name, "shutting down; a second signal ends without waiting");
        self.request();
        let name = received(&mut interrupt, &mut terminate).await;
        tracing::warn!(signal = name, "ending without waiting for work under way");
        self.force();
    }
}

/// Cancel safety: `Signal::recv` loses no signal when dropped.
async fn received(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal as Number, getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn first_signal_asks_and_second_forces() {
        let shutdown = Shutdown::listen().unwrap();
        assert!(!shutdown.token().is_cancelled() && !shutdown.was_signalled());
        kill_process(getpid(), Number::TERM).unwrap();
        timeout(Duration::from_secs(20), shutdown.token().cancelled())
            .await
            .expect("requested after SIGTERM");
        assert!(!shutdown.forced().is_cancelled() && shutdown.was_signalled());
        kill_process(getpid(), Number::INT).unwrap();
        timeout(Duration::from_secs(20), shutdown.forced().cancelled()).await.expect("forced after SIGINT");
    }
}
