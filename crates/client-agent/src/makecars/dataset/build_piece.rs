//! Builds one piece: its CAR and its manifest, complete under temporary names.

use std::fs::Metadata;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use carferry_car::{
    BuildError, BuildOptions, BuiltCar, FilePart, PaddedPieceSize, Profile, Progress, SourceStamp,
    SourceTree, ThreadBudget, TreeError, build_tree, read_car_root,
};
use carferry_core::fsx;
use carferry_core::fsx::TempGuard;
use carferry_core::model::stored::unsigned;
use carferry_core::model::{PackEntryDoc, PlanDoc};

use crate::car_line::CarLine;
use crate::makecars::dataset::manifest;
use crate::makecars::dataset::manifest::{PieceLine, PieceOf};
use crate::makecars::dataset::plan::inside;
use crate::makecars::dataset::rules::PlanRules;
use crate::makecars::dataset::survey::changed_nanos;
use crate::makecars::read_back::{ReadBackError, read_back};

/// A piece to be made.
#[derive(Clone, Debug)]
pub(crate) struct PieceJob {
    /// Of which plan.
    pub plan: PlanDoc,
    /// Which piece.
    pub index: i64,
    /// What is in it.
    pub entries: Vec<PackEntryDoc>,
    /// The folder that the entries are below.
    pub input: PathBuf,
    /// The CAR.
    pub car: PathBuf,
    /// DAG parameters.
    pub profile: Profile,
    /// The largest piece.
    pub piece_size: PaddedPieceSize,
    /// Whether what was written is read again.
    pub verify: bool,
    /// Which modification times the sources must have.
    pub times: SourceTimes,
    /// When the files had last been changed as the plan was made, where this agent has seen it: one that was
    /// changed later is another, though size and modification time are the same.
    pub changed_nanos: Option<i64>,
}

impl PieceJob {
    fn is_changed(&self, found: &Metadata) -> bool {
        self.changed_nanos.zip(changed_nanos(found)).is_some_and(|(planned, found)| found > planned)
    }
}

/// Which modification times the sources of a piece must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceTimes {
    /// Those that were planned.
    AsPlanned,
    /// Whatever they are now: files that were brought back have other times, and the piece CID says whether
    /// they are what they were. The manifest keeps the times of the plan, by which parts of a file find
    /// together.
    AsFound,
}

/// A piece that is complete, but has not its name yet.
#[derive(Debug)]
pub(crate) struct Made {
    /// What it is.
    pub car: BuiltCar,
    /// Manifest and CAR, in the order in which they get their names: no CAR is ever without its manifest.
    pub files: Vec<TempGuard>,
}

/// Why a piece was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    /// A name in the plan cannot be used.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The sources or the output.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The files beside the CAR.
    #[error("cannot write the piece")]
    Output(#[from] io::Error),
    /// The input itself is not there: nothing is known of its files.
    #[error("{} is empty, or cannot be listed", path.display())]
    NoInput {
        /// The input.
        path: PathBuf,
    },
    /// Files are not what was planned.
    #[error(
        "{} planned: {}",
        if *count == 1 { "1 file is not what was".to_owned() } else { format!("{count} files are not what was") },
        named.join("; ")
    )]
    Changed {
        /// How many.
        count: usize,
        /// Some of them, each with what is different.
        named: Vec<String>,
    },
    /// What was read again is not what was written.
    #[error(transparent)]
    ReadBack(#[from] ReadBackError),
    /// Another file has the name of the CAR or of its manifest.
    #[error("{} is there already, and not of this piece: it is left alone", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The sources are not what was planned: this piece cannot be made.
    PlanAnew,
    /// Nothing more can be written here now.
    StopWriting,
    /// The run is to end, or the lease was lost.
    Stopped,
}

impl MakeError {
    /// What follows from it.
    pub(crate) fn consequence(&self) -> Consequence {
        match self {
            Self::Build(BuildError::Cancelled) => Consequence::Stopped,
            Self::ReadBack(error) if error.is_cancelled() => Consequence::Stopped,
            Self::Build(BuildError::Output { .. })
            | Self::Output(_)
            | Self::ReadBack(_)
            | Self::Foreign { .. }
            | Self::NoInput { .. } => Consequence::StopWriting,
            Self::Tree(_) | Self::Changed { .. } | Self::Build(_) => Consequence::PlanAnew,
        }
    }

