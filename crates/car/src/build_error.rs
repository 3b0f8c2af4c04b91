//! Why a CAR was not built, by what the caller does next.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::units::{PaddedPieceSize, PayloadSize};

/// Why a CAR was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The source is not there any more; others can go on.
    #[error("{} is gone", path.display())]
    SourceVanished {
        /// What is gone.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The source cannot be read; others can go on.
    #[error("cannot read {}", path.display())]
    SourceUnreadable {
        /// What cannot be read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The source changed while it was read; worth a retry once it is at rest.
    #[error("{} changed while it was read: {change}", path.display())]
    SourceChanged {
        /// What changed.
        path: PathBuf,
        /// How.
        change: SourceChange,
    },
    /// The source can be read, but not packed.
    #[error("cannot pack {}: {reason}", path.display())]
    NotSupported {
        /// What cannot be packed.
        path: PathBuf,
        /// Why.
        reason: Unsupported,
    },
    /// The CAR would not fit into the largest piece; nothing was written.
    #[error(
        "{} makes a CAR of up to {payload_size} bytes, which does not fit into a piece of {max_piece} bytes",
        path.display()
    )]
    TooLarge {
        /// What is too large.
        path: PathBuf,
        /// Bytes of the CAR, repeated blocks counted each time.
        payload_size: PayloadSize,
        /// The largest piece that was allowed.
        max_piece: PaddedPieceSize,
    },
    /// The output cannot be written.
    #[error("cannot write the CAR")]
    Output {
        /// What the system said.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// How a source changed while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceChange {
    /// Another size than when it was found.
    Size {
        /// Bytes when it was found.
        before: u64,
        /// Bytes now.
        now: u64,
    },
    /// Reading met the end before the size that the system reports.
    EndedEarly {
        /// Where.
        at: u64,
    },
    /// There are bytes behind the size that the system reports.
    EndedLate,
    /// Another modification time than when it was found.
    Modified,
    /// The system says that it was changed, though its size and modification time are the same.
    Status,
    /// Another file has taken its name.
    Replaced,
}

/// Why something cannot be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// Nothing to pack in an order that has files alone.
    NoFiles,
    /// Its name has the hash of another one in a folder that has to be sharded (HAMT): nobody can write that.
    SameHash,
    /// A socket, pipe or device.
    SpecialFile,
    /// A name that is not UTF-8.
    NameNotUtf8,
    /// A name that this program gives to files that are not whole.
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
