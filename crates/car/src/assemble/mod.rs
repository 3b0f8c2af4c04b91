//! One pass from files to a CAR and its commitment.
//!
//! ```text
//! walk ──► group ──► read, hash leaves ──► layout (in order) ──► commitment, write
//!          8 MiB       any thread            one at a time            any thread
//! ```
//!
//! Every byte of the source is read once, straight to its place behind its CID, hashed there for the DAG and
//! for the piece, and written from there once. Nodes and header are filled into their holes as soon as they
//! are known. The bytes do not depend on the number of threads.
//!
//! What lives here: [`plan_car`], [`build_car`]. What does not: naming, syncing and publishing of the output.

mod error;
mod layout;
mod output;
mod walk;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

pub use error::{BuildError, SourceChange, Unsupported};

use crate::carv1::{header, writer};
use crate::cids::{PayloadCid, PieceCid};
use crate::piece::Scratch;
use crate::piece::assembler::PieceAssembler;
use crate::profile::DagParams;
use crate::progress::Progress;
use crate::units::{PaddedPieceSize, PayloadSize, PieceSizeError, len64};
use crate::unixfs::dag::Codec;
use crate::unixfs::dir::{Entry, Totals, scan};
use layout::{Bytes, Extent, Layout};
use output::{Buffer, Output};
use walk::{GROUP_BYTES, Group, Leaf, Walk};

/// Groups in memory for each thread: one that is filled, one that is written.
const IMAGES_PER_THREAD: usize = 2;
/// How long a thread waits for an image before it looks whether all has failed. Source: ours.
const LOOK_FOR_FAILURE: Duration = Duration::from_secs(1);

/// How a CAR is built.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions {
    /// What decides the blocks.
    pub params: DagParams,
    /// The largest piece that the CAR may need.
    pub max_piece: PaddedPieceSize,
    /// Threads that read and hash, besides one that writes; the CAR does not depend on it.
    pub threads: NonZeroUsize,
}

/// A CAR before anything is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarPlan {
    /// Bytes of the CAR at most; fewer only where blocks repeat.
    pub payload_size_max: PayloadSize,
    /// The piece that this takes.
    pub padded_piece_size_max: PaddedPieceSize,
    /// Bytes to read.
    pub source_bytes: u64,
    /// Files to read.
    pub files: u64,
    /// What the source looks like.
    pub source: SourceIdentity,
}

/// A CAR that was written, but is not yet durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltCar {
    /// Root of the DAG.
    pub payload_cid: PayloadCid,
    /// Commitment of the whole CAR.
    pub piece_cid: PieceCid,
    /// Bytes of the CAR.
    pub payload_size: PayloadSize,
    /// Size of its piece.
    pub padded_piece_size: PaddedPieceSize,
    /// Sections of the CAR.
    pub block_count: u64,
    /// What the source looked like.
    pub source: SourceIdentity,
}

/// By what a source is known to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceIdentity {
    /// Bytes of all files.
    pub bytes: u64,
    /// The latest modification time of all files and folders.
    pub modified: SystemTime,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { params: DagParams::default(), max_piece: PaddedPieceSize::GIB_64, threads: NonZeroUsize::MIN }
    }
}

/// What a CAR of a file or folder will be, from metadata alone.
///
/// # Errors
///
/// [`BuildError`] about the source; [`BuildError::TooLarge`] only where no piece holds it.
pub fn plan_car(input: &Path, params: &DagParams) -> Result<CarPlan, BuildError> {
    scan(input, params).and_then(|(root, totals)| plan(input, params, &root, totals))
}

