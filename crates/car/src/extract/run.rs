//! Runs an extraction: threads read groups of leaves, check their hashes, and write them.
//!
//! ```text
//! walk ──► group ──► read ──► hash ──► write ──► rename
//! one at a time             any thread
//! ```

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cids::HASH_IDENTITY;
use crate::extract::store::{BlockError, Place, Store, whole};
use crate::extract::target::{Purpose, Target};
use crate::extract::walk::{Bytes, Event, Group, Leaf, Walk};
use crate::extract::{
    ExtractError, Extracted, OtherState, Outcome, Restored, RestoredKind, Root, Unfinished, parts,
};
use crate::kernels::{hash_blocks, is_zero};
use crate::profile::BlockHash;
use crate::progress::Progress;
use crate::readahead::BLOCK;
use crate::thread_budget::ThreadBudget;
use crate::verify::block_hash;

/// Shorter runs of zeros are written, because a hole consists of whole blocks of the disk.
const HOLE_BYTES_MIN: usize = BLOCK;

/// State that the threads of a run share.
pub(super) struct Run<'a> {
    store: &'a Store,
    walk: Mutex<Walk<'a>>,
    lists: Arc<Mutex<()>>,
    restored: &'a (dyn Fn(&Restored<'_>) + Sync),
    progress: &'a dyn Progress,
    /// The first error.
    failure: Mutex<Option<ExtractError>>,
    has_failed: AtomicBool,
    counts: Counts,
    /// Files that are joined from parts; `None` after the last part. A thread may add an earlier part after
    /// another thread has added the last one.
    joined: Mutex<BTreeMap<PathBuf, Option<Unfinished>>>,
}

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    folders: AtomicU64,
    symlinks: AtomicU64,
    bytes: AtomicU64,
    same: AtomicU64,
    different: AtomicU64,
    skipped: AtomicU64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        store: &'a Store,
        walk: Walk<'a>,
        restored: &'a (dyn Fn(&Restored<'_>) + Sync),
        progress: &'a dyn Progress,
    ) -> Self {
        let lists = walk.lists();
        let (failure, has_failed) = (Mutex::default(), AtomicBool::new(false));
        let walk = Mutex::new(walk);
        let (counts, joined) = (Counts::default(), Mutex::default());
        Self { store, walk, lists, restored, progress, failure, has_failed, counts, joined }
    }

    /// Restores a root, up to the first failure.
    ///
    /// Two roots may have the same names below them, so roots are restored one after the other.
    pub(super) fn work(
        &self,
        budget: &ThreadBudget,
        threads_max: usize,
        root: &Root,
    ) -> Result<(), ExtractError> {
        let first = self.walk().enter_root(root)?;
        self.process(first, &mut Vec::new())?;
        budget.work(threads_max, Vec::new, |buffer| self.step(buffer));
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// Counts of the run.
    pub(super) fn finish(self) -> Extracted {
        let Counts { files, folders, symlinks, bytes, same, different, skipped } = self.counts;
        let joined = self.joined.into_inner().unwrap_or_else(PoisonError::into_inner);
        let unfinished: Vec<Unfinished> = joined.into_values().flatten().collect();
        Extracted {
            files: files.into_inner(),
            folders: folders.into_inner(),
            symlinks: symlinks.into_inner(),
            bytes: bytes.into_inner(),
            same: same.into_inner(),
            different: different.into_inner(),
            parts: unfinished.iter().map(|file| file.parts).sum(),
            skipped: skipped.into_inner(),
            unfinished,
        }
    }

    /// Processes the next group.
    fn step(&self, buffer: &mut Vec<u8>) -> ControlFlow<()> {
        let processed =
            self.next_group().and_then(|group| group.map(|group| self.process(group, buffer)).transpose());
        match processed {
            Ok(Some(())) => ControlFlow::Continue(()),
            Ok(None) => ControlFlow::Break(()),
            Err(error) => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.has_failed.store(true, Ordering::Release);
                ControlFlow::Break(())
            }
        }
    }

    fn next_group(&self) -> Result<Option<Group>, ExtractError> {
        if self.has_failed.load(Ordering::Acquire) {
            return Ok(None);
        }
        if self.progress.is_cancelled() {
            return Err(ExtractError::Cancelled);
        }
        self.walk().next_group()
    }

    fn walk(&self) -> MutexGuard<'_, Walk<'a>> {
        self.walk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self, group: Group, buffer: &mut Vec<u8>) -> Result<(), ExtractError> {
        let ranges = self.read(&group.leaves, buffer)?;
        let verdicts = check_hashes(&group.leaves, buffer, &ranges);
        self.progress.advance(group.hole_bytes);
        let mut ended = Vec::new();
        for ((leaf, range), is_whole) in group.leaves.into_iter().zip(ranges).zip(verdicts) {
            if is_whole {
                self.write(leaf, &buffer[range], &mut ended)?;
            } else {
                // Tries every copy of the block, and returns the error that names it.
                let of_block = |error| self.store.error(&leaf.cid, &leaf.target.inside, error);
                let block = self.store.block(&leaf.cid).map_err(of_block)?;
                self.write(leaf, &block, &mut ended)?;
            }
        }
        for event in group.events {
            let (kind, inside, outcome) = match event {
                Event::Folder(inside) => (RestoredKind::Folder, inside, Outcome::Written),
                Event::Symlink(inside, outcome) => (RestoredKind::Symlink, inside, outcome),
                Event::File(inside, outcome) => (RestoredKind::File, inside, outcome),
                Event::End(target) => {
                    ended.push(target);
                    continue;
                }
            };
            self.report(&Restored { kind, inside: &inside, bytes: 0, outcome, other_state: None });
        }
        for target in ended {
            self.end(&target)?;
        }
        Ok(())
    }

    /// Reads the missing leaves into one buffer; returns their ranges.
    fn read(&self, leaves: &[Leaf], buffer: &mut Vec<u8>) -> Result<Vec<Range<usize>>, ExtractError> {
        let mut end = 0;
        let mut ranges = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let len = match &leaf.bytes {
                Bytes::At(Place::Section(_)) => usize::try_from(leaf.len).expect("a section fits in memory"),
                Bytes::At(Place::Cid) | Bytes::Here(_) => 0,
            };
            ranges.push(end..end + len);
            end += len;
        }
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        for (leaf, range) in leaves.iter().zip(&ranges) {
            if let Bytes::At(Place::Section(entry)) = &leaf.bytes
                && let Err(error @ BlockError::Unreadable(..)) =
                    self.store.read(*entry, &mut buffer[range.clone()])
            {
                return Err(self.store.error(&leaf.cid, &leaf.target.inside, error));
            }
        }
        Ok(ranges)
    }

    /// Writes a leaf's bytes. Adds its file to `ended` if they were the last.
    fn write(&self, leaf: Leaf, read: &[u8], ended: &mut Vec<Arc<Target>>) -> Result<(), ExtractError> {
        let Leaf { target, at, len, cid, bytes } = leaf;
        let bytes = match &bytes {
            Bytes::Here(bytes) => bytes,
            Bytes::At(Place::Cid) => whole(&cid).map_or(&[][..], |parts| parts.digest),
            Bytes::At(Place::Section(_)) => read,
        };
        if bytes.len() >= HOLE_BYTES_MIN && is_zero(bytes) {
            if !cid.is_empty() {
                self.store.record_zero(&cid, true);
            }
            target.write_zeros(at, len)?;
        } else {
            target.write(at, bytes)?;
        }
        self.progress.advance(len);
        if target.advance(len) {
            ended.push(target);
        }
        Ok(())
    }

    fn end(&self, target: &Target) -> Result<(), ExtractError> {
        let outcome = match target.purpose {
            Purpose::Part { state, .. } => parts::finish(target, state, &self.lists)?,
            Purpose::Whole(_) | Purpose::Compare => target.finish_whole()?,
        };
        self.record_part(target, outcome);
        let (inside, bytes, other_state) = (&*target.inside, target.size, target.other_state);
        self.report(&Restored { kind: RestoredKind::File, inside, bytes, outcome, other_state });
        Ok(())
    }

    /// Records a part: its file is unfinished until the last part is written.
    fn record_part(&self, target: &Target, outcome: Outcome) {
        let Some((file, file_size)) = &target.part_of else { return };
        let left = target.other_state.filter(|_| !matches!(target.purpose, Purpose::Part { .. }));
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes_in = match (outcome, left) {
            (Outcome::Part { bytes_in, .. }, _) => bytes_in,
            (_, Some(_)) => 0,
            // The last part, or the whole file existed before.
            (_, None) => {
                joined.insert(file.clone(), None);
                return;
            }
        };
        let begun = || Unfinished { file: file.clone(), parts: 0, bytes_in: 0, file_size: *file_size, left };
        if let Some(noted) = joined.entry(file.clone()).or_insert_with(|| Some(begun())) {
            noted.parts += 1;
            noted.bytes_in = noted.bytes_in.max(bytes_in);
        }
    }

    fn report(&self, restored: &Restored<'_>) {
        let counts = &self.counts;
        let of_kind = match restored.kind {
            RestoredKind::File => &counts.files,
            RestoredKind::Folder => &counts.folders,
            RestoredKind::Symlink => &counts.symlinks,
        };
        let is_left = matches!(restored.other_state, Some(OtherState::Older | OtherState::Unknown));
        let counted = match restored.outcome {
            // Parts are counted in the unfinished files.
            Outcome::Part { .. } => None,
            Outcome::Written if is_left => None,
            Outcome::Written => Some(of_kind),
            Outcome::Same => Some(&counts.same),
            Outcome::Different => Some(&counts.different),
            Outcome::Skipped => Some(&counts.skipped),
        };
        if let Some(counted) = counted {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(restored.outcome, Outcome::Written | Outcome::Part { .. }) {
            counts.bytes.fetch_add(restored.bytes, Ordering::Relaxed);
        }
        (self.restored)(restored);
    }
}

