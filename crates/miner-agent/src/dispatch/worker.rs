//! One miner's imports: claim what is due, bring it forward, write what it came to.
//!
//! The collection is the queue. A worker looks into it when it is woken (a change in the database), when a
//! scan is due, when a waiting deal comes due, and when a slot gets free; all four are one code path. A node
//! that is down pauses the worker, not the deals: they are not claimed meanwhile.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::Bson;
use carferry_core::error_chain::{ErrorChain, Hint as _, with_hint};
use carferry_core::fsx;
use carferry_core::runtime::{Backoff, BackoffPolicy, fail_point};
use carferry_core::store::{CONNECTIONS_MAX, Claim, ImportOutcome, Store, StoreError};
use carferry_core::telemetry::fields;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::dispatch::due_queue::Queue;
use crate::dispatch::lease_renewal::Leases;
use crate::dispatch::pause::{BREAKER, Claims, Pause};
use crate::import::call_slots::{CallSlot, CallSlots};
use crate::import::{ImportContext, Verdict};
use crate::market::node::Remedy;

/// The imports of one miner.
#[derive(Debug)]
pub struct Worker {
    importer: ImportContext,
    owner: String,
    wake: Arc<Notify>,
    stop: CancellationToken,
    /// Deals that were due when last looked.
    due: Queue,
    /// Whether something may have become due since.
    is_stale: bool,
    /// Deals that may be worked on at a time; one whose call was answered needs no seat any more.
    calls: Arc<CallSlots>,
    in_hand: InHand,
    leases: Leases,
    pause: Pause,
    /// When the last pause for the node began.
    paused_at: Option<Instant>,
    /// When calls of other processes were last looked for.
    others_looked: Option<Instant>,
    /// Deals whose outcome the database does not take: not claimed before this.
    shelved: HashMap<String, Instant>,
    node_pauses: Backoff,
    database_pauses: Backoff,
}

/// What became of a claimed deal.
#[derive(Debug)]
pub struct Finished {
    /// The deal's document.
    pub id: Bson,
    /// What was written; `None` if nothing was.
    pub outcome: Option<ImportOutcome>,
    /// Why nothing could be written; without it the lease was lost.
    pub unwritten: Option<StoreError>,
    /// What ends the node's trouble, where that was what kept the deal from being imported.
    pub node_trouble: Option<Remedy>,
    /// Whether the deal is due again at once.
    pub is_due: bool,
    /// When the work on it began.
    pub began: Instant,
    /// How long it took.
    pub elapsed: Duration,
}

/// Pauses after trouble with a node: long enough not to fill logs, short enough not to be waited for.
const NODE_PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_secs(1),
    max: Duration::from_secs(60),
    quiet: Duration::from_secs(120),
};
/// A deal that comes due this moment is looked for after this long.
const DUE_MARGIN: Duration = Duration::from_millis(20);
/// Calls of other processes are looked for this often while there is something to import.
const OTHERS_EVERY: Duration = Duration::from_secs(1);
/// So many calls in a row without an answer, and the miner's node is given a pause.
const UNANSWERED_MAX: u32 = 5;
/// How long a deal whose outcome the database does not take is left alone.
const SHELVED_FOR: Duration = Duration::from_secs(600);
/// Such deals that are remembered; then the memory starts anew.
const SHELVED_MAX: usize = 10_000;
/// Deals of each class read from the database at a time.
const DUE_PAGE: i64 = 512;
/// Deals under a lease of ours at a time, most of them called and to be confirmed by the next listing.
pub(crate) const IN_HAND_MAX: usize = 2048;
/// Outcomes written at a time: one list of the market may confirm all of them in one moment. Half of the
/// connections are left to the next claims and notes.
const WRITES_AT_ONCE: usize = 64;
static WRITES: Semaphore = Semaphore::const_new(WRITES_AT_ONCE);
const _: () = assert!(WRITES_AT_ONCE * 2 <= CONNECTIONS_MAX as usize, "writes would starve claims");

