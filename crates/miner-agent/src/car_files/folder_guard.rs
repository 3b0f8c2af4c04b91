//! Folders that may not answer: a network file system whose server is gone holds whoever touches it, for
//! hours.
//!
//! ```text
//!  a search ─► gate of /mnt/a ─► inside: at most four ─► out
//!                 │ somebody has been inside for longer than `timeout`: passed over
//! ```
//!
//! So a dead server costs a handful of threads, and not the imports whose files lie elsewhere. A
//! [`Heartbeat`] tells the one who waits for a search whether it still gets on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout};

/// Searches inside of one folder at a time: so many threads a folder can hold. Source: ours.
pub(crate) const INSIDE_MAX: usize = 4;

/// Who is inside of which folder, and since when.
#[derive(Debug)]
pub struct FolderGuard {
    timeout: Duration,
    inside: Mutex<HashMap<PathBuf, Vec<Instant>>>,
    left: Condvar,
}

/// A place inside of a folder; free again when dropped.
#[derive(Debug)]
pub struct FolderPermit<'a> {
    guard: &'a FolderGuard,
    folder: &'a Path,
    since: Instant,
}

/// Beats with every step of a search.
#[derive(Debug, Default)]
pub struct Heartbeat(AtomicU64);

/// How waiting for a search ended.
#[derive(Debug)]
pub enum Waited<T> {
    /// It came to its end.
    Ended(Result<T, JoinError>),
    /// It gets on no more. Its thread is left to the folder that holds it.
    Stalled,
}

impl FolderGuard {
    /// Gates of folders that may take so long for one file.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, inside: Mutex::default(), left: Condvar::new() }
    }

    /// How long a search may stand still: once before a gate, and once inside.
    pub fn stall_timeout(&self) -> Duration {
        self.timeout * 2
    }

    /// Goes in; `None`: the folder does not answer.
    pub fn acquire<'a>(&'a self, folder: &'a Path) -> Option<FolderPermit<'a>> {
        let mut inside = self.lock();
        loop {
            let since = inside.get(folder).map(Vec::as_slice).unwrap_or_default();
            let longest = since.iter().map(Instant::elapsed).max().unwrap_or_default();
            let remaining = self.timeout.checked_sub(longest)?;
            if since.len() < INSIDE_MAX {
                break;
            }
            let waited = self.left.wait_timeout(inside, remaining);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let since = Instant::now();
        inside.entry(folder.to_owned()).or_default().push(since);
        Some(FolderPermit { guard: self, folder, since })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Vec<Instant>>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FolderPermit<'_> {
    fn drop(&mut self) {
        let mut inside = self.guard.lock();
        if let Some(since) = inside.get_mut(self.folder)
            && let Some(place) = since.iter().position(|since| *since == self.since)
        {
            since.swap_remove(place);
        }
        drop(inside);
        self.guard.left.notify_all();
    }
}

impl Heartbeat {
    /// The search got on.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for a search on a thread of its own, as long as it beats at least once in `stall_timeout`.
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
            // Left there for good: what is inside of a folder that hangs.
            (0..INSIDE_MAX).for_each(|_| std::mem::forget(guard.acquire(Path::new(FOLDER))));
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
        let (pulse, stall) = (std::sync::Arc::new(Heartbeat::default()), Duration::from_millis(500));
        let beating = std::sync::Arc::clone(&pulse);
        let search = tokio::task::spawn_blocking(move || {
            for _ in 0..12 {
                thread::sleep(Duration::from_millis(100));
                beating.beat();
            }
        });
        assert!(matches!(pulse.watch(search, stall).await, Waited::Ended(Ok(()))));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let search = tokio::task::spawn_blocking(move || held.recv().is_ok());
        assert!(matches!(pulse.watch(search, stall).await, Waited::Stalled));
        drop(hold);
    }
}
