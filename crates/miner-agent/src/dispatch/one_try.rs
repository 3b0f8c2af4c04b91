//! One try at a claimed deal: it is brought forward, its outcome is recorded, and both are logged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::Bson;
use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::fsx;
use carferry_core::model::OfflineDealDoc;
use carferry_core::runtime::fail_point;
use carferry_core::store::{CONNECTIONS_MAX, Claim, HandedDeal, ImportOutcome, Settled};
use carferry_core::telemetry::fields;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, info_span, warn};

use crate::import::ImportContext;
use crate::import::call_slots::CallSlot;
use crate::import::confirm::SHELVED_FOR;
use crate::import::outcome::Outcome;

/// A try that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    /// The deal's document.
    pub id: Bson,
    /// The deal as it was when claimed.
    pub deal: OfflineDealDoc,
    /// The outcome, and whether it is recorded.
    pub outcome: Outcome,
    /// When the deal is due again.
    pub next: NextTry,
    /// When the try began.
    pub began: Instant,
    /// How long it took.
    pub elapsed: Duration,
}

/// When a deal is due again after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextTry {
    /// At once.
    Now,
    /// When its record says, or never.
    AsRecorded,
}

/// Outcomes written at a time: one list of the market may confirm thousands in one moment. Half of the
/// connections are left to the next claims and call intents.
const WRITES_AT_ONCE: usize = 64;
static WRITES: Semaphore = Semaphore::const_new(WRITES_AT_ONCE);
const _: () = assert!(WRITES_AT_ONCE * 2 <= CONNECTIONS_MAX as usize, "writes would starve claims");

/// Brings a claimed deal forward and records the outcome. `lost` is cancelled when the deal's lease is lost.
pub(super) async fn try_deal(
    context: &ImportContext,
    claim: Claim,
    slot: CallSlot,
    lost: &CancellationToken,
) -> Finished {
    let began = Instant::now();
    if !claim.unreadable.is_empty() {
        debug!(fields = claim.unreadable.join(", "), "fields that cannot be read are passed over");
    }
    let (outcome, slot) = context.reconcile(&claim, lost, slot).await;
    let outcome = record(context, &claim, outcome).await;
    drop(slot);
    let next = next_try(context, &outcome, began).await;
    let elapsed = began.elapsed();
    log(&claim, &outcome, elapsed);
    Finished { id: claim.id, deal: claim.deal, outcome, next, began, elapsed }
}

/// Writes an outcome into the deal, until the database takes it or refuses it.
async fn record(context: &ImportContext, claim: &Claim, outcome: Outcome) -> Outcome {
    let Some(settled) = outcome.settled() else { return outcome };
    fail_point("import.confirmed");
    let _permit = WRITES.acquire().await;
    // Before it is written: a poll of the provider's views may read it in the same moment.
    if settled.outcome.is_end() {
        context.own_ends.written(&claim.deal);
    } else {
        context.own_ends.goes_on(claim.deal.dealcid.as_deref().unwrap_or_default());
    }
    let written = context.retry.call("finish", || context.store.finish(claim, settled)).await;
    fail_point("import.finished");
    if matches!(settled.outcome, ImportOutcome::Handed { .. }) {
        context.handed.notify_one();
    }
    match written {
        Ok(true) => outcome,
        Ok(false) => Outcome::LeaseLost,
        Err(error) => Outcome::Unrecorded(error),
    }
}

/// Whether the deal is due at once: because its outcome says so, or because a file that it waits for came
/// during the try. The arrival made those deals due that waited already, and not this one.
async fn next_try(context: &ImportContext, outcome: &Outcome, began: Instant) -> NextTry {
    let Some(settled) = outcome.settled() else { return NextTry::AsRecorded };
    if matches!(settled.outcome, ImportOutcome::Waiting { after: Duration::ZERO, .. }) {
        return NextTry::Now;
    }
    let files = settled.outcome.awaited_files();
    if !context.arrivals.any_since(files, began) {
        return NextTry::AsRecorded;
    }
    let miner = context.market.miner().to_owned();
    if let Err(error) = context.store.make_due_awaiting(&[miner], Some(files)).await {
        debug!(error = %ErrorChain(&error), "deals that wait for files are not made due, the interval decides");
    }
    NextTry::Now
}