/// Deals that this worker is at.
#[derive(Clone, Debug, Default)]
struct InHand(Arc<Mutex<HashSet<String>>>);

/// One of them, until it is dropped.
struct Held {
    all: InHand,
    id: String,
}

impl InHand {
    fn holds(&self, id: &Bson) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&id.to_string())
    }

    fn take(&self, id: &Bson) -> Held {
        let id = id.to_string();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Held { all: self.clone(), id }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Worker {
    /// A worker that is woken by `wake` and claims nothing after `stop`.
    pub fn new(importer: ImportContext, owner: String, wake: Arc<Notify>, stop: CancellationToken) -> Self {
        let calls = CallSlots::new(importer.setting.imports_per_miner);
        Self {
            importer,
            owner,
            wake,
            stop,
            due: Queue::default(),
            is_stale: true,
            calls,
            in_hand: InHand::default(),
            leases: Leases::default(),
            pause: Pause::default(),
            paused_at: None,
            others_looked: None,
            shelved: HashMap::new(),
            node_pauses: Backoff::new(NODE_PAUSES),
            database_pauses: Backoff::new(BackoffPolicy::default()),
        }
    }

    /// Imports until the stop, then waits for what is under way within the grace period.
    pub async fn run(self) {
        let (leases, importer, wake) = (self.leases.clone(), self.importer.clone(), Arc::clone(&self.wake));
        // Cancel safety: a renewal may be dropped at any point, and imports end first.
        tokio::select! {
            () = self.import_until_stop() => {}
            () = leases.keep(&importer.store, importer.setting.lease) => {}
            never = release_impossible(&importer, &wake) => match never {},
        }
    }

    async fn import_until_stop(mut self) {
        let mut running = JoinSet::new();
        while !self.stop.is_cancelled() {
            let idle = self.fill(&mut running).await;
            let (wake, calls) = (Arc::clone(&self.wake), Arc::clone(&self.calls));
            // Cancel safety: a dropped `notified` has not taken its permit, `join_next` loses no result.
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = wake.notified(), if self.pause.is_open() => self.is_stale = true,
                () = calls.freed() => {}
                () = sleep_until(idle) => self.is_stale = true,
                Some(ended) = running.join_next() => self.ended(ended),
            }
        }
        self.drain(running).await;
    }

    /// Claims deals while there are slots; says when to look again if nothing happens meanwhile.
    async fn fill(&mut self, running: &mut JoinSet<Finished>) -> Instant {
        let now = Instant::now();
        if let Claims::NothingBefore(until) = self.pause.claims() {
            return until;
        }
        if !self.identified().await {
            return self.pause.until().unwrap_or(now);
        }
        if self.pause.until().is_none() {
            self.importer.standing.works();
        }
        let scan = now + Backoff::jitter(self.importer.setting.scan_interval);
        while running.len() < IN_HAND_MAX && !self.stop.is_cancelled() {
            // Calls that fail at once free their seats at once: what they met counts before the next deal.
            while let Some(ended) = running.try_join_next() {
                self.ended(ended);
            }
            if self.importer.market.take_unanswered(UNANSWERED_MAX) {
                let why = format!("{UNANSWERED_MAX} import calls in a row were not answered, pausing");
                self.pause_for_node(&why);
            }
            let scan = match self.pause.claims() {
                Claims::NothingBefore(until) => return until,
                Claims::Fresh => self.pause.until().map_or(scan, |until| until.min(scan)),
                Claims::All => scan,
            };
            if !self.importer.market.is_identified() {
                return now;
            }
            if self.calls.are_others_only()
                && self.next_look_at_others(scan) <= Instant::now()
                && let Err(error) = self.look_at_others().await
            {
                debug!(error = %ErrorChain(&error), "calls of other processes are not known, looking again");
            }
            let Some(mut seat) = self.calls.seat() else { return self.next_look_at_others(scan) };
            match self.claim().await {
                Ok(Some(claim)) => {
                    seat.take();
                    self.pause.probes(&claim.id.to_string());
                    let importer = self.importer.clone();
                    let span = deal_span(&claim, importer.market.miner());
                    let held = self.in_hand.take(&claim.id);
                    let lease = self.leases.hold(&claim);
                    let work = async move {
                        let _held = held;
                        process_under(&importer, &claim, seat, lease.lost()).await
                    };
                    running.spawn(work.instrument(span));
                }
                Ok(None) if self.calls.are_others_only() => return self.next_look_at_others(scan),
                Ok(None) => return scan.min(self.next_due(now).await.unwrap_or(scan)),
                Err(error) => {
                    let pause = self.database_pauses.next_delay();
                    let hint = error.hint().unwrap_or_default();
                    warn!(error = %ErrorChain(&error), hint, { fields::RETRY_IN_MS } = millis(pause), "no deal can be claimed");
                    self.importer.patience.missed();
                    return self.pause.begin(pause);
                }
            }
        }
        scan
    }

    /// Leaves permits to the import calls of other processes: of another agent, or of this one before a
    /// restart.
    async fn look_at_others(&mut self) -> Result<(), StoreError> {
        self.others_looked = Some(Instant::now());
        let others = self.importer.calls_of_others(&self.owner).await?;
        let were_only = self.calls.are_others_only();
        self.calls.leave_to_others(others);
        if self.calls.are_others_only() && !were_only {
            info!(
                { fields::MINER } = self.importer.market.miner(),
                calls = others,
                "import calls of other processes may still be under way, as many as setting.importsPerMiner allows; \
                 waiting for them"
            );
        }
        Ok(())
    }

    /// The next deal that is due and that nobody else took.
    async fn claim(&mut self) -> Result<Option<Claim>, StoreError> {
        let ImportContext { store, market, setting, .. } = self.importer.clone();
        loop {
            let was_read = self.due.wants_read(self.is_stale);
            if was_read {
                self.is_stale = false;
                let began = Instant::now();
                let due = store.due_ids(market.miner(), None, DUE_PAGE).await?;
                self.due.read(due, began.elapsed());
                self.importer.patience.answered();
            }
            if !self.due.is_empty() && self.others_looked.is_none_or(|last| last.elapsed() >= OTHERS_EVERY) {
                self.look_at_others().await?;
                if self.calls.are_others_only() {
                    return Ok(None);
                }
            }
            let only_fresh = self.pause.claims() == Claims::Fresh;
            while let Some(id) = if only_fresh { self.due.pop_fresh() } else { self.due.pop() } {
                // Its lease may have ended while the database was away; this process is still at it.
                if self.in_hand.holds(&id) || self.is_shelved(&id) {
                    continue;
                }
                let owner = next_owner(&self.owner);
                if let Some(claim) = store.claim(&id, market.miner(), &owner, setting.lease).await? {
                    return Ok(Some(claim));
                }
            }
            if was_read || only_fresh {
                return Ok(None);
            }
        }
    }

    fn is_shelved(&self, id: &Bson) -> bool {
        self.shelved.get(&id.to_string()).is_some_and(|until| *until > Instant::now())
    }

    /// When to look again, while there is no place for another deal.
    fn next_look_at_others(&self, scan: Instant) -> Instant {
        match self.others_looked {
            Some(last) if self.calls.are_others_only() => scan.min(last + OTHERS_EVERY),
            _ => scan,
        }
    }

    async fn next_due(&self, now: Instant) -> Option<Instant> {
        match self.importer.store.next_due(self.importer.market.miner()).await {
            Ok(due) => due.map(|due| now + due + DUE_MARGIN),
            Err(error) => {
                debug!(error = %ErrorChain(&error), "the next due time is unknown, the scan decides");
                None
            }
        }
    }

    /// Makes sure the node works for this miner, before any deal is claimed.
    async fn identified(&mut self) -> bool {
        if self.importer.market.is_identified() {
            return true;
        }
        let miner = self.importer.market.miner();
        match self.stop.run_until_cancelled(self.importer.market.identify()).await {
            None => false,
            Some(Ok(node)) => {
                let endpoint = node.endpoint();
                info!({ fields::MINER } = miner, { fields::ENDPOINT } = endpoint, "market node answers");
                self.importer.standing.works();
                true
            }
            Some(Err(error)) => {
                let pause = self.node_pauses.next_delay();
                let hint = error.hint().unwrap_or_default();
                self.importer.standing.pauses(&with_hint(ErrorChain(&error).to_string(), error.hint()));
                warn!(
                    { fields::MINER } = miner, error = %ErrorChain(&error), hint,
                    { fields::RETRY_IN_MS } = millis(pause),
                    "the market node cannot be worked with, nothing is imported for this miner"
                );
                self.pause.begin(pause);
                false
            }
        }
    }

    fn ended(&mut self, ended: Result<Finished, tokio::task::JoinError>) {
        self.is_stale |= ended.as_ref().is_ok_and(|finished| finished.is_due);
        let finished = match ended {
            Ok(finished) => finished,
            // Its lease runs out, and another try follows.
            Err(error) => return error!(%error, "an import ended by a defect of this program"),
        };
        let deal = finished.id.to_string();
        if finished.unwritten.is_some() {
            if self.shelved.len() >= SHELVED_MAX {
                self.shelved.clear();
            }
            self.shelved.insert(deal.clone(), Instant::now() + SHELVED_FOR);
        }
        // Thousands of deals may meet the trouble that one has met: of those begun before a pause it is no
        // news.
        if self.paused_at.is_some_and(|paused| finished.began < paused) {
            return;
        }
        match finished.outcome {
            outcome if finished.node_trouble.is_some() => {
                let reason = outcome.as_ref().and_then(ImportOutcome::reason).unwrap_or_default();
                self.importer.market.forget_identity();
                self.pause_for_node(&format!("the market node is in trouble, pausing: {reason}"));
            }
            Some(ImportOutcome::Done { path: Some(_) }) => {
                self.pause.succeeded();
                self.node_pauses.reset();
            }
            // A wrong file says nothing of the node.
            Some(outcome) if is_failure(&outcome) => {
                if self.pause.failed(&deal) {
                    let pause = self.node_pauses.next_delay();
                    let miner = self.importer.market.miner();
                    warn!(
                        { fields::MINER } = miner,
                        { fields::RETRY_IN_MS } = millis(pause),
                        "{BREAKER} imports failed in a row, pausing; one that has not failed may be tried"
                    );
                    self.paused_at = Some(Instant::now());
                    let why =
                        format!("{BREAKER} imports failed in a row; `status` shows why each of them did");
                    self.importer.standing.pauses(&why);
                    self.pause.begin_for_failures(pause);
                }
            }
            _ => self.pause.told_nothing(&deal),
        }
    }

    fn pause_for_node(&mut self, why: &str) {
        let pause = self.node_pauses.next_delay();
        let miner = self.importer.market.miner();
        self.importer.standing.pauses(why);
        warn!({ fields::MINER } = miner, { fields::RETRY_IN_MS } = millis(pause), "{why}");
        self.paused_at = Some(Instant::now());
        self.pause.begin(pause);
    }

    /// Lets running imports end. What is left keeps its lease until that runs out; its call goes on at the
    /// node, and whoever claims the deal next looks at its state first.
    async fn drain(&self, mut running: JoinSet<Finished>) {
        let all = async { while running.join_next().await.is_some() {} };
        if timeout(self.importer.setting.grace_period, all).await.is_err() {
            let miner = self.importer.market.miner();
            warn!(
                { fields::MINER } = miner,
                imports = running.len(),
                "imports left to their nodes at the end of the grace period"
            );
        }
    }
}

