//! Input and output folders: where they really are, whose turn it is, and what killed runs left there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use carferry_core::error_chain::ErrorChain;
use carferry_core::fsx;
use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use super::MakecarsError;
use crate::cli::MakecarsArgs;

/// Canonical input and output; makes the output unless this is a dry run.
pub(crate) fn resolve(args: &MakecarsArgs) -> Result<(PathBuf, PathBuf), MakecarsError> {
    let bad_input = |source| MakecarsError::Input { path: args.input.clone(), source };
    let bad_output = |source| MakecarsError::Output { path: args.output.clone(), source };
    let input = args.input.canonicalize().map_err(bad_input)?;
    if !args.dry_run {
        fsx::create_folders(&args.output).map_err(bad_output)?;
    }
    let output = match args.output.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && args.dry_run => {
            std::path::absolute(&args.output).map_err(bad_output)?
        }
        found => found.map_err(bad_output)?,
    };
    if input == output {
        return Err(MakecarsError::SameFolder { path: input });
    }
    if output.to_str().is_none() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8");
        return Err(bad_output(error));
    }
    Ok((input, output))
}

/// Takes the output for this run. The lock is on the folder itself, so nothing is left behind, and ends with
/// the process in any case.
pub(crate) fn lock(output: &Path) -> Result<Option<File>, MakecarsError> {
    let bad_output = |source| MakecarsError::Output { path: output.to_owned(), source };
    let folder = File::open(output).map_err(bad_output)?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(MakecarsError::Locked { path: output.to_owned() }),
        Err(error) => {
            // Some network file systems have no locks. CARs are published whole in any case.
            warn!(path = %output.display(), %error, "cannot lock the output; run only one makecars here");
            Ok(None)
        }
    }
}

/// Removes temporary files of killed runs everywhere below the output.
pub(crate) fn sweep(output: &Path) {
    let mut to_sweep = vec![output.to_owned()];
    while let Some(folder) = to_sweep.pop() {
        match fsx::sweep_stale_temps(&folder) {
            Ok(0) => {}
            Ok(files) => info!(path = %folder.display(), files, "removed what a killed run left"),
            Err(error) => warn!(error = %ErrorChain(&error), "cannot remove what a killed run left"),
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        to_sweep.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}

/// The folder, or the nearest above it that exists.
pub(crate) fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder)
}