/// Checks the hash of each leaf. All blocks of one hash function are hashed together.
fn check_hashes(leaves: &[Leaf], buffer: &[u8], ranges: &[Range<usize>]) -> Vec<bool> {
    let hash_of = |leaf: &Leaf| match &leaf.bytes {
        Bytes::At(Place::Section(_)) => whole(&leaf.cid).ok().and_then(|parts| block_hash(parts.hash)),
        _ => None,
    };
    let digests = [BlockHash::Blake2b256, BlockHash::Sha2_256].map(|hash| {
        let of_hash = leaves.iter().zip(ranges).filter(|(leaf, _)| hash_of(leaf) == Some(hash));
        let blocks: Vec<&[u8]> = of_hash.map(|(_, range)| &buffer[range.clone()]).collect();
        hash_blocks(hash, &blocks).into_iter()
    });
    let [mut blake2b, mut sha2] = digests;
    let check = |leaf: &Leaf| {
        let digest = match hash_of(leaf) {
            Some(BlockHash::Blake2b256) => blake2b.next(),
            Some(BlockHash::Sha2_256) => sha2.next(),
            // Inlined, or checked already.
            None => return true,
        };
        let parts = whole(&leaf.cid).ok();
        parts.zip(digest).is_some_and(|(parts, digest)| parts.hash != HASH_IDENTITY && parts.digest == digest)
    };
    leaves.iter().map(check).collect()
}
