//! The manifest beside each CAR: what is in it, for people and programs without this database.
//!
//! JSON lines. The first is about the piece; then comes a line for each file, link and empty folder, in the
//! order of the paths. A file that is in several pieces has in each the bytes `from` to `to` and, in the CAR,
//! the name `inside`.

use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use carferry_core::model::PackEntryDoc;
use serde::{Deserialize, Serialize};

use crate::car_line::{MANIFEST_VERSION, ManifestLine};
use crate::makecars::dataset::plan::inside;

/// Bytes of a line without its names: the longest that this format has.
const LINE_BYTES: usize = 256;
/// Bytes of the first line.
const FIRST_LINE_BYTES: usize = 1024;

/// The first line.
pub(crate) type PieceLine = ManifestLine<PieceOf>;

/// Which piece of a plan a CAR is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PieceOf {
    /// Name of the data set.
    pub group: String,
    /// The plan's id.
    pub plan: String,
    /// Which piece of it, from 0 on.
    pub index: u64,
    /// Of how many.
    pub pieces: u64,
}

/// Every other line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryLine {
    /// `file`, `folder` or `symlink`.
    pub kind: String,
    /// Below the input, `/` between names.
    pub path: String,
    /// Bytes of the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Modification time when it was planned, nanoseconds since 1970: which of two states of a file is the
    /// newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtimenanos: Option<i64>,
    /// First byte in this piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Behind the last byte in this piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// Its path in the CAR, where that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<String>,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl From<&PackEntryDoc> for EntryLine {
    fn from(entry: &PackEntryDoc) -> Self {
        let line =
            |kind: &str| Self { kind: kind.to_owned(), path: entry.path().to_owned(), ..Self::default() };
        let bytes = |stored: i64| u64::try_from(stored).ok();
        match entry {
            PackEntryDoc::File { size, mtimenanos, part, .. } => Self {
                size: bytes(*size),
                mtimenanos: Some(*mtimenanos),
                from: part.as_ref().and_then(|part| bytes(part.from)),
                to: part.as_ref().and_then(|part| bytes(part.to)),
                inside: part.is_some().then(|| inside(entry)),
                ..line("file")
            },
            PackEntryDoc::Folder { .. } => line("folder"),
            PackEntryDoc::Symlink { target, .. } => Self { target: Some(target.clone()), ..line("symlink") },
        }
    }
}

/// Where the manifest of a CAR is: `x.car` has `x.jsonl`.
pub(crate) fn path_of(car: &Path) -> PathBuf {
    car.with_extension("jsonl")
}

/// About how many bytes a manifest takes; too few only where names are full of characters that JSON escapes.
pub(crate) fn bytes_about(entries: &[PackEntryDoc]) -> u64 {
    let line = |entry: &PackEntryDoc| {
        let target = if let PackEntryDoc::Symlink { target, .. } = entry { target.len() } else { 0 };
        // A part has its path twice.
        LINE_BYTES + 2 * entry.path().len() + target
    };
    u64::try_from(entries.iter().map(line).sum::<usize>() + FIRST_LINE_BYTES).unwrap_or(u64::MAX)
}

/// Writes a manifest.
pub(crate) fn write<'a>(
    to: impl Write,
    piece: &PieceLine,
    entries: impl Iterator<Item = &'a PackEntryDoc>,
) -> io::Result<()> {
    let mut out = io::BufWriter::new(to);
    serde_json::to_writer(&mut out, piece)?;
    out.write_all(b"\n")?;
    for entry in entries {
        serde_json::to_writer(&mut out, &EntryLine::from(entry))?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads the first line.
pub(crate) fn read_piece(path: &Path) -> io::Result<PieceLine> {
    let mut line = String::new();
    BufReader::new(File::open(path)?).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Reads a manifest, line by line.
pub(crate) fn read(path: &Path) -> io::Result<(PieceLine, impl Iterator<Item = io::Result<EntryLine>>)> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let piece: PieceLine = serde_json::from_str(&first)?;
    if piece.manifest != MANIFEST_VERSION {
        let words = format!("a manifest of version {}, not {MANIFEST_VERSION}", piece.manifest);
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    Ok((piece, lines.map(|line| Ok(serde_json::from_str(&line?)?))))
}
