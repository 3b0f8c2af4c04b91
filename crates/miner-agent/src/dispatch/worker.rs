//! The worker of one miner: it claims deals that are due, tries each, and pauses when its node or the
//! database is in trouble.
//!
//! ```text
//!  change in the database ─┐
//!  scan interval ──────────┤                                   ┌─► next deal
//!  a waiting deal is due ──┼─► dispatch_due ─► try ─► on_finished
//!  a call slot is free ────┘                                   └─► pause
//! ```
//!
//! The collection is the queue, and all four wakes are one code path. A node that is down pauses the worker,
//! not the deals: they are not claimed meanwhile. The same worker makes the one pass of `import`, which ends
//! when nothing is due, and where a worker that runs would pause.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use carferry_core::error_chain::{ErrorChain, Hint as _, with_hint};
use carferry_core::runtime::{Backoff, BackoffPolicy};
use carferry_core::store::{Claim, ImportOutcome, StoreError};
use carferry_core::telemetry::fields;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, warn};

use crate::dispatch::due_queue::Queue;
use crate::dispatch::in_flight::{IN_FLIGHT_MAX, InFlight};
use crate::dispatch::lease_renewal::{Leases, release_impossible};
use crate::dispatch::one_try::{Finished, NextTry, deal_span, log_confirmed, owner_name, try_deal};
use crate::dispatch::pass::{Pass, PassError, Trouble};
use crate::dispatch::pause::{BREAKER, Claims, Pause};
use crate::import::call_slots::{CallSlot, CallSlots};
use crate::import::confirm::{LOOK_PAUSE_MIN, SHELVED_FOR, keep_confirming};
use crate::import::limits::{IN_HAND, InHand};
use crate::import::outcome::Outcome;
use crate::import::{Confirm, ImportContext};
use crate::market::node::Remedy;

/// The worker of one miner.
#[derive(Debug)]
pub struct Worker {
    pub(super) context: ImportContext,
    /// Names this process in leases and call intents.
    pub(super) owner: String,
    wake: Arc<Notify>,
    stop: CancellationToken,
    /// What is known of the pass that this worker makes; `None` for a worker that runs until the stop.
    pub(super) pass: Option<Pass>,
    /// Deals that were due when the database was last asked.
    pub(super) due: Queue,
    /// Whether other deals may have become due since.
    pub(super) is_stale: bool,
    pub(super) slots: Arc<CallSlots>,
    running: JoinSet<Finished>,
    pub(super) in_flight: InFlight,
    leases: Leases,
    pub(super) pause: Pause,
    /// When the last pause for the node began.
    paused_at: Option<Instant>,
    /// When calls of other processes were last looked for.
    pub(super) others_looked: Option<Instant>,
    /// What the market had in hand then.
    pub(super) in_hand: InHand,
    /// Deals whose outcome the database does not take: not claimed before this.
    pub(super) shelved: HashMap<String, Instant>,
    node_pauses: Backoff,
    database_pauses: Backoff,
}

/// Pauses after trouble with a node: long enough not to fill logs, short enough not to be waited for.
const NODE_PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_secs(1),
    max: Duration::from_secs(60),
    quiet: Duration::from_secs(120),
};
/// Calls in a row without an answer after which the miner's node gets a pause.
const UNANSWERED_MAX: u32 = 5;
/// Maximum shelved deals that are remembered; at the next one all are forgotten.
const SHELVED_MAX: usize = 10_000;
/// Why a pass ends while import calls of other processes take all slots.
const CALLS_OF_OTHERS: &str = "import calls of other processes may still be under way, as many as \
                               setting.importsPerMiner allows: try again later";

impl Worker {
    /// A worker that runs until `stop`, and looks for due deals when `wake` is notified.
    pub fn new(context: ImportContext, owner: String, wake: Arc<Notify>, stop: CancellationToken) -> Self {
        let slots = CallSlots::new(context.setting.imports_per_miner);
        Self::with(context, owner, wake, stop, slots, None)
    }

    /// A worker that makes one pass over what is due at `begun`. It claims no deal before it may be called.
    pub(super) fn one_pass(context: ImportContext, begun: DateTime, stop: CancellationToken) -> Self {
        let context = ImportContext { confirm: Confirm::InTheTry, ..context };
        let slots = CallSlots::without_ahead(context.setting.imports_per_miner);
        Self::with(context, owner_name(), Arc::default(), stop, slots, Some(Pass::new(begun)))
    }

