//! Limits of a miner's import calls: how many are sent at a time (`setting.importsPerMiner`), and how many
//! deals are prepared meanwhile.
//!
//! ```text
//!  slot occupied: claimed, ──► intent recorded: at most ──► call sent: at most ──► answered, slot freed
//!  looked at                   `at_once` + 1                `at_once`
//! ```
//!
//! The intent to call is recorded in the database before the call goes out. That takes milliseconds, in which
//! the call before may still be running: so the intent has a permit of its own, of which there is one more.
//! Calls of other processes for the same miner take permits like those of this process.
//!
//! While calls are short, some more deals than may be called are claimed and looked at: the look takes about
//! a hundred milliseconds, which would be most of a short import's time. While calls are long, no deal is
//! prepared: it would wait here for an hour, though another agent could import it. Where deals that were
//! handed over count as calls, none is prepared either: the slot of the deal before passes to that deal
//! itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Deals prepared beside those that are called, while calls are short. Chosen: hides the looks of one short
/// call.
const AHEAD: usize = 4;
/// A call shorter than this is short, and a deal waits this long at most for its permits. Chosen: well below
/// the lease.
const SHORT: Duration = Duration::from_secs(10);

/// The calls of one miner.
#[derive(Debug)]
pub struct CallSlots {
    at_once: usize,
    ahead: usize,
    permits: Arc<Semaphore>,
    /// Permits of deals whose intent is recorded or whose call is running.
    intents: Arc<Semaphore>,
    state: Mutex<State>,
    slot_freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    occupied: usize,
    are_short: bool,
    /// Calls of other processes that may be under way.
    others: usize,
    /// Permits that are kept for them.
    kept: Vec<OwnedSemaphorePermit>,
}

/// The slot of one deal; free again when dropped.
#[derive(Debug)]
pub struct CallSlot {
    slots: Arc<CallSlots>,
    /// Whether a deal occupies it. A slot that no deal occupied is given back without a notification: the
    /// worker that dropped it would look again without end.
    is_occupied: bool,
    intent: Option<OwnedSemaphorePermit>,
    called: Option<(Instant, OwnedSemaphorePermit)>,
}

impl CallSlots {
    /// Slots for `at_once` calls at a time, and for deals prepared beside them.
    pub fn new(at_once: usize) -> Arc<Self> {
        Self::with_ahead(at_once, AHEAD)
    }

    /// Slots for `at_once` calls at a time: no deal is claimed before it may be called.
    pub fn without_ahead(at_once: usize) -> Arc<Self> {
        Self::with_ahead(at_once, 0)
    }

