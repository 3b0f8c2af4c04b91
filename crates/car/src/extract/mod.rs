//! Restores files and folders from CARs; every block is checked against its CID before it is used.
//!
//! ```text
//! CARs ──► index ──► plan ──► walk ──► leaves: read, hash, write ──► rename
//!          24 bytes   nodes   nodes         any thread
//!          a block
//! ```
//!
//! A block that is missing in one CAR is searched in the others. Files are written under temporary names in
//! their folders and renamed when they are complete, so a run that is cancelled or killed leaves no
//! incomplete file under a final name. No symbolic link of the output is followed. One `syncfs` at the end
//! makes all files durable; parts of joined files are synced one by one, before they are listed.
//!
//! What lives here: [`Extraction`], [`extract`]. What does not: times and modes of files (UnixFS 1.5 has
//! them, this crate writes none), CARs that are not on the disk.

mod error;
mod index;
mod name;
mod output_dir;
mod parts;
mod plan;
mod run;
mod store;
mod target;
mod walk;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{fstatvfs, syncfs};

use crate::carv1::header::HeaderError;
use crate::cids::PayloadCid;
pub use crate::extract::error::{BadName, BadParts, ExtractError};
use crate::extract::name::check_name;
pub use crate::extract::plan::ExtractPlan;
use crate::extract::plan::{Holes, Planner};
use crate::extract::run::Run;
use crate::extract::store::Store;
use crate::extract::walk::{GROUP_BYTES, GROUP_FILES, Walk};
use crate::limits::ENTRIES_MAX;
use crate::progress::Progress;
use crate::thread_budget::ThreadBudget;
use crate::units::len64;

/// Options of an extraction.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// The output folder, which is created if it does not exist. The entries of a root folder are restored
    /// directly in it.
    pub output: PathBuf,
    /// Name of a root that is a file. The default is the name of its CAR without `.car`, or its payload CID.
    pub file_name: Option<OsString>,
    /// Roots to restore instead of the roots in the headers, each once, from any of the CARs.
    ///
    /// Needed for Singularity, whose headers name the first leaf, and for a DAG in several CARs with one
    /// root.
    pub roots: Option<Vec<PayloadCid>>,
    /// What happens to existing files.
    pub existing: Existing,
    /// What happens to symbolic links.
    pub symlinks: Symlinks,
    /// Files that are parts of larger files.
    pub placements: Vec<Placement>,
    /// Limit on the bytes of all files.
    pub bytes_max: u64,
    /// Limit on the number of files, folders and links.
    pub entries_max: u64,
}

/// What happens to existing files and links. An existing folder is always used. A folder at the path of a
/// file, or anything else at the path of a folder, is always an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Existing {
    /// An existing file is an error.
    #[default]
    Refuse,
    /// An existing file is replaced atomically.
    Replace,
    /// An existing file is kept: [`Outcome::Same`] if its content is the same, compared byte by byte, else
    /// [`Outcome::Different`].
    Keep,
}

/// What happens to symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Symlinks {
    /// They are restored with any target.
    #[default]
    Restore,
    /// They are skipped.
    Skip,
}

/// A file of a CAR that is a part of a larger file: its bytes go to `offset` of `file`.
///
/// Parts may be restored in any order and in different runs. Until all parts are restored, the file has the
/// name `.<name>.carferry-part`. All parts of one run are of one state of the file. [`OtherState`] describes
/// parts of earlier runs that are of another state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Root of the DAG that has the part.
    pub payload_cid: PayloadCid,
    /// Path of the part below the root; empty if it is the root.
    pub inside: PathBuf,
    /// Path of the whole file inside of the output.
    pub file: PathBuf,
    /// Offset of the part in the whole file.
    pub offset: u64,
    /// Bytes of the whole file.
    pub file_size: u64,
    /// Modification time of the file when it was split, in nanoseconds since 1970, if known. Parts are
    /// joined only if this and [`Placement::file_size`] agree.
    pub mtime_nanos: Option<i64>,
}

/// The result of one file, folder or link.
#[derive(Debug, Clone, Copy)]
pub struct Restored<'a> {
    /// Its kind.
    pub kind: RestoredKind,
    /// Its path below the root; empty if it is the root.
    pub inside: &'a Path,
    /// Bytes that were written or compared.
    pub bytes: u64,
    /// Its outcome.
    pub outcome: Outcome,
    /// For a part: parts of another state of the file that existed.
    pub other_state: Option<OtherState>,
}

