//! `extract`: restores files and folders from CARs. Manifests beside the CARs join split files.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use carferry_car::{
    Existing, ExtractError, ExtractOptions, Extracted, Extraction, OtherState, Outcome, Placement, Restored,
    RestoredKind, Symlinks, ThreadBudget, Unfinished,
};
use carferry_core::error_chain::Hint;
use carferry_core::printer::ExitStatus;
use carferry_core::words::counted;
use indicatif::BinaryBytes;
use serde::{Serialize, Serializer};
use tokio::sync::mpsc::UnboundedSender;

use crate::blocking::in_background;
use crate::cli::{ExtractArgs, WhereThere};
use crate::commands::placements::{Parts, is_part_name, placements};
use crate::commands::tools::hint_of_header;
use crate::console::Console;
use crate::exit::CommandError;
use crate::progress::Meter;

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
            ExtractError::Header { source, .. } => return hint_of_header(source).map(str::to_owned),
            ExtractError::Cancelled => "run it again with --existing keep for the rest",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn stop_of(error: ExtractError) -> CommandError {
    let is_cancelled = matches!(error, ExtractError::Cancelled);
    let stop = CommandError::user(&NotRestored(error));
    if is_cancelled { stop.interrupted() } else { stop }
}

/// One thing that was dealt with.
#[derive(Debug, Serialize)]
struct Line {
    path: String,
    kind: Kind,
    state: State,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytesin: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesize: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "name_of_other_state")]
    otherstate: Option<OtherState>,
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Folder,
    Symlink,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Written,
    Same,
    Different,
    Part,
    Skipped,
    Unfinished,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Same => "same",
            Self::Different => "different",
            Self::Part => "part",
            Self::Skipped => "skipped",
            Self::Unfinished => "unfinished",
        }
    }
}

/// The name of a state for machines.
#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands a reference to the field"
)]
fn name_of_other_state<S: Serializer>(state: &Option<OtherState>, serializer: S) -> Result<S::Ok, S::Error> {
    let name = state.map(|state| match state {
        OtherState::BegunAnew => "begun-anew",
        OtherState::Older => "older",
        OtherState::Unknown => "unknown",
    });
    name.serialize(serializer)
}

impl Line {
    fn of(restored: &Restored<'_>) -> Self {
        let (state, bytes_in, file_size) = match restored.outcome {
            Outcome::Written => (State::Written, None, None),
            Outcome::Same => (State::Same, None, None),
            Outcome::Different => (State::Different, None, None),
            Outcome::Part { bytes_in, file_size } => (State::Part, Some(bytes_in), Some(file_size)),
            Outcome::Skipped => (State::Skipped, None, None),
        };
        let kind = match restored.kind {
            RestoredKind::File => Kind::File,
            RestoredKind::Folder => Kind::Folder,
            RestoredKind::Symlink => Kind::Symlink,
        };
        Self {
            path: restored.inside.to_string_lossy().into_owned(),
            kind,
            state,
            bytes: restored.bytes,
            bytesin: bytes_in,
            filesize: file_size,
            otherstate: restored.other_state,
        }
    }

    /// Whether the line is printed for people.
    fn is_notable(&self) -> bool {
        matches!(self.state, State::Different | State::Part | State::Skipped) || self.otherstate.is_some()
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
    /// Files that were wanted and are not whole.
    unfinished: usize,
}

impl Total {
    fn new(all: &Extracted, not_whole: &[NotWhole]) -> Self {
        let Extracted { files, folders, symlinks, bytes, same, different, skipped, .. } = *all;
        let parts = not_whole.iter().map(|file| file.parts).sum();
        let unfinished = not_whole.len();
        Self { files, folders, symlinks, bytes, same, different, parts, skipped, unfinished }
    }
}

/// A file that was wanted and is not whole.
#[derive(Debug, Serialize)]
struct NotWhole {
    path: String,
    kind: Kind,
    state: State,
    parts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytesin: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesize: Option<u64>,
    reason: String,
}

impl NotWhole {
    fn new(path: &Path, parts: u64, reason: &str) -> Self {
        Self {
            path: path.to_string_lossy().into_owned(),
            kind: Kind::File,
            state: State::Unfinished,
            parts,
            bytesin: None,
            filesize: None,
            reason: reason.to_owned(),
        }
    }

