//! Verifies a CAR in one pass: frames, hashes, root, links and piece commitment.
//!
//! ```text
//! reader ──► batch ──► hash blocks, commitment ──► graph (in order)
//! one at a time           any thread               one at a time
//! ```
//!
//! Only the CIDs stay in memory, not the blocks. Links are followed in dag-pb and dag-cbor blocks. Blocks of
//! other codecs that may have links are counted.

mod graph;

use std::io;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::carv1::header::HeaderError;
use crate::carv1::reader::{Batch, READ_BYTES, ReadError, Reader, Section};
use crate::cids::{
    CidError, HASH_BLAKE2B_256, HASH_IDENTITY, HASH_SHA2_256, PayloadCid, PieceCid, split_cid,
};
use crate::kernels::hash_blocks;
use crate::piece::Scratch;
use crate::piece::assembler::PieceAssembler;
use crate::profile::BlockHash;
use crate::progress::Progress;
use crate::readahead::expect_sequential;
use crate::regular::open_regular;
use crate::sequencer::Sequencer;
use crate::thread_budget::ThreadBudget;
use crate::units::{PaddedPieceSize, PayloadSize, PieceSizeError, UnpaddedPieceSize, len64};
use crate::verify::graph::Graph;

/// A CAR that passed all checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCar {
    /// The one root.
    pub payload_cid: PayloadCid,
    /// Commitment of the whole file.
    pub piece_cid: PieceCid,
    /// Bytes of the CAR.
    pub payload_size: PayloadSize,
    /// Zero bytes that pad the file to the size of its piece.
    pub padding_bytes: u64,
    /// Size of its piece.
    pub padded_piece_size: PaddedPieceSize,
    /// Sections of the CAR.
    pub block_count: u64,
    /// Sections that no followed link reaches from the root: suspicious, but not an error.
    pub unreachable_blocks: u64,
    /// Blocks of codecs that may have links; their links were not followed.
    pub unfollowed_blocks: u64,
    /// Linked blocks inside their CIDs without a section of their own. Every reader has these blocks, but
    /// Lotus writes sections for them, so the CAR may have lost its end.
    pub inlined_without_section: u64,
}

/// The first error of a CAR, with its offset.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Not a CARv1 with one root.
    #[error("not a usable CAR: bad header at byte 0")]
    Header(#[source] HeaderError),
    /// The file ends too early.
    #[error("the CAR is cut: it ends inside the header or section that starts at byte {offset}")]
    Truncated {
        /// Offset of the cut section.
        offset: u64,
    },
    /// A section's length is malformed or beyond the limit.
    #[error("damaged section at byte {offset}: {}", impossible_length(*length))]
    SectionLength {
        /// Offset of the section.
        offset: u64,
        /// The length, if it is a number.
        length: Option<u64>,
    },
    /// A section of length zero: padding that does not fill the file up to a piece.
    #[error("empty section at byte {offset}: what follows are not zeros up to the size of a piece")]
    EmptySection {
        /// Offset of the section.
        offset: u64,
    },
    /// A section does not start with a CID.
    #[error("damaged section at byte {offset}: it does not start with a CID")]
    Cid {
        /// Offset of the section.
        offset: u64,
        /// Error of the CID.
        source: CidError,
    },
    /// The hash function of a block's CID is unknown, so the block cannot be checked.
    #[error("cannot check block {cid} at byte {offset}: unknown hash function {hash:#x}")]
    UnknownHash {
        /// Offset of the section.
        offset: u64,
        /// The block's CID.
        cid: PayloadCid,
        /// The multihash code.
        hash: u64,
    },
    /// The hash of a block differs from its CID.
    #[error("damaged block {cid} at byte {offset}: its bytes have another hash")]
    WrongHash {
        /// Offset of the section.
        offset: u64,
        /// The block's CID.
        cid: PayloadCid,
    },
    /// A block that should have links cannot be decoded.
    #[error("malformed block {cid} at byte {offset}: not {format}")]
    MalformedBlock {
        /// Offset of the section.
        offset: u64,
        /// The block's CID.
        cid: PayloadCid,
        /// Format by the codec of its CID.
        format: &'static str,
    },
    /// A block that is linked to is not in the CAR.
    #[error("incomplete CAR: block {cid}, which the block at byte {offset} links to, is missing")]
    MissingBlock {
        /// Offset of the section with the link.
        offset: u64,
        /// The missing block's CID.
        cid: PayloadCid,
    },
    /// The root is not in the CAR.
    #[error("incomplete CAR: its root {cid} is missing")]
    MissingRoot {
        /// The root.
        cid: PayloadCid,
    },
    /// The root is the CID of zero bytes and no block of the CAR: the tool that wrote the CAR left its
    /// placeholder in the header.
    #[error("the root {cid} is a placeholder: the CID of no bytes, which no block of the CAR has")]
    PlaceholderRoot {
        /// The root.
        cid: PayloadCid,
    },
    /// No piece holds a file of this size.
    #[error(transparent)]
    Size(#[from] PieceSizeError),
    /// The caller cancelled the operation.
    #[error("cancelled")]
    Cancelled,
}

impl VerifyError {
    /// Offset of the error in the file, for errors of the file's content.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Header(_) | Self::MissingRoot { .. } | Self::PlaceholderRoot { .. } => Some(0),
            Self::Truncated { offset }
            | Self::SectionLength { offset, .. }
            | Self::EmptySection { offset }
            | Self::Cid { offset, .. }
            | Self::UnknownHash { offset, .. }
            | Self::WrongHash { offset, .. }
            | Self::MalformedBlock { offset, .. }
            | Self::MissingBlock { offset, .. } => Some(*offset),
            Self::Unreadable { .. } | Self::Size(_) | Self::Cancelled => None,
        }
    }
}

