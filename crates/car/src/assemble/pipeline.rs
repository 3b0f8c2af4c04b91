//! The threads of one CAR: each takes the next group, reads and hashes it, waits for its turn to be laid out,
//! and hands it on to be written while it goes into the piece.

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

/// Groups in memory for each thread: one that is filled, one that is written.
const IMAGES_PER_THREAD: usize = 2;
/// How long a thread waits for an image before it looks whether all has failed. Source: ours.
const LOOK_FOR_FAILURE: Duration = Duration::from_secs(1);

/// What the threads of one CAR share.
pub(super) struct Pipeline<'a> {
    params: DagParams,
    walk: Mutex<Walk<'a>>,
    /// The CAR's order: one group after the other.
    sequencer: Sequencer<Layout, BuildError>,
    /// Bytes that repeated blocks have saved so far.
    saved: AtomicU64,
    /// The block of zeros that holes are made of.
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
    /// It stands in the CAR, so that it is not written again.
    laid: bool,
}

/// What one thread keeps between groups.
struct ThreadState {
    /// One image is filled while another one is written; the one used last is still in the cache.
    free: Vec<Arc<GroupBuffer>>,
    done: mpsc::Sender<Arc<GroupBuffer>>,
    written: mpsc::Receiver<Arc<GroupBuffer>>,
    scratch: Scratch,
}

/// A group that only has to be written; its buffer goes back to the thread that filled it.
struct WriteJob {
    image: Arc<GroupBuffer>,
    done: mpsc::Sender<Arc<GroupBuffer>>,
}

/// A group's bytes and where they go.
struct GroupBuffer {
    buffer: Buffer,
    extents: Vec<Extent>,
    spares: Arc<BufferPool>,
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
        self.spares.keep(std::mem::take(&mut self.buffer));
    }
}