fn is_failure(outcome: &ImportOutcome) -> bool {
    matches!(outcome, ImportOutcome::Retrying { .. } | ImportOutcome::SetAside { .. })
        && outcome.awaited_files().is_empty()
}

/// Brings a claimed deal forward and writes what it came to, holding the lease all the while.
pub async fn process(importer: &ImportContext, claim: &Claim, seat: CallSlot) -> Finished {
    let lost = CancellationToken::new();
    let work = process_under(importer, claim, seat, &lost);
    tokio::pin!(work);
    // Cancel safety: `work` is polled to its end in either branch; a renewal may be dropped at any point.
    tokio::select! {
        finished = &mut work => finished,
        () = hold_lease(&importer.store, claim, importer.setting.lease) => {
            lost.cancel();
            // An import call cannot be called back; the fence keeps us from writing.
            work.await
        }
    }
}

/// The same under a lease that somebody else holds, who cancels `lost` when it is.
async fn process_under(
    importer: &ImportContext,
    claim: &Claim,
    seat: CallSlot,
    lost: &CancellationToken,
) -> Finished {
    let started = Instant::now();
    if !claim.unreadable.is_empty() {
        debug!(fields = claim.unreadable.join(", "), "fields that cannot be read are passed over");
    }
    let verdict = importer.reconcile(claim, lost, seat).await;
    let Written { outcome, node_trouble, unwritten } = write_verdict(importer, claim, verdict).await;
    let is_due = match &outcome {
        Some(ImportOutcome::Waiting { after: Duration::ZERO, .. }) => true,
        Some(outcome) => have_files_come(importer, outcome, started).await,
        None => false,
    };
    let (id, elapsed) = (claim.id.clone(), started.elapsed());
    let finished = Finished { id, outcome, unwritten, node_trouble, is_due, began: started, elapsed };
    log(claim, &finished);
    finished
}

