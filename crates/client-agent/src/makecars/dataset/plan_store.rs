//! Plans in the database, whose pieces several boxes claim under leases, and plans of runs without a
//! database.
//!
//! In the database, several boxes share a plan and claim its pieces under leases. Without one, the plan is
//! made anew by each run, which is the same plan as long as the sources are the same; the manifests beside
//! the CARs say which pieces are done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use carferry_car::PayloadCid;
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::stored::unsigned;
use carferry_core::model::{PackEntryDoc, PackPieceDoc, PieceState, PlanDoc, PlanKey, PlanState};
use carferry_core::store::{PieceClaim, PieceCounts, RetryUntilAnswered, Store, StoreError};
use futures::{StreamExt, TryStreamExt, stream};

use crate::makecars::dataset::manifest;
use crate::makecars::dataset::plan::{Plan, fingerprint};
use crate::makecars::dataset::rules::PlanRules;

/// How long a piece stays with a box that does not renew its lease. Chosen: above the longest time that a
/// database takes to elect a primary.
pub(crate) const LEASE: Duration = Duration::from_secs(120);
/// Documents that are written at the same time.
const WRITES_AT_ONCE: usize = 16;

/// A piece that this run has claimed.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Which piece of its plan.
    pub index: i64,
    /// What is in it.
    pub entries: Vec<PackEntryDoc>,
    /// Bytes of its sources.
    pub source_bytes: u64,
    /// Bytes of its CAR at most.
    pub car_bytes_max: u64,
    /// The claim, where other boxes may claim too.
    pub claim: Option<PieceClaim>,
}

/// What of a folder is packed already.
#[derive(Debug, Default)]
pub(crate) struct Covered {
    /// What is in finished pieces as a whole.
    whole: HashSet<u128>,
    /// Bytes of files that are in finished pieces, by the fingerprint of the whole.
    parts: HashMap<u128, Vec<(u64, u64)>>,
}

impl Covered {
    /// What of an entry is in no finished piece: nothing, or ranges of bytes, or (`None` among them) all of
    /// it.
    pub(crate) fn missing(&self, entry: &PackEntryDoc) -> Vec<Option<(u64, u64)>> {
        let fingerprint = fingerprint(entry);
        if self.whole.contains(&fingerprint) {
            return Vec::new();
        }
        let (Some(parts), PackEntryDoc::File { size, .. }) = (self.parts.get(&fingerprint), entry) else {
            return vec![None];
        };
        let mut parts = parts.clone();
        parts.sort_unstable();
        let mut missing = Vec::new();
        let mut end = 0;
        for (from, to) in parts.into_iter().chain([(unsigned(*size), unsigned(*size))]) {
            if from > end {
                missing.push(Some((end, from)));
            }
            end = end.max(to);
        }
        missing
    }

    fn add(&mut self, entry: PackEntryDoc) {
        match entry {
            PackEntryDoc::File { path, size, mtimenanos, part: Some(part) } => {
                let whole = PackEntryDoc::File { path, size, mtimenanos, part: None };
                let part = (unsigned(part.from), unsigned(part.to));
                self.parts.entry(fingerprint(&whole)).or_default().push(part);
            }
            whole => {
                self.whole.insert(fingerprint(&whole));
            }
        }
    }
}

/// Plans that are shared in the database.
#[derive(Debug)]
pub(crate) struct SharedPlans<'a> {
    /// The database.
    pub store: &'a Store,
    /// Whose claims these are: agent and output folder.
    pub owner: String,
    /// How calls are repeated that must not be lost.
    pub retry: &'a RetryUntilAnswered,
}

