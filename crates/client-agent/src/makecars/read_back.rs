//! `makecars --verify`: reads each CAR back from the disk before it gets its final name.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use carferry_car::{BuiltCar, Progress, ThreadBudget, VerifyError, verify_car};
use rustix::fs::{Advice, fadvise};

/// Why a CAR that was written is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadBackError {
    /// It is whole, but another.
    #[error("{} was written, but read again it is another", path.display())]
    Another {
        /// The temporary file, which is removed.
        path: PathBuf,
    },
    /// It is no CAR.
    #[error("{} was written, but cannot be read again", path.display())]
    Unreadable {
        /// The temporary file, which is removed.
        path: PathBuf,
        /// What is wrong with it.
        source: VerifyError,
    },
    /// It could not be brought to the disk.
    #[error("cannot write the CAR to the disk")]
    Sync(#[from] io::Error),
}

impl ReadBackError {
    /// Whether the run is to end.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Unreadable { source: VerifyError::Cancelled, .. })
    }
}

/// Stops as the work does, and counts nothing: what is read again is no progress.
struct Uncounted<'a>(&'a dyn Progress);

impl Progress for Uncounted<'_> {
    fn advance(&self, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Reads a CAR again: every hash, every link, root, length and commitment.
///
/// # Errors
///
/// [`ReadBackError`].
pub(super) fn read_back(
    budget: &ThreadBudget,
    file: &File,
    path: &Path,
    car: &BuiltCar,
    progress: &dyn Progress,
) -> Result<(), ReadBackError> {
    // From the disk, not from memory.
    file.sync_data()?;
    fadvise(file, 0, None, Advice::DontNeed).map_err(io::Error::from)?;
    let read = verify_car(budget, path, &Uncounted(progress))
        .map_err(|source| ReadBackError::Unreadable { path: path.to_owned(), source })?;
    let is_same = (&read.payload_cid, read.piece_cid, read.payload_size)
        == (&car.payload_cid, car.piece_cid, car.payload_size);
    if is_same { Ok(()) } else { Err(ReadBackError::Another { path: path.to_owned() }) }
}
