//! The threads that build one CAR.
//!
//! Each thread takes the next group of leaves, reads and hashes it, lays it out in the order of the groups,
//! and sends it to the writing thread while it computes the piece commitment of its bytes.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use std::{io, thread};

use crate::assemble::layout::{Bytes, Extent, Layout};
use crate::assemble::output::Output;
use crate::assemble::output_error;
use crate::assemble::walk::{Group, Leaf, Walk};
use crate::build_error::{BuildError, SourceChange};
use crate::carv1::writer;
use crate::piece::Scratch;
use crate::piece::assembler::PieceAssembler;
use crate::profile::{CarOrder, DagParams};
use crate::progress::Progress;
use crate::readahead::{Buffer, BufferPool};
use crate::sequencer::Sequencer;
use crate::thread_budget::ThreadBudget;
use crate::units::len64;
use crate::unixfs::dag::Codec;

/// Buffers of each thread: one that is filled, one that is written.
const BUFFERS_PER_THREAD: usize = 2;
/// How long a thread waits for a written buffer before it checks for a failure. Chosen: a cancelled build
/// ends within a second.
const FAILURE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// State that the threads of one CAR share.
pub(super) struct Pipeline<'a> {
    params: DagParams,
    walk: Mutex<Walk<'a>>,
    /// Lays out the groups in the CAR's order.
    sequencer: Sequencer<Layout, BuildError>,
    /// Bytes of repeated blocks that were left out so far.
    saved: AtomicU64,
    /// The block of zeros for holes of sparse files.
    zeros: Mutex<Option<ZeroBlock>>,
    piece: PieceAssembler,
    output: &'a Output<'a>,
    progress: &'a dyn Progress,
}

/// A block of zeros of one length.
#[derive(Clone)]
struct ZeroBlock {
    len: usize,
    cid: Box<[u8]>,
    /// The CAR has the block, so it is not written again.
    is_written: bool,
}

/// Buffers that a thread keeps between groups.
struct ThreadState {
    /// Used as a stack: the bytes of the last buffer are still in the processor's cache.
    free: Vec<Arc<GroupBuffer>>,
    done: mpsc::Sender<Arc<GroupBuffer>>,
    written: mpsc::Receiver<Arc<GroupBuffer>>,
    scratch: Scratch,
}

/// A group to write. Its buffer returns to the thread that filled it.
struct WriteJob {
    group: Arc<GroupBuffer>,
    done: mpsc::Sender<Arc<GroupBuffer>>,
}

/// A group's bytes and their offsets in the CAR.
struct GroupBuffer {
    buffer: Buffer,
    extents: Vec<Extent>,
    pool: Arc<BufferPool>,
}

impl GroupBuffer {
    fn extents(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.extents.iter().map(|extent| match &extent.bytes {
            Bytes::Buffer(range) => (extent.offset, &self.buffer.bytes()[range.clone()]),
            Bytes::Owned(bytes) => (extent.offset, &bytes[..]),
        })
    }
}

impl Drop for GroupBuffer {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

impl ThreadState {
    fn new(pool: &Arc<BufferPool>) -> Self {
        let (done, written) = mpsc::channel();
        let buffer = || GroupBuffer { buffer: pool.take(), extents: Vec::new(), pool: Arc::clone(pool) };
        let free = (0..BUFFERS_PER_THREAD).map(|_| Arc::new(buffer())).collect();
        Self { free, done, written, scratch: Scratch::default() }
    }
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(
        params: DagParams,
        walk: Walk<'a>,
        layout: Layout,
        output: &'a Output<'a>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            params,
            walk: Mutex::new(walk),
            sequencer: Sequencer::new(layout),
            saved: AtomicU64::new(0),
            zeros: Mutex::new(None),
            piece: PieceAssembler::default(),
            output,
            progress,
        }
    }