    /// A file of which parts are missing, or stay parts.
    fn of(file: &Unfinished) -> Self {
        let reason = match file.left {
            None | Some(OtherState::BegunAnew) => {
                "the CARs with its other parts were not named, now or before"
            }
            Some(OtherState::Older) => {
                "its parts are of an older state of the file than those that are there; name all CARs of one state"
            }
            Some(OtherState::Unknown) => {
                "nobody knows whether its parts are of the same state as those that are there; remove its \
                 .carferry-part to begin it anew"
            }
        };
        let joined = file.left.is_none_or(|left| left == OtherState::BegunAnew);
        Self {
            bytesin: joined.then_some(file.bytes_in),
            filesize: Some(file.file_size),
            ..Self::new(&file.file, file.parts, reason)
        }
    }

    fn words(&self) -> String {
        let Self { path, reason, .. } = self;
        let of_file = match (self.bytesin, self.filesize) {
            (Some(there), Some(size)) => format!("{} of {}, ", BinaryBytes(there), BinaryBytes(size)),
            _ => String::new(),
        };
        format!("{:<10}  {path}: {of_file}{reason}", self.state.name())
    }
}

/// Runs `extract`.
///
/// # Errors
///
/// When not everything was restored.
pub(super) async fn extract(
    args: &ExtractArgs,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let shutdown = console.shutdown;
    let cars = args.cars.clone();
    let Parts { placements, older, without_manifest } = placements(&args.cars);
    let is_placed = placements.iter().chain(&older).map(|part| part.inside.clone()).collect();
    let loose = Loose { is_placed, is_looked_for: without_manifest, found: Mutex::default() };
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
    let extraction = opened.map_err(stop_of)?;
    let plan = extraction.plan();
    if args.dry_run {
        let (files, folders) = (counted(plan.files, "file"), counted(plan.folders, "folder"));
        let (links, size) = (counted(plan.symlinks, "link"), BinaryBytes(plan.bytes));
        let sums = serde_json::json!({
            "files": plan.files, "folders": plan.folders, "symlinks": plan.symlinks, "bytes": plan.bytes,
            "holebytes": plan.hole_bytes
        });
        console.result(&sums, format_args!("{files}, {folders}, {links}, {size}"))?;
        return Ok(ExitStatus::Success);
    }
    let meter = Meter::new(plan.bytes, plan.files, shutdown.token().clone());
    let shown = console.screen.show(&meter, args.work.no_progress);
    let budget = args.work.budget();
    let (lines, mut told) = tokio::sync::mpsc::unbounded_channel();
    let all = console.json;
    let running = in_background(shutdown, move || {
        let restored = run(extraction, &budget, &meter, &lines, all, &loose);
        (restored, loose.found.into_inner().unwrap_or_else(PoisonError::into_inner))
    });
    let telling = async {
        while let Some(line) = told.recv().await {
            console.result(&line, words(&line))?;
        }
        Ok::<(), CommandError>(())
    };
    let (ended, printed) = futures::join!(running, telling);
    drop(shown);
    let (restored, loose) = ended?;
    printed?;
    let restored = restored.map_err(stop_of)?;
    let not_whole = not_whole(&restored, &older, &loose);
    for file in &not_whole {
        console.result(file, file.words())?;
    }
    let total = Total::new(&restored, &not_whole);
    console.result(&total, total_words(&total))?;
    let is_all = total.different == 0 && not_whole.is_empty();
    Ok(if is_all { ExitStatus::Success } else { ExitStatus::Partly })
}

/// Parts that no manifest joins, by the paths of their files.
struct Loose {
    is_placed: HashSet<PathBuf>,
    /// Whether some CAR has no manifest; else every part is known, and other files only have such names.
    is_looked_for: bool,
    found: Mutex<BTreeMap<PathBuf, u64>>,
}

fn run(
    extraction: Extraction,
    budget: &ThreadBudget,
    meter: &Arc<Meter>,
    lines: &UnboundedSender<Line>,
    all: bool,
    loose: &Loose,
) -> Result<Extracted, ExtractError> {
    let restored = |restored: &Restored<'_>| {
        meter.item_done();
        let line = Line::of(restored);
        if loose.is_looked_for
            && restored.kind == RestoredKind::File
            && !loose.is_placed.contains(restored.inside)
            && let Some(file) = is_part_name(restored.inside)
        {
            let mut found = loose.found.lock().unwrap_or_else(PoisonError::into_inner);
            *found.entry(file).or_default() += 1;
        }
        if all || line.is_notable() {
            // After a second signal the receiver is gone.
            drop(lines.send(line));
        }
    };
    extraction.run(budget, &restored, &**meter)
}

