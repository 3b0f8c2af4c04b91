//! Why something has no place in a source tree.

use std::ops::Range;
use std::path::PathBuf;

/// Why something was not added to a [`SourceTree`](crate::SourceTree). Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A name that no entry of a folder can have: empty, `.`, `..` or with a NUL in it.
    #[error("{at:?} has the name {name:?} in it, which no entry of a folder can have")]
    BadName {
        /// The place in the tree.
        at: String,
        /// The name.
        name: String,
    },
    /// Something else is there, or a file or symbolic link where a folder would have to be.
    #[error("{at:?} is in the tree already, as something else")]
    Taken {
        /// What is taken.
        at: String,
    },
    /// Folders nested too deeply.
    #[error("{at:?} is nested too deeply")]
    TooDeep {
        /// The place in the tree.
        at: String,
    },
    /// A part that its file does not have.
    #[error("bytes {} to {} of {}, which has {size}", range.start, range.end, path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// The part.
        range: Range<u64>,
        /// Bytes of the file.
        size: u64,
    },
    /// A path that cannot be one of a file: it ends in no name.
    #[error("{} is no path of a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}
