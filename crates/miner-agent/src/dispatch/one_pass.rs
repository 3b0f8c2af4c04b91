//! One pass over everything due, and the same without doing anything.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bson::Bson;
use carferry_core::error_chain::{ErrorChain, Hint as _, with_hint};
use carferry_core::model::OfflineDealDoc;
use carferry_core::store::{ImportOutcome, StoreError};
use carferry_core::telemetry::fields;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, warn};

use crate::dispatch::worker;
use crate::dispatch::worker::{Finished, IN_HAND_MAX};
use crate::import::call_slots::CallSlots;
use crate::import::{Assessment, ImportContext};
use crate::market::node::{IdentityError, Remedy};

/// What became, or would become, of one deal: a line of the commands' output.
#[derive(Clone, Debug, Serialize)]
pub struct DealLine {
    /// Proposal CID, as stored.
    pub deal: String,
    /// Storage provider.
    pub miner: String,
    /// `import` (only without doing it), `done`, `waiting`, `retrying`, `setaside`, `missed`, `failed`,
    /// `lost`.
    pub outcome: &'static str,
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

/// What a pass over one miner came to beside its deals.
#[derive(Clone, Debug, Default)]
pub struct PassEnd {
    /// Why the pass ended before everything due was tried.
    pub trouble: Option<Trouble>,
}

/// Why a market node cannot be worked with, and what ends that.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// In words.
    pub reason: String,
    /// What ends it.
    pub remedy: Remedy,
}

impl Trouble {
    fn of_identity(error: &IdentityError) -> Self {
        let reason = with_hint(ErrorChain(error).to_string(), error.hint());
        Self { reason, remedy: error.remedy() }
    }
}

impl From<Trouble> for PassEnd {
    fn from(trouble: Trouble) -> Self {
        Self { trouble: Some(trouble) }
    }
}

impl DealLine {
    fn new(deal: &OfflineDealDoc, miner: &str, outcome: &'static str) -> Self {
        let shown = deal.dealcid.as_deref().unwrap_or("without dealcid").chars().take(80).collect();
        Self {
            deal: shown,
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
            ImportOutcome::Done { path } => ("done", path.clone(), None),
            ImportOutcome::Waiting { after, .. } => ("waiting", None, Some(after)),
            ImportOutcome::Retrying { after, .. } => ("retrying", None, Some(after)),
            ImportOutcome::SetAside { .. } => ("setaside", None, None),
            ImportOutcome::Missed { .. } => ("missed", None, None),
            ImportOutcome::Failed { .. } => ("failed", None, None),
        };
        Self {
            path,
            reason: outcome.reason().map(str::to_owned),
            retry_in_seconds: after.map(Duration::as_secs),
            ..Self::new(deal, miner, word)
        }
    }

    /// Whether a person should look at it.
    pub fn is_trouble(&self) -> bool {
        matches!(self.outcome, "retrying" | "setaside" | "missed" | "failed" | "lost")
    }
}

