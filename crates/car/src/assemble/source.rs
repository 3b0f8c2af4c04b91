//! A file that is being read, or a part of it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::build_error::{BuildError, SourceChange};
use crate::readahead::{expect_sequential, read_ahead};
use crate::source_tree::{SourceFile, Stamp};
use crate::sparse::{is_hole, is_sparse};
use crate::units::len64;

/// Parts above this are read ahead as far as the system does.
const READ_AHEAD_FROM: usize = 1 << 20;
/// Bytes that are read ahead of those who hash: some groups of all threads.
const READ_AHEAD: u64 = 16 << 20;

/// An open file, and how it looked when it was opened, which is as it was planned.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    pub(crate) path: PathBuf,
    /// Which of its bytes are read.
    pub(crate) range: Range<u64>,
    stamp: Stamp,
    sparse: bool,
}

impl Source {
    /// Opens a file and compares it with what was planned.
    pub(crate) fn open(source: SourceFile) -> Result<Self, BuildError> {
        let SourceFile { path, range, expected, identity } = source;
        // Without waiting: a pipe that has taken the file's name would keep the thread for ever.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open fit in an int");
        let mut options = File::options();
        let file = options.read(true).custom_flags(flags).open(&path);
        let file = file.map_err(|error| BuildError::reading(&path, error))?;
        if range.end - range.start > len64(READ_AHEAD_FROM) {
            expect_sequential(&file);
        }
        let metadata = file.metadata().map_err(|error| BuildError::reading(&path, error))?;
        if identity.is_none() && !metadata.is_file() {
            return Err(BuildError::changed(&path, SourceChange::Replaced));
        }
        let stamp = Stamp::of(&metadata);
        check_stamp(&path, Stamp { identity: identity.unwrap_or(stamp.identity), seen: expected }, stamp)?;
        Ok(Self { file, path, range, stamp, sparse: is_sparse(&metadata) })
    }

    /// Reads from a place in the file, as far as one call goes.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// Whether so many bytes from a place on were never written.
    pub(crate) fn is_hole(&self, offset: u64, length: u64) -> bool {
        self.sparse && length > 0 && is_hole(&self.file, offset, length)
    }

    /// Checks that the file still looks as it did when it was opened.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let metadata = self.file.metadata().map_err(|error| BuildError::reading(&self.path, error))?;
        check_stamp(&self.path, self.stamp, Stamp::of(&metadata))
    }

    /// Has the system read what comes after `offset`, while what is before it is worked on.
    pub(crate) fn read_ahead(&self, offset: u64) {
        let length = self.range.end.saturating_sub(offset).min(READ_AHEAD);
        if let Some(length) = NonZeroU64::new(length) {
            read_ahead(&self.file, offset, length);
        }
    }

    /// Bytes that the whole file has.
    pub(crate) fn size(&self) -> u64 {
        self.stamp.seen.size
    }
}

/// Checks that a file or folder looks as it did before.
pub(crate) fn check_stamp(path: &Path, before: Stamp, now: Stamp) -> Result<(), BuildError> {
    let change = if !before.identity.is_same_file(&now.identity) {
        SourceChange::Replaced
    } else if before.seen.size != now.seen.size {
        SourceChange::Size { before: before.seen.size, now: now.seen.size }
    } else if before.seen.modified != now.seen.modified {
        SourceChange::Modified
    } else if before.identity != now.identity {
        SourceChange::Status
    } else {
        return Ok(());
    };
    Err(BuildError::changed(path, change))
}