/// Packs a file or folder into a CAR: writes it to `output`, an open, empty, writable file.
///
/// Neither syncs nor renames: on success the caller does, on an error the output is worthless.
///
/// # Errors
///
/// [`BuildError`], the first that occurs. [`BuildError::TooLarge`] comes before anything is written.
#[expect(clippy::missing_panics_doc, reason = "a CID that was made here is a CID")]
pub fn build_car(
    input: &Path,
    output: &File,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<BuiltCar, BuildError> {
    let (root, totals) = scan(input, &options.params)?;
    let plan = plan(input, &options.params, &root, totals)?;
    if plan.padded_piece_size_max > options.max_piece {
        return Err(too_large(input, plan.payload_size_max, options.max_piece));
    }
    let output = Output::new(output, plan.payload_size_max.get()).map_err(output_error)?;
    let header_len = header::header_len(options.params.cid_len(root.shape.block_len));
    let line = Line {
        params: options.params,
        walk: Mutex::new(Walk::new(input, &root, options.params, header_len)),
        order: Mutex::new(Order {
            turn: 0,
            layout: Layout::new(options.params, root.shape.block_len),
            failure: None,
        }),
        turned: Condvar::new(),
        saved: AtomicU64::new(0),
        piece: PieceAssembler::default(),
        output: &output,
        progress,
    };
    // More threads than groups would only wait.
    let groups = plan.payload_size_max.get() / len64(GROUP_BYTES) + 1;
    let threads = options.threads.get().min(usize::try_from(groups).unwrap_or(usize::MAX));
    if groups == 1 {
        line.work(None);
    } else {
        std::thread::scope(|scope| {
            let (writer, jobs) = mpsc::sync_channel(threads);
            scope.spawn(|| line.write(jobs));
            for _ in 1..threads {
                let writer = writer.clone();
                scope.spawn(|| line.work(Some(writer)));
            }
            line.work(Some(writer));
        });
    }

    let order = line.order.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = order.failure {
        return Err(failure);
    }
    let (root, end, block_count) = order.layout.finish();
    output.finish(end).map_err(output_error)?;
    let payload_size = PayloadSize::new(end);
    let piece =
        line.piece.finish(payload_size).map_err(|_| too_large(input, payload_size, options.max_piece))?;
    Ok(BuiltCar {
        payload_cid: PayloadCid::from_bytes(&root).expect("a CID that was made here"),
        piece_cid: piece.piece_cid,
        payload_size,
        padded_piece_size: piece.padded_piece_size,
        block_count,
        source: plan.source,
    })
}

fn plan(input: &Path, params: &DagParams, root: &Entry, totals: Totals) -> Result<CarPlan, BuildError> {
    let header_len = header::header_len(params.cid_len(root.shape.block_len));
    let payload_size_max = PayloadSize::new(header_len.saturating_add(root.shape.car_len));
    let padded_piece_size_max = payload_size_max.padded_piece_size().map_err(|_: PieceSizeError| {
        // The largest piece there can be at all.
        let max_piece = PaddedPieceSize::new(1 << 63).expect("a power of two");
        too_large(input, payload_size_max, max_piece)
    })?;
    Ok(CarPlan {
        payload_size_max,
        padded_piece_size_max,
        source_bytes: totals.bytes,
        files: totals.files,
        source: SourceIdentity { bytes: totals.bytes, modified: totals.modified },
    })
}

fn too_large(input: &Path, payload_size: PayloadSize, max_piece: PaddedPieceSize) -> BuildError {
    BuildError::TooLarge { path: input.to_owned(), payload_size, max_piece }
}

fn output_error(source: io::Error) -> BuildError {
    BuildError::Output { source }
}

/// What the threads of one CAR share.
struct Line<'a> {
    params: DagParams,
    walk: Mutex<Walk<'a>>,
    order: Mutex<Order>,
    turned: Condvar,
    /// Bytes that repeated blocks have saved so far.
    saved: AtomicU64,
    piece: PieceAssembler,
    output: &'a Output<'a>,
    progress: &'a dyn Progress,
}

/// What happens in the CAR's order, one group after the other.
struct Order {
    /// The group whose turn it is.
    turn: u64,
    layout: Layout,
    /// The first error; ends all threads.
    failure: Option<BuildError>,
}

/// A group that only has to be written; its buffer goes back to the thread that filled it.
struct WriteJob {
    image: Arc<Image>,
    done: mpsc::Sender<Arc<Image>>,
}

/// A group's bytes and where they go.
#[derive(Default)]
struct Image {
    buffer: Buffer,
    extents: Vec<Extent>,
}

impl Image {
    fn extents(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.extents.iter().map(|extent| match &extent.bytes {
            Bytes::Buffer(range) => (extent.offset, &self.buffer.bytes()[range.clone()]),
            Bytes::Owned(bytes) => (extent.offset, &bytes[..]),
        })
    }
}

