//! Piece commitments of CARs on disk, each computed once as long as the file stays the same.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use carferry_car::{PieceCid, PieceError, Progress, ThreadBudget, UnpaddedPieceSize, piece_of_file};
use tokio::time::Instant;
use tracing::info;

use crate::car_files::folder_guard::Heartbeat;

/// Part of the reason of every deal whose file was found to be another piece.
pub const NOT_THE_PIECE: &str = "is not the deal's piece";
/// Maximum files that are remembered; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 10_000;
/// Time between two log lines of a long computation.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What makes a file the same file: device, inode, size, modification time in seconds and nanoseconds, and
/// the size of the piece it was filled up to.
type Identity = (u64, u64, u64, i64, i64, u64);

/// Computes and remembers piece commitments.
#[derive(Debug, Default)]
pub struct PieceChecker {
    known: Mutex<HashMap<Identity, PieceCid>>,
    /// Files that are being read: another deal about the same file need not read it as well, and a disk that
    /// hangs holds one thread for each file.
    under_way: Mutex<HashSet<Identity>>,
    stopped: AtomicBool,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceVerdict {
    /// The file is this piece.
    Piece(PieceCid),
    /// The file changed meanwhile; what was computed says nothing.
    Changed,
    /// The file is being read for another deal.
    Busy,
}

/// A file under way, until it is dropped.
struct UnderWay<'a> {
    all: &'a Mutex<HashSet<Identity>>,
    identity: Identity,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.identity);
    }
}

impl PieceChecker {
    /// Ends running computations soon; for the end of the process.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The commitment of a file, filled up with zeros to the deal's piece where that is larger.
    ///
    /// Reads the whole file: minutes for 32 GiB. Call it on a thread that may block; `heartbeat` beats while
    /// it reads.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or the checker was stopped.
    pub fn check(
        &self,
        path: &Path,
        metadata: &Metadata,
        piece_size: Option<UnpaddedPieceSize>,
        heartbeat: &Heartbeat,
    ) -> io::Result<PieceVerdict> {
        let identity = identity_of(metadata, piece_size);
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&identity) {
            return Ok(PieceVerdict::Piece(*known));
        }
        if !self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(identity) {
            return Ok(PieceVerdict::Busy);
        }
        let _under_way = UnderWay { all: &self.under_way, identity };
        let file = File::open(path)?;
        let progress = LoggedProgress::new(path, metadata.len(), heartbeat, &self.stopped);
        // One thread: this machine also seals and proves.
        let piece = match piece_of_file(&ThreadBudget::alone(), &file, &progress) {
            Ok(piece) => piece,
            Err(PieceError::Changed) => return Ok(PieceVerdict::Changed),
            Err(PieceError::Read(error)) => return Err(error),
            Err(other) => return Err(io::Error::other(other)),
        };
        let piece_cid = piece_size.map_or(piece.piece_cid, |size| piece.piece_cid_in(size.padded()));
        if identity_of(&file.metadata()?, piece_size) != identity {
            return Ok(PieceVerdict::Changed);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(identity, piece_cid);
        Ok(PieceVerdict::Piece(piece_cid))
    }
}

fn identity_of(metadata: &Metadata, piece_size: Option<UnpaddedPieceSize>) -> Identity {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        piece_size.map_or(0, UnpaddedPieceSize::get),
    )
}

struct LoggedProgress<'a> {
    path: PathBuf,
    total: u64,
    done: AtomicU64,
    reported: Mutex<Instant>,
    heartbeat: &'a Heartbeat,
    stopped: &'a AtomicBool,
}

impl<'a> LoggedProgress<'a> {
    fn new(path: &Path, total: u64, heartbeat: &'a Heartbeat, stopped: &'a AtomicBool) -> Self {
        Self {
            path: path.to_owned(),
            total,
            done: AtomicU64::new(0),
            reported: Mutex::new(Instant::now()),
            heartbeat,
            stopped,
        }
    }
}

impl Progress for LoggedProgress<'_> {
    fn advance(&self, source_bytes: u64) {
        self.heartbeat.beat();
        let done = self.done.fetch_add(source_bytes, Ordering::Relaxed).saturating_add(source_bytes);
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.elapsed() >= REPORT_EVERY {
            *reported = Instant::now();
            info!(path = %self.path.display(), bytes = done, of = self.total, "computing the piece CID");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(checker: &PieceChecker, path: &Path, piece_size: Option<u64>) -> String {
        let piece_size = piece_size.map(|bytes| UnpaddedPieceSize::new(bytes).unwrap());
        match checker.check(path, &path.metadata().unwrap(), piece_size, &Heartbeat::default()).unwrap() {
            PieceVerdict::Piece(piece_cid) => piece_cid.to_string(),
            PieceVerdict::Changed => "changed".to_owned(),
            PieceVerdict::Busy => "busy".to_owned(),
        }
    }

    #[test]
    fn a_piece_larger_than_the_file_is_filled_with_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.car");
        std::fs::write(&path, [0; 100]).unwrap();
        let checker = PieceChecker::default();
        // The zero piece of 128 padded bytes: `Commitment`'s own example in the `car` crate.
        assert_eq!(
            checked(&checker, &path, None),
            "baga6ea4seaqdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy"
        );
        let larger = checked(&checker, &path, Some(254));
        std::fs::write(&path, [0; 254]).unwrap();
        assert_eq!(larger, checked(&checker, &path, None));
    }

    #[test]
    fn a_file_that_changed_is_computed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.car");
        std::fs::write(&path, [1; 300]).unwrap();
        let checker = PieceChecker::default();
        let first = checked(&checker, &path, None);
        assert_eq!(checked(&checker, &path, None), first);
        assert_eq!(checker.known.lock().unwrap().len(), 1);
        std::fs::write(&path, [2; 301]).unwrap();
        assert_ne!(checked(&checker, &path, None), first);
    }

    #[test]
    fn a_file_that_is_being_read_is_not_read_twice_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.car");
        std::fs::write(&path, [1; 300]).unwrap();
        let checker = PieceChecker::default();
        let identity = identity_of(&path.metadata().unwrap(), None);
        checker.under_way.lock().unwrap().insert(identity);
        assert_eq!(checked(&checker, &path, None), "busy");
        checker.under_way.lock().unwrap().clear();
        assert_ne!(checked(&checker, &path, None), "busy");
        assert!(checker.under_way.lock().unwrap().is_empty());
    }

    #[test]
    fn a_stopped_checker_gives_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.car");
        std::fs::write(&path, [1; 300]).unwrap();
        let checker = PieceChecker::default();
        checker.stop();
        assert!(checker.check(&path, &path.metadata().unwrap(), None, &Heartbeat::default()).is_err());
    }
}
