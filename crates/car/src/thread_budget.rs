//! A limit on hashing threads that all CARs of a process share.
//!
//! ```text
//! permits    |●|●|●|○|     a CAR takes one permit, and every free one while it has work for it
//! ```
//!
//! What lives here: permits and the threads that hold them. What does not: the work and its order.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::thread::Scope;

use crate::readahead::BufferPool;

/// Limits how many threads hash at a time, over all CARs that are built or checked.
///
/// A single CAR uses all permits. Several CARs divide them: each takes free permits while it has work for
/// more threads.
#[derive(Debug)]
pub struct ThreadBudget {
    permits: NonZeroUsize,
    free: Mutex<usize>,
    freed: Condvar,
    /// Buffers of the threads, kept between CARs.
    buffers: Arc<BufferPool>,
}

/// Buffers that the pool keeps for each thread: as many as a thread uses at a time. Measured: more buffers
/// take more memory and save no time.
const POOLED_BUFFERS_PER_PERMIT: usize = 2;

impl ThreadBudget {
    /// A budget of this many threads.
    pub fn new(permits: NonZeroUsize) -> Self {
        let buffers = Arc::new(BufferPool::new(POOLED_BUFFERS_PER_PERMIT.saturating_mul(permits.get())));
        Self { permits, free: Mutex::new(permits.get()), freed: Condvar::new(), buffers }
    }

    /// One thread for each processor.
    pub fn of_processors() -> Self {
        Self::new(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// One thread: the caller's.
    pub fn alone() -> Self {
        Self::new(NonZeroUsize::MIN)
    }

    /// How many threads may hash at a time.
    pub fn permits(&self) -> NonZeroUsize {
        self.permits
    }

    /// Buffers that no thread uses.
    pub(crate) fn buffers(&self) -> &Arc<BufferPool> {
        &self.buffers
    }

    /// Repeats `step` on this thread, and on further threads while permits are free, until it breaks on each
    /// of them.
    ///
    /// Each thread has its own state. At most `threads_max` threads run. Waits for the first permit.
    pub(crate) fn work<S>(
        &self,
        threads_max: usize,
        state: impl Fn() -> S + Sync,
        step: impl Fn(&mut S) -> ControlFlow<()> + Sync,
    ) {
        let _permit = self.acquire();
        let repeat = || {
            let mut state = state();
            while step(&mut state).is_continue() {}
        };
        if threads_max <= 1 || self.permits == NonZeroUsize::MIN {
            return repeat();
        }
        thread::scope(|scope| {
            let mut own = state();
            let mut threads = 1;
            loop {
                while threads < threads_max
                    && let Some(permit) = self.try_acquire()
                {
                    start(scope, permit, &repeat);
                    threads += 1;
                }
                if step(&mut own).is_break() {
                    break;
                }
            }
        });
    }

    fn acquire(&self) -> Permit<'_> {
        let mut free =
            self.freed.wait_while(self.free(), |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }

    fn try_acquire(&self) -> Option<Permit<'_>> {
        let mut free = self.free();
        *free = free.checked_sub(1)?;
        Some(Permit(self))
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run one thread; dropping it frees the permit.
struct Permit<'a>(&'a ThreadBudget);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.freed.notify_one();
    }
}

fn start<'scope>(scope: &'scope Scope<'scope, '_>, permit: Permit<'scope>, work: &'scope (impl Fn() + Sync)) {
    scope.spawn(move || {
        let _permit = permit;
        work();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts threads that work at the same time, over all tasks of the budget.
    #[derive(Default)]
    struct Seen {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Seen {
        fn step(&self, left: &AtomicUsize) -> ControlFlow<()> {
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
                return ControlFlow::Break(());
            }
            self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(2));
            self.now.fetch_sub(1, Ordering::SeqCst);
            ControlFlow::Continue(())
        }
    }

    #[test]
    fn one_task_uses_all_permits() {
        let budget = ThreadBudget::new(NonZeroUsize::new(4).unwrap());
        let (seen, left) = (Seen::default(), AtomicUsize::new(100));
        budget.work(usize::MAX, || (), |()| seen.step(&left));
        assert_eq!(left.into_inner(), 0);
        assert_eq!(seen.most.into_inner(), 4);
        assert_eq!(*budget.free(), 4, "all permits are free again");
    }

    #[test]
    fn many_tasks_never_use_more_threads_than_permits() {
        let budget = ThreadBudget::new(NonZeroUsize::new(3).unwrap());
        let seen = Seen::default();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let left = AtomicUsize::new(20);
                    budget.work(2, || (), |()| seen.step(&left));
                    assert_eq!(left.into_inner(), 0);
                });
            }
        });
        assert_eq!(seen.most.into_inner(), 3);
        assert_eq!(*budget.free(), 3, "all permits are free again");
    }

    #[test]
    fn a_panic_is_seen_and_frees_its_permit() {
        let budget = ThreadBudget::new(NonZeroUsize::new(2).unwrap());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            budget.work(
                2,
                || (),
                |()| -> ControlFlow<()> { std::panic::resume_unwind(Box::new("as wanted")) },
            );
        }));
        assert!(outcome.is_err());
        assert_eq!(*budget.free(), 2);
    }
}
