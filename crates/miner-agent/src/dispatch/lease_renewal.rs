//! Lease renewal: the leases of all deals in flight are renewed together.
//!
//! Thousands of deals may wait for the list that confirms them. One renewal for each would be more work for
//! the database than the imports.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::store::{Claim, Fence, Store, StoreError};
use carferry_core::telemetry::fields;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// The leases of all deals in flight.
#[derive(Clone, Debug, Default)]
pub struct Leases(Arc<Mutex<All>>);

#[derive(Debug, Default)]
struct All {
    entries: HashMap<u64, Entry>,
    count: u64,
}

#[derive(Debug)]
struct Entry {
    fence: Fence,
    renewed: Instant,
    lost: CancellationToken,
}

/// One of them, renewed until it is dropped.
#[derive(Debug)]
pub struct Lease {
    all: Leases,
    key: u64,
    lost: CancellationToken,
}

/// Renewed when a quarter of its time is over; looked for every twelfth, so renewed after a third at the
/// latest.
const RENEWED_AFTER: u32 = 4;
/// See [`RENEWED_AFTER`].
const LOOKED_EVERY: u32 = 12;
/// Leases in one command. Chosen: some 100 KiB.
const AT_ONCE: usize = 500;

impl Leases {
    /// Keeps the lease of a deal that was just claimed.
    pub fn hold(&self, claim: &Claim) -> Lease {
        let lost = CancellationToken::new();
        let entry = Entry { fence: claim.fence(), renewed: Instant::now(), lost: lost.clone() };
        let mut all = self.lock();
        let key = all.count;
        all.count += 1;
        all.entries.insert(key, entry);
        Lease { all: self.clone(), key, lost }
    }

    /// Renews them, without end.
    ///
    /// A database that does not answer loses no lease: it holds until another agent claims the deal.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point.
    pub async fn keep(&self, store: &Store, lease: Duration) {
        loop {
            sleep(lease / LOOKED_EVERY).await;
            if let Err(error) = self.renew(store, lease).await {
                debug!(error = %ErrorChain(&error), "leases not renewed, trying again");
            }
        }
    }

    /// Renews those whose time has come; tells those that are lost.
    ///
    /// # Errors
    ///
    /// What the first page met that could not be renewed; the others are renewed all the same.
    pub async fn renew(&self, store: &Store, lease: Duration) -> Result<(), StoreError> {
        let due = self.due(lease / RENEWED_AFTER);
        let mut failed = None;
        for page in due.chunks(AT_ONCE) {
            let (keys, fences): (Vec<u64>, Vec<Fence>) = page.iter().cloned().unzip();
            let now = Instant::now();
            let lost = match store.renew_many(&fences, lease).await {
                Ok(lost) => lost,
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            let mut all = self.lock();
            for (place, key) in keys.iter().enumerate() {
                if lost.binary_search(&place).is_ok() {
                    // One that was finished meanwhile is not there any more.
                    if let Some(entry) = all.entries.remove(key) {
                        entry.lost.cancel();
                    }
                } else if let Some(entry) = all.entries.get_mut(key) {
                    entry.renewed = now;
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn due(&self, age: Duration) -> Vec<(u64, Fence)> {
        let all = self.lock();
        let due = all.entries.iter().filter(|(_, entry)| entry.renewed.elapsed() >= age);
        due.map(|(key, entry)| (*key, entry.fence.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Cancelled when another agent has the deal.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.all.lock().entries.remove(&self.key);
    }
}

/// Frees, again and again, deals whose lease or pause is longer than any agent sets.
pub(super) async fn release_impossible(
    store: &Store,
    miner: &str,
    interval: Duration,
    wake: &Notify,
) -> Infallible {
    loop {
        match store.release_impossible(miner).await {
            Ok(0) => {}
            Ok(deals) => {
                warn!(
                    { fields::MINER } = miner,
                    deals, "leases or pauses ended in a future that nobody sets; freed"
                );
                wake.notify_one();
            }
            Err(error) => debug!(error = %ErrorChain(&error), "impossible leases are looked for later"),
        }
        sleep(interval).await;
    }
}
