//! Builds a CAR and its piece commitment in one pass over the source files.
//!
//! ```text
//! walk ──► group ──► read, hash leaves ──► layout (in order) ──► commitment, write
//!         4 to 16 MiB  any thread            one at a time            any thread
//! ```
//!
//! Every byte of the source is read once, directly behind the space for its CID in a buffer, hashed there for
//! the DAG and for the piece, and written from there. Nodes and header are written into their placeholders as
//! soon as they are known. The bytes of the CAR do not depend on the number of threads.
//!
//! What lives here: [`plan_car`], [`build_car`], [`build_tree`]. What does not: naming, syncing and
//! publishing of the output.

mod layout;
mod output;
mod pipeline;
mod source;
mod walk;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::assemble::layout::{LaidOut, Layout};
use crate::assemble::output::{Output, WhenFull};
use crate::assemble::pipeline::Pipeline;
use crate::assemble::walk::Walk;
use crate::build_error::{BuildError, Unsupported};
use crate::carv1::header;
use crate::cids::{PayloadCid, PieceCid};
use crate::profile::{CarOrder, DagParams};
use crate::progress::Progress;
use crate::source_tree::{Node, SourceTree, Totals, scan};
use crate::thread_budget::ThreadBudget;
use crate::units::{PaddedPieceSize, PayloadSize, PieceSizeError, len64};
use crate::unixfs::dag::Shape;
use crate::unixfs::folder::Shapes;

/// How a CAR is built.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions {
    /// Parameters of the DAG.
    pub params: DagParams,
    /// The largest piece that the CAR may need.
    pub max_piece: PaddedPieceSize,
}

/// Sizes of a CAR, calculated from metadata before any file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarPlan {
    /// Upper bound of the CAR's bytes. A CAR has fewer bytes only if blocks repeat.
    pub payload_size_max: PayloadSize,
    /// The smallest piece that holds this many bytes.
    pub padded_piece_size_max: PaddedPieceSize,
    /// Bytes to read.
    pub source_bytes: u64,
    /// Files to read.
    pub files: u64,
    /// Size and modification time of the source.
    pub source: SourceIdentity,
}

/// A CAR that was written, but is not yet durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltCar {
    /// Root in the CAR's header: the root of the DAG, or the first block with [`CarOrder::LeavesFirst`].
    pub payload_cid: PayloadCid,
    /// Commitment of the whole CAR.
    pub piece_cid: PieceCid,
    /// Bytes of the CAR.
    pub payload_size: PayloadSize,
    /// Size of its piece.
    pub padded_piece_size: PaddedPieceSize,
    /// Sections of the CAR.
    pub block_count: u64,
    /// The CID of each file in the order of the CAR, with [`CarOrder::LeavesFirst`];
    /// empty otherwise, where the files are below the root.
    pub file_cids: Vec<PayloadCid>,
    /// Size and modification time of the source.
    pub source: SourceIdentity,
}

/// Size and modification time, by which an unchanged source is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceIdentity {
    /// Bytes of all files.
    pub bytes: u64,
    /// The latest modification time of all files and folders.
    pub modified: SystemTime,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { params: DagParams::default(), max_piece: PaddedPieceSize::GIB_64 }
    }
}

/// Calculates the sizes of the CAR of a file or folder from metadata.
///
/// # Errors
///
/// [`BuildError`] about the source. [`BuildError::TooLarge`] only if no piece holds the CAR.
pub fn plan_car(input: &Path, params: &DagParams) -> Result<CarPlan, BuildError> {
    scan(input)?.plan(params)
}

