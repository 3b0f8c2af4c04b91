//! Which deal a worker claims next: reads the ids of due deals, skips what this process must not try, and
//! leaves call slots to other processes.

use bson::Bson;
use carferry_core::error_chain::ErrorChain;
use carferry_core::store::{Claim, StoreError};
use carferry_core::telemetry::fields;
use tokio::time::{Duration, Instant};
use tracing::{debug, info};

use crate::dispatch::one_try::claim_name;
use crate::dispatch::pass::Pass;
use crate::dispatch::pause::Claims;
use crate::dispatch::worker::Worker;
use crate::import::call_slots::CallSlot;
use crate::import::{ImportContext, limits};

/// Added to the time at which a deal comes due, before it is looked for.
const DUE_MARGIN: Duration = Duration::from_millis(20);
/// How often calls of other processes are looked for while there is something to import.
const OTHERS_INTERVAL: Duration = Duration::from_secs(1);
/// Deals of each class read from the database at a time.
const DUE_PAGE: i64 = 512;

impl Worker {
    /// The next deal that is due and that no other agent took.
    pub(super) async fn claim(&mut self) -> Result<Option<Claim>, StoreError> {
        let ImportContext { store, market, setting, .. } = self.context.clone();
        let moment = self.pass.as_ref().map(Pass::begun);
        loop {
            if self.pass.as_ref().is_some_and(|pass| !pass.claims()) && !self.is_stale {
                return Ok(None);
            }
            let was_read = self.due.wants_read(self.is_stale);
            if was_read {
                self.is_stale = false;
                let began = Instant::now();
                let due = store.due_ids(market.miner(), moment, DUE_PAGE).await?;
                self.due.read(due, began.elapsed());
                self.context.retry.record_answer();
            }
            // Where deals that the market has in hand count, each hand-over changes their number.
            let is_stale = market.reads_later()
                || setting.has_limits()
                || self.others_looked.is_none_or(|last| last.elapsed() >= OTHERS_INTERVAL);
            if !self.due.is_empty() && is_stale {
                // Before the look: a deal that is handed over meanwhile then counts twice, not never.
                let occupied = self.slots.occupied();
                self.look_at_others().await?;
                let is_full = market.reads_later() && self.slots.are_too_many(occupied);
                if is_full || self.slots.are_others_only() {
                    return Ok(None);
                }
            }
            let only_fresh = self.pause.claims() == Claims::Fresh;
            while let Some(id) = if only_fresh { self.due.pop_fresh() } else { self.due.pop() } {
                // Its lease may have ended while the database was away; this process still works on it.
                if self.in_flight.contains(&id) || self.is_shelved(&id) || !self.may_try(&id) {
                    continue;
                }
                let name = claim_name(&self.owner);
                if let Some(claim) = store.claim(&id, market.miner(), &name, setting.lease).await? {
                    return Ok(Some(claim));
                }
            }
            if was_read || only_fresh {
                return Ok(None);
            }
        }
    }

    /// Whether a pass has a try left for the deal; a worker that runs counts none.
    fn may_try(&mut self, id: &Bson) -> bool {
        self.pass.as_mut().is_none_or(|pass| pass.count_try(id))
    }

    fn is_shelved(&self, id: &Bson) -> bool {
        self.shelved.get(&id.to_string()).is_some_and(|until| *until > Instant::now())
    }

    /// Leaves call slots to what the market has in hand: import calls of another agent, or of this one before
    /// a restart, and deals that were handed over. A limit that is reached leaves none.
    pub(super) async fn look_at_others(&mut self) -> Result<(), StoreError> {
        self.others_looked = Some(Instant::now());
        let in_hand = self.context.in_hand(&self.owner).await?;
        let were_only = self.slots.are_others_only();
        self.slots.leave_to_others(if in_hand.limit.is_some() { usize::MAX } else { in_hand.calls });
        if self.slots.are_others_only()
            && (!were_only || in_hand.limit != self.in_hand.limit)
            && self.pass.is_none()
        {
            let what = in_hand.limit.clone().unwrap_or_else(|| limits::IN_HAND.to_owned());
            info!(
                { fields::MINER } = self.context.market.miner(),
                deals = in_hand.calls,
                "no deal is handed over now: {what}"
            );
        }
        self.in_hand = in_hand;
        Ok(())
    }

    /// When to look again, while there is no slot for another deal.
    pub(super) fn next_look_at_others(&self, scan: Instant) -> Instant {
        if !self.slots.are_others_only() && !self.context.market.reads_later() {
            return scan;
        }
        let pause = self.in_hand.holds_for.map_or(OTHERS_INTERVAL, |left| left.max(OTHERS_INTERVAL));
        self.others_looked.map_or_else(Instant::now, |last| scan.min(last + pause))
    }

    /// Whether other processes, or deals that were handed over, leave no slot to the deal that holds the
    /// newest one.
    pub(super) fn is_slot_taken(&self) -> bool {
        let is_full = self.context.market.reads_later() && self.slots.are_too_many(self.slots.occupied());
        is_full || self.slots.are_others_only()
    }

    /// A slot for one more deal. Where deals that were handed over count as calls, none is prepared ahead.
    pub(super) fn free_slot(&self) -> Option<CallSlot> {
        if self.context.market.reads_later() { self.slots.slot_to_call() } else { self.slots.slot() }
    }

    /// When the next deal comes due; `None` if none is known.
    pub(super) async fn next_due(&self, now: Instant) -> Option<Instant> {
        match self.context.store.next_due(self.context.market.miner()).await {
            Ok(due) => due.map(|due| now + due + DUE_MARGIN),
            Err(error) => {
                debug!(error = %ErrorChain(&error), "the next due time is unknown, the scan decides");
                None
            }
        }
    }
}
