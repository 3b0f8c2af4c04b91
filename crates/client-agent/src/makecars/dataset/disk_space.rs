//! Room where the CARs go: who may write beside others, and waiting for it where there is none.

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

    /// Waits until a piece may be written: beside others while there is room for all of them, else when no
    /// other one is. Whether it fits is then the builder's to say, who sees all that is free: holes of
    /// files take no room.
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

/// How often a run looks whether there is room. Source: ours.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a piece is left alone that found no room although there was enough, as under a quota.
const TRY_AGAIN: BackoffPolicy =
    BackoffPolicy { first: LOOK_EVERY, max: Duration::from_secs(600), quiet: Duration::MAX };

/// What has to be written, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed<'a> {
    pub folder: &'a Path,
    pub piece: i64,
    pub bytes: u64,
}

/// Waiting for room, until a piece is made.
#[derive(Debug, Default)]
pub(super) struct SpaceWait {
    /// Tries without success.
    tries: u32,
}

impl SpaceWait {
    /// Waits for so much room; ends early when `stop` is cancelled, or nothing is left to be written.
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
        let (mut patience, stop) = (SpaceWait::default(), CancellationToken::new());
        let needed = Needed { folder: Path::new("/"), piece: 3, bytes: 0 };
        let mut waited = Vec::new();
        for _ in 0..8 {
            let began = Instant::now();
            patience.wait(needed, &stop, async || true).await;
            waited.push(began.elapsed().as_secs());
        }
        assert_eq!(waited, [10, 20, 40, 80, 160, 320, 600, 600]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_room_that_is_not_wanted_any_more() {
        let (mut patience, stop) = (SpaceWait::default(), CancellationToken::new());
        let needed = Needed { folder: Path::new("/"), piece: 3, bytes: u64::MAX };
        patience.wait(needed, &stop, async || false).await;
        stop.cancel();
        patience.wait(needed, &stop, async || true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_written_side_by_side_while_there_is_room_for_all() {
        let disk = Disk::new(Path::new("/"), 1);
        let first = disk.room().await;
        let second = disk.room().await;
        assert!(matches!((first, second), (Either::Left(_), Either::Left(_))));
        let full = Disk::new(Path::new("/"), u64::MAX);
        let alone = full.room().await;
        let waiting = tokio::time::timeout(LOOK_EVERY, full.room());
        assert!(matches!(alone, Either::Right(_)) && waiting.await.is_err());
        drop(alone);
        assert!(matches!(full.room().await, Either::Right(_)));
    }
}
