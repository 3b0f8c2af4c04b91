//! Errors of extraction.

use std::io;
use std::path::{Path, PathBuf};

use crate::carv1::header::HeaderError;
use crate::cids::{CidError, PayloadCid};
use crate::unixfs::decode::NotUnixfs;

/// Why a run ended. Files that were restored before are complete and stay.
///
/// `inside` is a path inside of a CAR, and empty for its root.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A CAR cannot be read.
    #[error("cannot read {}", car.display())]
    Unreadable {
        /// The CAR.
        car: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Not a CARv1 with one root. If the caller gives the roots: not a CARv1.
    #[error("{} is not a usable CAR", car.display())]
    Header {
        /// The CAR.
        car: PathBuf,
        /// Error of the header.
        source: HeaderError,
    },
    /// A CAR ends inside its header or a section.
    #[error("{} is cut: it ends inside the header or section that starts at byte {offset}", car.display())]
    Truncated {
        /// The CAR.
        car: PathBuf,
        /// Offset of the cut section.
        offset: u64,
    },
    /// The length of a section or of the header is malformed or beyond the limit.
    #[error("{} has a damaged section at byte {offset}: its length is malformed", car.display())]
    SectionLength {
        /// The CAR.
        car: PathBuf,
        /// Offset of the section.
        offset: u64,
    },
    /// A section does not start with a CID.
    #[error("{} has a damaged section at byte {offset}: it does not start with a CID", car.display())]
    Cid {
        /// The CAR.
        car: PathBuf,
        /// Offset of the section.
        offset: u64,
        /// Error of the CID.
        source: CidError,
    },
    /// A block is in none of the CARs.
    #[error("block {cid} is missing in {}: it belongs to {inside:?}", list(.cars))]
    MissingBlock {
        /// All searched CARs.
        cars: Vec<PathBuf>,
        /// The block.
        cid: PayloadCid,
        /// Path of the entry that the block belongs to.
        inside: PathBuf,
    },
    /// The hash of a block differs from its CID, and there is no intact copy.
    #[error("damaged block {cid} at byte {offset} of {}: it belongs to {inside:?}", car.display())]
    DamagedBlock {
        /// The CAR.
        car: PathBuf,
        /// Offset of the block's bytes, after its CID.
        offset: u64,
        /// The block.
        cid: PayloadCid,
        /// Path of the entry that the block belongs to.
        inside: PathBuf,
    },
    /// The hash function of a block's CID is unknown.
    #[error("cannot check block {cid}, which belongs to {inside:?}: unknown hash function {hash:#x}")]
    UnknownHash {
        /// The block.
        cid: PayloadCid,
        /// The multihash code.
        hash: u64,
        /// Path of the entry that the block belongs to.
        inside: PathBuf,
    },
    /// A link in a block is not a CID.
    #[error("{inside:?} has a link that is no CID")]
    Link {
        /// Path of the entry that has the link.
        inside: PathBuf,
        /// Error of the CID.
        source: CidError,
    },
    /// A block is intact, but not UnixFS.
    #[error("cannot restore {inside:?} from block {cid}")]
    NotUnixfs {
        /// Path of the entry that the block belongs to.
        inside: PathBuf,
        /// The block.
        cid: PayloadCid,
        /// Reason.
        source: NotUnixfs,
    },
    /// A name that no file may get.
    #[error("cannot restore {name:?} in {folder:?}: {reason}")]
    Name {
        /// The folder with the name.
        folder: PathBuf,
        /// The name.
        name: String,
        /// Reason.
        reason: BadName,
    },
    /// Folders, or the nodes of one file or folder, are nested beyond the limit.
    #[error("{inside:?} is nested too deeply")]
    TooDeep {
        /// Path of the entry.
        inside: PathBuf,
    },
    /// The CARs hold more than the caller allows. Nothing was written.
    #[error("the CARs hold {wanted} {what}, more than the {allowed} that are allowed")]
    TooMuch {
        /// `bytes`, or `files, folders and links`.
        what: &'static str,
        /// Count in the CARs.
        wanted: u64,
        /// Allowed count.
        allowed: u64,
    },
    /// The CARs hold more than the free space or inodes of the disk. Nothing was written.
    #[error("the CARs hold {wanted} {what}, but {} has room for {free}", output.display())]
    NoSpace {
        /// The output folder.
        output: PathBuf,
        /// `bytes`, or `files, folders and links`.
        what: &'static str,
        /// Count in the CARs, without holes.
        wanted: u64,
        /// Count that fits on the disk.
        free: u64,
    },
    /// A file or link exists already.
    #[error("{} is there already", path.display())]
    Exists {
        /// Path of the existing entry.
        path: PathBuf,
    },
    /// An entry of another kind exists: a folder instead of a file, or a link instead of a folder.
    #[error("{} is in the way: it is there, and of another kind", path.display())]
    InTheWay {
        /// Path of the existing entry.
        path: PathBuf,
    },
    /// A part of a file does not fit to its other parts.
    #[error("cannot join {}: {reason}", path.display())]
    Parts {
        /// The joined file.
        path: PathBuf,
        /// Reason.
        reason: BadParts,
    },
    /// The output cannot be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// Path of the entry.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The caller cancelled the run.
    #[error("cancelled")]
    Cancelled,
}

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// An empty name.
    #[error("the name is empty")]
    Empty,
    /// `.` or `..`.
    #[error("the name means a folder that is there already")]
    Dots,
    /// A name with a slash or a zero byte.
    #[error("a name has neither slashes nor zero bytes")]
    Separator,
    /// The name is used twice in one folder.
    #[error("the name is there twice")]
    Twice,
    /// A name of temporary files.
    #[error("names such as .x.carferry-new and .carferry-x.tmp are those of unfinished files")]
    Reserved,
    /// A link whose target is empty or has a zero byte.
    #[error("its target is no path")]
    Target,
}

/// Why parts of a file cannot be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParts {
    /// The path of the file is empty or leads out of the output.
    #[error("its path is not one inside of the output")]
    Path,
    /// A part reaches beyond the end of the file.
    #[error("a part of {bytes} bytes at byte {offset} does not fit into {file_size} bytes")]
    Outside {
        /// Offset of the part.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// Bytes of the whole file.
        file_size: u64,
    },
    /// Two parts overlap.
    #[error("the parts at bytes {first} and {second} overlap")]
    Overlap {
        /// Offset of the existing part.
        first: u64,
        /// Offset of the new part.
        second: u64,
    },
    /// The parts disagree about the size of the file.
    #[error("it has {before} bytes by other parts, {now} by this one")]
    Size {
        /// Bytes of the file by the other parts.
        before: u64,
        /// Bytes of the file by this part.
        now: u64,
    },
    /// The parts are of different states of the file.
    #[error("its parts are of different states of it")]
    States,
    /// The list of parts beside an unfinished file cannot be read.
    #[error("the list of its parts is damaged; remove it to start anew")]
    List,
}

impl ExtractError {
    pub(super) fn output(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Output { path: path.to_owned(), source: source.into() }
    }

    pub(super) fn parts(path: &Path, reason: BadParts) -> Self {
        Self::Parts { path: path.to_owned(), reason }
    }
}

fn list(cars: &[PathBuf]) -> String {
    match cars {
        [] => "no CAR".to_owned(),
        [only] => only.display().to_string(),
        [first, others @ ..] => format!("{} and {} more CARs", first.display(), others.len()),
    }
}
