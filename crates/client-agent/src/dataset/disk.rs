//! Room where the CARs go: who may write beside others.

use std::path::{Path, PathBuf};

use carferry_core::fsx;
use futures::future::Either;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The file system of the output.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    /// What all pieces that are made at the same time take, at most.
    together_bytes: u64,
    /// Shared by pieces that are written side by side; one that is written alone has it to itself.
    writing: RwLock<()>,
}

/// The right to write one piece.
pub(super) type Room<'a> = Either<RwLockReadGuard<'a, ()>, RwLockWriteGuard<'a, ()>>;

impl Disk {
    pub(super) fn new(folder: &Path, together_bytes: u64) -> Self {
        Self { folder: folder.to_owned(), together_bytes, writing: RwLock::default() }
    }

    /// Waits until a piece may be written: beside others while there is room for all of them, else when no other one
    /// is. Whether it fits is then the builder's to say, who sees all that is free: holes of files take no room.
    pub(super) async fn room(&self) -> Room<'_> {
        let beside = self.writing.read().await;
        if free(&self.folder) >= self.together_bytes {
            return Either::Left(beside);
        }
        drop(beside);
        Either::Right(self.writing.write().await)
    }
}

/// Bytes free; none where the system does not say.
fn free(folder: &Path) -> u64 {
    fsx::free_space(folder).unwrap_or(0)
}
