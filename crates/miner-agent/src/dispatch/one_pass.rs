//! `import`: one pass of a worker over everything that is due, and the same as a dry run that writes nothing.

use std::time::Duration;

use carferry_core::error_chain::{ErrorChain, Hint as _, with_hint};
use carferry_core::model::OfflineDealDoc;
use carferry_core::store::{ImportOutcome, PollScope, StoreError};
use carferry_core::telemetry::fields;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::dispatch::one_try::{Finished, log_confirmed};
use crate::dispatch::pass::{PassError, Trouble};
use crate::dispatch::worker::Worker;
use crate::import::adopt::{AdoptError, adopt, unrecorded};
use crate::import::confirm::Confirmer;
use crate::import::{Assessment, ImportContext};
use crate::market::Freshness;
use crate::market::node::Remedy;
use crate::provider_sync;
use crate::provider_sync::UnknownEnds;

/// The outcome of one deal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DealOutcome {
    /// It would be imported (dry run).
    Import,
    /// The provider has the data.
    Done,
    /// The market has the file, and has not decided.
    Handed,
    /// Something is not there yet.
    Waiting,
    /// The try failed, and another one follows.
    Retrying,
    /// It failed too often.
    SetAside,
    /// Its start epoch cannot be met.
    Missed,
    /// It can never succeed.
    Failed,
    /// The outcome is not recorded: another agent has the deal, or the database does not take it.
    Lost,
}

impl DealOutcome {
    /// The word for people and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Done => "done",
            Self::Handed => "handed",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::SetAside => "setaside",
            Self::Missed => "missed",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }
}

impl Serialize for DealOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What became, or would become, of one deal: a line of the commands' output.
#[derive(Clone, Debug, Serialize)]
pub struct DealLine {
    /// Proposal CID, as stored.
    pub deal: String,
    /// Storage provider.
    pub miner: String,
    /// The outcome.
    pub outcome: DealOutcome,
    /// The file, as the market process knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<u64>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
}

impl DealLine {
    fn new(deal: &OfflineDealDoc, miner: &str, outcome: DealOutcome) -> Self {
        Self {
            deal: deal.shown_dealcid(),
            miner: miner.to_owned(),
            outcome,
            path: None,
            reason: None,
            retry_in_seconds: None,
            elapsed_ms: None,
        }
    }

    fn of_outcome(deal: &OfflineDealDoc, miner: &str, outcome: &ImportOutcome) -> Self {
        let (word, path, after) = match outcome {
            ImportOutcome::Done { path } => (DealOutcome::Done, path.clone(), None),
            ImportOutcome::Handed { path, after, .. } => (DealOutcome::Handed, path.clone(), Some(after)),
            ImportOutcome::Waiting { after, .. } => (DealOutcome::Waiting, None, Some(after)),
            ImportOutcome::Retrying { after, .. } => (DealOutcome::Retrying, None, Some(after)),
            ImportOutcome::SetAside { .. } => (DealOutcome::SetAside, None, None),
            ImportOutcome::Missed { .. } => (DealOutcome::Missed, None, None),
            ImportOutcome::Failed { .. } => (DealOutcome::Failed, None, None),
        };
        Self {
            path,
            reason: outcome.reason().map(str::to_owned),
            retry_in_seconds: after.map(Duration::as_secs),
            ..Self::new(deal, miner, word)
        }
    }

    fn of_finished(finished: &Finished, miner: &str) -> Self {
        let line = match finished.outcome.settled() {
            Some(settled) => Self::of_outcome(&finished.deal, miner, &settled.outcome),
            None => Self::new(&finished.deal, miner, DealOutcome::Lost),
        };
        Self { elapsed_ms: Some(fields::millis(finished.elapsed)), ..line }
    }

    /// Whether a person should look at it.
    pub fn is_trouble(&self) -> bool {
        !matches!(
            self.outcome,
            DealOutcome::Import | DealOutcome::Done | DealOutcome::Handed | DealOutcome::Waiting
        )
    }
}

