//! Work that has an order, done by threads that come to it in any order.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Something that many threads change, one after the other in the order of their numbers, until one fails.
#[derive(Debug)]
pub(crate) struct Sequencer<T, E> {
    state: Mutex<State<T, E>>,
    turned: Condvar,
}

#[derive(Debug)]
struct State<T, E> {
    /// Whose turn it is.
    turn: u64,
    work: T,
    /// The first error.
    failure: Option<E>,
    /// Nobody's turn comes any more.
    ended: bool,
}

impl<T, E> Sequencer<T, E> {
    /// Turn 0 comes first.
    pub(crate) fn new(work: T) -> Self {
        let state = State { turn: 0, work, failure: None, ended: false };
        Self { state: Mutex::new(state), turned: Condvar::new() }
    }

    /// Whether there is nothing left to wait for.
    pub(crate) fn have_ended(&self) -> bool {
        self.state().ended
    }

    /// Waits for a turn and takes it; `None` if a turn failed, perhaps this one.
    pub(crate) fn take<R>(&self, turn: u64, act: impl FnOnce(&mut T) -> Result<R, E>) -> Option<R> {
        let mut state = self
            .turned
            .wait_while(self.state(), |state| state.turn != turn && !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return None;
        }
        let result = match act(&mut state.work) {
            Ok(result) => Some(result),
            Err(error) => {
                state.failure = Some(error);
                state.ended = true;
                None
            }
        };
        state.turn += 1;
        drop(state);
        self.turned.notify_all();
        result
    }

    /// Ends all waiting; the first error is kept.
    pub(crate) fn fail(&self, error: E) {
        self.state().failure.get_or_insert(error);
        self.end();
    }

    /// Ends all waiting if the thread panics before the guard is dropped, so that the panic is seen instead
    /// of a standstill.
    pub(crate) fn end_on_panic(&self) -> impl Drop {
        EndOnPanic(self)
    }

    /// What became of the work, once nobody is at it any more.
    pub(crate) fn finish(self) -> Result<T, E> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.failure {
            Some(error) => Err(error),
            None => Ok(state.work),
        }
    }

    fn end(&self) {
        self.state().ended = true;
        self.turned.notify_all();
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
    fn turns_are_taken_in_order() {
        let sequencer: Sequencer<Vec<u64>, ()> = Sequencer::new(Vec::new());
        thread::scope(|scope| {
            for turn in (0..20).rev() {
                let sequencer = &sequencer;
                let act = move |taken: &mut Vec<u64>| {
                    taken.push(turn);
                    Ok(())
                };
                scope.spawn(move || sequencer.take(turn, act));
            }
        });
        assert_eq!(sequencer.finish(), Ok((0..20).collect()));
    }

    #[test]
    fn a_failure_ends_the_turns_after_it() {
        let sequencer: Sequencer<(), u64> = Sequencer::new(());
        thread::scope(|scope| {
            for turn in (0..20).rev() {
                let sequencer = &sequencer;
                scope.spawn(move || {
                    let act = |(): &mut ()| if turn < 7 { Ok(()) } else { Err(turn) };
                    assert_eq!(sequencer.take(turn, act).is_some(), turn < 7);
                });
            }
        });
        assert!(sequencer.have_ended());
        assert_eq!(sequencer.finish(), Err(7));
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let sequencer: Sequencer<(), ()> = Sequencer::new(());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| sequencer.take(1, |()| Ok(())));
            let panicking = scope.spawn(|| {
                let _end = sequencer.end_on_panic();
                std::panic::resume_unwind(Box::new("as wanted"));
            });
            assert!(panicking.join().is_err());
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}
