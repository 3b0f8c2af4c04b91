//! Publishes whether this agent imports or pauses, in `minerstates`, for `status` in another process.

use std::sync::{Mutex, PoisonError};

use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::fsx;
use carferry_core::store::{AgentState, Store, StoreError};
use carferry_core::telemetry::fields;
use tokio::sync::Notify;
use tokio::time::{Duration, timeout};
use tracing::{debug, warn};

/// Why nothing is imported for a miner now, if so.
#[derive(Debug, Default)]
pub struct Standing {
    pause: Mutex<Option<String>>,
    changed: Notify,
}

/// Maximum time between two writes. Readers take an agent for gone after three times this.
const HEARTBEAT: Duration = Duration::from_secs(60);

impl Standing {
    /// Nothing is imported, for this reason.
    pub fn pauses(&self, reason: &str) {
        self.set(Some(reason.to_owned()));
    }

    /// Deals are imported.
    pub fn works(&self) {
        self.set(None);
    }

    fn set(&self, pause: Option<String>) {
        let mut known = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != pause {
            *known = pause;
            self.changed.notify_one();
        }
    }

    fn pause(&self) -> Option<String> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Writes the state whenever it changes, and once a minute; without end. A missing right to write it is
/// logged once: nothing else depends on it.
///
/// # Cancel safety
///
/// May be dropped at any point.
pub async fn report(store: &Store, miner: &str, standing: &Standing, agent: &str) {
    let host = fsx::hostname();
    let mut is_told = false;
    loop {
        let pause = standing.pause();
        let state = AgentState {
            miner,
            host: &host,
            agent,
            version: env!("CARGO_PKG_VERSION"),
            pause: pause.as_deref(),
        };
        match store.record_miner_state(&state).await {
            Ok(()) => is_told = false,
            Err(error @ StoreError::Refused { .. }) if !is_told => {
                is_told = true;
                let hint = error.hint().unwrap_or_default();
                warn!(
                    { fields::MINER } = miner, error = %ErrorChain(&error), hint,
                    "`status` cannot tell of this agent: it may not write to minerstates"
                );
            }
            Err(error) => debug!(error = %ErrorChain(&error), "the miner's state is not recorded now"),
        }
        // A change meanwhile, or the next heartbeat.
        let _elapsed = timeout(HEARTBEAT, standing.changed.notified()).await;
    }
}