    fn with(
        context: ImportContext,
        owner: String,
        wake: Arc<Notify>,
        stop: CancellationToken,
        slots: Arc<CallSlots>,
        pass: Option<Pass>,
    ) -> Self {
        Self {
            context,
            owner,
            wake,
            stop,
            pass,
            due: Queue::default(),
            is_stale: true,
            slots,
            running: JoinSet::new(),
            in_flight: InFlight::default(),
            leases: Leases::default(),
            pause: Pause::default(),
            paused_at: None,
            others_looked: None,
            in_hand: InHand::default(),
            shelved: HashMap::new(),
            node_pauses: Backoff::new(NODE_PAUSES),
            database_pauses: Backoff::new(BackoffPolicy::default()),
        }
    }

    /// Imports until the stop, then waits for running tries within the grace period.
    pub async fn run(mut self) {
        let (leases, context, wake) = (self.leases.clone(), self.context.clone(), Arc::clone(&self.wake));
        let work = async {
            while !self.stop.is_cancelled() {
                self.step().await;
            }
            self.drain().await;
        };
        // Cancel safety: a renewal may be dropped at any point, and the tries end first.
        tokio::select! {
            () = work => {}
            () = leases.keep(&context.store, context.setting.lease) => {}
            // Ends with the tries, which may hand deals over until then.
            never = keep_confirming(&context, &wake, log_confirmed) => match never {},
            never = release_impossible(&context.store, context.market.miner(), context.setting.scan_interval, &wake) => {
                match never {}
            }
        }
    }

    /// Tries everything that is due, and tells each try that has ended.
    ///
    /// # Errors
    ///
    /// What ended the pass early.
    pub(super) async fn run_pass(mut self, mut tell: impl FnMut(Finished)) -> Result<(), PassError> {
        let (leases, context) = (self.leases.clone(), self.context.clone());
        let work = async {
            while !self.stop.is_cancelled() && !self.is_pass_over() {
                self.step().await;
                self.take_finished().into_iter().for_each(&mut tell);
            }
            self.drain().await;
            self.take_finished().into_iter().for_each(&mut tell);
        };
        // Cancel safety: a renewal may be dropped at any point, and the tries end first.
        tokio::select! {
            () = work => {}
            () = leases.keep(&context.store, context.setting.lease) => {}
        }
        self.pass.map_or(Ok(()), Pass::into_result)
    }

    fn is_pass_over(&self) -> bool {
        self.running.is_empty() && self.pass.as_ref().is_some_and(|pass| !pass.claims())
    }

    fn has_pass_ended(&self) -> bool {
        self.pass.as_ref().is_some_and(Pass::has_ended)
    }

    fn take_finished(&mut self) -> Vec<Finished> {
        self.pass.as_mut().map(Pass::take_finished).unwrap_or_default()
    }