    /// Builds the CAR, up to the first failure. `groups` is the expected number of groups.
    pub(super) fn run(&self, budget: &ThreadBudget, groups: u64) {
        let thread_state = || ThreadState::new(budget.buffers());
        if groups <= 1 {
            budget.work(1, thread_state, |thread| self.step(thread, None));
            return;
        }
        thread::scope(|scope| {
            let (writer, jobs) = mpsc::sync_channel(budget.permits().get());
            scope.spawn(|| self.write(jobs));
            // More threads than groups would only wait.
            let threads_max = usize::try_from(groups).unwrap_or(usize::MAX);
            budget.work(threads_max, thread_state, |thread| self.step(thread, Some(&writer)));
        });
    }

    /// Layout and piece of a CAR without failure, or the first failure.
    pub(super) fn finish(self) -> Result<(Layout, PieceAssembler), BuildError> {
        Ok((self.sequencer.finish()?, self.piece))
    }

    /// Processes the next group; writes it as well if there is no writing thread.
    fn step(&self, thread: &mut ThreadState, writer: Option<&mpsc::SyncSender<WriteJob>>) -> ControlFlow<()> {
        let _end = self.sequencer.end_on_panic();
        self.next_group(thread, writer).unwrap_or_else(|error| {
            self.sequencer.fail(error);
            ControlFlow::Break(())
        })
    }