fn impossible_length(length: Option<u64>) -> String {
    match length {
        Some(length) => format!("a length of {length} bytes, more than any section has"),
        None => "its length is malformed".to_owned(),
    }
}

/// Verifies a CAR and computes its piece commitment: one root with its block, every block's hash, every
/// dag-pb and dag-cbor link.
///
/// Zeros that pad the file to the size of a piece belong to the piece, and are counted.
///
/// # Errors
///
/// The first [`VerifyError`] in the order of the file. Missing blocks are reported after the whole file was
/// read.
pub fn verify_car(
    budget: &ThreadBudget,
    path: &Path,
    progress: &dyn Progress,
) -> Result<VerifiedCar, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable { path: path.to_owned(), source };
    let file = open_regular(path).map_err(unreadable)?;
    expect_sequential(&file);
    let length = file.metadata().map_err(unreadable)?.len();
    // More threads than batches would only wait. If the file grows later, there are too few threads.
    let batches = usize::try_from(length.div_ceil(len64(READ_BYTES))).unwrap_or(usize::MAX);
    verify(budget, batches, file, path, progress)
}

/// Reads the root from a CAR's header; checks nothing else.
///
/// # Errors
///
/// [`VerifyError`] about the file or its header.
pub fn read_car_root(path: &Path) -> Result<PayloadCid, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable { path: path.to_owned(), source };
    let file = open_regular(path).map_err(unreadable)?;
    let (_, root) = Reader::open(file.take(HEADER_READ_BYTES)).map_err(|error| at(0, path, error))?;
    Ok(root)
}

/// Bytes read for a header: enough for every header with one root.
const HEADER_READ_BYTES: u64 = 64 << 10;

fn verify(
    budget: &ThreadBudget,
    threads_max: usize,
    source: impl Read + Send,
    path: &Path,
    progress: &dyn Progress,
) -> Result<VerifiedCar, VerifyError> {
    let (reader, payload_cid) = Reader::open(source).map_err(|error| at(0, path, error))?;
    let mut graph = Graph::default();
    let root = graph.link(payload_cid.as_bytes(), 0)?;
    graph.reach(root);
    let check = Check {
        path,
        progress,
        reader: Mutex::new(reader),
        sequencer: Sequencer::new(Found { graph, block_count: 0, file_bytes: 0, padding_from: None }),
        piece: PieceAssembler::default(),
    };
    budget.work(threads_max, ThreadState::default, |thread| check.step(thread));
    let Found { graph, block_count, file_bytes, padding_from } = check.sequencer.finish()?;
    let payload_bytes = padding_from.unwrap_or(file_bytes);
    if padding_from.is_some() && UnpaddedPieceSize::new(file_bytes).is_err() {
        return Err(VerifyError::EmptySection { offset: payload_bytes });
    }
    let unfollowed_blocks = graph.unfollowed();
    let (unreachable_blocks, inlined_without_section) = graph.finish(root, &payload_cid)?;
    let piece = check.piece.finish(PayloadSize::new(file_bytes))?;
    Ok(VerifiedCar {
        payload_cid,
        piece_cid: piece.piece_cid,
        payload_size: PayloadSize::new(payload_bytes),
        padding_bytes: file_bytes - payload_bytes,
        padded_piece_size: piece.padded_piece_size,
        block_count,
        unreachable_blocks,
        unfollowed_blocks,
        inlined_without_section,
    })
}

/// State that the threads of one verification share.
struct Check<'a, R> {
    path: &'a Path,
    progress: &'a dyn Progress,
    reader: Mutex<Reader<R>>,
    sequencer: Sequencer<Found, VerifyError>,
    piece: PieceAssembler,
}

/// Results for the CAR so far.
struct Found {
    graph: Graph,
    block_count: u64,
    /// Bytes of the file that were read.
    file_bytes: u64,
    /// Offset of the padding zeros after the CAR.
    padding_from: Option<u64>,
}

