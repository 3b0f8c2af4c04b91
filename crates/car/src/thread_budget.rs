//! Threads that several CARs share.
//!
//! ```text
//! places    |●|●|●|○|      a CAR takes one place, and every free one as long as it has work for it
//! ```
//!
//! What lives here: who may work. What does not: what there is to do, and in which order.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::thread::Scope;

use crate::readahead::BufferPool;

/// So many threads may hash at a time, however many CARs are built or checked.
///
/// One CAR uses all of them, many CARs divide them: whoever has more work than hands takes every place that
/// becomes free.
#[derive(Debug)]
pub struct ThreadBudget {
    places: NonZeroUsize,
    free: Mutex<usize>,
    freed: Condvar,
    /// What the threads read into, between one CAR and the next.
    spares: Arc<BufferPool>,
}

/// Buffers that are kept for each thread: as many as it uses at a time. More took more memory and saved no
/// time.
const SPARES_A_PLACE: usize = 2;

impl ThreadBudget {
    /// A crew of so many threads.
    pub fn new(places: NonZeroUsize) -> Self {
        let spares = Arc::new(BufferPool::new(SPARES_A_PLACE.saturating_mul(places.get())));
        Self { places, free: Mutex::new(places.get()), freed: Condvar::new(), spares }
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
    pub fn places(&self) -> NonZeroUsize {
        self.places
    }

    /// Buffers that are free.
    pub(crate) fn spares(&self) -> &Arc<BufferPool> {
        &self.spares
    }

    /// Repeats `step` on this thread, and on others while places are free, until it breaks on each of them.
    ///
    /// Every thread has a state of its own. At most `threads_max` take part. Waits for a place first.
    pub(crate) fn work<S>(
        &self,
        threads_max: usize,
        state: impl Fn() -> S + Sync,
        step: impl Fn(&mut S) -> ControlFlow<()> + Sync,
    ) {
        let _place = self.wait_for_place();
        let repeat = || {
            let mut state = state();
            while step(&mut state).is_continue() {}
        };
        if threads_max <= 1 || self.places == NonZeroUsize::MIN {
            return repeat();
        }
        thread::scope(|scope| {
            let mut own = state();
            let mut threads = 1;
            loop {
                while threads < threads_max
                    && let Some(place) = self.free_place()
                {
                    start(scope, place, &repeat);
                    threads += 1;
                }
                if step(&mut own).is_break() {
                    break;
                }
            }
        });
    }

    fn wait_for_place(&self) -> Place<'_> {
        let mut free =
            self.freed.wait_while(self.free(), |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Place(self)
    }

    fn free_place(&self) -> Option<Place<'_>> {
        let mut free = self.free();
        *free = free.checked_sub(1)?;
        Some(Place(self))
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is taken, until this is dropped.
struct Place<'a>(&'a ThreadBudget);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.freed.notify_one();
    }
}

fn start<'scope>(scope: &'scope Scope<'scope, '_>, place: Place<'scope>, work: &'scope (impl Fn() + Sync)) {
    scope.spawn(move || {
        let _place = place;
        work();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts who is at work at the same time, over all that share the crew.
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
    fn one_task_uses_the_whole_crew() {
        let budget = ThreadBudget::new(NonZeroUsize::new(4).unwrap());
        let (seen, left) = (Seen::default(), AtomicUsize::new(100));
        budget.work(usize::MAX, || (), |()| seen.step(&left));
        assert_eq!(left.into_inner(), 0);
        assert_eq!(seen.most.into_inner(), 4);
        assert_eq!(*budget.free(), 4, "all places are free again");
    }

    #[test]
    fn many_tasks_never_use_more_than_the_crew() {
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
        assert_eq!(*budget.free(), 3, "all places are free again");
    }

    #[test]
    fn a_panic_is_seen_and_frees_its_place() {
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