/// The result for a part if the existing parts, from earlier runs, are of another state of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OtherState {
    /// The existing parts are older and were discarded. The file starts again with this part.
    BegunAnew,
    /// The existing parts are newer. This part was restored as its own file, with its name in the CAR.
    Older,
    /// The modification time of one state is unknown. This part was restored as its own file.
    Unknown,
}

/// Kind of a restored entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestoredKind {
    /// A file, or a part of one.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
}

/// The outcome of a file, folder or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is complete under its final name. For a part: it was the last one, and the whole file is complete.
    Written,
    /// It existed with the same content.
    Same,
    /// It existed with other content, and was not changed.
    Different,
    /// The part was written, but other parts of the file are missing.
    Part {
        /// Bytes of the file that were written so far.
        bytes_in: u64,
        /// Bytes of the whole file.
        file_size: u64,
    },
    /// A link that was skipped on request.
    Skipped,
}

/// Counts of an extraction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extracted {
    /// Complete files that were written. A file that was joined from parts counts once.
    pub files: u64,
    /// Folders, including existing ones.
    pub folders: u64,
    /// Symbolic links that were created.
    pub symlinks: u64,
    /// Bytes of files that were written, holes included.
    pub bytes: u64,
    /// Existing files and links with the same content.
    pub same: u64,
    /// Existing files and links with other content.
    pub different: u64,
    /// Parts of the files in [`Extracted::unfinished`].
    pub parts: u64,
    /// Links that were skipped on request.
    pub skipped: u64,
    /// Incomplete files with parts in this run, in the order of their paths.
    pub unfinished: Vec<Unfinished>,
}

/// A file with parts in a run that is incomplete at the end of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Path of the whole file inside of the output.
    pub file: PathBuf,
    /// Parts of the file in this run.
    pub parts: u64,
    /// Bytes of the file that were written so far.
    pub bytes_in: u64,
    /// Bytes of the whole file.
    pub file_size: u64,
    /// Why parts were not joined with the existing ones.
    pub left: Option<OtherState>,
}

/// A root, and its name for the case that it is a file.
#[derive(Debug, Clone)]
struct Root {
    cid: PayloadCid,
    name: Box<[u8]>,
}

/// Opened CARs with the plan of their content. Nothing is written yet.
pub struct Extraction {
    options: ExtractOptions,
    store: Store,
    roots: Vec<Root>,
    plan: ExtractPlan,
    holes: Holes,
}

impl ExtractOptions {
    /// Restores everything into a folder, without replacing existing files.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self {
            output: output.into(),
            file_name: None,
            roots: None,
            existing: Existing::default(),
            symlinks: Symlinks::default(),
            placements: Vec::new(),
            bytes_max: u64::MAX,
            entries_max: ENTRIES_MAX,
        }
    }
}

