//! An open source file: reads a range of it and checks that the file does not change meanwhile.

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

/// Larger ranges are announced to the kernel as sequential.
const SEQUENTIAL_BYTES_MIN: usize = 1 << 20;
/// Bytes that the kernel is asked to read ahead of the hashing threads: some groups of all threads.
const READ_AHEAD: u64 = 16 << 20;

/// An open file, and its stamp when it was opened, which agrees with the planned one.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    pub(crate) path: PathBuf,
    /// The bytes that are packed.
    pub(crate) range: Range<u64>,
    stamp: Stamp,
    sparse: bool,
}

impl Source {
    /// Opens a file and compares its stamp with the planned one.
    pub(crate) fn open(source: SourceFile) -> Result<Self, BuildError> {
        let SourceFile { path, range, expected, identity } = source;
        // Non-blocking: a pipe that has replaced the file would block the thread for ever.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open fit in an int");
        let mut options = File::options();
        let file = options.read(true).custom_flags(flags).open(&path);
        let file = file.map_err(|error| BuildError::reading(&path, error))?;
        if range.end - range.start > len64(SEQUENTIAL_BYTES_MIN) {
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

    /// Reads at an offset with one system call; returns how many bytes were read.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// Whether the `length` bytes from `offset` on are a hole of a sparse file.
    pub(crate) fn is_hole(&self, offset: u64, length: u64) -> bool {
        self.sparse && length > 0 && is_hole(&self.file, offset, length)
    }

    /// Checks that the file's stamp is the same as when it was opened.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let metadata = self.file.metadata().map_err(|error| BuildError::reading(&self.path, error))?;
        check_stamp(&self.path, self.stamp, Stamp::of(&metadata))
    }

    /// Asks the kernel to prefetch past `offset`.
    pub(crate) fn read_ahead(&self, offset: u64) {
        let length = self.range.end.saturating_sub(offset).min(READ_AHEAD);
        if let Some(length) = NonZeroU64::new(length) {
            read_ahead(&self.file, offset, length);
        }
    }

    /// Bytes of the whole file.
    pub(crate) fn size(&self) -> u64 {
        self.stamp.seen.size
    }
}

/// Compares two stamps of a file or folder.
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
