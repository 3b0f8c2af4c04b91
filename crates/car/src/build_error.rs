//! Errors of building a CAR.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::units::{PaddedPieceSize, PayloadSize};

/// Why a CAR was not built. The caller decides by the variant how to continue.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The source no longer exists. Other sources are not affected.
    #[error("{} is gone", path.display())]
    SourceVanished {
        /// Path of the source.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The source cannot be read. Other sources are not affected.
    #[error("cannot read {}", path.display())]
    SourceUnreadable {
        /// Path of the source.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The source changed while it was read. A retry makes sense once nothing writes to it.
    #[error("{} changed while it was read: {change}", path.display())]
    SourceChanged {
        /// Path of the source.
        path: PathBuf,
        /// Kind of the change.
        change: SourceChange,
    },
    /// The source can be read, but not packed.
    #[error("cannot pack {}: {reason}", path.display())]
    NotSupported {
        /// Path of the source.
        path: PathBuf,
        /// Reason.
        reason: Unsupported,
    },
    /// The CAR does not fit into the largest allowed piece. Nothing was written.
    #[error(
        "{} makes a CAR of up to {payload_size} bytes, which does not fit into a piece of {max_piece} bytes",
        path.display()
    )]
    TooLarge {
        /// Path of the source.
        path: PathBuf,
        /// Upper bound of the CAR's bytes: repeated blocks are counted each time.
        payload_size: PayloadSize,
        /// Largest allowed piece.
        max_piece: PaddedPieceSize,
    },
    /// The output cannot be written.
    #[error("cannot write the CAR")]
    Output {
        /// Error of the operating system.
        source: io::Error,
    },
    /// The caller cancelled the operation.
    #[error("cancelled")]
    Cancelled,
}

/// How a source changed while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceChange {
    /// Its size differs from the planned one.
    Size {
        /// Planned bytes.
        before: u64,
        /// Present bytes.
        now: u64,
    },
    /// Reading met the end of the file before the size that the system reports.
    EndedEarly {
        /// Byte offset of the end.
        at: u64,
    },
    /// The file has bytes after the size that the system reports.
    EndedLate,
    /// Its modification time differs from the planned one.
    Modified,
    /// Its status change time (ctime) differs; size and modification time are the same.
    Status,
    /// Another file has its name.
    Replaced,
}

/// Why something cannot be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// The tree has no file, and the CAR order packs only files.
    NoFiles,
    /// Its name has the same hash as another name in a sharded folder (HAMT), which has no encoding.
    SameHash,
    /// A socket, pipe or device.
    SpecialFile,
    /// A name that is not UTF-8.
    NameNotUtf8,
    /// A name that this program gives to its temporary files.
    ReservedName,
    /// Folders nested too deeply.
    TooDeep,
}

impl BuildError {
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            // A folder that became a file takes its contents away as well.
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::StaleNetworkFileHandle => Self::SourceVanished { path, source },
            _ => Self::SourceUnreadable { path, source },
        }
    }

    pub(crate) fn changed(path: &Path, change: SourceChange) -> Self {
        Self::SourceChanged { path: path.to_owned(), change }
    }

    pub(crate) fn not_supported(path: &Path, reason: Unsupported) -> Self {
        Self::NotSupported { path: path.to_owned(), reason }
    }
}

impl fmt::Display for SourceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { before, now } => write!(f, "{before} bytes before, {now} now"),
            Self::EndedEarly { at } => write!(f, "it ended at byte {at}"),
            Self::EndedLate => f.write_str("it has more bytes than its size says"),
            Self::Modified => f.write_str("its modification time is another"),
            Self::Status => f.write_str(
                "its status change time (ctime) is another: it was written and its time put back, or its mode, \
                 owner or links were changed",
            ),
            Self::Replaced => f.write_str("another file has taken its name"),
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFiles => f.write_str("there is no file in it"),
            Self::SameHash => f.write_str("another name in its folder has the same hash"),
            Self::SpecialFile => f.write_str("neither a file, a folder nor a symbolic link"),
            Self::NameNotUtf8 => f.write_str("its name is not UTF-8"),
            Self::ReservedName => f.write_str(
                "its name is that of an unfinished file of this program, and `extract` would refuse it",
            ),
            Self::TooDeep => f.write_str("folders are nested too deeply"),
        }
    }
}
