//! The workspace of a run: input and output folders, the lock of the output, files that killed runs left, and
//! the database.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fs, io};

use carferry_core::error_chain::ErrorChain;
use carferry_core::fsx;
use carferry_core::store::{IndexUser, Store};
use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use crate::cli::MakecarsArgs;
use crate::config::Config;
use crate::exit::CommandError;
use crate::makecars::error::MakecarsError;

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

/// What a run holds until its end.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The database, unless none is wanted.
    pub(crate) store: Option<Store>,
    /// Lock of the output: two runs would build the same CARs twice. `None` for a dry run, and where the
    /// file system has no locks.
    pub(crate) lock: Option<File>,
}

/// Opens the database, and takes the output for this run, clear of what killed runs left. A dry run only
/// looks.
pub(crate) async fn take(
    args: &MakecarsArgs,
    config: &Config,
    output: &Path,
    indexes: IndexUser,
) -> Result<Workspace, CommandError> {
    let store = if args.no_database { None } else { Some(Store::open(&config.store_options()?).await?) };
    if args.dry_run {
        return Ok(Workspace { store, lock: None });
    }
    let lock = lock(output).map_err(|error| CommandError::user(&error))?;
    sweep(output);
    if let Some(store) = &store {
        store.ensure_indexes(indexes).await?;
        match indexes {
            IndexUser::Planner => store.check_rights(indexes).await?,
            IndexUser::ClientAgent | IndexUser::MinerAgent => store.check_may_record().await?,
        }
    }
    Ok(Workspace { store, lock })
}

/// Locks the output for this run. The lock is on the folder itself, so nothing is left behind, and ends with
/// the process in any case.
fn lock(output: &Path) -> Result<Option<File>, MakecarsError> {
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
fn sweep(output: &Path) {
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
