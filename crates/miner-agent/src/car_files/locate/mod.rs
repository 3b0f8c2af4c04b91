//! Finds the CAR of a deal in the configured folders, and checks that the file is the deal's.
//!
//! Synchronous: it reads disks, and on request whole CARs. What `cars` says comes in as documents; nothing
//! here asks the database or the node.

mod candidates;
mod content;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use carferry_car::{PayloadCid, PayloadSize, PieceCid, UnpaddedPieceSize};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::CarDoc;
use carferry_core::path_mapping::{PathMapping, map_longest};
use tracing::debug;

use crate::car_files::folder_guard::{FolderGuard, FolderPermit, Heartbeat};
use crate::car_files::locate::candidates::{Candidate, candidates};
use crate::car_files::locate::content::{check_piece, look};
use crate::car_files::piece_check::PieceChecker;

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Folders that hold CARs, searched by name.
    pub roots: Vec<PathBuf>,
    /// Folders of the data-prep box and what they are called here.
    pub paths: Vec<PathMapping>,
    /// Folders here and what the market process calls them.
    pub node_paths: Vec<PathMapping>,
}

/// What the file must be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The root in its header; `None` where the piece CID alone decides.
    pub payload_cid: Option<PayloadCid>,
    /// The piece the deal is about, where known.
    pub piece_cid: Option<PieceCid>,
    /// The piece it must fit in, where known.
    pub piece_size: Option<UnpaddedPieceSize>,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// The file is there and is the deal's.
    Found(FoundCar),
    /// Not there, or not complete yet: it may come.
    Missing {
        /// What was looked at.
        reason: String,
        /// The names it may come under.
        names: Vec<String>,
    },
    /// Something else stands in its place.
    Wrong {
        /// Which file, and what differs.
        reason: String,
        /// The names the right one may come under.
        names: Vec<String>,
    },
}

/// A CAR that may be handed to the market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCar {
    /// Its name on this machine.
    pub local_path: PathBuf,
    /// Its name for the market process.
    pub node_path: String,
    /// Bytes on disk.
    pub size: PayloadSize,
}

/// Paths named in a reason, at most; a reason is read by people.
const SHOWN_PATHS_MAX: usize = 8;
/// Names of files that a deal waits for, at most; real deals have two or three.
const NAMES_MAX: usize = 16;

/// One search.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Where to look.
    pub places: &'a Places,
    /// Limits the searches of each folder.
    pub folder_guard: &'a FolderGuard,
    /// Beats with each candidate.
    pub heartbeat: &'a Heartbeat,
    /// Computes piece CIDs; `None` if the bytes are not read.
    pub checker: Option<&'a PieceChecker>,
}

/// Looks for the CAR of a deal in all places, in this order: the recorded path under its local name, the
/// roots by ever shorter ends of the recorded path, the roots by piece and payload CID, the recorded path
/// as it is. The first good file wins.
pub fn locate(search: &Search<'_>, wanted: &Wanted, cars: &[CarDoc]) -> Located {
    let mut absent = Vec::new();
    let mut arriving = Vec::new();
    let mut wrong = Vec::new();
    let mut outside = Vec::new();
    let mut silent = BTreeSet::new();
    let places = search.places;
    let candidates = candidates(places, wanted, cars);
    let mut names: Vec<String> = candidates
        .iter()
        .filter_map(|candidate| candidate.path.file_name()?.to_str().map(str::to_owned))
        .collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(NAMES_MAX);
    for candidate in candidates {
        let examined = search.examine(&candidate, wanted);
        search.heartbeat.beat();
        match examined {
            Examined::Good(size) => {
                let node_path = map_longest(&places.node_paths, &candidate.path);
                let Some(node_path) = node_path.to_str() else {
                    wrong.push(format!("{} cannot be sent: not UTF-8", node_path.display()));
                    continue;
                };
                let node_path = node_path.to_owned();
                return Located::Found(FoundCar { local_path: candidate.path, node_path, size });
            }
            Examined::Absent => absent.push(candidate.path.display().to_string()),
            Examined::Arriving(what) => arriving.push(format!("{} {what}", candidate.path.display())),
            Examined::Outside => outside.push(candidate.path.display().to_string()),
            Examined::Wrong(what) => wrong.push(format!("{} {what}", candidate.path.display())),
            Examined::Silent(folder) => {
                silent.insert(folder.display().to_string());
            }
        }
    }
    // What does not answer may hold the right one.
    if !wrong.is_empty() && arriving.is_empty() && silent.is_empty() {
        return Located::Wrong { reason: shown(&wrong, "; "), names };
    }
    let silent: Vec<String> = silent.into_iter().collect();
    let mut reason = if !silent.is_empty() {
        format!(
            "a file system hangs, is its server gone? No answer from {}; the CAR is in no other folder",
            shown(&silent, ", ")
        )
    } else if !outside.is_empty() && arriving.is_empty() {
        format!(
            "{} lies outside of the folders in `roots` and `paths`, and no CAR is taken from there; hint: add its folder \
             to `roots`, or move it into one",
            shown(&outside, ", ")
        )
    } else if cars.is_empty() {
        match (&wanted.payload_cid, &wanted.piece_cid) {
            (Some(payload_cid), _) => format!("no document in `cars` for {payload_cid}"),
            (None, Some(piece_cid)) => format!("no document in `cars` for piece {piece_cid}"),
            (None, None) => "neither payload CID nor piece CID is known".to_owned(),
        }
    } else if arriving.is_empty() {
        "the CAR is not here yet".to_owned()
    } else {
        format!("the CAR is still arriving, or was cut short: {}", shown(&arriving, "; "))
    };
    if !absent.is_empty() {
        let _infallible = write!(reason, "; looked at {}", shown(&absent, ", "));
    } else if arriving.is_empty() && silent.is_empty() && outside.is_empty() {
        reason.push_str("; no folder to look in: set `roots` or `paths`");
    }
    Located::Missing { reason, names }
}

