//! `doctor`.
use crate::cli::DoctorArgs;
use crate::config::Config;
use crate::stop::Stop;
use carferry_core::printer::{ExitStatus, Printer};
/// T.
pub async fn run(_a: &DoctorArgs, _c: &Config, _o: &mut Printer) -> Result<ExitStatus, Stop> {
    Ok(ExitStatus::Success)
}