/// Tries every deal of a miner that is due at the beginning, each once.
///
/// # Errors
///
/// When the database does not answer.
pub async fn import_due(
    importer: &ImportContext,
    stop: &CancellationToken,
    mut tell: impl FnMut(DealLine),
) -> Result<PassEnd, StoreError> {
    if let Err(error) = importer.market.identify().await {
        return Ok(Trouble::of_identity(&error).into());
    }
    let (miner, setting) = (importer.market.miner(), &importer.setting);
    // What is tried gets its next try after this moment, so nothing is tried twice, but for what is due at
    // once: a deal that the provider has only just listed, say.
    let begun = importer.store.server_time().await?;
    let owner = worker::owner_name();
    let mut end = PassEnd::default();
    let calls = CallSlots::without_ahead(setting.imports_per_miner);
    // What is known of the market's deals tells which calls of other processes are over.
    let _unlisted = importer.market.recent_listing().await;
    calls.leave_to_others(importer.calls_of_others(&owner).await?);
    if calls.are_others_only() {
        let reason = "import calls of other processes may still be under way, as many as setting.importsPerMiner \
                       allows: try again later";
        return Ok(Trouble { reason: reason.to_owned(), remedy: Remedy::Time }.into());
    }
    let mut running = JoinSet::<(OfflineDealDoc, Finished)>::new();
    let mut due = VecDeque::<Bson>::new();
    let mut is_read = false;
    let mut tried = HashMap::new();
    loop {
        while end.trouble.is_none() && !stop.is_cancelled() {
            let Some(mut seat) = calls.seat() else { break };
            if running.len() >= IN_HAND_MAX {
                break;
            }
            if due.is_empty() && !is_read {
                due = importer.store.due_ids(miner, Some(begun), DUE_PAGE).await?.into_ids().collect();
                is_read = due.is_empty();
            }
            let Some(id) = due.pop_front() else { break };
            let tries = tried.entry(id.to_string()).or_insert(0_u32);
            if *tries >= TRIES_MAX {
                continue;
            }
            *tries += 1;
            // A call that failed may mean that the node is gone.
            if !importer.market.is_identified()
                && let Err(error) = importer.market.identify().await
            {
                end.trouble = Some(Trouble::of_identity(&error));
                break;
            }
            let owner = worker::next_owner(&owner);
            match importer.store.claim(&id, miner, &owner, setting.lease).await {
                Ok(Some(claim)) => {
                    seat.take();
                    let span = worker::deal_span(&claim, miner);
                    let importer = importer.clone();
                    let work = async move {
                        let finished = worker::process(&importer, &claim, seat).await;
                        (claim.deal, finished)
                    };
                    running.spawn(work.instrument(span));
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        let has_any = !running.is_empty();
        let next = async {
            // A call was answered: the next may go out, long before a list shows what came of it.
            // Cancel safety: `join_next` loses no result, and that a seat is free is seen in the next round.
            tokio::select! {
                joined = running.join_next() => Some(joined),
                () = calls.freed(), if has_any => None,
            }
        };
        let joined = match stop.run_until_cancelled(next).await {
            Some(Some(joined)) => joined,
            Some(None) => continue,
            None => {
                let rest = async { running.join_next().await };
                tokio::time::timeout(setting.grace_period, rest).await.unwrap_or_default()
            }
        };
        match joined {
            None => return Ok(end),
            Some(Ok((deal, finished))) => {
                // What is due again at once is tried again: a deal that the market has only just listed, say.
                is_read &= !finished.is_due;
                let line = match &finished.outcome {
                    Some(outcome) => DealLine::of_outcome(&deal, miner, outcome),
                    None => DealLine::new(&deal, miner, "lost"),
                };
                if let Some(remedy) = finished.node_trouble {
                    end.trouble = Some(Trouble { reason: line.reason.clone().unwrap_or_default(), remedy });
                }
                tell(DealLine { elapsed_ms: Some(millis(finished.elapsed)), ..line });
            }
            Some(Err(error)) => error!(%error, "an import ended by a bug of ours"),
        }
    }
}

/// Says of every deal of a miner that is due what would be done. Writes nothing.
///
/// # Errors
///
/// When the database does not answer.
pub async fn plan_due(
    importer: &ImportContext,
    mut tell: impl FnMut(DealLine),
) -> Result<PassEnd, StoreError> {
    if let Err(error) = importer.market.identify().await {
        return Ok(Trouble::of_identity(&error).into());
    }
    let miner = importer.market.miner();
    let due = importer.store.due_deals(&[miner.to_owned()], PLANNED_MAX).await?;
    if i64::try_from(due.len()).is_ok_and(|count| count == PLANNED_MAX) {
        warn!(
            { fields::MINER } = miner,
            deals = PLANNED_MAX,
            "more deals are due; only the first are looked at"
        );
    }
    for deal in due {
        match importer.assess(&deal).await? {
            Assessment::Import { car, .. } => {
                tell(DealLine { path: Some(car.node_path), ..DealLine::new(&deal, miner, "import") });
            }
            Assessment::Settled(settled) => tell(DealLine::of_outcome(&deal, miner, &settled.outcome)),
            Assessment::Unlisted { .. } => {
                let reason = Some("the provider does not know the proposal yet".to_owned());
                tell(DealLine { reason, ..DealLine::new(&deal, miner, "waiting") });
            }
            Assessment::NodeTrouble(outcome, remedy) => {
                let reason = outcome.reason().unwrap_or_default().to_owned();
                return Ok(Trouble { reason, remedy }.into());
            }
        }
    }
    Ok(PassEnd::default())
}

/// Tries of one deal in a pass: a look at a new list, a call, and one to spare.
const TRIES_MAX: u32 = 3;
/// Deals read from the queue at a time.
const DUE_PAGE: i64 = 256;
/// Deals a plan looks at, per miner.
const PLANNED_MAX: i64 = 100_000;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