impl ThreadState {
    fn new(spares: &Arc<BufferPool>) -> Self {
        let (done, written) = mpsc::channel();
        let image = || GroupBuffer { buffer: spares.take(), extents: Vec::new(), spares: Arc::clone(spares) };
        let free = (0..IMAGES_PER_THREAD).map(|_| Arc::new(image())).collect();
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

    /// Works until all of about so many groups are done, or the first failure.
    pub(super) fn run(&self, budget: &ThreadBudget, groups: u64) {
        let hand = || ThreadState::new(budget.spares());
        if groups <= 1 {
            budget.work(1, hand, |hand| self.step(hand, None));
            return;
        }
        thread::scope(|scope| {
            let (writer, jobs) = mpsc::sync_channel(budget.places().get());
            scope.spawn(|| self.write(jobs));
            // More threads than groups would only wait.
            let threads_max = usize::try_from(groups).unwrap_or(usize::MAX);
            budget.work(threads_max, hand, |hand| self.step(hand, Some(&writer)));
        });
    }

    /// Layout and piece, once everything went well.
    pub(super) fn finish(self) -> Result<(Layout, PieceAssembler), BuildError> {
        Ok((self.sequencer.finish()?, self.piece))
    }

    /// Deals with the next group; writes it itself if there is no thread for that.
    fn step(&self, hand: &mut ThreadState, writer: Option<&mpsc::SyncSender<WriteJob>>) -> ControlFlow<()> {
        let _end = self.sequencer.end_on_panic();
        self.next_group(hand, writer).unwrap_or_else(|error| {
            self.sequencer.fail(error);
            ControlFlow::Break(())
        })
    }

    fn next_group(
        &self,
        hand: &mut ThreadState,
        writer: Option<&mpsc::SyncSender<WriteJob>>,
    ) -> Result<ControlFlow<()>, BuildError> {
        if self.sequencer.have_ended() {
            return Ok(ControlFlow::Break(()));
        }
        hand.free.extend(hand.written.try_iter());
        let image = hand.free.pop().or_else(|| hand.written.recv_timeout(LOOK_FOR_FAILURE).ok());
        let Some(mut image) = image else { return Ok(ControlFlow::Continue(())) };
        let group = self.walk.lock().unwrap_or_else(PoisonError::into_inner).next_group()?;
        let Some(group) = group else { return Ok(ControlFlow::Break(())) };
        {
            let image = Arc::get_mut(&mut image).expect("a written image has no other user");
            image.buffer.place(group.offset - self.saved.load(Ordering::Relaxed), group.bytes);
            let read = self.read_and_hash(&group, image.buffer.bytes_mut())?;
            let Some(extents) = self.lay_in_order(&group, read) else {
                return Ok(ControlFlow::Break(()));
            };
            image.extents = extents;
        }
        match writer {
            Some(writer) => {
                let job = WriteJob { image: Arc::clone(&image), done: hand.done.clone() };
                if writer.send(job).is_err() {
                    return Ok(ControlFlow::Break(())); // the writer has panicked
                }
            }
            None => self.write_image(&image)?,
        }
        for (offset, bytes) in image.extents() {
            self.piece.feed(offset, bytes, &mut hand.scratch);
        }
        if writer.is_none() {
            hand.free.push(image);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes what the other threads hand over, until none of them is left.
    #[expect(clippy::needless_pass_by_value, reason = "the channel must end with this thread")]
    fn write(&self, jobs: mpsc::Receiver<WriteJob>) {
        let _end = self.sequencer.end_on_panic();
        for WriteJob { image, done } in &jobs {
            // After a failure the images still go back, so that nobody waits for them.
            if !self.sequencer.have_ended()
                && let Err(error) = self.write_image(&image)
            {
                self.sequencer.fail(error);
            }
            // A thread that has nothing left to read does not wait for its images.
            drop(done.send(image));
        }
    }

    fn write_image(&self, image: &GroupBuffer) -> Result<(), BuildError> {
        image.extents().try_for_each(|(offset, bytes)| self.output.write(offset, bytes)).map_err(output_error)
    }

    /// Reads the leaves behind their CIDs, which are returned.
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
                Some(zeros) if !zeros.laid => buffer[leaf.block()].fill(0),
                // Left out of the CAR: what is in the buffer goes nowhere.
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

    /// The block of so many zeros; the last one is kept, as all but the last of a file have one length.
    fn zero_block(&self, len: usize) -> ZeroBlock {
        let mut zeros = self.zeros();
        match &*zeros {
            Some(zeros) if zeros.len == len => zeros.clone(),
            _ => {
                let block = ZeroBlock { len, cid: self.params.cid(Codec::Raw, &vec![0; len]), laid: false };
                zeros.insert(block).clone()
            }
        }
    }

    /// Waits for the group's turn and lays it out; `None` if that failed, or another thread did.
    fn lay_in_order(&self, group: &Group<'_>, leaves: HashedLeaves) -> Option<Vec<Extent>> {
        let extents = self.sequencer.take(group.turn, |layout| {
            let extents = layout.lay(group, leaves.cids)?;
            let saved = group.offset + len64(group.bytes) - layout.end();
            self.saved.store(saved, Ordering::Relaxed);
            Ok(extents)
        })?;
        if let Some(zeros) = &mut *self.zeros() {
            // Only now: groups whose turn comes later find this block in the CAR.
            let once = self.params.order == CarOrder::DepthFirst;
            zeros.laid |= once && leaves.hole_len == Some(zeros.len);
        }
        Some(extents)
    }

    fn zeros(&self) -> MutexGuard<'_, Option<ZeroBlock>> {
        self.zeros.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leaves of a group once they are in its buffer.
struct HashedLeaves {
    cids: Vec<Box<[u8]>>,
    /// Length of the longest one that is a hole.
    hole_len: Option<usize>,
}

fn read_leaf(leaf: &Leaf, block: &mut [u8]) -> Result<(), BuildError> {
    let source = &leaf.source;
    let mut done = 0;
    while done < block.len() {
        let at = leaf.offset + len64(done);
        match source.read_at(&mut block[done..], at) {
            Ok(0) => {
                // The size tells better what happened, if it has changed.
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