/// Buffers that a thread keeps between batches.
#[derive(Default)]
struct ThreadState {
    batch: Batch,
    scratch: Scratch,
}

impl<R: Read> Check<'_, R> {
    /// Checks the next batch.
    fn step(&self, thread: &mut ThreadState) -> ControlFlow<()> {
        let _end = self.sequencer.end_on_panic();
        if self.sequencer.has_ended() {
            return ControlFlow::Break(());
        }
        if self.progress.is_cancelled() {
            self.sequencer.fail(VerifyError::Cancelled);
            return ControlFlow::Break(());
        }
        let ThreadState { batch, scratch } = thread;
        if !self.reader.lock().unwrap_or_else(PoisonError::into_inner).next(batch) {
            return ControlFlow::Break(());
        }
        let verdicts = check_hashes(batch);
        self.piece.feed(batch.offset, batch.bytes(), scratch);
        self.progress.advance(len64(batch.bytes().len()));
        let failure = batch.failure.take();
        let in_order = self.sequencer.run_in_order(batch.number, |found| {
            for (section, verdict) in batch.sections().zip(verdicts) {
                verdict?;
                found.graph.add(&section)?;
            }
            found.block_count += len64(batch.sections().len());
            found.file_bytes = batch.end();
            found.padding_from = batch.padding_from;
            let offset = batch.padding_from.unwrap_or(batch.end());
            failure.map_or(Ok(()), |error| Err(at(offset, self.path, error)))
        });
        if in_order.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// Entry points for the fuzz targets.
pub mod fuzz {
    use std::path::Path;

    use super::{ThreadBudget, VerifiedCar, VerifyError};
    use crate::dag_pb;
    use crate::progress::NoProgress;

    /// Verifies bytes as a CAR.
    #[expect(clippy::missing_errors_doc, reason = "for fuzzing alone")]
    pub fn verify(bytes: &[u8]) -> Result<VerifiedCar, VerifyError> {
        super::verify(&ThreadBudget::alone(), 1, bytes, Path::new("the fuzzer's bytes"), &NoProgress)
    }

    /// Counts the links of a dag-pb block.
    pub fn links(bytes: &[u8]) -> Option<usize> {
        dag_pb::links(bytes).ok().map(|links| links.len())
    }
}

fn at(offset: u64, path: &Path, error: ReadError) -> VerifyError {
    match error {
        ReadError::Io(source) => VerifyError::Unreadable { path: path.to_owned(), source },
        ReadError::Truncated => VerifyError::Truncated { offset },
        ReadError::BadLength => VerifyError::SectionLength { offset, length: None },
        ReadError::TooLong(length) => VerifyError::SectionLength { offset, length: Some(length) },
        ReadError::Empty => VerifyError::EmptySection { offset },
        ReadError::Header(source) => VerifyError::Header(source),
        ReadError::Cid(source) => VerifyError::Cid { offset, source },
    }
}

fn named(cid: &[u8]) -> PayloadCid {
    PayloadCid::from_bytes(cid).expect("the reader split this CID off")
}

/// Checks the hash of each section. All blocks of one hash function are hashed together.
fn check_hashes(batch: &Batch) -> Vec<Result<(), VerifyError>> {
    let digests = [BlockHash::Blake2b256, BlockHash::Sha2_256].map(|hash| {
        let is_wanted = |section: &Section<'_>| {
            split_cid(section.cid).is_ok_and(|(parts, _)| block_hash(parts.hash) == Some(hash))
        };
        let blocks: Vec<&[u8]> = batch.sections().filter(is_wanted).map(|section| section.block).collect();
        hash_blocks(hash, &blocks).into_iter()
    });
    let [mut blake2b, mut sha2] = digests;
    let check = |section: Section<'_>| {
        let offset = section.offset;
        let (parts, _) = split_cid(section.cid).map_err(|source| VerifyError::Cid { offset, source })?;
        let matches = match block_hash(parts.hash) {
            Some(BlockHash::Blake2b256) => blake2b.next().is_some_and(|digest| parts.digest == digest),
            Some(BlockHash::Sha2_256) => sha2.next().is_some_and(|digest| parts.digest == digest),
            None if parts.hash == HASH_IDENTITY => parts.digest == section.block,
            None => {
                return Err(VerifyError::UnknownHash { offset, cid: named(section.cid), hash: parts.hash });
            }
        };
        if matches { Ok(()) } else { Err(VerifyError::WrongHash { offset, cid: named(section.cid) }) }
    };
    batch.sections().map(check).collect()
}

/// The hash function of a multihash code, if this crate has it.
pub(crate) fn block_hash(code: u64) -> Option<BlockHash> {
    match code {
        HASH_BLAKE2B_256 => Some(BlockHash::Blake2b256),
        HASH_SHA2_256 => Some(BlockHash::Sha2_256),
        _ => None,
    }
}
