//! From CARs back to files and folders, with every byte checked before it is used.
//!
//! ```text
//! CARs ──► index ──► plan ──► walk ──► leaves: read, hash, write ──► move to place
//!          24 bytes   nodes   nodes         any thread
//!          a block
//! ```
//!
//! A block that is missing in one CAR is looked for in the others. Files are written beside their places
//! under names of their own and moved when they are whole, so that a run that is stopped, or killed, leaves
//! nothing half written under a last name. No link is followed on the way to a place. Nothing is synced file
//! by file: one `syncfs` at the end makes all of it durable; only parts of files are made durable one by one,
//! before they are listed.
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

/// What is restored, and how.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// The folder that everything goes into; it is made if it is not there. What is below a root that is a
    /// folder goes right into it.
    pub output: PathBuf,
    /// What a root that is a file is called: by default as its CAR without `.car`, or by its payload CID.
    pub file_name: Option<OsString>,
    /// What is restored instead of the roots in the headers; each of them once, from whichever CARs have it.
    ///
    /// Singularity's headers name the first leaf, and a DAG that lies in several CARs has one root.
    pub roots: Option<Vec<PayloadCid>>,
    /// What is done where something is already.
    pub existing: Existing,
    /// What is done with symbolic links.
    pub symlinks: Symlinks,
    /// Files that are parts of others.
    pub placements: Vec<Placement>,
    /// Bytes of all files at most.
    pub bytes_max: u64,
    /// Files, folders and links at most.
    pub entries_max: u64,
}

/// What is done where a file or link is already. A folder that is there is always used; a folder where a file
/// goes, and whatever else is where a folder goes, is always an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Existing {
    /// It is an error.
    #[default]
    Refuse,
    /// It is replaced, in one step.
    Replace,
    /// It stays: [`Outcome::Same`] if it has the same content, which is compared byte by byte, and
    /// [`Outcome::Different`] otherwise.
    Keep,
}

/// What is done with symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Symlinks {
    /// They are restored as they are, wherever they lead.
    #[default]
    Restore,
    /// They are left out.
    Skip,
}

/// A file inside of a CAR that is a part of another: its bytes go to `offset` of `file`.
///
/// Parts may come in any order and in different runs. Until all are in, the file has the name
/// `.<name>.carferry-part`. Those of one run are of one state of the file; what becomes of those that are of
/// another state than what is there already, says [`OtherState`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Root of the DAG with the part.
    pub payload_cid: PayloadCid,
    /// Path of the part below the root; empty if it is the root.
    pub inside: PathBuf,
    /// Path of the whole file inside of the output.
    pub file: PathBuf,
    /// Where in it the part starts.
    pub offset: u64,
    /// Bytes of the whole file.
    pub file_size: u64,
    /// When the file was changed last before it was split, in nanoseconds since 1970, where that is known.
    /// Parts are joined only if they agree in that and in [`Placement::file_size`].
    pub mtime_nanos: Option<i64>,
}

/// One thing that has been dealt with.
#[derive(Debug, Clone, Copy)]
pub struct Restored<'a> {
    /// What it is.
    pub kind: RestoredKind,
    /// Its path below the root; empty if it is the root.
    pub inside: &'a Path,
    /// Bytes that were written or compared.
    pub bytes: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// For a part: what it met that is of another state of its file.
    pub other_state: Option<OtherState>,
}

/// What became of a part when those that were there, from runs before, are of another state of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OtherState {
    /// They were older, and are gone: the file was begun anew with this part.
    BegunAnew,
    /// They are newer: this part is a file of its own, with the name that it has in the CAR.
    Older,
    /// It is not known of both when their file was changed, so nobody can tell: the same.
    Unknown,
}

/// What has been restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestoredKind {
    /// A file, or a part of one.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
}

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is whole and in its place; for a part, so is the file that it was the last part of.
    Written,
    /// It was there, and is the same.
    Same,
    /// It was there, is another, and has been left alone.
    Different,
    /// The part is in, but not the whole file.
    Part {
        /// Bytes of the file that are there.
        bytes_in: u64,
        /// Bytes of the whole file.
        file_size: u64,
    },
    /// A link that was not wanted.
    Skipped,
}