/// Logs the outcome of a try; a reason that the record had before is logged at `debug` only.
fn log(claim: &Claim, outcome: &Outcome, elapsed: Duration) {
    let settled = match outcome {
        Outcome::Settled(settled) => settled,
        // The worker logs the node's trouble once for all deals.
        Outcome::NodeTrouble(settled, _) => {
            return debug!(reason = settled.outcome.reason(), "waiting for the market node");
        }
        Outcome::LeaseLost => {
            return warn!(
                { fields::ELAPSED_MS } = fields::millis(elapsed),
                "the lease was lost, another agent has the deal"
            );
        }
        Outcome::Unrecorded(error) => {
            let hint = error.hint().unwrap_or_default();
            return error!(
                reason = %ErrorChain(error), hint, { fields::RETRY_IN_MS } = fields::millis(SHELVED_FOR),
                "what became of the deal cannot be recorded; it is left alone for a while"
            );
        }
    };
    log_settled(&claim.deal, settled, elapsed);
}

/// Logs what was recorded of a deal.
pub(super) fn log_settled(deal: &OfflineDealDoc, settled: &Settled, elapsed: Duration) {
    let last_reason = deal.import.as_ref().and_then(|import| import.reason.as_deref());
    match &settled.outcome {
        ImportOutcome::Done { path: Some(path) } => {
            info!({ fields::PATH } = path, { fields::ELAPSED_MS } = fields::millis(elapsed), "imported");
        }
        ImportOutcome::Done { path: None } => {
            info!({ fields::ELAPSED_MS } = fields::millis(elapsed), "the provider has the data already");
        }
        ImportOutcome::Handed { path: Some(path), .. } => {
            info!({ fields::PATH } = path, { fields::ELAPSED_MS } = fields::millis(elapsed), "handed over");
        }
        ImportOutcome::Handed { path: None, .. } => debug!("the market has a file of the deal, and reads it"),
        ImportOutcome::Waiting { reason, after, .. } if last_reason == Some(reason) => {
            debug!(reason, { fields::RETRY_IN_MS } = fields::millis(*after), "still waiting");
        }
        ImportOutcome::Waiting { reason, after, .. } => {
            info!(reason, { fields::RETRY_IN_MS } = fields::millis(*after), "waiting");
        }
        ImportOutcome::Retrying { reason, after, .. } => {
            warn!(
                reason,
                { fields::RETRY_IN_MS } = fields::millis(*after),
                "import failed, will be tried again"
            );
        }
        ImportOutcome::SetAside { reason, .. } => {
            error!(reason, hint = "mend it, then `miner-agent retry`", "import set aside");
        }
        ImportOutcome::Missed { reason } => error!(reason, "too late for this deal"),
        ImportOutcome::Failed { reason } => error!(reason, "import failed for good"),
    }
}

/// Logs what the market said of a deal that was handed over.
pub(super) fn log_confirmed(handed: &HandedDeal, settled: &Settled, miner: &str) {
    let _span = deal_span(&handed.deal, miner).entered();
    log_settled(&handed.deal, settled, handed.age.unwrap_or_default());
}

/// The span of everything done for a deal.
pub(super) fn deal_span(deal: &OfflineDealDoc, miner: &str) -> tracing::Span {
    info_span!("reconcile", { fields::PROPOSAL_CID } = deal.shown_dealcid(), { fields::MINER } = miner)
}

/// The name of this process in leases and call intents, unlike that of any other process.
pub fn owner_name() -> String {
    format!("{}/{}/{:08x}", fsx::hostname(), std::process::id(), fastrand::u32(..))
}

/// A name for one claim. The fencing token begins again at 1 after a deal was given back, so two claims of
/// one process must differ by name.
pub(super) fn claim_name(owner: &str) -> String {
    static CLAIMS: AtomicU64 = AtomicU64::new(1);
    format!("{owner}#{}", CLAIMS.fetch_add(1, Ordering::Relaxed))
}
