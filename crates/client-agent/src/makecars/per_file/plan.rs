//! What to do with each file: make its CAR, skip it because that is done, or refuse it. Reads metadata and
//! `cars`, writes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use carferry_car::{BuildError, BuiltCar, CarPlan, PaddedPieceSize, Profile, SourceIdentity, plan_car};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::CarDoc;
use carferry_core::store::{Store, StoreError};
use futures::future::ready;
use futures::{StreamExt, stream};
use indicatif::BinaryBytes;
use tokio_util::sync::CancellationToken;

use crate::car_line::CarLine;
use crate::makecars::car_record;
use crate::makecars::per_file::manifest::Line;
use crate::makecars::per_file::report::{FileReport, FileState};
use crate::makecars::per_file::scan::{Found, group_of};
use crate::makecars::per_file::standing;
use crate::makecars::per_file::standing::Standing;

/// A CAR to be made.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The source.
    pub input: PathBuf,
    /// The CAR.
    pub output: PathBuf,
    /// Name of the data set.
    pub group: String,
    /// What the CAR will be.
    pub plan: CarPlan,
    /// Payload CID of the CAR that the records say stands at `output`.
    pub recorded_payload_cid: Option<String>,
    /// What stands at `output`.
    pub standing: Standing,
}

/// What holds for every file of a run.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The folder for CARs, canonical.
    pub output: PathBuf,
    /// What the manifest there says of CARs, by their names below it.
    pub earlier: BTreeMap<String, Line>,
    /// Set by the user for all files.
    pub group: Option<String>,
    /// Name of the input folder (for a file: the folder it is in).
    pub folder: Option<String>,
    /// DAG parameters.
    pub profile: Profile,
    /// The largest piece.
    pub max_piece: PaddedPieceSize,
    /// Under which CARs are recorded.
    pub host: String,
}

/// All that is to be done, and all that is not.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// To be made.
    pub jobs: Vec<Job>,
    /// Skipped or refused.
    pub settled: Vec<FileReport>,
}

impl Planned {
    /// Bytes of all sources that are to be read.
    pub(crate) fn source_bytes(&self) -> u64 {
        self.jobs.iter().map(|job| job.plan.source_bytes).fold(0, u64::saturating_add)
    }

    /// What is to be said where many files are small: each becomes a CAR, and a deal for each of its copies.
    pub(crate) fn many_small(&self) -> Option<String> {
        let is_small = |job: &&Job| job.plan.padded_piece_size_max.get() < SMALL_PIECE_BYTES;
        let small = self.jobs.iter().filter(is_small).count();
        (small >= MANY_SMALL).then(|| {
            format!(
                "{small} of {} files fill pieces of less than {} each, and each of them becomes a CAR and deals of its \
                 own; many providers take no pieces so small: --layout pack puts files together into full pieces",
                self.jobs.len(),
                BinaryBytes(SMALL_PIECE_BYTES)
            )
        })
    }

    /// Bytes of all CARs, at most.
    pub(crate) fn car_bytes_max(&self) -> u64 {
        self.jobs.iter().map(|job| job.plan.payload_size_max.get()).fold(0, u64::saturating_add)
    }
}

/// PADDED size of pieces below which a CAR of one file is called small. Source: this project's choice; asks
/// of public providers start with some hundred MiB, while Lotus itself takes 256 bytes.
const SMALL_PIECE_BYTES: u64 = 256 << 20;
/// Number of small files from which a warning names another layout. Source: this project's choice.
const MANY_SMALL: usize = 16;

/// Looks at every file, in order; ends early when asked to.
///
/// # Errors
///
/// When the database does not answer: it alone knows what is done.
pub(crate) async fn plan(
    files: &[Found],
    rules: &Rules,
    store: Option<&Store>,
    stop: &CancellationToken,
) -> Result<Planned, StoreError> {
    let mut steps = stream::iter(files)
        .take_while(|_| ready(!stop.is_cancelled()))
        .map(|file| plan_file(file, rules, store))
        .buffered(LOOKUPS_AT_ONCE);
    let mut planned = Planned::default();
    while let Some(step) = steps.next().await {
        match step? {
            Step::Make(job) => planned.jobs.push(*job),
            Step::Settled(report) => planned.settled.push(report),
        }
    }
    Ok(planned)
}

/// Questions to the database at a time: one after the other, they take longer than all else of a run in which
/// everything is done already.
const LOOKUPS_AT_ONCE: usize = 16;

enum Step {
    Make(Box<Job>),
    Settled(FileReport),
}