impl Line<'_> {
    /// Works on groups until there are none; writes them itself if there is no thread for that.
    #[expect(clippy::needless_pass_by_value, reason = "the writer ends when all of these have")]
    fn work(&self, writer: Option<mpsc::SyncSender<WriteJob>>) {
        let stop = StopOnPanic(self);
        if let Err(error) = self.groups(writer.as_ref()) {
            self.fail(error);
        }
        drop(stop);
    }

    fn groups(&self, writer: Option<&mpsc::SyncSender<WriteJob>>) -> Result<(), BuildError> {
        let (done, written) = mpsc::channel();
        // One image is filled while another one is written; the one used last is still in the cache.
        let mut free: Vec<Arc<Image>> = (0..IMAGES_PER_THREAD).map(|_| Arc::default()).collect();
        let mut scratch = Scratch::default();
        while self.order().failure.is_none() {
            free.extend(written.try_iter());
            let image = free.pop().or_else(|| written.recv_timeout(LOOK_FOR_FAILURE).ok());
            let Some(mut image) = image else { continue };
            let group = self.walk.lock().unwrap_or_else(PoisonError::into_inner).next_group()?;
            let Some(group) = group else { break };
            {
                let image = Arc::get_mut(&mut image).expect("a written image has no other user");
                image.buffer.place(group.offset - self.saved.load(Ordering::Relaxed), group.bytes);
                let cids = self.read_and_hash(&group, image.buffer.bytes_mut())?;
                let Some(extents) = self.lay_in_order(&group, cids)? else { break };
                image.extents = extents;
            }
            match writer {
                Some(writer) => {
                    let job = WriteJob { image: Arc::clone(&image), done: done.clone() };
                    if writer.send(job).is_err() {
                        break; // the writer has panicked
                    }
                }
                None => self.write_image(&image)?,
            }
            for (offset, bytes) in image.extents() {
                self.piece.feed(offset, bytes, &mut scratch);
            }
            if writer.is_none() {
                free.push(image);
            }
        }
        Ok(())
    }

    /// Writes what the other threads hand over, until none of them is left.
    #[expect(clippy::needless_pass_by_value, reason = "the channel must end with this thread")]
    fn write(&self, jobs: mpsc::Receiver<WriteJob>) {
        let stop = StopOnPanic(self);
        for WriteJob { image, done } in &jobs {
            // After a failure the images still go back, so that nobody waits for them.
            if self.order().failure.is_none()
                && let Err(error) = self.write_image(&image)
            {
                self.fail(error);
            }
            // A thread that has nothing left to read does not wait for its images.
            drop(done.send(image));
        }
        drop(stop);
    }

    fn write_image(&self, image: &Image) -> Result<(), BuildError> {
        image.extents().try_for_each(|(offset, bytes)| self.output.write(offset, bytes)).map_err(output_error)
    }

    /// Reads the leaves behind their CIDs, which are returned.
    fn read_and_hash(&self, group: &Group<'_>, buffer: &mut [u8]) -> Result<Vec<Box<[u8]>>, BuildError> {
        if let Some(leaf) = group.leaves.last() {
            leaf.source.read_ahead(leaf.offset + len64(leaf.len));
        }
        for leaf in &group.leaves {
            if self.progress.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            read_leaf(leaf, &mut buffer[leaf.block()])?;
            self.progress.advance(len64(leaf.len));
        }
        let blocks: Vec<&[u8]> = group.leaves.iter().map(|leaf| &buffer[leaf.block()]).collect();
        let cids = self.params.cids(Codec::Raw, &blocks);
        for (leaf, cid) in group.leaves.iter().zip(&cids) {
            let prefix = writer::section_prefix(cid, leaf.len);
            buffer[leaf.at..leaf.block().start].copy_from_slice(&prefix);
        }
        Ok(cids)
    }

    /// Waits for the group's turn and lays it out; `None` if another thread failed.
    fn lay_in_order(
        &self,
        group: &Group<'_>,
        cids: Vec<Box<[u8]>>,
    ) -> Result<Option<Vec<Extent>>, BuildError> {
        let mut order = self
            .turned
            .wait_while(self.order(), |order| order.turn != group.turn && order.failure.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        if order.failure.is_some() {
            return Ok(None);
        }
        let extents = order.layout.lay(group, cids)?;
        let saved = group.offset + len64(group.bytes) - order.layout.end();
        self.saved.store(saved, Ordering::Relaxed);
        order.turn += 1;
        drop(order);
        self.turned.notify_all();
        Ok(Some(extents))
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: BuildError) {
        self.order().failure.get_or_insert(error);
        self.turned.notify_all();
    }
}

/// Lets the other threads end when one panics, so that the panic is seen instead of a standstill.
struct StopOnPanic<'a, 'b>(&'a Line<'b>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(BuildError::Cancelled);
        }
    }
}

fn read_leaf(leaf: &Leaf, block: &mut [u8]) -> Result<(), BuildError> {
    let source = &leaf.source;
    let mut done = 0;
    while done < block.len() {
        let at = leaf.offset + len64(done);
        match source.file.read_at(&mut block[done..], at) {
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
        let more =
            source.file.read_at(&mut [0], end).map_err(|error| BuildError::reading(&source.path, error))?;
        if more > 0 {
            source.check()?;
            return Err(BuildError::changed(&source.path, SourceChange::EndedLate));
        }
    }
    Ok(())
}