    fn next_group(
        &self,
        thread: &mut ThreadState,
        writer: Option<&mpsc::SyncSender<WriteJob>>,
    ) -> Result<ControlFlow<()>, BuildError> {
        if self.sequencer.has_ended() {
            return Ok(ControlFlow::Break(()));
        }
        thread.free.extend(thread.written.try_iter());
        let free = thread.free.pop().or_else(|| thread.written.recv_timeout(FAILURE_CHECK_INTERVAL).ok());
        let Some(mut filled) = free else { return Ok(ControlFlow::Continue(())) };
        let group = self.walk.lock().unwrap_or_else(PoisonError::into_inner).next_group()?;
        let Some(group) = group else { return Ok(ControlFlow::Break(())) };
        {
            let filled = Arc::get_mut(&mut filled).expect("a written buffer has no other user");
            filled.buffer.place(group.offset - self.saved.load(Ordering::Relaxed), group.bytes);
            let read = self.read_and_hash(&group, filled.buffer.bytes_mut())?;
            let Some(extents) = self.lay_in_order(&group, read) else {
                return Ok(ControlFlow::Break(()));
            };
            filled.extents = extents;
        }
        match writer {
            Some(writer) => {
                let job = WriteJob { group: Arc::clone(&filled), done: thread.done.clone() };
                if writer.send(job).is_err() {
                    return Ok(ControlFlow::Break(())); // the writer has panicked
                }
            }
            None => self.write_group(&filled)?,
        }
        for (offset, bytes) in filled.extents() {
            self.piece.feed(offset, bytes, &mut thread.scratch);
        }
        if writer.is_none() {
            thread.free.push(filled);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes the groups of the other threads, until the last of them ends.
    #[expect(clippy::needless_pass_by_value, reason = "the channel must end with this thread")]
    fn write(&self, jobs: mpsc::Receiver<WriteJob>) {
        let _end = self.sequencer.end_on_panic();
        for WriteJob { group, done } in &jobs {
            // After a failure buffers are still returned, because threads may wait for them.
            if !self.sequencer.has_ended()
                && let Err(error) = self.write_group(&group)
            {
                self.sequencer.fail(error);
            }
            // The thread may have ended.
            drop(done.send(group));
        }
    }

    fn write_group(&self, group: &GroupBuffer) -> Result<(), BuildError> {
        group.extents().try_for_each(|(offset, bytes)| self.output.write(offset, bytes)).map_err(output_error)
    }

    /// Reads and hashes the leaves of a group, and puts their CIDs before them; returns the CIDs.
    fn read_and_hash(&self, group: &Group<'_>, buffer: &mut [u8]) -> Result<HashedLeaves, BuildError> {
        if let Some(leaf) = group.leaves.last() {
            leaf.source.read_ahead(leaf.offset + len64(leaf.len));
        }
        let mut holes = Vec::with_capacity(group.leaves.len());
        for leaf in &group.leaves {
            if self.progress.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            let hole = if leaf.is_hole() { Some(self.zero_block(leaf.len)) } else { None };
            match &hole {
                None => read_leaf(leaf, &mut buffer[leaf.block()])?,
                Some(zeros) if !zeros.is_written => buffer[leaf.block()].fill(0),
                // The leaf is left out of the CAR, so the buffer's bytes are not used.
                Some(_) => {}
            }
            holes.push(hole);
            self.progress.advance(len64(leaf.len));
        }
        let pairs = || group.leaves.iter().zip(&holes);
        let blocks: Vec<&[u8]> =
            pairs().filter(|(_, hole)| hole.is_none()).map(|(leaf, _)| &buffer[leaf.block()]).collect();
        let mut hashed = self.params.cids(Codec::Raw, &blocks).into_iter();
        let cids: Vec<Box<[u8]>> = holes
            .iter()
            .map(|hole| match hole {
                Some(zeros) => zeros.cid.clone(),
                None => hashed.next().expect("a CID for each block that was read"),
            })
            .collect();
        for (leaf, cid) in group.leaves.iter().zip(&cids) {
            let prefix = writer::section_prefix(cid, leaf.len);
            buffer[leaf.at..leaf.block().start].copy_from_slice(&prefix);
        }
        let hole_len = pairs().filter(|(_, hole)| hole.is_some()).map(|(leaf, _)| leaf.len).max();
        Ok(HashedLeaves { cids, hole_len })
    }

    /// The block of `len` zeros. The last one is cached, because all leaves of a file but the last have the
    /// same length.
    fn zero_block(&self, len: usize) -> ZeroBlock {
        let mut zeros = self.zeros();
        match &*zeros {
            Some(zeros) if zeros.len == len => zeros.clone(),
            _ => {
                let block =
                    ZeroBlock { len, cid: self.params.cid(Codec::Raw, &vec![0; len]), is_written: false };
                zeros.insert(block).clone()
            }
        }
    }

    /// Lays out the group after all groups before it. Returns `None` after a failure of any thread.
    fn lay_in_order(&self, group: &Group<'_>, leaves: HashedLeaves) -> Option<Vec<Extent>> {
        let extents = self.sequencer.run_in_order(group.number, |layout| {
            let extents = layout.lay(group, leaves.cids)?;
            let saved = group.offset + len64(group.bytes) - layout.end();
            self.saved.store(saved, Ordering::Relaxed);
            Ok(extents)
        })?;
        if let Some(zeros) = &mut *self.zeros() {
            // After the layout of this group: only groups after it may rely on the block.
            let once = self.params.order == CarOrder::DepthFirst;
            zeros.is_written |= once && leaves.hole_len == Some(zeros.len);
        }
        Some(extents)
    }

    fn zeros(&self) -> MutexGuard<'_, Option<ZeroBlock>> {
        self.zeros.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// CIDs of a group's leaves.
struct HashedLeaves {
    cids: Vec<Box<[u8]>>,
    /// Length of the longest leaf that is a hole.
    hole_len: Option<usize>,
}

fn read_leaf(leaf: &Leaf, block: &mut [u8]) -> Result<(), BuildError> {
    let source = &leaf.source;
    let mut done = 0;
    while done < block.len() {
        let at = leaf.offset + len64(done);
        match source.read_at(&mut block[done..], at) {
            Ok(0) => {
                // If the stamp differs as well, that error is more specific.
                source.check()?;
                return Err(BuildError::changed(&source.path, SourceChange::EndedEarly { at }));
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BuildError::reading(&source.path, error)),
        }
    }
    let end = leaf.offset + len64(block.len());
    if end == source.size() {
        let more = source.read_at(&mut [0], end).map_err(|error| BuildError::reading(&source.path, error))?;
        if more > 0 {
            source.check()?;
            return Err(BuildError::changed(&source.path, SourceChange::EndedLate));
        }
    }
    Ok(())
}