async fn plan_file(file: &Found, rules: &Rules, store: Option<&Store>) -> Result<Step, StoreError> {
    let failed = |reason: String| Step::Settled(FileReport::failed(&file.path, reason));
    let output = rules.output_of(file);
    let plan = match plan_car(&file.path, &rules.profile.params()) {
        Ok(plan) => plan,
        Err(error) => return Ok(failed(ErrorChain(&error).to_string())),
    };
    if plan.padded_piece_size_max > rules.max_piece {
        let error = BuildError::TooLarge {
            path: file.path.clone(),
            payload_size: plan.payload_size_max,
            max_piece: rules.max_piece,
        };
        let hint =
            if rules.max_piece < PaddedPieceSize::GIB_64 { "; --max-piece 64GiB allows more" } else { "" };
        return Ok(failed(format!("{}{hint}", ErrorChain(&error))));
    }
    let mut recorded = None;
    if let Some(store) = store {
        let (input, output) = (file.path.to_string_lossy(), output.to_string_lossy());
        recorded = store.car_of_source(&rules.host, &input, &output).await?;
        if let Some(car) = &recorded
            && is_done(car, &plan.source, rules.profile)
        {
            return Ok(Step::Settled(FileReport::done(&file.path, car)));
        }
    }
    let line = output.strip_prefix(&rules.output).ok().and_then(Path::to_str);
    let line = line.and_then(|name| rules.earlier.get(name));
    let standing = match standing::look(&output, &file.path, &plan, recorded.as_ref(), line) {
        Ok(standing) => standing,
        Err(reason) => return Ok(failed(reason)),
    };
    let (input, group) = (file.path.clone(), rules.group_of(file));
    let recorded_payload_cid = recorded.and_then(|car| car.filecid);
    Ok(Step::Make(Box::new(Job { input, output, group, plan, recorded_payload_cid, standing })))
}

/// The document of a file's CAR.
pub(crate) fn car_document(job: &Job, car: &BuiltCar, profile: Profile, host: &str) -> CarDoc {
    CarDoc {
        inputpath: Some(job.input.to_string_lossy().into_owned()),
        group: Some(job.group.clone()),
        filesizebytes: i64::try_from(car.source.bytes).ok(),
        sourcemtimenanos: Some(nanos_since_1970(car.source.modified)),
        ..car_record::of(car, &job.output, profile, host)
    }
}

/// Whether the record is of this very source, and its CAR still there.
fn is_done(car: &CarDoc, source: &SourceIdentity, profile: Profile) -> bool {
    let same_source = car.filesizebytes == i64::try_from(source.bytes).ok()
        && car.sourcemtimenanos == Some(nanos_since_1970(source.modified))
        && car.profile.as_deref() == Some(profile.name());
    let car_size = car.outputpath.as_ref().and_then(|path| fs::symlink_metadata(path).ok());
    let car_size =
        car_size.filter(fs::Metadata::is_file).and_then(|metadata| i64::try_from(metadata.len()).ok());
    same_source && car_size.is_some() && car.carsizebytes == car_size
}

/// A file's modification time as it is recorded.
fn nanos_since_1970(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

impl Rules {
    fn output_of(&self, file: &Found) -> PathBuf {
        let mut name = self.output.join(&file.relative).into_os_string();
        name.push(".car");
        PathBuf::from(name)
    }

    fn group_of(&self, file: &Found) -> String {
        let name = file.relative.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        self.group.clone().unwrap_or_else(|| group_of(&name, self.folder.as_deref()))
    }
}

/// What a dry run says of a job.
pub(crate) fn would_make(job: &Job) -> FileReport {
    FileReport {
        car: CarLine::sized(job.plan.payload_size_max, Some(job.plan.padded_piece_size_max)).at(&job.output),
        ..FileReport::new(&job.input, FileState::WouldMake)
    }
}

/// Space that is missing on the file system of the output: for one CAR alone, or for all together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// This CAR fits in no case.
    One {
        /// The source.
        input: PathBuf,
        /// Bytes of its CAR, at most.
        needed: u64,
    },
    /// Each fits, not all.
    All {
        /// Bytes of all CARs, at most.
        needed: u64,
    },
}

/// Compares what will be written with the free space. A CAR that is replaced gives its space back only after
/// the new one is complete, so it does not count.
pub(crate) fn shortage(planned: &Planned, free: u64) -> Option<Shortage> {
    let largest = planned.jobs.iter().max_by_key(|job| job.plan.payload_size_max)?;
    let needed = largest.plan.payload_size_max.get();
    if needed > free {
        return Some(Shortage::One { input: largest.input.clone(), needed });
    }
    let needed = planned.car_bytes_max();
    (needed > free).then_some(Shortage::All { needed })
}