/// Packs a file or folder into a CAR: writes it to `output`, an open, empty, writable file.
///
/// The budget's threads read and hash; one further thread writes. The CAR does not depend on their number.
/// The output is neither synced nor renamed: the caller does both after success. After an error the output is
/// incomplete.
///
/// # Errors
///
/// The first [`BuildError`] that occurs. [`BuildError::TooLarge`] is returned before anything is written.
pub fn build_car(
    budget: &ThreadBudget,
    input: &Path,
    output: &File,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<BuiltCar, BuildError> {
    build_tree(budget, &scan(input)?, output, options, progress)
}

/// Packs a planned tree of files into a CAR, as [`build_car`] packs a path.
///
/// Each file is opened when the walk reaches it. Its metadata is compared with the planned stamp then, and
/// again after its range was read. Disk space for the upper bound of the CAR is reserved first.
///
/// # Errors
///
/// The first [`BuildError`] that occurs. [`BuildError::SourceChanged`] names a file whose stamp differs.
/// [`BuildError::TooLarge`] is returned before anything is opened or written.
pub fn build_tree(
    budget: &ThreadBudget,
    tree: &SourceTree,
    output: &File,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<BuiltCar, BuildError> {
    let shapes = Shapes::new(tree, &options.params)?;
    let root = shapes.of(&tree.root);
    let root_cid_len = root_cid_len(tree, &options.params, root)?;
    let plan = plan(tree, &options.params, root)?;
    if plan.padded_piece_size_max > options.max_piece {
        return Err(too_large(tree, plan.payload_size_max, options.max_piece));
    }
    let when_full = if tree.totals.allocated < tree.totals.bytes { WhenFull::Try } else { WhenFull::Refuse };
    let output = Output::new(output, plan.payload_size_max.get(), when_full).map_err(output_error)?;
    let header_len = header::header_len(root_cid_len);
    let walk = Walk::new(tree, &shapes, options.params, header_len);
    let groups = plan.payload_size_max.get() / len64(walk.group_bytes()) + 1;
    let pipeline =
        Pipeline::new(options.params, walk, Layout::new(options.params, root_cid_len), &output, progress);
    pipeline.run(budget, groups);
    let (layout, piece) = pipeline.finish()?;
    let LaidOut { root, file_cids, length, blocks } = layout.finish();
    output.finish(length).map_err(output_error)?;
    let payload_size = PayloadSize::new(length);
    let piece = piece.finish(payload_size).map_err(|_| too_large(tree, payload_size, options.max_piece))?;
    Ok(BuiltCar {
        payload_cid: payload_cid(&root),
        piece_cid: piece.piece_cid,
        payload_size,
        padded_piece_size: piece.padded_piece_size,
        block_count: blocks,
        file_cids: file_cids.iter().map(|cid| payload_cid(cid)).collect(),
        source: plan.source,
    })
}

impl SourceTree {
    /// Calculates the sizes of the tree's CAR from the planned sizes; opens no file.
    ///
    /// # Errors
    ///
    /// [`BuildError::TooLarge`] if no piece holds the CAR. [`BuildError::NotSupported`] if two names in one
    /// sharded folder have the same hash.
    pub fn plan(&self, params: &DagParams) -> Result<CarPlan, BuildError> {
        plan(self, params, Shapes::new(self, params)?.of(&self.root))
    }
}

fn plan(tree: &SourceTree, params: &DagParams, root: Shape) -> Result<CarPlan, BuildError> {
    let header_len = header::header_len(root_cid_len(tree, params, root)?);
    let below = root.car_len.saturating_sub(params.section_len(root.block_len));
    let root_section = params_of_root(tree, params).section_len(root.block_len);
    let car_len = match params.order {
        CarOrder::DepthFirst => below.saturating_add(root_section),
        CarOrder::LeavesFirst => root.car_len,
    };
    let payload_size_max = PayloadSize::new(header_len.saturating_add(car_len));
    let padded_piece_size_max = payload_size_max.padded_piece_size().map_err(|_: PieceSizeError| {
        // The largest piece size that fits in 64 bits.
        let max_piece = PaddedPieceSize::new(1 << 63).expect("a power of two");
        too_large(tree, payload_size_max, max_piece)
    })?;
    let Totals { bytes, files, modified, .. } = tree.totals;
    Ok(CarPlan {
        payload_size_max,
        padded_piece_size_max,
        source_bytes: bytes,
        files,
        source: SourceIdentity { bytes, modified },
    })
}

/// The parameters for the root of the DAG.
fn params_of_root(tree: &SourceTree, params: &DagParams) -> DagParams {
    if let Node::Folder(_) = tree.root { params.of_root_folder() } else { *params }
}

/// Length of the root CID in the header: that of the DAG's root, or of the first leaf.
fn root_cid_len(tree: &SourceTree, params: &DagParams, root: Shape) -> Result<u64, BuildError> {
    match params.order {
        CarOrder::DepthFirst => Ok(params_of_root(tree, params).cid_len(root.block_len)),
        CarOrder::LeavesFirst => match tree.first_file() {
            Some(file) => Ok(params.cid_len(file.file_size().min(params.chunk_size.into()))),
            None => Err(BuildError::not_supported(&tree.label, Unsupported::NoFiles)),
        },
    }
}

fn payload_cid(cid: &[u8]) -> PayloadCid {
    PayloadCid::from_bytes(cid).expect("a CID that was made here")
}

fn too_large(tree: &SourceTree, payload_size: PayloadSize, max_piece: PaddedPieceSize) -> BuildError {
    BuildError::TooLarge { path: tree.label.clone(), payload_size, max_piece }
}

fn output_error(source: io::Error) -> BuildError {
    BuildError::Output { source }
}
