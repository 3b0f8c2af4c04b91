//! The queue of due deals in memory: which one is claimed next, and when the database is read again.
//!
//! ```text
//!  first   new, woken, to be tried again: by start epoch  ──┐ three
//!                                                           ├──► claimed
//!  waits   looked at before, their pause is over: in turn ──┘ then one
//! ```
//!
//! Deals whose CAR is nowhere come due again and again. By start epoch alone, some thousands of them would be
//! all that is ever looked at, and one that could be imported would never have its turn; behind all others
//! they would not be looked at while there is something to import.

use std::collections::VecDeque;
use std::time::Duration;

use bson::Bson;
use carferry_core::store::{DueId, DueIds};
use tokio::time::Instant;

/// One of this many claims goes to a deal whose pause is over, while other deals are due. Chosen: looks in
/// vain take a quarter of the claims at most.
const WAITS_EVERY: u32 = 4;
/// Pause between two reads while the queue is not empty, as a multiple of what the last read took: each
/// recorded deal may wake the worker. Chosen: reading is a tenth of the work at most.
const REST_FACTOR: u32 = 10;

/// Deals that were due when last asked for.
#[derive(Debug, Default)]
pub struct Queue {
    first: VecDeque<DueId>,
    waits: VecDeque<Bson>,
    /// Claims since one of `waits` had its turn. Outlives a reading: one follows each claim while imports
    /// take long.
    turn: u32,
    rests_until: Option<Instant>,
}

impl Queue {
    /// Whether the database should be asked, given that something may have become due since.
    pub fn wants_read(&self, is_stale: bool) -> bool {
        self.is_empty() || is_stale && self.rests_until.is_none_or(|until| until <= Instant::now())
    }

    /// What the database said, and how long it took.
    pub fn read(&mut self, due: DueIds, took: Duration) {
        (self.first, self.waits) = (due.first.into(), due.waits.into());
        self.rests_until = Some(Instant::now() + took * REST_FACTOR);
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.waits.is_empty()
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<Bson> {
        if (self.turn >= WAITS_EVERY - 1 || self.first.is_empty())
            && let Some(id) = self.waits.pop_front()
        {
            self.turn = 0;
            return Some(id);
        }
        self.turn = self.turn.saturating_add(1);
        self.first.pop_front().map(|due| due.id)
    }

    /// The next one whose last try did not fail; those that failed or have waited stay.
    pub fn pop_fresh(&mut self) -> Option<Bson> {
        let place = self.first.iter().position(|due| !due.is_retry)?;
        self.first.remove(place).map(|due| due.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(first: std::ops::Range<i32>, waits: std::ops::Range<i32>) -> DueIds {
        let fresh = |id: i32| DueId { id: id.into(), is_retry: false };
        DueIds { first: first.map(fresh).collect(), waits: waits.map(Bson::from).collect() }
    }

    fn popped(queue: &mut Queue) -> Vec<i32> {
        std::iter::from_fn(|| queue.pop()).filter_map(|id| id.as_i32()).collect()
    }

    #[tokio::test]
    async fn neither_class_starves() {
        let mut queue = Queue::default();
        queue.read(due(0..5, 100..104), Duration::ZERO);
        assert_eq!(popped(&mut queue), [0, 1, 2, 100, 3, 4, 101, 102, 103]);
        // A turn comes also where every claim is followed by another reading.
        let mut queue = Queue::default();
        let one_each: Vec<i32> = (0..8)
            .filter_map(|_| {
                queue.read(due(0..1, 100..101), Duration::ZERO);
                queue.pop()?.as_i32()
            })
            .collect();
        assert_eq!(one_each, [0, 0, 0, 100, 0, 0, 0, 100]);
    }

    #[tokio::test]
    async fn a_fresh_deal_passes_those_that_failed() {
        let mut queue = Queue::default();
        let mut read = due(0..4, 100..101);
        for failed in [0, 2] {
            read.first[failed].is_retry = true;
        }
        queue.read(read, Duration::ZERO);
        let fresh: Vec<_> = std::iter::from_fn(|| queue.pop_fresh()).filter_map(|id| id.as_i32()).collect();
        assert_eq!(fresh, [1, 3]);
        assert_eq!(popped(&mut queue), [0, 2, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_takes_long_is_not_repeated_with_every_wake() {
        let mut queue = Queue::default();
        assert!(queue.wants_read(false), "nothing is known yet");
        queue.read(due(0..2, 0..0), Duration::from_millis(50));
        assert!(!queue.wants_read(true), "just read");
        tokio::time::advance(Duration::from_millis(501)).await;
        assert!(queue.wants_read(true));
        assert!(!queue.wants_read(false), "nobody has told of anything new");
        queue.read(due(0..1, 0..0), Duration::from_millis(50));
        queue.pop().unwrap();
        assert!(queue.wants_read(false), "nothing is left");
    }
}
