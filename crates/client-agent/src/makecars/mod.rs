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

use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::runtime::Shutdown;

use crate::cli::MakecarsArgs;
use crate::config::{Config, Layout};
use crate::exit::CommandError;
use crate::progress::Screen;

/// Runs the command in the configured layout.
///
/// # Errors
///
/// When nothing could be packed at all, or nothing more can be written.
pub(crate) async fn makecars(
    args: &MakecarsArgs,
    config: &Config,
    screen: &Screen,
    shutdown: &Shutdown,
    out: &mut Printer,
) -> Result<ExitStatus, CommandError> {
    match config.setting.layout {
        Layout::File => per_file::makecars(args, config, screen, shutdown, out).await,
        Layout::Tree | Layout::Pack => dataset::makecars(args, config, screen, shutdown, out).await,
    }
}
