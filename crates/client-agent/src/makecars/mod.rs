//! `makecars`: from folders of files to CARs on disk, and their documents in `cars`.
//!
//! ```text
//! --layout file        per_file   a CAR of each file
//! --layout tree, pack  dataset    a whole folder, planned and made in pieces
//! ```
//!
//! Both layouts share the workspace (folders, lock, database), the record of a CAR, and the check that reads
//! a CAR back.

mod car_record;
pub(crate) mod dataset;
mod error;
mod per_file;
mod read_back;
mod workspace;

use carferry_core::printer::ExitStatus;
use tracing::warn;

use crate::cli::MakecarsArgs;
use crate::config::{Config, Layout};
use crate::console::Console;
use crate::exit::CommandError;

/// Runs the command in the configured layout.
///
/// # Errors
///
/// When nothing could be packed at all, or nothing more can be written.
pub(crate) async fn makecars(
    args: &MakecarsArgs,
    config: &Config,
    console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    match config.setting.layout {
        Layout::File => per_file::makecars(args, config, console).await,
        Layout::Tree | Layout::Pack => dataset::makecars(args, config, console).await,
    }
}

/// The last line of a run, and the exit status: how much was done, and how much was not.
fn finish(
    console: &mut Console<'_>,
    line: &str,
    done: u64,
    not_done: u64,
) -> Result<ExitStatus, CommandError> {
    console.remark(line)?;
    if console.shutdown.token().is_cancelled() {
        warn!("interrupted: run the same command again for the rest");
        return Ok(ExitStatus::Interrupted);
    }
    Ok(ExitStatus::of_counts(done, not_done))
}