    /// Claims what can be claimed, then waits for what changes that.
    async fn step(&mut self) {
        let idle = self.dispatch_due().await;
        if self.is_pass_over() {
            return;
        }
        // Cancel safety: a dropped `notified` has not taken its permit, `join_next` loses no result.
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.wake.notified(), if self.pause.is_open() => {
                self.is_stale = true;
                if self.context.market.reads_later() {
                    // A deal that was confirmed leaves room for another.
                    self.others_looked = None;
                }
            }
            () = self.slots.slot_freed() => {}
            () = sleep_until(idle) => self.is_stale = true,
            Some(ended) = self.running.join_next() => self.on_finished(ended),
        }
    }

    /// Claims deals while there are slots. Returns when to look again if nothing happens meanwhile.
    async fn dispatch_due(&mut self) -> Instant {
        let now = Instant::now();
        let scan = now + Backoff::jitter(self.context.setting.scan_interval);
        if self.has_pass_ended() {
            return scan;
        }
        if let Claims::NothingBefore(until) = self.pause.claims() {
            return until;
        }
        if !self.identified().await {
            return self.pause.until().unwrap_or(now);
        }
        if self.pause.until().is_none() {
            self.context.standing.works();
        }
        while self.running.len() < IN_FLIGHT_MAX && !self.stop.is_cancelled() {
            // Calls that fail at once free their slots at once: what they met counts before the next deal.
            while let Some(ended) = self.running.try_join_next() {
                self.on_finished(ended);
            }
            if self.has_pass_ended() {
                return scan;
            }
            if self.pass.is_none() && self.context.market.take_unanswered(UNANSWERED_MAX) {
                let why = format!("{UNANSWERED_MAX} import calls in a row were not answered, pausing");
                self.pause_for_node(&why);
            }
            let scan = match self.pause.claims() {
                Claims::NothingBefore(until) => return until,
                Claims::Fresh => self.pause.until().map_or(scan, |until| until.min(scan)),
                Claims::All => scan,
            };
            if !self.context.market.is_identified() {
                return now;
            }
            if (self.slots.are_others_only() || self.context.market.reads_later())
                && self.next_look_at_others(scan) <= Instant::now()
                && let Err(error) = self.look_at_others().await
            {
                debug!(error = %ErrorChain(&error), "calls of other processes are not known, looking again");
            }
            let Some(slot) = self.free_slot() else {
                self.end_pass_if_others_only();
                return self.next_look_at_others(scan);
            };
            match self.claim().await {
                Ok(Some(claim)) => {
                    self.pause.probes(&claim.id.to_string());
                    self.spawn_try(claim, slot);
                }
                Ok(None) if self.is_slot_taken() => {
                    self.end_pass_if_others_only();
                    return self.next_look_at_others(scan);
                }
                Ok(None) => {
                    if let Some(pass) = &mut self.pass {
                        pass.record_nothing_due();
                        return scan;
                    }
                    return scan.min(self.next_due(now).await.unwrap_or(scan));
                }
                Err(error) => return self.database_trouble(error),
            }
        }
        scan
    }

    fn spawn_try(&mut self, claim: Claim, mut slot: CallSlot) {
        slot.occupy();
        let context = self.context.clone();
        let span = deal_span(&claim.deal, context.market.miner());
        let in_flight = self.in_flight.insert(&claim.id);
        let lease = self.leases.hold(&claim);
        let work = async move {
            let _in_flight = in_flight;
            try_deal(&context, claim, slot, lease.lost()).await
        };
        self.running.spawn(work.instrument(span));
    }

    /// A pass does not wait for the calls of other processes.
    fn end_pass_if_others_only(&mut self) {
        if self.running.is_empty() && self.slots.are_others_only() {
            let reason = self.in_hand.limit.clone().unwrap_or_else(|| {
                let reads_later = self.context.market.reads_later();
                if reads_later { format!("{IN_HAND}: try again later") } else { CALLS_OF_OTHERS.to_owned() }
            });
            self.end_pass(PassError::Node(Trouble { reason, remedy: Remedy::Time }));
        }
    }

    /// Ends the pass, if this worker makes one; the first reason counts.
    fn end_pass(&mut self, error: PassError) {
        if let Some(pass) = &mut self.pass {
            pass.end(error);
        }
    }

    /// Pauses until the database may answer again. Returns when the pause ends.
    fn database_trouble(&mut self, error: StoreError) -> Instant {
        if self.pass.is_some() {
            self.end_pass(PassError::Store(error));
            return Instant::now();
        }
        let pause = self.database_pauses.next_delay();
        let hint = error.hint().unwrap_or_default();
        warn!(error = %ErrorChain(&error), hint, { fields::RETRY_IN_MS } = fields::millis(pause), "no deal can be claimed");
        self.context.retry.record_away();
        self.pause.begin(pause)
    }

    /// Makes sure the node works for this miner, before any deal is claimed.
    async fn identified(&mut self) -> bool {
        if self.context.market.is_identified() {
            return true;
        }
        let miner = self.context.market.miner();
        match self.stop.run_until_cancelled(self.context.market.identify()).await {
            None => false,
            Some(Ok(node)) => {
                info!(
                    { fields::MINER } = miner,
                    { fields::ENDPOINT } = node.endpoint(),
                    "market node answers"
                );
                self.context.standing.works();
                true
            }
            Some(Err(error)) if self.pass.is_some() => {
                self.end_pass(PassError::Node(Trouble::of_identity(&error)));
                false
            }
            Some(Err(error)) => {
                let pause = self.node_pauses.next_delay();
                let hint = error.hint().unwrap_or_default();
                self.context.standing.pauses(&with_hint(ErrorChain(&error).to_string(), error.hint()));
                warn!(
                    { fields::MINER } = miner, error = %ErrorChain(&error), hint,
                    { fields::RETRY_IN_MS } = fields::millis(pause),
                    "the market node cannot be worked with, nothing is imported for this miner"
                );
                self.pause.begin(pause);
                false
            }
        }
    }

    fn on_finished(&mut self, ended: Result<Finished, JoinError>) {
        let finished = match ended {
            Ok(finished) => finished,
            // Its lease runs out, and another try follows.
            Err(error) => return error!(%error, "an import ended by a defect of this program"),
        };
        self.is_stale |= finished.next == NextTry::Now;
        let deal = finished.id.to_string();
        if matches!(finished.outcome, Outcome::Unrecorded(_)) {
            if self.shelved.len() >= SHELVED_MAX {
                self.shelved.clear();
            }
            self.shelved.insert(deal.clone(), Instant::now() + SHELVED_FOR);
        }
        if let Some(pass) = &mut self.pass {
            return pass.on_finished(finished);
        }
        // Thousands of deals may meet the trouble that one has met. Tries begun before the pause add nothing.
        if self.paused_at.is_some_and(|paused| finished.began < paused) {
            return;
        }
        match &finished.outcome {
            Outcome::NodeTrouble(settled, _) => {
                let reason = settled.outcome.reason().unwrap_or_default();
                self.context.market.forget_identity();
                self.pause_for_node(&format!("the market node is in trouble, pausing: {reason}"));
            }
            Outcome::Settled(settled) => match &settled.outcome {
                ImportOutcome::Done { path: Some(_) } | ImportOutcome::Handed { path: Some(_), .. } => {
                    self.pause.succeeded();
                    self.node_pauses.reset();
                }
                outcome if is_failure(outcome) => self.on_failure(&deal),
                _ => self.pause.told_nothing(&deal),
            },
            Outcome::LeaseLost | Outcome::Unrecorded(_) => self.pause.told_nothing(&deal),
        }
    }

    fn on_failure(&mut self, deal: &str) {
        if !self.pause.failed(deal) {
            return;
        }
        let pause = self.node_pauses.next_delay();
        warn!(
            { fields::MINER } = self.context.market.miner(),
            { fields::RETRY_IN_MS } = fields::millis(pause),
            "{BREAKER} imports failed in a row, pausing; one that has not failed may be tried"
        );
        self.paused_at = Some(Instant::now());
        let why = format!("{BREAKER} imports failed in a row; `status` shows why each of them did");
        self.context.standing.pauses(&why);
        self.pause.begin_for_failures(pause);
    }

    fn pause_for_node(&mut self, why: &str) {
        let pause = self.node_pauses.next_delay();
        let miner = self.context.market.miner();
        self.context.standing.pauses(why);
        warn!({ fields::MINER } = miner, { fields::RETRY_IN_MS } = fields::millis(pause), "{why}");
        self.paused_at = Some(Instant::now());
        self.pause.begin(pause);
    }

    /// Lets running tries end within the grace period. Those that are left keep their leases until these run
    /// out. Their calls go on at the node, and the next agent that claims such a deal looks at its state
    /// first.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.context.setting.grace_period;
        loop {
            match timeout_at(deadline, self.running.join_next()).await {
                Ok(None) => return self.see_answered_confirmed(deadline).await,
                Ok(Some(Ok(finished))) => {
                    if let Some(pass) = &mut self.pass {
                        pass.on_finished(finished);
                    }
                }
                Ok(Some(Err(error))) => error!(%error, "an import ended by a defect of this program"),
                Err(_elapsed) => {
                    let miner = self.context.market.miner();
                    return warn!(
                        { fields::MINER } = miner,
                        imports = self.running.len(),
                        "imports left to their nodes at the end of the grace period"
                    );
                }
            }
        }
    }
}

impl Worker {
    /// Lets the calls that were answered be confirmed, which takes a market that has read the file one more
    /// list. Another market may take hours: the next agent looks.
    async fn see_answered_confirmed(&self, deadline: Instant) {
        let ImportContext { store, market, .. } = &self.context;
        while self.pass.is_none()
            && market.is_identified()
            && !market.reads_later()
            && Instant::now() < deadline
            && store.handed_totals(market.miner()).await.is_ok_and(|handed| handed.deals > 0)
        {
            sleep(LOOK_PAUSE_MIN).await;
        }
    }
}

/// Whether an outcome counts against the node. A wrong file says nothing of it.
fn is_failure(outcome: &ImportOutcome) -> bool {
    matches!(outcome, ImportOutcome::Retrying { .. } | ImportOutcome::SetAside { .. })
        && outcome.awaited_files().is_empty()
}
