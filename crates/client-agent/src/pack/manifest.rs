//! `manifest.jsonl` in the output: which CAR is of which file, for people and programs without our database.
//!
//! JSON lines, one a CAR, in the order of the CARs. Written anew at the end of each run; what earlier runs wrote of
//! CARs that still stand is kept.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use carferry_core::fsx;
use serde::{Deserialize, Serialize};

use super::report::{FileReport, FileState};

/// Name of the file.
pub const NAME: &str = "manifest.jsonl";

/// One CAR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Version of the format.
    pub manifest: u32,
    /// The CAR, below the folder of the manifest.
    pub car: String,
    /// Piece CID.
    pub piececid: String,
    /// Root of the CAR.
    pub payloadcid: String,
    /// Bytes of the CAR.
    pub carsizebytes: u64,
    /// PADDED piece size.
    pub piecesizebytes: u64,
    /// UNPADDED piece size.
    pub dealsizebytes: u64,
    /// DAG profile.
    pub profile: String,
    /// The source, where it was.
    pub file: String,
}

/// Lines by their CARs.
#[derive(Debug, Default)]
pub struct Manifest(BTreeMap<String, Line>);

impl Manifest {
    /// Takes in what became of a file, if it has a CAR below `output`.
    pub fn add(&mut self, report: &FileReport, output: &Path, profile: &str) {
        let line = || {
            Some(Line {
                manifest: 1,
                car: Path::new(report.car.carpath.as_deref()?)
                    .strip_prefix(output)
                    .ok()?
                    .to_str()?
                    .to_owned(),
                piececid: report.car.piececid.clone()?,
                payloadcid: report.car.payloadcid.clone()?,
                carsizebytes: report.car.carsizebytes?,
                piecesizebytes: report.car.piecesizebytes?,
                dealsizebytes: report.car.dealsizebytes?,
                profile: profile.to_owned(),
                file: report.file.clone(),
            })
        };
        if matches!(report.state, FileState::Made | FileState::Skipped)
            && let Some(line) = line()
        {
            self.0.insert(line.car.clone(), line);
        }
    }

    /// Writes it, with the earlier lines of CARs that still stand.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the earlier one stays.
    pub fn write(mut self, output: &Path) -> io::Result<()> {
        let path = output.join(NAME);
        let earlier = fs::read_to_string(&path).unwrap_or_default();
        for line in earlier.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            if !self.0.contains_key(&line.car) && output.join(&line.car).is_file() {
                self.0.insert(line.car.clone(), line);
            }
        }
        if self.0.is_empty() {
            return Ok(());
        }
        let (file, temp) = fsx::create_temp_beside(&path)?;
        let mut out = BufWriter::new(file);
        for line in self.0.values() {
            serde_json::to_writer(&mut out, line)?;
            out.write_all(b"\n")?;
        }
        drop(out.into_inner().map_err(io::IntoInnerError::into_error)?);
        temp.publish()
    }
}
