//! Errors of adding files, folders and links to a source tree.

use std::ops::Range;
use std::path::PathBuf;

/// Why an entry was not added to a [`SourceTree`](crate::SourceTree). The tree is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A name that no entry of a folder can have: empty, `.`, `..` or with a NUL in it.
    #[error("{at:?} has the name {name:?} in it, which no entry of a folder can have")]
    BadName {
        /// Path inside the tree.
        at: String,
        /// The name.
        name: String,
    },
    /// Another entry has the path, or a file or symbolic link is at a path that must be a folder.
    #[error("{at:?} is in the tree already, as something else")]
    Taken {
        /// Path inside the tree.
        at: String,
    },
    /// Folders nested too deeply.
    #[error("{at:?} is nested too deeply")]
    TooDeep {
        /// Path inside the tree.
        at: String,
    },
    /// A range beyond the end of its file.
    #[error("bytes {} to {} of {}, which has {size}", range.start, range.end, path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// The range.
        range: Range<u64>,
        /// Bytes of the file.
        size: u64,
    },
    /// A path without a file name at its end.
    #[error("{} is no path of a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}