/// How much was restored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extracted {
    /// Files that were written, and are whole. A file that was joined from parts counts once.
    pub files: u64,
    /// Folders, those that were there already included.
    pub folders: u64,
    /// Symbolic links that were made.
    pub symlinks: u64,
    /// Bytes of files that were written, holes included.
    pub bytes: u64,
    /// Files and links that were there, and are the same.
    pub same: u64,
    /// Files and links that were there, and are others.
    pub different: u64,
    /// Parts of the files in [`Extracted::unfinished`].
    pub parts: u64,
    /// Links that were not wanted.
    pub skipped: u64,
    /// Files with parts in this run that are not whole at its end, in the order of their paths.
    pub unfinished: Vec<Unfinished>,
}

/// A file with parts in a run that is not whole at the end of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Path of the whole file inside of the output.
    pub file: PathBuf,
    /// Parts of it that the run dealt with.
    pub parts: u64,
    /// Bytes of it that are there.
    pub bytes_in: u64,
    /// Bytes of the whole file.
    pub file_size: u64,
    /// Why parts of it were not joined with those that were there before.
    pub left: Option<OtherState>,
}

/// A root, and its name if it is a file.
#[derive(Debug, Clone)]
struct Root {
    cid: PayloadCid,
    name: Box<[u8]>,
}

/// CARs of which is known what they hold. Nothing has been written.
pub struct Extraction {
    options: ExtractOptions,
    store: Store,
    roots: Vec<Root>,
    plan: ExtractPlan,
    holes: Holes,
}

impl ExtractOptions {
    /// Everything into a folder, and nothing over anything.
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
    /// Opens CARs and looks at their nodes. 24 bytes of memory for each of their blocks, and some for each
    /// node.
    ///
    /// # Errors
    ///
    /// [`ExtractError`] about the CARs: whatever is wrong with them but the content of leaves.
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
            // The same content twice is wanted twice only under two names.
            let name = if is_folder { None } else { Some(root.name.clone()) };
            if seen.insert((root.cid.clone(), name)) {
                plan.add(&below);
                distinct.push(root);
            }
        }
        let (roots, holes) = (distinct, planner.into_holes());
        Ok(Self { options, store, roots, plan, holes })
    }

    /// What is going to be restored.
    pub fn plan(&self) -> &ExtractPlan {
        &self.plan
    }

    /// Restores everything. The crew's threads read, hash and write; the walk through the DAG is one at a
    /// time.
    ///
    /// `restored` is told of every file, folder and link, from whichever thread dealt with it.
    ///
    /// # Errors
    ///
    /// [`ExtractError`], the first that occurs. [`ExtractError::TooMuch`] and [`ExtractError::NoRoom`] come
    /// before anything is written; the latter not with [`Existing::Keep`], where nobody knows how much is
    /// there already.
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
            check_room(&options.output, &output, &plan)?;
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

/// Restores everything below the root of each CAR into a folder: [`Extraction::open`] and
/// [`Extraction::run`].
///
/// # Errors
///
/// As these two.
pub fn extract(
    budget: &ThreadBudget,
    cars: &[PathBuf],
    options: ExtractOptions,
    restored: &(dyn Fn(&Restored<'_>) + Sync),
    progress: &dyn Progress,
) -> Result<Extracted, ExtractError> {
    Extraction::open(cars, options, progress)?.run(budget, restored, progress)
}

/// What is counted besides bytes.
const ENTRIES: &str = "files, folders and links";

/// The name of a root, should it be a file.
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

/// Compares what is going to be written with what there is room for. File systems without numbers of their
/// own say zero, and have room for everything.
fn check_room(path: &Path, output: &output_dir::Folder, plan: &ExtractPlan) -> Result<(), ExtractError> {
    let disk = fstatvfs(&output.fd).map_err(|error| ExtractError::output(path, error))?;
    let no_room = |what, wanted, free| ExtractError::NoRoom { output: path.to_owned(), what, wanted, free };
    let (bytes, free) = (plan.bytes - plan.hole_bytes, disk.f_bavail.saturating_mul(disk.f_frsize));
    if disk.f_blocks > 0 && bytes > free {
        return Err(no_room("bytes", bytes, free));
    }
    if disk.f_files > 0 && plan.entries() > disk.f_favail {
        return Err(no_room(ENTRIES, plan.entries(), disk.f_favail));
    }
    Ok(())
}