impl SharedPlans<'_> {
    /// Plans of which pieces may be open.
    pub(crate) async fn open_plans(&self, key: &PlanKey) -> Result<Vec<PlanDoc>, StoreError> {
        let plans = self.store.plans_of(key).await?;
        Ok(plans.into_iter().filter(|plan| plan.state == PlanState::Ready).collect())
    }

    /// Everything that is in finished pieces of all plans with this key.
    pub(crate) async fn covered(&self, key: &PlanKey) -> Result<Covered, StoreError> {
        let mut covered = Covered::default();
        for plan in self.store.plans_of(key).await? {
            for piece in self.store.pack_pieces(&plan.id).await? {
                if piece.state == PieceState::Done {
                    for entry in entries(self.store, &piece).await? {
                        covered.add(entry);
                    }
                }
            }
        }
        Ok(covered)
    }

    /// Writes a plan, so that every box can claim its pieces.
    pub(crate) async fn write(&self, plan: &Plan) -> Result<(), StoreError> {
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
        if !self.store.plan_is_written(&plan.document).await? {
            return Err(StoreError::Incomplete { collection: "packplans", id: plan.document.id.clone() });
        }
        let stands = self.store.plan(&plan.document.id).await?;
        if stands.is_some_and(|plan| plan.state == PlanState::Ended) {
            // The very same once more: something of it failed, for a reason that has passed.
            self.store.reopen_plan(&plan.document.id, plan.document.seen.as_ref()).await?;
        }
        Ok(())
    }

    /// Whether a plan is there, and a piece of it is done.
    pub(crate) async fn is_done(&self, plan: &str) -> Result<bool, StoreError> {
        Ok(self.store.piece_counts(plan).await?.done > 0)
    }

    /// Claims the next piece; `None` if no piece can be claimed now.
    pub(crate) async fn claim(&self, plan: &str) -> Result<Option<Task>, StoreError> {
        let owner = format!("{}{:08x}", self.owner_prefix(), fastrand::u32(..));
        let Some(claim) = self.store.claim_piece(plan, &owner, LEASE).await? else { return Ok(None) };
        let entries = match entries(self.store, &claim.piece).await {
            Ok(entries) => entries,
            Err(error @ (StoreError::Incomplete { .. } | StoreError::BadDocument { .. })) => {
                // Nothing will mend it; its files are planned anew.
                self.store.fail_piece(&claim, &ErrorChain(&error).to_string()).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        Ok(Some(Task {
            index: claim.piece.index,
            entries,
            source_bytes: unsigned(claim.piece.sourcebytes),
            car_bytes_max: unsigned(claim.piece.carsizemaxbytes),
            claim: Some(claim),
        }))
    }

    /// Ends a plan that has no open piece; else says who is at them.
    pub(crate) async fn end(&self, plan: &str) -> Result<Option<PieceCounts>, StoreError> {
        if self.store.end_plan(plan).await? {
            return Ok(None);
        }
        Ok(Some(self.store.piece_counts(plan).await?))
    }

    /// Releases what a killed run with this owner had claimed. Only under the lock of the output folder.
    pub(crate) async fn take_back(&self, plan: &str) -> Result<u64, StoreError> {
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
/// When the database does not answer, or does not have all of it: a piece is never made of less.
pub(crate) async fn entries(store: &Store, piece: &PackPieceDoc) -> Result<Vec<PackEntryDoc>, StoreError> {
    let mut entries = Vec::new();
    for chunk in 0..piece.chunks {
        let files = store.pack_files(&piece.plan, piece.index, chunk).await?;
        let mut files = files.ok_or_else(|| StoreError::Incomplete {
            collection: "packfiles",
            id: format!("{}#{}#{chunk}", piece.plan, piece.index),
        })?;
        entries.append(&mut files.entries);
    }
    Ok(entries)
}

/// Pieces of a plan that no manifest says are done.
pub(crate) fn undone(plan: &Plan, output: &Path) -> VecDeque<usize> {
    let rules = PlanRules::of(&plan.document);
    let is_done = |piece: usize| {
        let car = car_of(plan, rules, piece, output);
        let standing = car.metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        standing.is_some()
            && said_of(plan, piece, &car).is_some_and(|said| standing == said.facts.carsizebytes)
    };
    (0..plan.pieces().len()).filter(|piece| !is_done(*piece)).collect()
}

/// The rules of a plan that no database keeps: those of the pieces that the manifests say an earlier run
/// made.
pub(crate) fn rules_of(plan: &Plan, output: &Path) -> PlanRules {
    let inlined = |piece: usize| {
        let car = car_of(plan, PlanRules::InlinedRoots, piece, output);
        let is_only_name = car != car_of(plan, PlanRules::LATEST, piece, output);
        said_of(plan, piece, &car).is_some_and(|said| {
            let root = said.facts.payloadcid.and_then(|root| root.parse::<PayloadCid>().ok());
            is_only_name || root.is_some_and(|root| root.is_inlined())
        })
    };
    if (0..plan.pieces().len()).any(inlined) { PlanRules::InlinedRoots } else { PlanRules::LATEST }
}

fn car_of(plan: &Plan, rules: PlanRules, piece: usize, output: &Path) -> PathBuf {
    output.join(rules.car_name(&plan.document, i64::try_from(piece).unwrap_or(i64::MAX)))
}

/// The first line of the manifest beside a CAR, if it is of this piece.
fn said_of(plan: &Plan, piece: usize, car: &Path) -> Option<manifest::PieceLine> {
    let said = manifest::read_piece(&manifest::path_of(car)).ok()?;
    (said.of.plan == plan.document.id && usize::try_from(said.of.index) == Ok(piece)).then_some(said)
}

#[cfg(test)]
mod tests {
    use carferry_core::model::PackPartDoc;

    use super::*;

    fn file(size: i64, part: Option<(i64, i64)>) -> PackEntryDoc {
        let part = part.map(|(from, to)| PackPartDoc { from, to, name: "part".to_owned() });
        PackEntryDoc::File { path: "a/b".to_owned(), size, mtimenanos: 7, part }
    }

    #[test]
    fn what_is_missing_is_what_no_finished_piece_holds() {
        let mut covered = Covered::default();
        assert_eq!(covered.missing(&file(100, None)), [None]);
        for part in [(20, 40), (0, 10), (40, 50)] {
            covered.add(file(100, Some(part)));
        }
        assert_eq!(covered.missing(&file(100, None)), [Some((10, 20)), Some((50, 100))]);
        // Another size is another file.
        assert_eq!(covered.missing(&file(101, None)), [None]);
        covered.add(file(100, Some((10, 20))));
        covered.add(file(100, Some((50, 100))));
        assert_eq!(covered.missing(&file(100, None)), []);
        covered.add(file(0, None));
        assert_eq!(covered.missing(&file(0, None)), []);
        let folder = PackEntryDoc::Folder { path: "a/b".to_owned() };
        assert_eq!(covered.missing(&folder), [None]);
        covered.add(folder.clone());
        assert_eq!(covered.missing(&folder), []);
    }
}
