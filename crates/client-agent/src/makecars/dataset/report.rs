//! Reports of pieces and plans, for people and as JSON lines.

use std::time::Duration;

use carferry_core::words::counted;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::car_line::CarLine;
use crate::makecars::dataset::bin_packing::{PlannedPiece, waste_permille};
use crate::progress::{duration_words, rate};

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PieceOutcome {
    /// Its CAR is on disk, and recorded unless that was not wanted.
    Made,
    /// It has no CAR.
    Failed,
    /// In a dry run: it would be made.
    WouldMake,
}

/// One piece's line. Field names are those of `cars` where they mean the same.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PieceReport {
    /// The plan's id.
    pub plan: String,
    /// Which piece of it.
    pub piece: i64,
    /// What became of it.
    pub state: PieceOutcome,
    /// Files, links and empty folders in it.
    pub entries: usize,
    /// Bytes of its sources.
    pub sourcebytes: u64,
    /// The CAR, as far as it is known.
    #[serde(flatten)]
    pub car: CarLine,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PieceReport {
    /// Only what is known before.
    pub(crate) fn new(plan: &str, piece: i64, state: PieceOutcome, entries: usize, sourcebytes: u64) -> Self {
        Self {
            plan: plan.to_owned(),
            piece,
            state,
            entries,
            sourcebytes,
            car: CarLine::default(),
            reason: None,
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let entries = self.entries;
        let size = self.car.carsizebytes.map(|bytes| BinaryBytes(bytes).to_string()).unwrap_or_default();
        let piece = self.car.piecesizebytes.map(|bytes| BinaryBytes(bytes).to_string()).unwrap_or_default();
        match self.state {
            PieceOutcome::Made => format!(
                "made        {}  {size} in {piece}  {}  {}",
                self.car.carpath.as_deref().unwrap_or_default(),
                self.car.payloadcid.as_deref().unwrap_or_default(),
                self.car.piececid.as_deref().unwrap_or_default(),
            ),
            PieceOutcome::Failed => {
                format!("failed      piece {}: {}", self.piece, self.reason.as_deref().unwrap_or_default())
            }
            PieceOutcome::WouldMake => {
                format!(
                    "would make  piece {}: {}, up to {size} in {piece}",
                    self.piece,
                    crate::makecars::dataset::report::entries(entries)
                )
            }
        }
    }
}

/// A whole plan, before it is worked on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlanReport {
    /// The plan's id.
    pub plan: String,
    /// How many pieces.
    pub pieces: usize,
    /// Files, links and empty folders; split files once a part.
    pub entries: i64,
    /// Bytes of all sources.
    pub sourcebytes: u64,
    /// Bytes of all CARs, at most: what the disk must have room for.
    pub carsizebytes: u64,
    /// What padding takes of all pieces, in thousandths.
    pub wastepermille: u64,
    /// Files that are in more than one piece.
    pub splitfiles: usize,
    /// Bytes free where the CARs go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freebytes: Option<u64>,
    /// Source bytes a second, as measured here on the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytespersecond: Option<u64>,
}

impl PlanReport {
    /// The sums over all pieces.
    pub(crate) fn sums<'a>(
        plan: &str,
        entries: i64,
        sourcebytes: u64,
        fills: impl Iterator<Item = &'a PlannedPiece>,
    ) -> Self {
        let fills: Vec<PlannedPiece> = fills
            .map(|fill| PlannedPiece { contents: Vec::new(), car_bytes_max: fill.car_bytes_max })
            .collect();
        Self {
            plan: plan.to_owned(),
            pieces: fills.len(),
            entries,
            sourcebytes,
            carsizebytes: fills.iter().map(|fill| fill.car_bytes_max).fold(0, u64::saturating_add),
            wastepermille: waste_permille(&fills),
            splitfiles: 0,
            freebytes: None,
            bytespersecond: None,
        }
    }

    /// For people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "plan {}: {} of {}, {} to read",
            self.plan,
            counted(self.pieces, "piece"),
            entries(self.entries),
            BinaryBytes(self.sourcebytes),
        )];
        let (whole, tenth) = (self.wastepermille / 10, self.wastepermille % 10);
        let mut line = format!("padding takes {whole}.{tenth} % of the pieces");
        if self.splitfiles > 0 {
            let is = if self.splitfiles == 1 { "is" } else { "are" };
            let files = counted(self.splitfiles, "file");
            line = format!("{line}; {files} {is} in more than one piece");
        }
        lines.push(line);
        let free = self.freebytes.map(|free| format!(", {} are free", BinaryBytes(free)));
        lines.push(format!(
            "the CARs take up to {}{}",
            BinaryBytes(self.carsizebytes),
            free.unwrap_or_default()
        ));
        if let Some(speed) = self.bytespersecond.filter(|speed| *speed > 0) {
            let time = duration_words(Duration::from_secs(self.sourcebytes / speed));
            let about = if time.starts_with("less") { "" } else { "about " };
            lines.push(format!(
                "{about}{time} at {}/s, as the first files were read and hashed here; writing comes on top where the \
                 disk is slower",
                BinaryBytes(speed)
            ));
        }
        lines
    }
}

/// `1 entry`, `2 entries`.
fn entries(number: impl TryInto<u64>) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => "1 entry".to_owned(),
        number => format!("{number} entries"),
    }
}

/// Counts over all pieces of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    /// CARs made.
    pub made: u64,
    /// Bytes of them.
    pub made_bytes: u64,
    /// Bytes of their sources.
    pub source_bytes: u64,
    /// Entries in them.
    pub entries: u64,
    /// Pieces without CAR, and what the survey could not take in.
    pub failed: u64,
    /// Pieces that are left for another run.
    pub left: u64,
}

impl Summary {
    /// The last line.
    pub(crate) fn line(&self, elapsed: Duration) -> String {
        let speed = BinaryBytes(rate(self.source_bytes, elapsed));
        let mut line = format!(
            "{} made ({}, {}, in {}, {speed}/s), {} failed",
            counted(self.made, "piece"),
            BinaryBytes(self.made_bytes),
            entries(self.entries),
            duration_words(elapsed),
            self.failed
        );
        if self.left > 0 {
            line = format!("{line}, {} left", self.left);
        }
        line
    }
}