/// Whether a file that the deal waits for came while it was looked at: that was told to those who waited
/// already.
async fn have_files_come(importer: &ImportContext, outcome: &ImportOutcome, since: Instant) -> bool {
    let files = outcome.awaited_files();
    if !importer.arrivals.any_since(files, since) {
        return false;
    }
    let miner = importer.market.miner().to_owned();
    if let Err(error) = importer.store.make_due_awaiting(&[miner], Some(files)).await {
        debug!(error = %ErrorChain(&error), "arrivals not told, the interval decides");
    }
    true
}

/// What was written of a verdict.
struct Written {
    outcome: Option<ImportOutcome>,
    node_trouble: Option<Remedy>,
    unwritten: Option<StoreError>,
}

async fn write_verdict(importer: &ImportContext, claim: &Claim, verdict: Verdict) -> Written {
    let nothing = |unwritten| Written { outcome: None, node_trouble: None, unwritten };
    let (settled, node_trouble) = match verdict {
        Verdict::Settled(settled) => (settled, None),
        Verdict::NodeTrouble(settled, remedy) => (settled, Some(remedy)),
        Verdict::LeaseLost => return nothing(None),
        Verdict::Unwritten(error) => return nothing(Some(error)),
    };
    fail_point("import.confirmed");
    let _place = WRITES.acquire().await;
    // Before it is written: the poll of the provider's view may read it in the same moment.
    if settled.outcome.is_end() {
        importer.endings.written(&claim.deal);
    } else {
        importer.endings.goes_on(claim.deal.dealcid.as_deref().unwrap_or_default());
    }
    let store = &importer.store;
    let written = importer.patience.until_answered("finish", || store.finish(claim, &settled)).await;
    fail_point("import.finished");
    match written {
        Ok(true) => Written { outcome: Some(settled.outcome), node_trouble, unwritten: None },
        Ok(false) => Written { node_trouble, ..nothing(None) },
        Err(error) => Written { node_trouble, ..nothing(Some(error)) },
    }
}

