//! Disk space of the output: whether pieces are written side by side or alone, and waiting where a piece does
//! not fit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use carferry_core::fsx;
use carferry_core::runtime::BackoffPolicy;
use futures::future::Either;
use indicatif::BinaryBytes;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The file system of the output, and the pieces that are written there.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    /// What all pieces that are made at the same time take, at most.
    together_bytes: u64,
    /// Shared by pieces that are written side by side; one that is written alone has it to itself.
    writing: RwLock<()>,
}

/// The right to write one piece.
pub(super) type WritePermit<'a> = Either<RwLockReadGuard<'a, ()>, RwLockWriteGuard<'a, ()>>;

impl Disk {
    pub(super) fn new(folder: &Path, together_bytes: u64) -> Self {
        Self { folder: folder.to_owned(), together_bytes, writing: RwLock::default() }
    }

    /// Waits until a piece may be written: beside others while there is space for all of them, else when no
    /// other piece is written. Whether it fits is found out by writing it: holes of files take no space.
    pub(super) async fn write_permit(&self) -> WritePermit<'_> {
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

/// How often a run checks the free space. Chosen: short against the hours that a full piece takes.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Pauses of a piece that did not fit although enough was free, as under a quota.
const TRY_AGAIN: BackoffPolicy =
    BackoffPolicy { first: LOOK_EVERY, max: Duration::from_secs(600), quiet: Duration::MAX };

/// What has to be written, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed<'a> {
    pub folder: &'a Path,
    pub piece: i64,
    pub bytes: u64,
}

/// Waits for disk space until a piece is made.
#[derive(Debug, Default)]
pub(super) struct SpaceWait {
    /// Tries without success.
    tries: u32,
}

impl SpaceWait {
    /// Waits until that many bytes are free; ends early when `stop` is cancelled, or nothing is left to
    /// write.
    pub(super) async fn wait(
        &mut self,
        needed: Needed<'_>,
        stop: &CancellationToken,
        is_anything_left: impl AsyncFn() -> bool,
    ) {
        let Needed { folder, piece, bytes } = needed;
        self.tries = self.tries.saturating_add(1);
        let is_first = self.tries == 1;
        if is_first {
            let free_bytes = free(folder);
            warn!(
                path = %folder.display(),
                needed_bytes = bytes,
                free_bytes,
                "no room for piece {piece}: {} ({bytes} bytes) have to be free in {}, and {} are; waiting for that",
                BinaryBytes(bytes),
                folder.display(),
                BinaryBytes(free_bytes)
            );
        }
        let not_before = Instant::now() + TRY_AGAIN.ceiling(self.tries);
        loop {
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
            if Instant::now() >= not_before && free(folder) >= bytes {
                break;
            }
            if !is_anything_left().await {
                return;
            }
        }
        if is_first {
            info!(path = %folder.display(), "there is room again: going on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_finds_no_room_where_there_is_enough_is_tried_with_growing_pauses() {
        let (mut space_wait, stop) = (SpaceWait::default(), CancellationToken::new());
        let needed = Needed { folder: Path::new("/"), piece: 3, bytes: 0 };
        let mut waited = Vec::new();
        for _ in 0..8 {
            let began = Instant::now();
            space_wait.wait(needed, &stop, async || true).await;
            waited.push(began.elapsed().as_secs());
        }
        assert_eq!(waited, [10, 20, 40, 80, 160, 320, 600, 600]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_run_waits_for_space_that_is_not_wanted_any_more() {
        let (mut space_wait, stop) = (SpaceWait::default(), CancellationToken::new());
        let needed = Needed { folder: Path::new("/"), piece: 3, bytes: u64::MAX };
        space_wait.wait(needed, &stop, async || false).await;
        stop.cancel();
        space_wait.wait(needed, &stop, async || true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_written_side_by_side_while_there_is_room_for_all() {
        let disk = Disk::new(Path::new("/"), 1);
        let first = disk.write_permit().await;
        let second = disk.write_permit().await;
        assert!(matches!((first, second), (Either::Left(_), Either::Left(_))));
        let full = Disk::new(Path::new("/"), u64::MAX);
        let alone = full.write_permit().await;
        let waiting = tokio::time::timeout(LOOK_EVERY, full.write_permit());
        assert!(matches!(alone, Either::Right(_)) && waiting.await.is_err());
        drop(alone);
        assert!(matches!(full.write_permit().await, Either::Right(_)));
    }
}
