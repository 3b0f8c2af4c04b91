//! Output files: written under a temporary name in their folder, and renamed when they are complete.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::extract::output_dir::{Folder, is_file, is_folder, size_of};
use crate::extract::{Existing, ExtractError, OtherState, Outcome};
use crate::kernels::is_zero;
use crate::sparse::is_hole;
use crate::temporary_name::{Beside, beside};
use crate::units::len64;

/// Bytes of a file that are compared at a time. Chosen: the usual length of a leaf.
const COMPARE_BYTES: u64 = 1 << 20;

/// The output of one file of a CAR.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) folder: Arc<Folder>,
    pub(super) name: Box<[u8]>,
    pub(super) file: File,
    /// Path of the file inside of the CAR.
    pub(super) inside: PathBuf,
    /// Offset of the bytes in the output file: zero unless they are a part of it.
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) purpose: Purpose,
    /// For a part: whether existing parts are of another state.
    pub(super) other_state: Option<OtherState>,
    /// For a part: path of the whole file inside of the output, and its size.
    pub(super) part_of: Option<(PathBuf, u64)>,
    /// Bytes that were written or compared.
    done: AtomicU64,
    differs: AtomicBool,
    /// There is no temporary file to remove.
    is_settled: AtomicBool,
}

/// The state of a file when it was split into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// Modification time, if known.
    pub(super) mtime_nanos: Option<i64>,
    pub(super) file_size: u64,
}

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// They are written as a whole file.
    Whole(Existing),
    /// They are written as a part of a file in this state.
    Part {
        state: State,
        /// Whether unwritten ranges read as zeros.
        reads_as_zeros: bool,
    },
    /// They are compared with the existing file.
    Compare,
}

/// A started file, or the outcome of a file that needs no bytes.
#[derive(Debug)]
pub(super) enum Started {
    Target(Target),
    Settled(Outcome),
}

/// Starts a whole file, before its first byte.
pub(super) fn start_whole(
    folder: Arc<Folder>,
    name: &[u8],
    inside: &Path,
    size: u64,
    existing: Existing,
) -> Result<Started, ExtractError> {
    let temporary = beside(name, Beside::New);
    let failed = |error: Errno| ExtractError::output(&folder.path_of(&temporary), error);
    // A killed run may have left its temporary file. It is removed even if the existing file is kept.
    remove(&folder, &temporary)?;
    if let Some(settled) = check_existing(&folder, name, inside, 0, size, size, existing)? {
        return Ok(settled);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&folder.fd, &*temporary, flags, Mode::from_raw_mode(0o666)).map_err(failed)?;
    let target = Target::new(folder, name, file.into(), inside, 0, size, Purpose::Whole(existing));
    if size > 0 {
        let path = target.path();
        target.file.set_len(size).map_err(|error| ExtractError::output(&path, error))?;
    }
    Ok(Started::Target(target))
}

/// Decides about a file, or a part of a file, whose path exists. Returns `None` if it is to be written.
pub(super) fn check_existing(
    folder: &Arc<Folder>,
    name: &[u8],
    inside: &Path,
    start: u64,
    size: u64,
    file_size: u64,
    existing: Existing,
) -> Result<Option<Started>, ExtractError> {
    let Some(stat) = folder.stat(name)? else { return Ok(None) };
    let path = folder.path_of(name);
    match existing {
        _ if is_folder(&stat) => Err(ExtractError::InTheWay { path }),
        Existing::Refuse => Err(ExtractError::Exists { path }),
        Existing::Replace => Ok(None),
        Existing::Keep if !is_file(&stat) || size_of(&stat) != file_size => {
            Ok(Some(Started::Settled(Outcome::Different)))
        }
        Existing::Keep => {
            // Non-blocking: a pipe may have replaced the file.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(&folder.fd, name, flags, Mode::empty());
            let file = file.map_err(|error| ExtractError::output(&path, error))?.into();
            let folder = Arc::clone(folder);
            let target = Target::new(folder, name, file, inside, start, size, Purpose::Compare);
            Ok(Some(Started::Target(target)))
        }
    }
}

impl Target {
    pub(super) fn new(
        folder: Arc<Folder>,
        name: &[u8],
        file: File,
        inside: &Path,
        start: u64,
        size: u64,
        purpose: Purpose,
    ) -> Self {
        let (done, differs) = (AtomicU64::new(0), AtomicBool::new(false));
        let is_settled = AtomicBool::new(!matches!(purpose, Purpose::Whole(_)));
        let (name, inside) = (name.into(), inside.to_owned());
        let (other_state, part_of) = (None, None);
        Self {
            folder,
            name,
            file,
            inside,
            start,
            size,
            purpose,
            other_state,
            part_of,
            done,
            differs,
            is_settled,
        }
    }