fn shown(items: &[String], separator: &str) -> String {
    let mut text = items.iter().take(SHOWN_PATHS_MAX).cloned().collect::<Vec<_>>().join(separator);
    if let Some(more @ 1..) = items.len().checked_sub(SHOWN_PATHS_MAX) {
        let _infallible = write!(text, "{separator}and {more} more");
    }
    text
}

impl Places {
    /// The folders that files are taken from. A path in the database may be anything that a user of it wrote.
    pub(crate) fn confines(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().chain(self.paths.iter().map(|mapping| &mapping.to)).map(PathBuf::as_path)
    }

    /// The folder whose permit a search of this path needs: a configured one, else the path's own.
    fn folder_of<'a>(&'a self, path: &'a Path) -> &'a Path {
        let folder = self.confines().filter(|folder| path.starts_with(folder));
        let folder = folder.max_by_key(|folder| folder.components().count());
        folder.or_else(|| path.parent()).unwrap_or(path)
    }
}

enum Examined {
    Good(PayloadSize),
    /// A file, but in none of the configured folders.
    Outside,
    Absent,
    Arriving(String),
    Wrong(String),
    /// This folder does not answer.
    Silent(PathBuf),
}

impl Search<'_> {
    fn examine(&self, candidate: &Candidate, wanted: &Wanted) -> Examined {
        match self.examine_file(candidate, wanted) {
            Ok(examined) => examined,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Examined::Absent
            }
            Err(error) => Examined::Wrong(format!("cannot be read: {}", ErrorChain(&error))),
        }
    }

    fn examine_file(&self, candidate: &Candidate, wanted: &Wanted) -> io::Result<Examined> {
        let own = self.places.folder_of(&candidate.path);
        let Some(mut permit) = self.folder_guard.acquire(own) else {
            return Ok(Examined::Silent(own.to_owned()));
        };
        // Before opening: the open of a pipe would wait for its other end.
        if !candidate.path.metadata()?.is_file() {
            return Ok(Examined::Wrong("is not a regular file".to_owned()));
        }
        let mut path = candidate.path.clone();
        if let Some(real) = self.way_out(own, &path)? {
            // A search that waits for a permit holds none: two folders of links into each other would be
            // full of searches that wait for the other.
            drop(permit);
            permit = match self.acquire_holder(own, &real) {
                Holder::Acquired(there) => there,
                Holder::None => return Ok(Examined::Outside),
                Holder::Silent(folder) => return Ok(Examined::Silent(folder)),
            };
            path = real;
        }
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        debug!(path = %path.display(), size = metadata.len(), "examining");
        let looked_at = look(&Candidate { path: path.clone(), ..candidate.clone() }, &metadata, wanted);
        // Reading a whole CAR takes minutes, and says itself how far it is.
        drop(permit);
        match (looked_at, self.checker, wanted.piece_cid) {
            (None, Some(checker), Some(deal)) => {
                check_piece(checker, self.heartbeat, &path, &metadata, deal, wanted)
            }
            (None, ..) => Ok(Examined::Good(PayloadSize::new(metadata.len()))),
            (Some(verdict), ..) => Ok(verdict),
        }
    }

    /// Where a file really lies, every link on its way followed, if that is not in the folder it was looked
    /// for in; `None` if it is. Without any configured folder, only the recorded path as it is comes in
    /// question, and nothing confines it.
    fn way_out(&self, own: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
        if self.places.confines().next().is_none() {
            return Ok(None);
        }
        let real = path.canonicalize()?;
        let is_inside = self.places.confines().any(|folder| folder == own) && holds(own, &real);
        Ok((!is_inside).then_some(real))
    }

    /// A permit for the configured folder that this file lies in, other than the folder that was searched.
    fn acquire_holder<'a>(&'a self, own: &Path, real: &Path) -> Holder<'a> {
        let mut answer = Holder::None;
        for folder in self.places.confines().filter(|folder| *folder != own) {
            match self.folder_guard.acquire(folder) {
                Some(permit) if holds(folder, real) => return Holder::Acquired(permit),
                Some(_permit) => {}
                None => answer = Holder::Silent(folder.to_owned()),
            }
        }
        answer
    }
}

fn holds(folder: &Path, real: &Path) -> bool {
    folder.canonicalize().is_ok_and(|folder| real.starts_with(folder))
}

/// Which of the configured folders a file lies in.
enum Holder<'a> {
    Acquired(FolderPermit<'a>),
    None,
    /// It may be this one, which does not answer.
    Silent(PathBuf),
}

#[cfg(test)]
mod tests;