/// Files that were wanted and are not whole, each with its reason, in the order of their paths.
fn not_whole(restored: &Extracted, older: &[Placement], loose: &BTreeMap<PathBuf, u64>) -> Vec<NotWhole> {
    let mut files: BTreeMap<&Path, NotWhole> =
        restored.unfinished.iter().map(|file| (&*file.file, NotWhole::of(file))).collect();
    for part in older {
        // Where the newer state is whole, nothing is missing.
        if let Some(file) = files.get_mut(&*part.file)
            && file.reason != OLDER_LEFT
        {
            OLDER_LEFT.clone_into(&mut file.reason);
        }
    }
    for (file, parts) in loose {
        files.insert(file, NotWhole::new(file, *parts, LOOSE));
    }
    files.into_values().collect()
}

/// Why a file is not whole of which two states lie in the CARs.
const OLDER_LEFT: &str = "two states of it lie in these CARs, and not all of the newer one; name all CARs of one state, and no others";
/// Why parts stay parts without manifests.
const LOOSE: &str = "no manifest (.jsonl) beside its CARs joins its parts; they are here under their own names, and \
                     `cat` joins them in the order of these";

fn words(line: &Line) -> String {
    let Line { path, .. } = line;
    let of_file = match (line.bytesin, line.filesize) {
        (Some(there), Some(size)) => format!("  {} of {}", BinaryBytes(there), BinaryBytes(size)),
        _ => String::new(),
    };
    let other_state = match line.otherstate {
        Some(OtherState::BegunAnew) => {
            "  (the file is begun anew: the parts that were there are of an older state of it)"
        }
        Some(OtherState::Older) => "  (stays a part: those that are there are of a newer state of the file)",
        Some(OtherState::Unknown) => {
            "  (stays a part: nobody knows whether those that are there are of the same state of the file; remove \
             its .carferry-part to begin it anew)"
        }
        None => "",
    };
    format!("{:<10}  {path}{of_file}{other_state}", line.state.name())
}

const PART: &str = "part of a file that is not whole yet";
const PARTS: &str = "parts of files that are not whole yet";

fn total_words(total: &Total) -> String {
    let mut words = format!(
        "{}, {}, {} restored ({})",
        counted(total.files, "file"),
        counted(total.folders, "folder"),
        counted(total.symlinks, "link"),
        BinaryBytes(total.bytes)
    );
    for (count, what) in [
        (total.same, "the same already"),
        (total.different, "there with another content, left alone"),
        (total.parts, if total.parts == 1 { PART } else { PARTS }),
        (total.skipped, "links left out"),
    ] {
        if count > 0 {
            words = format!("{words}; {count} {what}");
        }
    }
    words
}
