//! A limit of searches per folder, and a timeout for folders that hang: a network file system whose server is
//! gone blocks each thread that touches it, for hours.
//!
//! ```text
//!  search ─► permit for /mnt/a, at most four ─► file is read ─► permit dropped
//!                 │ a permit is held for longer than `timeout`: the folder is passed over
//! ```
//!
//! So a dead server costs some threads, and not the imports whose files lie elsewhere. A [`Heartbeat`] tells
//! the task that waits for a search whether the search makes progress.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout};

/// Maximum searches in one folder at a time, and so the threads that a hung folder blocks. Chosen: enough to
/// search several deals side by side.
pub(crate) const PERMITS_MAX: usize = 4;

/// The permits of each folder, by the time since which each is held.
#[derive(Debug)]
pub struct FolderGuard {
    timeout: Duration,
    held: Mutex<HashMap<PathBuf, Vec<Instant>>>,
    released: Condvar,
}

/// Permission to touch a folder; given back when dropped.
#[derive(Debug)]
pub struct FolderPermit<'a> {
    guard: &'a FolderGuard,
    folder: &'a Path,
    since: Instant,
}

/// Counts the steps of a search.
#[derive(Debug, Default)]
pub struct Heartbeat(AtomicU64);

/// How waiting for a search ended.
#[derive(Debug)]
pub enum Waited<T> {
    /// It ended.
    Ended(Result<T, JoinError>),
    /// It makes no progress. Its thread stays blocked by the folder.
    Stalled,
}

impl FolderGuard {
    /// A guard of folders that may take at most `timeout` for one file.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, held: Mutex::default(), released: Condvar::new() }
    }

    /// How long a search may make no progress: once while it waits for a permit, and once while it holds one.
    pub fn stall_timeout(&self) -> Duration {
        self.timeout * 2
    }

    /// Waits for a permit; `None` if the folder is considered hung.
    pub fn acquire<'a>(&'a self, folder: &'a Path) -> Option<FolderPermit<'a>> {
        let mut held = self.lock();
        loop {
            let since = held.get(folder).map(Vec::as_slice).unwrap_or_default();
            let longest = since.iter().map(Instant::elapsed).max().unwrap_or_default();
            let remaining = self.timeout.checked_sub(longest)?;
            if since.len() < PERMITS_MAX {
                break;
            }
            let waited = self.released.wait_timeout(held, remaining);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let since = Instant::now();
        held.entry(folder.to_owned()).or_default().push(since);
        Some(FolderPermit { guard: self, folder, since })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Vec<Instant>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FolderPermit<'_> {
    fn drop(&mut self) {
        let mut held = self.guard.lock();
        if let Some(since) = held.get_mut(self.folder)
            && let Some(place) = since.iter().position(|since| *since == self.since)
        {
            since.swap_remove(place);
        }
        drop(held);
        self.guard.released.notify_all();
    }
}

impl Heartbeat {
    /// The search made a step.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for a search on another thread, as long as it beats at least once in `stall_timeout`.
    pub async fn watch<T>(&self, mut search: JoinHandle<T>, stall_timeout: Duration) -> Waited<T> {
        loop {
            let beats = self.0.load(Ordering::Relaxed);
            match timeout(stall_timeout, &mut search).await {
                Ok(ended) => return Waited::Ended(ended),
                Err(_elapsed) if self.0.load(Ordering::Relaxed) == beats => return Waited::Stalled,
                Err(_elapsed) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const FOLDER: &str = "/mnt/a";

    #[test]
    fn a_folder_that_holds_somebody_for_too_long_is_passed_over_until_it_lets_go() {
        let guard = FolderGuard::new(Duration::from_secs(1));
        let stuck = guard.acquire(Path::new(FOLDER)).unwrap();
        assert!(guard.acquire(Path::new(FOLDER)).is_some(), "nobody knows yet");
        thread::sleep(Duration::from_millis(1100));
        assert!(guard.acquire(Path::new(FOLDER)).is_none());
        assert!(guard.acquire(Path::new("/mnt/b")).is_some());
        drop(stuck);
        assert!(guard.acquire(Path::new(FOLDER)).is_some());
    }

    #[test]
    fn a_full_folder_is_waited_for_as_long_as_it_may_take() {
        let full = |timeout| {
            let guard = FolderGuard::new(timeout);
            // Never dropped, as in a folder that hangs.
            (0..PERMITS_MAX).for_each(|_| std::mem::forget(guard.acquire(Path::new(FOLDER))));
            guard
        };
        let guard = full(Duration::from_millis(20));
        assert!(guard.acquire(Path::new(FOLDER)).is_none(), "nobody came out");
        let guard = full(Duration::from_secs(60));
        thread::scope(|scope| {
            let waits = scope.spawn(|| guard.acquire(Path::new(FOLDER)).is_some());
            let since = guard.lock()[Path::new(FOLDER)][0];
            drop(FolderPermit { guard: &guard, folder: Path::new(FOLDER), since });
            assert!(waits.join().unwrap(), "somebody came out");
        });
    }

    #[tokio::test]
    async fn a_search_that_beats_is_waited_for_and_one_that_does_not_is_left() {
        let (heartbeat, stall) = (std::sync::Arc::new(Heartbeat::default()), Duration::from_millis(500));
        let beating = std::sync::Arc::clone(&heartbeat);
        let search = tokio::task::spawn_blocking(move || {
            for _ in 0..12 {
                thread::sleep(Duration::from_millis(100));
                beating.beat();
            }
        });
        assert!(matches!(heartbeat.watch(search, stall).await, Waited::Ended(Ok(()))));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let search = tokio::task::spawn_blocking(move || held.recv().is_ok());
        assert!(matches!(heartbeat.watch(search, stall).await, Waited::Stalled));
        drop(hold);
    }
}
