//! Where a plan is kept, and who makes which piece of it.
//!
//! In the database, several boxes share a plan and claim its pieces under leases. Without one, the plan is made
//! anew by each run, which is the same plan as long as the sources are the same; the manifests beside the CARs say
//! which pieces are done.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::model::{PackEntryDoc, PieceState, PlanDoc, PlanKey, PlanState};
use carferry_core::runtime::Backoff;
use carferry_core::store::{PieceClaim, PieceCounts, Store, StoreError};
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::make::car_name;
use super::manifest;
use super::plan::{Plan, fingerprint};
use crate::pack::worker::RETRY;

/// How long a piece stays with a box that says nothing any more. Source: ours.
pub const LEASE: Duration = Duration::from_secs(120);
/// Documents that are written at the same time.
const WRITES_AT_ONCE: usize = 16;

/// A piece that is ours to make.
#[derive(Clone, Debug)]
pub struct Task {
    /// Which piece of its plan.
    pub index: i64,
    /// What is in it.
    pub entries: Vec<PackEntryDoc>,
    /// Bytes of its sources.
    pub source_bytes: u64,
    /// Our right to it, where there are others.
    pub claim: Option<PieceClaim>,
}

/// What there is to do next.
#[derive(Debug)]
pub enum Next {
    /// This piece.
    Piece(Box<Task>),
    /// Nothing now: others are at the last pieces.
    Wait(PieceCounts),
    /// Nothing any more.
    End,
}

/// What of a folder is packed already.
#[derive(Debug, Default)]
pub struct Covered {
    /// Bytes in finished pieces, by the fingerprint of the whole.
    bytes: HashMap<u128, i64>,
}

impl Covered {
    /// Whether all of this is in finished pieces.
    pub fn holds(&self, entry: &PackEntryDoc) -> bool {
        let size = if let PackEntryDoc::File { size, .. } = entry { *size } else { 0 };
        self.bytes.get(&fingerprint(entry)).is_some_and(|bytes| *bytes >= size)
    }

    fn add(&mut self, entry: PackEntryDoc) {
        let (whole, bytes) = match entry {
            PackEntryDoc::File { path, size, mtimenanos, part } => {
                let bytes = part.map_or(size, |part| part.to - part.from);
                (PackEntryDoc::File { path, size, mtimenanos, part: None }, bytes)
            }
            other => (other, 0),
        };
        *self.bytes.entry(fingerprint(&whole)).or_insert(0) += bytes;
    }
}

/// Plans that are shared in the database.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The database.
    pub store: &'a Store,
    /// Whose claims these are: agent and output folder.
    pub owner: String,
    /// Ends all waiting.
    pub stop: &'a CancellationToken,
}

/// The run is to end: nobody waits for the database any more.
#[derive(Debug)]
pub struct Stopped;

impl Shared<'_> {
    /// Asks until there is an answer, or the run is to end.
    pub async fn insist<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T, Stopped>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(RETRY);
        loop {
            match self.stop.run_until_cancelled(ask()).await {
                None => return Err(Stopped),
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => {
                    let pause = backoff.next_delay();
                    warn!(error = %ErrorChain(&error), hint = error.hint().unwrap_or_default(), retry_in_ms = pause.as_millis(), "{what}: trying again");
                    if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Err(Stopped);
                    }
                }
            }
        }
    }

    /// Plans of which pieces may be open.
    pub async fn open_plans(&self, key: &PlanKey) -> Result<Vec<PlanDoc>, StoreError> {
        let plans = self.store.plans_of(key).await?;
        Ok(plans.into_iter().filter(|plan| plan.state == PlanState::Ready).collect())
    }

    /// Everything that is in finished pieces of all plans with this key.
    pub async fn covered(&self, key: &PlanKey) -> Result<Covered, StoreError> {
        let mut covered = Covered::default();
        for plan in self.store.plans_of(key).await? {
            for piece in self.store.pack_pieces(&plan.id).await? {
                if piece.state == PieceState::Done {
                    for entry in entries(self.store, &plan.id, piece.index).await? {
                        covered.add(entry);
                    }
                }
            }
        }
        Ok(covered)
    }

    /// Writes a plan, so that its pieces can be claimed, by whomever.
    pub async fn write(&self, plan: &Plan) -> Result<(), StoreError> {
        self.store.begin_plan(&plan.document).await?;
        let pieces = 0..plan.pieces().len();
        let files = pieces.clone().flat_map(|piece| plan.files(piece));
        stream::iter(files)
            .map(|files| async move { self.store.add_pack_files(&files).await })
            .buffer_unordered(WRITES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        stream::iter(pieces.map(|piece| plan.piece(piece)))
            .map(|piece| async move { self.store.add_pack_piece(&piece).await })
            .buffer_unordered(WRITES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        self.store.plan_is_written(&plan.document).await?;
        Ok(())
    }

    /// Claims the next piece.
    pub async fn next(&self, plan: &str) -> Result<Next, StoreError> {
        let owner = format!("{}{:08x}", self.owner_prefix(), fastrand::u32(..));
        if let Some(claim) = self.store.claim_piece(plan, &owner, LEASE).await? {
            let index = claim.piece.index;
            let entries = entries(self.store, plan, index).await?;
            let source_bytes = u64::try_from(claim.piece.sourcebytes).unwrap_or(0);
            return Ok(Next::Piece(Box::new(Task { index, entries, source_bytes, claim: Some(claim) })));
        }
        if self.store.end_plan(plan).await? {
            return Ok(Next::End);
        }
        Ok(Next::Wait(self.store.piece_counts(plan).await?))
    }

    /// Takes back what a killed run of ours held. Only under the lock of our output folder.
    pub async fn take_back(&self, plan: &str) -> Result<u64, StoreError> {
        self.store.release_pieces_of(plan, &self.owner_prefix()).await
    }

    fn owner_prefix(&self) -> String {
        format!("{}#", self.owner)
    }
}

/// Everything that is in a stored piece.
///
/// # Errors
///
/// When the database does not answer.
pub async fn entries(store: &Store, plan: &str, piece: i64) -> Result<Vec<PackEntryDoc>, StoreError> {
    let mut entries = Vec::new();
    let mut chunk = 0;
    while let Some(mut files) = store.pack_files(plan, piece, chunk).await? {
        entries.append(&mut files.entries);
        chunk += 1;
    }
    Ok(entries)
}

/// Pieces of a plan that no manifest says are done.
pub fn undone(plan: &Plan, output: &Path) -> VecDeque<usize> {
    let is_done = |piece: usize| {
        let car = output.join(car_name(&plan.document, i64::try_from(piece).unwrap_or(i64::MAX)));
        let standing = car.metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        let said = manifest::read_piece(&manifest::path_of(&car)).ok();
        said.is_some_and(|said| {
            said.plan == plan.document.id
                && usize::try_from(said.index) == Ok(piece)
                && standing == Some(said.carsizebytes)
        })
    };
    (0..plan.pieces().len()).filter(|piece| !is_done(*piece)).collect()
}
