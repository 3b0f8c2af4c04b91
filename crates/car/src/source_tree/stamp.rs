//! How files and folders look before they are read, and must still look afterwards.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

/// How a file looked when it was planned; it must look the same when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceStamp {
    /// Bytes of the whole file.
    pub size: u64,
    /// When it was changed last.
    pub modified: SystemTime,
}

/// What tells a file from another one that has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// When the system last changed anything about it (ctime), in seconds and nanoseconds: no program sets
    /// it back.
    status_changed: (i64, i64),
}

impl Identity {
    /// Whether it is the same file, changed or not.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// How a file or folder looked when it was found; it must look the same when it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) identity: Identity,
    pub(crate) seen: SourceStamp,
}

impl SourceStamp {
    /// How a file looks by what the system says about it.
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
