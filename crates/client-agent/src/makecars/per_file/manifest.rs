//! `manifest.jsonl` in the output: which CAR is of which file, for people and programs without this database.
//!
//! JSON lines, one a CAR, in the order of the CARs. Written anew at the end of each run; what earlier runs
//! wrote of CARs that still stand is kept.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::{fs, io};

use carferry_car::Profile;
use carferry_core::fsx;
use serde::{Deserialize, Serialize};

use crate::car_line::ManifestLine;
use crate::makecars::per_file::report::{FileReport, FileState};

/// Name of the file.
pub(crate) const NAME: &str = "manifest.jsonl";

/// One CAR.
pub(crate) type Line = ManifestLine<FileOf>;

/// The source of a CAR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileOf {
    /// Where it was.
    pub file: String,
}

/// What earlier runs wrote, by the names of the CARs.
///
/// # Errors
///
/// When it cannot be read; [`io::ErrorKind::InvalidData`] for a file that no run of `makecars` wrote.
pub(crate) fn read_earlier(output: &Path) -> io::Result<BTreeMap<String, Line>> {
    let foreign = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let path = output.join(NAME);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
        Ok(there) if !there.is_file() => return Err(foreign("it is no regular file")),
        Ok(_) => {}
    }
    let text = fs::read_to_string(&path)?;
    let read = |line: &str| {
        let line: Line =
            serde_json::from_str(line).map_err(|_| foreign("it has lines that makecars did not write"))?;
        Ok((line.car.clone(), line))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(read).collect()
}

/// Lines by their CARs.
#[derive(Debug, Default)]
pub(crate) struct Manifest(BTreeMap<String, Line>);

impl Manifest {
    /// Takes in what became of a file, if it has a CAR below `output`.
    pub(crate) fn add(&mut self, report: &FileReport, output: &Path, profile: Profile) {
        let path = report.car.carpath.as_deref().map(Path::new);
        let name = path.and_then(|path| path.strip_prefix(output).ok()?.to_str());
        if matches!(report.state, FileState::Made | FileState::Skipped)
            && let Some(name) = name
        {
            let of = FileOf { file: report.file.clone() };
            self.0.insert(name.to_owned(), Line::new(name.to_owned(), report.car.clone(), profile, of));
        }
    }

    /// Writes it, with the earlier lines of CARs that still stand.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the earlier one stays.
    pub(crate) fn write(mut self, output: &Path) -> io::Result<()> {
        let path = output.join(NAME);
        for (_, line) in read_earlier(output)? {
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
