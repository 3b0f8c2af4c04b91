//! Reports of files, for people and as JSON lines.

use std::path::Path;
use std::time::Duration;

use carferry_car::BuiltCar;
use carferry_core::model::CarDoc;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::car_line::CarLine;
use crate::progress::{duration_words, rate};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FileState {
    /// Its CAR is on disk, and recorded unless that was not wanted.
    Made,
    /// Nothing was to be done.
    Skipped,
    /// It has no CAR, or one that is not recorded.
    Failed,
    /// In a dry run: its CAR would be made.
    WouldMake,
}

/// One file's line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FileReport {
    /// The source.
    pub file: String,
    /// What became of it.
    pub state: FileState,
    /// The CAR, as far as it is known.
    #[serde(flatten)]
    pub car: CarLine,
    /// Why it was skipped or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl FileReport {
    /// Only the state.
    pub(crate) fn new(file: &Path, state: FileState) -> Self {
        Self { file: file.to_string_lossy().into_owned(), state, car: CarLine::default(), reason: None }
    }

    /// A file without CAR.
    pub(crate) fn failed(file: &Path, reason: String) -> Self {
        Self { reason: Some(reason), ..Self::new(file, FileState::Failed) }
    }

    /// A file that is left out on purpose.
    pub(crate) fn skipped(file: &Path, reason: String) -> Self {
        Self { reason: Some(reason), ..Self::new(file, FileState::Skipped) }
    }

    /// A file whose CAR stands already.
    pub(crate) fn done(file: &Path, car: &CarDoc) -> Self {
        Self { car: CarLine::recorded(car), ..Self::skipped(file, "done already".to_owned()) }
    }

    /// A CAR that was made.
    pub(crate) fn made(file: &Path, carpath: &Path, car: &BuiltCar) -> Self {
        Self { car: CarLine::built(car).at(carpath), ..Self::new(file, FileState::Made) }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        let size = self.car.carsizebytes.map(|bytes| BinaryBytes(bytes).to_string()).unwrap_or_default();
        let carpath = self.car.carpath.as_deref().unwrap_or_default();
        match self.state {
            FileState::Made => {
                let root = self.car.payloadcid.as_deref().unwrap_or_default();
                format!("made        {carpath}  {size}  {root}")
            }
            FileState::Skipped => format!("skipped     {}: {reason}", self.file),
            FileState::Failed => format!("failed      {}: {reason}", self.file),
            FileState::WouldMake => format!("would make  {carpath}  up to {size}"),
        }
    }
}

/// Counts over all files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    /// CARs made.
    pub made: u64,
    /// Bytes of them.
    pub made_bytes: u64,
    /// Files left out or done already.
    pub skipped: u64,
    /// Files without a recorded CAR.
    pub failed: u64,
    /// In a dry run: CARs that would be made.
    pub would_make: u64,
    /// Bytes of them, at most.
    pub would_make_bytes: u64,
    /// Files that were not begun when the run was interrupted.
    pub not_begun: u64,
}

impl Summary {
    /// Counts a file.
    pub(crate) fn count(&mut self, report: &FileReport) {
        let bytes = report.car.carsizebytes.unwrap_or_default();
        match report.state {
            FileState::Made => {
                self.made += 1;
                self.made_bytes += bytes;
            }
            FileState::Skipped => self.skipped += 1,
            FileState::Failed => self.failed += 1,
            FileState::WouldMake => {
                self.would_make += 1;
                self.would_make_bytes = self.would_make_bytes.saturating_add(bytes);
            }
        }
    }

    /// The last line.
    pub(crate) fn line(&self, source_bytes: u64, elapsed: Duration) -> String {
        let mut parts = Vec::new();
        if self.would_make > 0 {
            parts.push(format!("{} to make (up to {})", self.would_make, BinaryBytes(self.would_make_bytes)));
        }
        if self.made > 0 || parts.is_empty() {
            let rate = BinaryBytes(rate(source_bytes, elapsed));
            parts.push(format!(
                "{} made ({} in {}, {rate}/s)",
                self.made,
                BinaryBytes(self.made_bytes),
                duration_words(elapsed)
            ));
        }
        parts.push(format!("{} skipped", self.skipped));
        parts.push(format!("{} failed", self.failed));
        if self.not_begun > 0 {
            parts.push(format!("{} not begun", self.not_begun));
        }
        parts.join(", ")
    }
}