    /// Whether the disk is full.
    pub(crate) fn is_no_space(&self) -> bool {
        let (Self::Build(BuildError::Output { source }) | Self::Output(source)) = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The tree of a piece.
///
/// # Errors
///
/// [`TreeError`] for a name that no CAR can have.
pub(crate) fn tree(
    input: &Path,
    entries: &[PackEntryDoc],
    times: SourceTimes,
) -> Result<SourceTree, TreeError> {
    let mut tree = SourceTree::new();
    for entry in entries {
        match entry {
            PackEntryDoc::File { path, size, mtimenanos, part } => {
                let size = unsigned(*size);
                let range = part.as_ref().map_or(0..size, |part| unsigned(part.from)..unsigned(part.to));
                let (planned, path) = (time(*mtimenanos), input.join(path));
                let found = || path.symlink_metadata().and_then(|found| found.modified()).ok();
                let modified = match times {
                    SourceTimes::AsPlanned => planned,
                    SourceTimes::AsFound => found().unwrap_or(planned),
                };
                let expected = SourceStamp { size, modified };
                tree.add_file(&inside(entry), FilePart { path, range, expected })?;
            }
            PackEntryDoc::Folder { path } => tree.add_folder(path)?,
            PackEntryDoc::Symlink { path, target } => tree.add_symlink(path, target.as_bytes())?,
        }
    }
    Ok(tree)
}

/// Looks at every file before the first is read: a piece of many gigabytes should not fail at its last.
fn check_sources(job: &PieceJob) -> Result<(), MakeError> {
    let mut named = Vec::new();
    let mut count = 0;
    for entry in &job.entries {
        let PackEntryDoc::File { path, size, mtimenanos, .. } = entry else { continue };
        let found = job.input.join(path).symlink_metadata();
        let difference = match found {
            Ok(found) if !found.is_file() => "no regular file any more".to_owned(),
            Ok(found) if found.len() != unsigned(*size) => format!("{size} bytes then, {} now", found.len()),
            Ok(found)
                if job.times == SourceTimes::AsPlanned
                    && found.modified().ok() != Some(time(*mtimenanos)) =>
            {
                "its modification time is another".to_owned()
            }
            Ok(found) if job.is_changed(&found) => TOUCHED.to_owned(),
            Ok(_) => continue,
            Err(error) => error.to_string(),
        };
        count += 1;
        if named.len() < NAMED_MAX {
            named.push(format!("{} ({difference})", path.escape_debug()));
        }
    }
    if count == 0 {
        return Ok(());
    }
    if count > named.len() {
        named.push("…".to_owned());
    }
    // A file system that is not mounted any more is no reason to plan everything anew.
    if fs::read_dir(&job.input).ok().and_then(|mut entries| entries.next()).is_none() {
        return Err(MakeError::NoInput { path: job.input.clone() });
    }
    Err(MakeError::Changed { count, named })
}

/// Looks once more when all is read: a file may have been changed before it was opened.
fn check_changes(job: &PieceJob) -> Result<(), MakeError> {
    if job.changed_nanos.is_none() {
        return Ok(());
    }
    let is_changed = |entry: &&PackEntryDoc| {
        let PackEntryDoc::File { path, .. } = entry else { return false };
        // What has been deleted since was read before.
        job.input.join(path).symlink_metadata().is_ok_and(|found| job.is_changed(&found))
    };
    let changed: Vec<&PackEntryDoc> = job.entries.iter().filter(is_changed).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let name = |entry: &&PackEntryDoc| format!("{} ({TOUCHED})", entry.path().escape_debug());
    Err(MakeError::Changed {
        count: changed.len(),
        named: changed.iter().take(NAMED_MAX).map(name).collect(),
    })
}

/// What is said of a file whose ctime alone is another.
const TOUCHED: &str = "changed since it was planned, though size and time are the same";
/// Files that a message names at most.
const NAMED_MAX: usize = 20;

/// Makes a piece; on any error nothing is left of it.
///
/// # Errors
///
/// [`MakeError`].
pub(crate) fn make(
    job: &PieceJob,
    budget: &ThreadBudget,
    progress: &dyn Progress,
) -> Result<Made, MakeError> {
    check_sources(job)?;
    let tree = tree(&job.input, &job.entries, job.times)?;
    let (file, temp) = fsx::create_temp_beside(&job.car)?;
    let params = PlanRules::of(&job.plan).params(job.profile);
    let options = BuildOptions { params, max_piece: job.piece_size };
    let car = build_tree(budget, &tree, &file, &options, progress)?;
    drop(tree);
    check_changes(job)?;
    if job.verify {
        read_back(budget, &file, temp.path(), &car, progress)?;
    }
    drop(file);
    // `regenerate` has looked itself, and knows what the record says.
    if job.times == SourceTimes::AsPlanned {
        check_places(job, &car)?;
    }
    let (mut to, beside) = fsx::create_temp_beside(&manifest::path_of(&job.car))?;
    manifest::write(&mut to, &piece_line(job, &car), job.entries.iter())?;
    to.flush()?;
    Ok(Made { car, files: vec![beside, temp] })
}

/// Refuses to take the place of files that are not of this piece. A run that was killed may have left the
/// manifest, or both.
fn check_places(job: &PieceJob, car: &BuiltCar) -> Result<(), MakeError> {
    let beside = manifest::path_of(&job.car);
    let is_of_piece = manifest::read_piece(&beside)
        .is_ok_and(|said| said.of.plan == job.plan.id && said.of.index == unsigned(job.index));
    let is_free = |path: &Path| path.symlink_metadata().is_err();
    let foreign = |path: &Path| Err(MakeError::Foreign { path: path.to_owned() });
    if !is_free(&beside) && !is_of_piece {
        return foreign(&beside);
    }
    let is_same = || read_car_root(&job.car).is_ok_and(|root| root == car.payload_cid);
    if !is_free(&job.car) && !is_of_piece && !is_same() {
        return foreign(&job.car);
    }
    Ok(())
}

fn piece_line(job: &PieceJob, car: &BuiltCar) -> PieceLine {
    let name = job.car.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let of = PieceOf {
        group: job.plan.key.group.clone(),
        plan: job.plan.id.clone(),
        index: unsigned(job.index),
        pieces: unsigned(job.plan.pieces),
    };
    PieceLine::new(name, CarLine::built(car), job.profile, of)
}

fn time(nanos: i64) -> SystemTime {
    let length = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { UNIX_EPOCH - length } else { UNIX_EPOCH + length }
}