    fn with_ahead(at_once: usize, ahead: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(at_once));
        let intents = Arc::new(Semaphore::new(at_once + ahead.min(1)));
        Arc::new(Self {
            at_once,
            ahead,
            permits,
            intents,
            state: Mutex::default(),
            slot_freed: Notify::new(),
        })
    }

    /// Keeps this many permits for calls of other processes, from now on.
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

    /// Whether calls of other processes take all permits.
    pub fn are_others_only(&self) -> bool {
        self.state().others >= self.at_once
    }

    /// A slot for one more deal, if one is free.
    pub fn slot(self: &Arc<Self>) -> Option<CallSlot> {
        self.slot_of(self.ahead)
    }

    /// A slot for one more deal that may be called at once, if one is free.
    pub fn slot_to_call(self: &Arc<Self>) -> Option<CallSlot> {
        self.slot_of(0)
    }

    /// Deals that occupy a slot.
    pub fn occupied(&self) -> usize {
        self.state().occupied
    }

    /// Whether so many deals of this process are too many beside the calls of other processes.
    pub fn are_too_many(&self, occupied: usize) -> bool {
        self.state().others.saturating_add(occupied) > self.at_once
    }

    fn slot_of(self: &Arc<Self>, ahead: usize) -> Option<CallSlot> {
        let mut state = self.state();
        let ahead = if state.are_short { ahead } else { 0 };
        let own = self.at_once.saturating_sub(state.others);
        (own > 0 && state.occupied < own + ahead).then(|| {
            state.occupied += 1;
            CallSlot { slots: Arc::clone(self), is_occupied: false, intent: None, called: None }
        })
    }

    /// Waits until a slot was freed; one that was freed before this call counts.
    pub async fn slot_freed(&self) {
        self.slot_freed.notified().await;
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
    /// A deal occupies the slot.
    pub fn occupy(&mut self) {
        self.is_occupied = true;
    }

    /// Waits until the intent to call may be recorded. Returns `false` if the calls before it take long: the
    /// deal is better given back.
    pub async fn may_record_intent(&mut self) -> bool {
        self.intent = self.slots.permit(&self.slots.intents).await;
        self.intent.is_some()
    }

    /// Waits until the call may be sent. Returns `false` if the calls before it take long: the deal is better
    /// given back.
    pub async fn may_call(&mut self) -> bool {
        self.called = self.slots.permit(&self.slots.permits).await.map(|permit| (Instant::now(), permit));
        self.called.is_some()
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let called = self.called.take();
        {
            let mut state = self.slots.state();
            state.occupied -= 1;
            if let Some((since, _permit)) = &called {
                state.are_short = since.elapsed() < SHORT;
            }
        }
        drop(called);
        if self.is_occupied {
            self.slots.slot_freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deals_are_made_ready_ahead_only_while_calls_are_short() {
        let slots = CallSlots::new(1);
        let mut first = slots.slot().unwrap();
        assert!(slots.slot().is_none(), "nobody knows yet how long calls take");
        assert!(first.may_call().await);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(first);
        let mut slots_taken: Vec<_> = std::iter::from_fn(|| slots.slot()).collect();
        assert_eq!(slots_taken.len(), 1 + AHEAD);
        let (one, others) = slots_taken.split_first_mut().unwrap();
        assert!(one.may_call().await);
        assert!(!others[0].may_call().await, "one call at a time");
        drop(slots_taken);
        // The call that was under way all the time was not short.
        let slots_taken: Vec<_> = std::iter::from_fn(|| slots.slot()).collect();
        assert_eq!(slots_taken.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_call_is_noted_while_the_one_before_is_under_way() {
        let slots = CallSlots::new(1);
        let mut first = slots.slot().unwrap();
        assert!(first.may_record_intent().await && first.may_call().await);
        drop(first);
        let mut slots_taken: Vec<_> = std::iter::from_fn(|| slots.slot()).collect();
        let [one, two, three, ..] = slots_taken.as_mut_slice() else { panic!("calls are short") };
        assert!(one.may_record_intent().await && one.may_call().await);
        assert!(two.may_record_intent().await, "noted");
        assert!(!three.may_record_intent().await, "one more, and no further");
        assert!(!two.may_call().await);
        slots_taken.remove(0);
        assert!(slots_taken[0].may_call().await);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_others_take_permits() {
        let slots = CallSlots::new(2);
        slots.leave_to_others(2);
        assert!(slots.are_others_only() && slots.slot().is_none());
        slots.leave_to_others(1);
        let mut one = slots.slot().unwrap();
        assert!(slots.slot().is_none());
        assert!(one.may_record_intent().await && one.may_call().await);
        // Theirs was noted after this one: nothing is taken away.
        slots.leave_to_others(2);
        assert!(slots.slot().is_none());
        drop(one);
        slots.leave_to_others(0);
        let slots_taken: Vec<_> = std::iter::from_fn(|| slots.slot()).collect();
        assert!(slots_taken.len() >= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn deals_that_count_as_calls_leave_no_slot_to_those_behind_them() {
        let slots = CallSlots::new(2);
        let mut one = slots.slot_to_call().unwrap();
        assert!(one.may_record_intent().await && one.may_call().await);
        // A short call: others would be made ready ahead.
        slots.leave_to_others(1);
        drop(one);
        let two = slots.slot_to_call().unwrap();
        assert!(slots.slot_to_call().is_none() && slots.slot().is_some());
        // The deal of a slot that was given before the other one counted.
        assert!(!slots.are_too_many(slots.occupied()));
        slots.leave_to_others(2);
        assert!(slots.are_too_many(slots.occupied()));
        drop(two);
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_that_is_given_back_is_told_of_if_a_deal_sat_there() {
        let slots = CallSlots::new(2);
        drop(slots.slot().unwrap());
        timeout(Duration::from_secs(1), slots.slot_freed()).await.unwrap_err();
        let mut slots_taken = (slots.slot().unwrap(), slots.slot().unwrap());
        assert!(slots.slot().is_none());
        slots_taken.0.occupy();
        drop(slots_taken);
        timeout(Duration::from_secs(1), slots.slot_freed()).await.unwrap();
        assert!(slots.slot().is_some());
    }
}
