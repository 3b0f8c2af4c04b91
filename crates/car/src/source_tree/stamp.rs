//! Stamps of files and folders (size, times, inode), compared before and after reading to detect changes.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

/// Size and modification time of a file when it was planned. They must be the same when the file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceStamp {
    /// Bytes of the whole file.
    pub size: u64,
    /// Modification time.
    pub modified: SystemTime,
}

/// Device, inode and status change time, which tell a file from another one with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// Status change time (ctime) in seconds and nanoseconds. No program can set it.
    status_changed: (i64, i64),
}

impl Identity {
    /// Whether both are the same file, changed or not.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Identity, size and times of a file or folder. They must be the same after it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) identity: Identity,
    pub(crate) seen: SourceStamp,
}

impl SourceStamp {
    /// The stamp of a file's metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH) }
    }
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let status_changed = (metadata.ctime(), metadata.ctime_nsec());
        let identity = Identity { device: metadata.dev(), inode: metadata.ino(), status_changed };
        Self { identity, seen: SourceStamp::of(metadata) }
    }
}