/// Frees, again and again, deals whose lease or pause is longer than any agent sets.
async fn release_impossible(importer: &ImportContext, wake: &Notify) -> Infallible {
    let miner = importer.market.miner();
    loop {
        match importer.store.release_impossible(miner).await {
            Ok(0) => {}
            Ok(deals) => {
                warn!(
                    { fields::MINER } = miner,
                    deals, "leases or pauses ended in a future that nobody sets; freed"
                );
                wake.notify_one();
            }
            Err(error) => debug!(error = %ErrorChain(&error), "impossible leases are looked for later"),
        }
        sleep(importer.setting.scan_interval).await;
    }
}

/// Renews the lease every third of its time; returns when it is lost.
///
/// A database that does not answer is no loss: as long as nobody else claimed the deal, it is ours.
async fn hold_lease(store: &Store, claim: &Claim, lease: Duration) {
    let fence = claim.fence();
    loop {
        sleep(lease / 3).await;
        match store.renew(&fence, lease).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => debug!(error = %ErrorChain(&error), "lease not renewed, trying again"),
        }
    }
}

/// Says what became of a deal; what it said the last time already, only at `debug`.
fn log(claim: &Claim, finished: &Finished) {
    let elapsed = millis(finished.elapsed);
    let last_reason = claim.deal.import.as_ref().and_then(|import| import.reason.as_deref());
    if let Some(error) = &finished.unwritten {
        let hint = error.hint().unwrap_or_default();
        return error!(
            reason = %ErrorChain(error), hint, { fields::RETRY_IN_MS } = millis(SHELVED_FOR),
            "what became of the deal cannot be recorded; it is left alone for a while"
        );
    }
    match &finished.outcome {
        None => warn!({ fields::ELAPSED_MS } = elapsed, "the lease was lost, another agent has the deal"),
        Some(ImportOutcome::Done { path: Some(path) }) => {
            info!({ fields::PATH } = path, { fields::ELAPSED_MS } = elapsed, "imported");
        }
        Some(ImportOutcome::Done { path: None }) => {
            info!({ fields::ELAPSED_MS } = elapsed, "the provider has the data already");
        }
        // The worker says it once for all.
        Some(outcome) if finished.node_trouble.is_some() => {
            debug!(reason = outcome.reason(), "waiting for the market node");
        }
        Some(ImportOutcome::Waiting { reason, after, .. }) if last_reason == Some(reason) => {
            debug!(reason, { fields::RETRY_IN_MS } = millis(*after), "still waiting");
        }
        Some(ImportOutcome::Waiting { reason, after, .. }) => {
            info!(reason, { fields::RETRY_IN_MS } = millis(*after), "waiting");
        }
        Some(ImportOutcome::Retrying { reason, after, .. }) => {
            warn!(reason, { fields::RETRY_IN_MS } = millis(*after), "import failed, will be tried again");
        }
        Some(ImportOutcome::SetAside { reason, .. }) => {
            error!(reason, hint = "mend it, then `miner-agent retry`", "import set aside");
        }
        Some(ImportOutcome::Missed { reason }) => error!(reason, "too late for this deal"),
        Some(ImportOutcome::Failed { reason }) => error!(reason, "import failed for good"),
    }
}

/// The span of everything done for a deal.
pub fn deal_span(claim: &Claim, miner: &str) -> tracing::Span {
    let proposal_cid = claim.deal.dealcid.as_deref().unwrap_or("without dealcid");
    // The prototype stored whole error texts there.
    let shown: String = proposal_cid.chars().take(80).collect();
    info_span!("reconcile", { fields::PROPOSAL_CID } = shown, { fields::MINER } = miner)
}

/// Who this process is, among all agents that ever were.
pub fn owner_name() -> String {
    format!("{}/{}/{:08x}", fsx::hostname(), std::process::id(), fastrand::u32(..))
}

/// A name for one claim: the fencing number starts anew after a deal was given back, so two claims of one
/// process must differ by name.
pub fn next_owner(owner: &str) -> String {
    static CLAIMS: AtomicU64 = AtomicU64::new(1);
    format!("{owner}#{}", CLAIMS.fetch_add(1, Ordering::Relaxed))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