impl fmt::Debug for Extraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extraction")
            .field("roots", &self.roots)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl Extraction {
    /// Opens CARs and reads their nodes. Takes 24 bytes of memory per block, and some per node.
    ///
    /// # Errors
    ///
    /// [`ExtractError`] for all errors of the CARs except for damaged leaves.
    pub fn open(
        cars: &[PathBuf],
        options: ExtractOptions,
        progress: &dyn Progress,
    ) -> Result<Self, ExtractError> {
        let (store, in_headers) = Store::open(cars, progress)?;
        let mut roots = Vec::new();
        for (car, root) in cars.iter().zip(in_headers) {
            match root {
                Ok(_) | Err(HeaderError::RootCount(_)) if options.roots.is_some() => {}
                Ok(cid) => roots.push(Root { name: name_of(&options, car, &cid)?, cid }),
                Err(source) => return Err(ExtractError::Header { car: car.clone(), source }),
            }
        }
        for cid in options.roots.iter().flatten() {
            roots.push(Root { name: name_of(&options, Path::new(""), cid)?, cid: cid.clone() });
        }
        let mut planner = Planner::new(&store, progress);
        let mut plan = ExtractPlan::default();
        let mut seen = HashSet::new();
        let mut distinct = Vec::new();
        for root in roots {
            let (below, is_folder) = planner.count(root.cid.as_bytes())?;
            // The same file twice is restored twice only under two names.
            let name = if is_folder { None } else { Some(root.name.clone()) };
            if seen.insert((root.cid.clone(), name)) {
                plan.add(&below);
                distinct.push(root);
            }
        }
        let (roots, holes) = (distinct, planner.into_holes());
        Ok(Self { options, store, roots, plan, holes })
    }

    /// The counts of what will be restored.
    pub fn plan(&self) -> &ExtractPlan {
        &self.plan
    }

    /// Restores everything. The budget's threads read, hash and write; one thread at a time walks the DAG.
    ///
    /// `restored` is called for every file, folder and link, from any thread.
    ///
    /// # Errors
    ///
    /// The first [`ExtractError`] that occurs. [`ExtractError::TooMuch`] and [`ExtractError::NoSpace`] are
    /// returned before anything is written. [`ExtractError::NoSpace`] is not checked with [`Existing::Keep`],
    /// because the size of the existing files is unknown.
    pub fn run(
        self,
        budget: &ThreadBudget,
        restored: &(dyn Fn(&Restored<'_>) + Sync),
        progress: &dyn Progress,
    ) -> Result<Extracted, ExtractError> {
        let Self { options, store, roots, plan, holes } = self;
        for (what, wanted, allowed) in
            [("bytes", plan.bytes, options.bytes_max), (ENTRIES, plan.entries(), options.entries_max)]
        {
            if wanted > allowed {
                return Err(ExtractError::TooMuch { what, wanted, allowed });
            }
        }
        let walk = Walk::new(&store, &options, &holes)?;
        let output = walk.output();
        if options.existing != Existing::Keep {
            check_free_space(&options.output, &output, &plan)?;
        }
        // One thread for each full group.
        let threads = (plan.bytes / GROUP_BYTES).max(plan.files / len64(GROUP_FILES)) + 1;
        let threads_max = usize::try_from(threads).unwrap_or(usize::MAX);
        let run = Run::new(&store, walk, restored, progress);
        for root in &roots {
            run.work(budget, threads_max, root)?;
        }
        syncfs(&output.fd).map_err(|error| ExtractError::output(&options.output, error))?;
        Ok(run.finish())
    }
}

/// Restores everything below the root of each CAR into a folder: [`Extraction::open`], then
/// [`Extraction::run`].
///
/// # Errors
///
/// Those of both functions.
pub fn extract(
    budget: &ThreadBudget,
    cars: &[PathBuf],
    options: ExtractOptions,
    restored: &(dyn Fn(&Restored<'_>) + Sync),
    progress: &dyn Progress,
) -> Result<Extracted, ExtractError> {
    Extraction::open(cars, options, progress)?.run(budget, restored, progress)
}

/// Unit of the entry counts in errors.
const ENTRIES: &str = "files, folders and links";

/// The name of a root, for the case that it is a file.
fn name_of(options: &ExtractOptions, car: &Path, cid: &PayloadCid) -> Result<Box<[u8]>, ExtractError> {
    let of_car = || {
        let name = car.file_name()?.as_encoded_bytes();
        let name = name.strip_suffix(b".car").unwrap_or(name);
        Some(name.to_vec()).filter(|name| check_name(name).is_ok())
    };
    let given = options.file_name.clone().map(OsStringExt::into_vec);
    let name = given.or_else(of_car).unwrap_or_else(|| cid.to_string().into_bytes());
    check_name(&name).map_err(|reason| ExtractError::Name {
        folder: PathBuf::new(),
        name: String::from_utf8_lossy(&name).into_owned(),
        reason,
    })?;
    Ok(name.into())
}

/// Compares the plan with the free space and inodes of the disk. File systems that report zero in total are
/// not checked.
fn check_free_space(
    path: &Path,
    output: &output_dir::Folder,
    plan: &ExtractPlan,
) -> Result<(), ExtractError> {
    let disk = fstatvfs(&output.fd).map_err(|error| ExtractError::output(path, error))?;
    let no_space = |what, wanted, free| ExtractError::NoSpace { output: path.to_owned(), what, wanted, free };
    let (bytes, free) = (plan.bytes - plan.hole_bytes, disk.f_bavail.saturating_mul(disk.f_frsize));
    if disk.f_blocks > 0 && bytes > free {
        return Err(no_space("bytes", bytes, free));
    }
    if disk.f_files > 0 && plan.entries() > disk.f_favail {
        return Err(no_space(ENTRIES, plan.entries(), disk.f_favail));
    }
    Ok(())
}
