//! Why nothing more is restored, by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

use crate::carv1::header::HeaderError;
use crate::cids::{CidError, PayloadCid};
use crate::unixfs::decode::NotUnixfs;

/// Why a run ended. What was restored before it is whole and stays.
///
/// Paths called `inside` are those inside of a CAR, and empty for its root.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A CAR cannot be read.
    #[error("cannot read {}", car.display())]
    Unreadable {
        /// The CAR.
        car: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a CARv1 with one root; with roots from the caller, not a CARv1.
    #[error("{} is not a usable CAR", car.display())]
    Header {
        /// The CAR.
        car: PathBuf,
        /// What is wrong with its header.
        source: HeaderError,
    },
    /// A CAR ends inside its header or a section.
    #[error("{} is cut: it ends inside the header or section that starts at byte {offset}", car.display())]
    Truncated {
        /// The CAR.
        car: PathBuf,
        /// Where the cut section starts.
        offset: u64,
    },
    /// A section's length, or that of the header, cannot be true.
    #[error("{} has a damaged section at byte {offset}: its length is malformed", car.display())]
    SectionLength {
        /// The CAR.
        car: PathBuf,
        /// Where the section starts.
        offset: u64,
    },
    /// A section does not start with a CID.
    #[error("{} has a damaged section at byte {offset}: it does not start with a CID", car.display())]
    Cid {
        /// The CAR.
        car: PathBuf,
        /// Where the section starts.
        offset: u64,
        /// What is wrong with the CID.
        source: CidError,
    },
    /// A block is in none of the CARs.
    #[error("block {cid} is missing in {}: it belongs to {inside:?}", list(.cars))]
    MissingBlock {
        /// Every CAR that was searched.
        cars: Vec<PathBuf>,
        /// The block.
        cid: PayloadCid,
        /// What it belongs to.
        inside: PathBuf,
    },
    /// A block is not what its CID says, and there is no other copy of it.
    #[error("damaged block {cid} at byte {offset} of {}: it belongs to {inside:?}", car.display())]
    DamagedBlock {
        /// The CAR.
        car: PathBuf,
        /// Where in it the block's bytes start, behind its CID.
        offset: u64,
        /// The block.
        cid: PayloadCid,
        /// What it belongs to.
        inside: PathBuf,
    },
    /// A block cannot be checked.
    #[error("cannot check block {cid}, which belongs to {inside:?}: unknown hash function {hash:#x}")]
    UnknownHash {
        /// The block.
        cid: PayloadCid,
        /// The multihash code.
        hash: u64,
        /// What it belongs to.
        inside: PathBuf,
    },
    /// A link in a block is no CID.
    #[error("{inside:?} has a link that is no CID")]
    Link {
        /// What has the link.
        inside: PathBuf,
        /// What is wrong with it.
        source: CidError,
    },
    /// A block is whole, but not what files and folders are made of.
    #[error("cannot restore {inside:?} from block {cid}")]
    NotUnixfs {
        /// What it belongs to.
        inside: PathBuf,
        /// The block.
        cid: PayloadCid,
        /// Why not.
        source: NotUnixfs,
    },
    /// A name that cannot be given to a file, or not without harm.
    #[error("cannot restore {name:?} in {folder:?}: {reason}")]
    Name {
        /// The folder with the name.
        folder: PathBuf,
        /// The name.
        name: String,
        /// Why not.
        reason: BadName,
    },
    /// Folders, or the nodes of one file or folder, nested more deeply than any real ones.
    #[error("{inside:?} is nested too deeply")]
    TooDeep {
        /// Where.
        inside: PathBuf,
    },
    /// More than the caller allows. Nothing was written.
    #[error("the CARs hold {wanted} {what}, more than the {allowed} that are allowed")]
    TooMuch {
        /// `bytes`, or `files, folders and links`.
        what: &'static str,
        /// How many there are.
        wanted: u64,
        /// How many are allowed.
        allowed: u64,
    },
    /// More than the disk has room for. Nothing was written.
    #[error("the CARs hold {wanted} {what}, but {} has room for {free}", output.display())]
    NoRoom {
        /// The folder that is written to.
        output: PathBuf,
        /// `bytes`, or `files, folders and links`.
        what: &'static str,
        /// How many there are, holes not counted.
        wanted: u64,
        /// How many there is room for.
        free: u64,
    },
    /// A file or link is there already.
    #[error("{} is there already", path.display())]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// Something of another kind is there: a folder instead of a file, or a link instead of a folder.
    #[error("{} is in the way: it is there, and of another kind", path.display())]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// A part of a file does not go together with its other parts.
    #[error("cannot join {}: {reason}", path.display())]
    Parts {
        /// The file that was to be joined.
        path: PathBuf,
        /// Why not.
        reason: BadParts,
    },
    /// The output cannot be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No name at all.
    #[error("the name is empty")]
    Empty,
    /// `.` or `..`.
    #[error("the name means a folder that is there already")]
    Dots,
    /// It has a slash or a zero byte in it.
    #[error("a name has neither slashes nor zero bytes")]
    Separator,
    /// Twice in one folder.
    #[error("the name is there twice")]
    Twice,
    /// A name that unfinished files have.
    #[error("names such as .x.carferry-new and .carferry-x.tmp are those of unfinished files")]
    Reserved,
    /// A link to nowhere, or with a zero byte.
    #[error("its target is no path")]
    Target,
}

/// Why parts of a file do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParts {
    /// The name of the file leads out of the output, or nowhere.
    #[error("its path is not one inside of the output")]
    Path,
    /// A part reaches beyond the end of the file.
    #[error("a part of {bytes} bytes at byte {offset} does not fit into {file_size} bytes")]
    Outside {
        /// Where the part starts.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// Bytes of the whole file.
        file_size: u64,
    },
    /// Two parts want the same bytes.
    #[error("the parts at bytes {first} and {second} overlap")]
    Overlap {
        /// Where one starts.
        first: u64,
        /// Where the other starts.
        second: u64,
    },
    /// The parts disagree about the size of the file.
    #[error("it has {before} bytes by other parts, {now} by this one")]
    Size {
        /// Bytes of the file so far.
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