/// Tries every deal of a miner that is due at the beginning, then refreshes the provider's views of all
/// recorded deals once. Returns what kept the pass from trying everything.
///
/// # Errors
///
/// When the database does not answer.
pub async fn import_due(
    context: &ImportContext,
    stop: &CancellationToken,
    mut tell: impl FnMut(DealLine),
) -> Result<Option<Trouble>, StoreError> {
    let miner = context.market.miner();
    if let Err(error) = context.market.identify().await {
        return Ok(Some(Trouble::of_identity(&error)));
    }
    // Every try is followed by a pause that ends after this moment, unless the deal is due at once.
    let begun = context.store.server_time().await?;
    // The market's list tells which calls of other processes are over.
    let _unlisted = context.market.listing(&[], Freshness::Recent).await;
    confirm_handed(context).await;
    if context.setting.adopt
        && let Err(error) = adopt(context).await
    {
        return adopt_trouble(error).map(Some);
    }
    let worker = Worker::one_pass(context.clone(), begun, stop.clone());
    match worker.run_pass(|finished| tell(DealLine::of_finished(&finished, miner))).await {
        Ok(()) => {}
        Err(PassError::Node(trouble)) => return Ok(Some(trouble)),
        Err(PassError::Store(error)) => return Err(error),
    }
    if !stop.is_cancelled() {
        confirm_handed(context).await;
        // The pass has ended: no worker waits for deals that become due.
        let unheard = Notify::new();
        let poll = provider_sync::poll_once(context, PollScope::All, UnknownEnds::Keep, &unheard);
        if let Err(error) = poll.await {
            warn!({ fields::MINER } = miner, error = %ErrorChain(&error), "the provider's views are not refreshed");
        }
    }
    Ok(None)
}

/// The database's error, or what keeps the market from being worked with.
fn adopt_trouble(error: AdoptError) -> Result<Trouble, StoreError> {
    match error {
        AdoptError::Store(error) => Err(error),
        AdoptError::Market(_) => Ok(Trouble {
            reason: with_hint(ErrorChain(&error).to_string(), error.hint()),
            remedy: Remedy::Time,
        }),
    }
}

/// Records what the market says of deals that were handed over before.
async fn confirm_handed(context: &ImportContext) {
    let miner = context.market.miner();
    if let Err(error) = Confirmer::default().confirm_due(context, log_confirmed).await {
        warn!({ fields::MINER } = miner, error = %ErrorChain(&error), "handed deals are not confirmed");
    }
}

/// Says of every deal of a miner that is due what would be done. Writes nothing.
///
/// # Errors
///
/// When the database does not answer.
pub async fn plan_due(
    context: &ImportContext,
    mut tell: impl FnMut(DealLine),
) -> Result<Option<Trouble>, StoreError> {
    if let Err(error) = context.market.identify().await {
        return Ok(Some(Trouble::of_identity(&error)));
    }
    let miner = context.market.miner();
    let mut due = context.store.due_deals(&[miner.to_owned()], PLANNED_MAX).await?;
    if i64::try_from(due.len()).is_ok_and(|count| count == PLANNED_MAX) {
        warn!(
            { fields::MINER } = miner,
            deals = PLANNED_MAX,
            "more deals are due; only the first are looked at"
        );
    }
    if context.setting.adopt {
        match unrecorded(context).await {
            Ok(deals) => due.extend(deals.into_iter().map(|deal| OfflineDealDoc {
                dealcid: Some(deal.proposal_cid),
                filecid: deal.payload_cid,
                piececid: Some(deal.piece_cid),
                miner: Some(miner.to_owned()),
                startepoch: Some(deal.start_epoch),
                adopted: Some(true),
                ..OfflineDealDoc::default()
            })),
            Err(error) => return adopt_trouble(error).map(Some),
        }
    }
    for deal in due {
        match context.assess(&deal).await? {
            Assessment::Import { car, .. } => {
                tell(DealLine {
                    path: Some(car.node_path),
                    ..DealLine::new(&deal, miner, DealOutcome::Import)
                });
            }
            Assessment::Settled(settled) => tell(DealLine::of_outcome(&deal, miner, &settled.outcome)),
            Assessment::Unlisted { .. } => {
                let reason = Some("the provider does not know the proposal yet".to_owned());
                tell(DealLine { reason, ..DealLine::new(&deal, miner, DealOutcome::Waiting) });
            }
            Assessment::NodeTrouble(outcome, remedy) => {
                let reason = outcome.reason().unwrap_or_default().to_owned();
                return Ok(Some(Trouble { reason, remedy }));
            }
        }
    }
    Ok(None)
}

/// Maximum deals that a dry run looks at, per miner.
const PLANNED_MAX: i64 = 100_000;
