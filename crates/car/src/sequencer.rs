//! Runs steps of several threads in the order of their sequence numbers.
//!
//! Threads finish their parallel work in any order; each then runs its ordered step when all lower numbers
//! are done. The first error ends all waiting.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A value that threads change one after the other, in the order of their sequence numbers.
#[derive(Debug)]
pub(crate) struct Sequencer<T, E> {
    state: Mutex<State<T, E>>,
    advanced: Condvar,
}

#[derive(Debug)]
struct State<T, E> {
    /// Sequence number of the next step.
    next: u64,
    value: T,
    /// The first error.
    failure: Option<E>,
    /// No further step runs.
    ended: bool,
}

impl<T, E> Sequencer<T, E> {
    /// A sequencer whose first step has the number 0.
    pub(crate) fn new(value: T) -> Self {
        let state = State { next: 0, value, failure: None, ended: false };
        Self { state: Mutex::new(state), advanced: Condvar::new() }
    }

    /// Whether a step has failed, so that no further one runs.
    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Waits until all steps with lower numbers are done, then runs this one. Returns `None` if this step or
    /// an earlier one failed.
    pub(crate) fn run_in_order<R>(
        &self,
        number: u64,
        step: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Option<R> {
        let mut state = self
            .advanced
            .wait_while(self.state(), |state| state.next != number && !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return None;
        }
        let result = match step(&mut state.value) {
            Ok(result) => Some(result),
            Err(error) => {
                state.failure = Some(error);
                state.ended = true;
                None
            }
        };
        state.next += 1;
        drop(state);
        self.advanced.notify_all();
        result
    }

    /// Ends all waiting and keeps the first error.
    pub(crate) fn fail(&self, error: E) {
        self.state().failure.get_or_insert(error);
        self.end();
    }

    /// Returns a guard that ends all waiting if its thread panics: the other threads do not wait for a step
    /// that never runs.
    pub(crate) fn end_on_panic(&self) -> impl Drop {
        EndOnPanic(self)
    }

    /// The value after the last step, or the first error.
    pub(crate) fn finish(self) -> Result<T, E> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.failure {
            Some(error) => Err(error),
            None => Ok(state.value),
        }
    }

    fn end(&self) {
        self.state().ended = true;
        self.advanced.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EndOnPanic<'a, T, E>(&'a Sequencer<T, E>);

impl<T, E> Drop for EndOnPanic<'_, T, E> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_run_in_order() {
        let sequencer: Sequencer<Vec<u64>, ()> = Sequencer::new(Vec::new());
        thread::scope(|scope| {
            for number in (0..20).rev() {
                let sequencer = &sequencer;
                let step = move |done: &mut Vec<u64>| {
                    done.push(number);
                    Ok(())
                };
                scope.spawn(move || sequencer.run_in_order(number, step));
            }
        });
        assert_eq!(sequencer.finish(), Ok((0..20).collect()));
    }

    #[test]
    fn a_failure_ends_the_steps_after_it() {
        let sequencer: Sequencer<(), u64> = Sequencer::new(());
        thread::scope(|scope| {
            for number in (0..20).rev() {
                let sequencer = &sequencer;
                scope.spawn(move || {
                    let step = |(): &mut ()| if number < 7 { Ok(()) } else { Err(number) };
                    assert_eq!(sequencer.run_in_order(number, step).is_some(), number < 7);
                });
            }
        });
        assert!(sequencer.has_ended());
        assert_eq!(sequencer.finish(), Err(7));
    }

    #[test]
    fn a_panic_leaves_no_thread_waiting() {
        let sequencer: Sequencer<(), ()> = Sequencer::new(());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| sequencer.run_in_order(1, |()| Ok(())));
            let panicking = scope.spawn(|| {
                let _end = sequencer.end_on_panic();
                std::panic::resume_unwind(Box::new("as wanted"));
            });
            assert!(panicking.join().is_err());
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}
