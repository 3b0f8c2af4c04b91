//! `extract`: from CARs back to files and folders. Needs no database; manifests beside the CARs join split files.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use carferry_car::{
    Crew, Existing, ExtractError, ExtractOptions, Extracted, Extraction, OtherState, Outcome, PayloadCid,
    Placement, Restored, RestoredKind, Symlinks, read_car_root,
};
use carferry_core::error_chain::Hint;
use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::runtime::Shutdown;
use indicatif::BinaryBytes;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use crate::cli::{ExtractArgs, WhereThere};
use crate::dataset::manifest;
use crate::pack::progress::{Meter, Screen};
use crate::stop::Stop;
use crate::tools::in_background;

/// Why nothing, or not everything, was restored.
#[derive(Debug, thiserror::Error)]
#[error("not everything was restored")]
struct NotRestored(#[from] ExtractError);

impl Hint for NotRestored {
    fn hint(&self) -> Option<String> {
        let hint = match &self.0 {
            ExtractError::MissingBlock { .. } => "name all CARs that the data lies in",
            ExtractError::Exists { .. } => {
                "--existing keep compares and goes on, --existing replace replaces"
            }
            ExtractError::DamagedBlock { .. } | ExtractError::Truncated { .. } => {
                "another copy of the CAR may be whole; `regenerate` makes it anew where its files still are"
            }
            ExtractError::Cancelled => "run it again with --existing keep for the rest",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// One thing that was dealt with.
#[derive(Debug, Serialize)]
struct Line {
    path: String,
    kind: &'static str,
    state: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytesin: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesize: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    otherstate: Option<&'static str>,
}

/// The words of [`OtherState`] for machines.
const BEGUN_ANEW: &str = "begun-anew";
const OLDER: &str = "older";
const UNKNOWN: &str = "unknown";

impl Line {
    fn of(restored: &Restored<'_>) -> Self {
        let (state, bytes_in, file_size) = match restored.outcome {
            Outcome::Written => ("written", None, None),
            Outcome::Same => ("same", None, None),
            Outcome::Different => ("different", None, None),
            Outcome::Part { bytes_in, file_size } => ("part", Some(bytes_in), Some(file_size)),
            Outcome::Skipped => ("skipped", None, None),
        };
        let kind = match restored.kind {
            RestoredKind::File => "file",
            RestoredKind::Folder => "folder",
            RestoredKind::Symlink => "symlink",
        };
        Self {
            path: restored.inside.to_string_lossy().into_owned(),
            kind,
            state,
            bytes: restored.bytes,
            bytesin: bytes_in,
            filesize: file_size,
            otherstate: restored.other_state.map(|state| match state {
                OtherState::BegunAnew => BEGUN_ANEW,
                OtherState::Older => OLDER,
                OtherState::Unknown => UNKNOWN,
            }),
        }
    }

    /// Whether a person wants to read it.
    fn is_news(&self) -> bool {
        matches!(self.state, "different" | "part" | "skipped") || self.otherstate.is_some()
    }
}

/// What was restored, all in all.
#[derive(Debug, Serialize)]
struct Total {
    files: u64,
    folders: u64,
    symlinks: u64,
    bytes: u64,
    same: u64,
    different: u64,
    parts: u64,
    skipped: u64,
}

impl From<Extracted> for Total {
    fn from(all: Extracted) -> Self {
        let Extracted { files, folders, symlinks, bytes, same, different, parts, skipped } = all;
        Self { files, folders, symlinks, bytes, same, different, parts, skipped }
    }
}

/// Runs `extract`.
///
/// # Errors
///
/// When not everything was restored.
pub async fn extract(
    args: &ExtractArgs,
    screen: &Screen,
    shutdown: &Shutdown,
    out: &mut Printer,
) -> Result<ExitStatus, Stop> {
    let cars = args.cars.clone();
    let placements = placements(&args.cars);
    let placed: HashSet<PathBuf> = placements.iter().map(|part| part.inside.clone()).collect();
    let options = ExtractOptions {
        existing: match args.existing {
            WhereThere::Refuse => Existing::Refuse,
            WhereThere::Keep => Existing::Keep,
            WhereThere::Replace => Existing::Replace,
        },
        symlinks: if args.no_symlinks { Symlinks::Skip } else { Symlinks::Restore },
        placements,
        roots: if args.root.is_empty() { None } else { Some(args.root.clone()) },
        ..ExtractOptions::new(&args.output)
    };
    let looking = Meter::new(0, 0, shutdown.token().clone());
    let opened = in_background(shutdown, move || Extraction::open(&cars, options, &*looking)).await?;
    let extraction = opened.map_err(|error| Stop::user(&NotRestored(error)))?;
    let plan = extraction.plan();
    if args.dry_run {
        let (files, folders, links) = (plan.files, plan.folders, plan.symlinks);
        let size = BinaryBytes(plan.bytes);
        if args.json {
            out.json(&serde_json::json!({
                "files": files, "folders": folders, "symlinks": links, "bytes": plan.bytes, "holebytes": plan.hole_bytes
            }))?;
        } else {
            out.line(format!("{files} files, {folders} folders, {links} links, {size}"))?;
        }
        return Ok(ExitStatus::Success);
    }
    let meter = Meter::new(plan.bytes, plan.files, shutdown.token().clone());
    let shown = screen.show(&meter, args.no_progress);
    let crew = args.jobs.map_or_else(Crew::of_processors, Crew::new);
    let (lines, mut told) = tokio::sync::mpsc::unbounded_channel();
    let all = args.json;
    let running = in_background(shutdown, move || run(extraction, &crew, &meter, &lines, all, &placed));
    let telling = async {
        while let Some(line) = told.recv().await {
            screen.print(|| if args.json { out.json(&line) } else { out.line(words(&line)) })?;
        }
        Ok::<(), Stop>(())
    };
    let (ended, printed) = futures::join!(running, telling);
    drop(shown);
    let (restored, has_parts) = ended?;
    printed?;
    let total = Total::from(restored.map_err(|error| Stop::user(&NotRestored(error)))?);
    if args.json {
        out.json(&total)?;
    } else {
        out.line(total_words(&total))?;
    }
    if has_parts {
        warn!(
            "files named .part-*-of-* are parts: `cat` joins them in order; their manifest (.jsonl) beside the CARs does it here"
        );
    }
    Ok(if total.different == 0 { ExitStatus::Success } else { ExitStatus::UserError })
}

fn run(
    extraction: Extraction,
    crew: &Crew,
    meter: &Arc<Meter>,
    lines: &UnboundedSender<Line>,
    all: bool,
    placed: &HashSet<PathBuf>,
) -> (Result<Extracted, ExtractError>, bool) {
    let has_parts = AtomicBool::new(false);
    let restored = |restored: &Restored<'_>| {
        meter.file_done();
        let line = Line::of(restored);
        let looks_like_part = line.path.contains(".part-") && line.path.contains("-of-");
        if line.state == "written" && looks_like_part && !placed.contains(restored.inside) {
            has_parts.store(true, Ordering::Relaxed);
        }
        if all || line.is_news() {
            // Nobody listens any more after a second signal.
            drop(lines.send(line));
        }
    };
    let extracted = extraction.run(crew, &restored, &**meter);
    (extracted, has_parts.into_inner())
}

fn words(line: &Line) -> String {
    let Line { path, state, .. } = line;
    let of_file = match (line.bytesin, line.filesize) {
        (Some(there), Some(size)) => format!("  {} of {}", BinaryBytes(there), BinaryBytes(size)),
        _ => String::new(),
    };
    let other_state = match line.otherstate {
        Some(BEGUN_ANEW) => {
            "  (the file is begun anew: the parts that were there are of an older state of it)"
        }
        Some(OLDER) => "  (stays a part: those that are there are of a newer state of the file)",
        Some(_) => {
            "  (stays a part: nobody knows whether those that are there are of the same state of the file; remove \
             its .carferry-part to begin it anew)"
        }
        None => "",
    };
    format!("{state:<10}  {path}{of_file}{other_state}")
}

fn total_words(total: &Total) -> String {
    let mut words = format!(
        "{} files, {} folders, {} links restored ({})",
        total.files,
        total.folders,
        total.symlinks,
        BinaryBytes(total.bytes)
    );
    for (count, what) in [
        (total.same, "the same already"),
        (total.different, "there with another content, left alone"),
        (total.parts, "parts of files that are not whole yet"),
        (total.skipped, "links left out"),
    ] {
        if count > 0 {
            words = format!("{words}; {count} {what}");
        }
    }
    words
}

/// Where parts of split files go, by the manifests that stand beside the CARs.
///
/// A file that was packed again since lies in them in two states: only the parts of the newer one are joined.
fn placements(cars: &[PathBuf]) -> Vec<Placement> {
    let all: Vec<_> = cars.iter().flat_map(|car| placements_of(car).unwrap_or_default()).collect();
    // No time is older than any.
    let state = |part: &Placement| (part.mtime_nanos, part.file_size);
    let mut newest = HashMap::new();
    for part in &all {
        let newest = newest.entry(part.file.clone()).or_insert(state(part));
        *newest = (*newest).max(state(part));
    }
    let (taken, left): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|part| newest.get(&part.file) == Some(&state(part)));
    if !left.is_empty() {
        warn!(
            parts = left.len(),
            "parts of older states of files stay parts: name only the CARs of one state to join them"
        );
    }
    taken
}

/// `None` without a manifest of this very CAR.
fn placements_of(car: &Path) -> Option<Vec<Placement>> {
    let path = manifest::path_of(car);
    let root = read_car_root(car).ok()?;
    let (piece, entries) = match manifest::read(&path) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "this manifest cannot be read: parts stay parts");
            return None;
        }
    };
    if piece.payloadcid != root.to_string() {
        warn!(path = %path.display(), "this manifest is of another CAR: parts stay parts");
        return None;
    }
    let place = |entry: std::io::Result<manifest::EntryLine>| {
        let entry = entry
            .inspect_err(
                |error| warn!(path = %path.display(), %error, "a line of this manifest cannot be read"),
            )
            .ok()?;
        Some(Placement {
            payload_cid: root.clone(),
            inside: entry.inside?.into(),
            file: entry.path.into(),
            offset: entry.from?,
            file_size: entry.size?,
            mtime_nanos: entry.mtimenanos,
        })
    };
    Some(entries.filter_map(place).collect())
}

/// A root as it is given on the command line.
///
/// # Errors
///
/// Text that is no CID.
pub fn parse_root(text: &str) -> Result<PayloadCid, String> {
    text.parse().map_err(|error: carferry_car::CidError| error.to_string())
}