    /// Final path of the file.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path_of(&self.name)
    }

    /// Writes or compares checked bytes.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ExtractError> {
        let offset = self.start + at;
        let done = match self.purpose {
            Purpose::Compare => self.compare(offset, bytes),
            _ => self.file.write_all_at(bytes, offset),
        };
        done.map_err(|error| ExtractError::output(&self.path(), error))
    }

    /// Writes or compares zeros. A whole file gets a hole.
    pub(super) fn write_zeros(&self, at: u64, length: u64) -> Result<(), ExtractError> {
        let offset = self.start + at;
        let done = match self.purpose {
            Purpose::Whole(_) | Purpose::Part { reads_as_zeros: true, .. } => Ok(()),
            Purpose::Part { .. } => chunks(offset, length)
                .try_for_each(|(offset, length)| self.file.write_all_at(&vec![0; length], offset)),
            Purpose::Compare if is_hole(&self.file, offset, length) => Ok(()),
            Purpose::Compare => chunks(offset, length).try_for_each(|(offset, length)| {
                if is_hole(&self.file, offset, len64(length)) {
                    Ok(())
                } else {
                    self.compare_zeros(offset, length)
                }
            }),
        };
        done.map_err(|error| ExtractError::output(&self.path(), error))
    }

    /// Counts written or compared bytes. Returns `true` if they were the last.
    pub(super) fn advance(&self, length: u64) -> bool {
        self.done.fetch_add(length, Ordering::AcqRel) + length == self.size
    }

    /// Finishes a whole file or a comparison; renames a whole file to its final name.
    pub(super) fn finish_whole(&self) -> Result<Outcome, ExtractError> {
        let Purpose::Whole(existing) = self.purpose else {
            let differs = self.differs.load(Ordering::Acquire);
            return Ok(if differs { Outcome::Different } else { Outcome::Same });
        };
        let replace = if existing == Existing::Replace { Replace::Yes } else { Replace::No };
        rename(&self.folder, &beside(&self.name, Beside::New), &self.name, replace)?;
        self.is_settled.store(true, Ordering::Release);
        Ok(Outcome::Written)
    }

    fn compare(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.differs.load(Ordering::Relaxed) {
            let mut there = vec![0; bytes.len()];
            self.read_existing(&mut there, offset)?;
            self.differs.fetch_or(there != bytes, Ordering::AcqRel);
        }
        Ok(())
    }

    fn compare_zeros(&self, offset: u64, length: usize) -> io::Result<()> {
        if !self.differs.load(Ordering::Relaxed) {
            let mut there = vec![1; length];
            self.read_existing(&mut there, offset)?;
            self.differs.fetch_or(!is_zero(&there), Ordering::AcqRel);
        }
        Ok(())
    }

    fn read_existing(&self, there: &mut [u8], offset: u64) -> io::Result<()> {
        match self.file.read_exact_at(there, offset) {
            // The existing file was shortened meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.differs.store(true, Ordering::Release);
                Ok(())
            }
            result => result,
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.is_settled.load(Ordering::Acquire) {
            // If this fails, the next run removes the file.
            let _ = unlinkat(&self.folder.fd, beside(&self.name, Beside::New), AtFlags::empty());
        }
    }
}

/// Removes an entry, if it exists.
pub(super) fn remove(folder: &Folder, name: &[u8]) -> Result<(), ExtractError> {
    match unlinkat(&folder.fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(ExtractError::output(&folder.path_of(name), error)),
    }
}

/// Whether a rename may replace an existing entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    Yes,
    No,
}

/// Renames an entry to its final name. File and name become durable with the sync at the end of the run.
pub(super) fn rename(folder: &Folder, from: &[u8], to: &[u8], replace: Replace) -> Result<(), ExtractError> {
    let moved = match replace {
        Replace::Yes => Err(Errno::INVAL),
        Replace::No => renameat_with(&folder.fd, from, &folder.fd, to, RenameFlags::NOREPLACE),
    };
    let moved = match moved {
        // Not every file system supports NOREPLACE. The name was free when the file was started.
        Err(Errno::INVAL | Errno::NOSYS) => renameat(&folder.fd, from, &folder.fd, to),
        result => result,
    };
    moved.map_err(|error| match error {
        Errno::EXIST => ExtractError::Exists { path: folder.path_of(to) },
        Errno::ISDIR | Errno::NOTEMPTY => ExtractError::InTheWay { path: folder.path_of(to) },
        error => ExtractError::output(&folder.path_of(to), error),
    })
}

/// Splits a long range into chunks that fit into memory.
fn chunks(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..length.div_ceil(COMPARE_BYTES)).map(move |index| {
        let at = index * COMPARE_BYTES;
        let length = usize::try_from(COMPARE_BYTES.min(length - at)).expect("at most 1 MiB");
        (offset + at, length)
    })
}
