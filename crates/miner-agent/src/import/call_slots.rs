//! How many import calls of a miner may be under way at a time, and how many deals are made ready meanwhile.
//!
//! ```text
//!  seat: claimed, looked at ──► next: noted, one more than ──► leave to call: at most `at_once` ──► answered, seat free
//! ```
//!
//! A call is noted in the database before it goes out. That takes milliseconds, in which the call before may
//! still be under way: so the note has a permit of its own, of which there is one more. Calls of other
//! processes for the same miner take permits like those made here.
//!
//! While calls are short, some more deals than may be called are claimed and looked at: else the looking, a
//! hundred milliseconds or so each, would be most of a short import's time. While calls are long, none: a
//! deal that waits here for an hour would be kept from another agent, and from one that has become more
//! urgent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Deals made ready beside those that are called, while calls are short. Source: ours.
const AHEAD: usize = 4;
/// A call shorter than this is short; a deal waits no longer than this for leave to call. Source: ours.
const SHORT: Duration = Duration::from_secs(10);

/// The calls of one miner.
#[derive(Debug)]
pub struct CallSlots {
    at_once: usize,
    ahead: usize,
    permits: Arc<Semaphore>,
    /// For those whose call is noted or under way.
    next: Arc<Semaphore>,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    seats: usize,
    are_short: bool,
    /// Calls of other processes that may be under way.
    others: usize,
    /// Permits that are kept for them.
    kept: Vec<OwnedSemaphorePermit>,
}

/// A deal's place; free again when dropped.
#[derive(Debug)]
pub struct CallSlot {
    calls: Arc<CallSlots>,
    /// Whether a deal sits on it: giving back one that nobody took is no news, and would be looked at
    /// without end.
    is_taken: bool,
    next: Option<OwnedSemaphorePermit>,
    called: Option<(Instant, OwnedSemaphorePermit)>,
}

impl CallSlots {
    /// So many calls at once, and deals made ready beside them.
    pub fn new(at_once: usize) -> Arc<Self> {
        Self::with_ahead(at_once, AHEAD)
    }

    /// So many calls at once, and no deal claimed before it may be called: for those who try each deal once.
    pub fn without_ahead(at_once: usize) -> Arc<Self> {
        Self::with_ahead(at_once, 0)
    }

    fn with_ahead(at_once: usize, ahead: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(at_once));
        let next = Arc::new(Semaphore::new(at_once + ahead.min(1)));
        Arc::new(Self { at_once, ahead, permits, next, state: Mutex::default(), freed: Notify::new() })
    }

    /// Leaves so many permits to calls of other processes, from now on.
    pub fn leave_to_others(&self, calls: usize) {
        let mut state = self.state();
        state.others = calls;
        let wanted = calls.min(self.at_once);
        state.kept.truncate(wanted);
        while state.kept.len() < wanted
            && let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned()
        {
            state.kept.push(permit);
        }
    }

    /// Whether other processes call as often as is allowed.
    pub fn are_others_only(&self) -> bool {
        self.state().others >= self.at_once
    }

    /// A place for one more deal, if there is one.
    pub fn seat(self: &Arc<Self>) -> Option<CallSlot> {
        let mut state = self.state();
        let ahead = if state.are_short { self.ahead } else { 0 };
        let own = self.at_once.saturating_sub(state.others);
        (own > 0 && state.seats < own + ahead).then(|| {
            state.seats += 1;
            CallSlot { calls: Arc::clone(self), is_taken: false, next: None, called: None }
        })
    }

    /// Waits until a seat was given back. One that was meanwhile counts.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    async fn permit(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(Ok(permit)) = timeout(SHORT, Arc::clone(permits).acquire_owned()).await {
            return Some(permit);
        }
        self.state().are_short = false;
        None
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallSlot {
    /// A deal sits down.
    pub fn take(&mut self) {
        self.is_taken = true;
    }

    /// Waits until its call may be noted. `false`: the calls before it take long, so the deal is better put
    /// back.
    pub async fn is_next(&mut self) -> bool {
        self.next = self.calls.permit(&self.calls.next).await;
        self.next.is_some()
    }

    /// Waits for leave to call. `false`: the calls before it take long, so the deal is better put back.
    pub async fn call(&mut self) -> bool {
        self.called = self.calls.permit(&self.calls.permits).await.map(|permit| (Instant::now(), permit));
        self.called.is_some()
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let called = self.called.take();
        {
            let mut state = self.calls.state();
            state.seats -= 1;
            if let Some((since, _permit)) = &called {
                state.are_short = since.elapsed() < SHORT;
            }
        }
        drop(called);
        if self.is_taken {
            self.calls.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deals_are_made_ready_ahead_only_while_calls_are_short() {
        let calls = CallSlots::new(1);
        let mut first = calls.seat().unwrap();
        assert!(calls.seat().is_none(), "nobody knows yet how long calls take");
        assert!(first.call().await);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(first);
        let mut seats: Vec<_> = std::iter::from_fn(|| calls.seat()).collect();
        assert_eq!(seats.len(), 1 + AHEAD);
        let (one, others) = seats.split_first_mut().unwrap();
        assert!(one.call().await);
        assert!(!others[0].call().await, "one call at a time");
        drop(seats);
        // The call that was under way all the time was not short.
        let seats: Vec<_> = std::iter::from_fn(|| calls.seat()).collect();
        assert_eq!(seats.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_call_is_noted_while_the_one_before_is_under_way() {
        let calls = CallSlots::new(1);
        let mut first = calls.seat().unwrap();
        assert!(first.is_next().await && first.call().await);
        drop(first);
        let mut seats: Vec<_> = std::iter::from_fn(|| calls.seat()).collect();
        let [one, two, three, ..] = seats.as_mut_slice() else { panic!("calls are short") };
        assert!(one.is_next().await && one.call().await);
        assert!(two.is_next().await, "noted");
        assert!(!three.is_next().await, "one more, and no further");
        assert!(!two.call().await);
        seats.remove(0);
        assert!(seats[0].call().await);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_others_take_permits() {
        let calls = CallSlots::new(2);
        calls.leave_to_others(2);
        assert!(calls.are_others_only() && calls.seat().is_none());
        calls.leave_to_others(1);
        let mut one = calls.seat().unwrap();
        assert!(calls.seat().is_none());
        assert!(one.is_next().await && one.call().await);
        // Theirs was noted after this one: nothing is taken away.
        calls.leave_to_others(2);
        assert!(calls.seat().is_none());
        drop(one);
        calls.leave_to_others(0);
        let seats: Vec<_> = std::iter::from_fn(|| calls.seat()).collect();
        assert!(seats.len() >= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_that_is_given_back_is_told_of_if_a_deal_sat_there() {
        let calls = CallSlots::new(2);
        drop(calls.seat().unwrap());
        timeout(Duration::from_secs(1), calls.freed()).await.unwrap_err();
        let mut seats = (calls.seat().unwrap(), calls.seat().unwrap());
        assert!(calls.seat().is_none());
        seats.0.take();
        drop(seats);
        timeout(Duration::from_secs(1), calls.freed()).await.unwrap();
        assert!(calls.seat().is_some());
    }
}
