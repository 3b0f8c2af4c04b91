//! Finds the CAR of a deal in the configured folders, and checks that the file is the deal's.
//!
//! Synchronous: it reads disks, and on request whole CARs. What `cars` says comes in as documents; nothing
//! here asks the database or the node.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use carferry_car::{PayloadCid, PayloadSize, PieceCid, UnpaddedPieceSize};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::CarDoc;
use carferry_core::path_mapping::{PathMapping, map_longest};
use tracing::debug;

use crate::car_files::folder_guard::{FolderGuard, FolderPermit, Heartbeat};
use crate::car_files::piece_check::{NOT_THE_PIECE, PieceChecker, PieceVerdict};

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
    /// The root in its header.
    pub payload_cid: PayloadCid,
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

/// A place where the CAR may be, with what is recorded about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    car_size: Option<PayloadSize>,
    piece_cid: Option<PieceCid>,
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
        format!("no document in `cars` for {}", wanted.payload_cid)
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

/// Every place to look, each once, best first.
fn candidates(places: &Places, wanted: &Wanted, cars: &[CarDoc]) -> Vec<Candidate> {
    let mut found = Vec::<Candidate>::new();
    let mut add = |path: PathBuf, car: Option<&CarDoc>| {
        let climbs = path.components().any(|component| component == Component::ParentDir);
        if path.is_absolute() && !climbs && !found.iter().any(|known| known.path == path) {
            let number = |stored: Option<i64>| stored.and_then(|n| u64::try_from(n).ok());
            found.push(Candidate {
                path,
                car_size: car.and_then(|car| number(car.carsizebytes)).map(PayloadSize::new),
                piece_cid: car.and_then(|car| car.piececid.as_deref()?.parse().ok()),
            });
        }
    };
    let recorded = || cars.iter().filter_map(|car| Some((car, Path::new(car.outputpath.as_deref()?))));
    for (car, path) in recorded() {
        for mapping in &places.paths {
            if let Some(local) = mapping.apply(path) {
                add(local, Some(car));
            }
        }
    }
    for (car, path) in recorded() {
        for end in ends_longest_first(path) {
            for root in &places.roots {
                add(root.join(&end), Some(car));
            }
        }
    }
    let only_car = if let [car] = cars { Some(car) } else { None };
    let piece_name = wanted.piece_cid.as_ref().map(|piece_cid| format!("{piece_cid}.car"));
    for name in piece_name.into_iter().chain([format!("{}.car", wanted.payload_cid)]) {
        for root in &places.roots {
            add(root.join(&name), only_car);
        }
    }
    for (car, path) in recorded() {
        add(path.to_owned(), Some(car));
    }
    found
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

/// `/data/out/a.car` → `data/out/a.car`, `out/a.car`, `a.car`. Nothing for paths that climb (`..`).
fn ends_longest_first(path: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return Vec::new(),
        }
    }
    (0..names.len()).map(|start| names.iter().skip(start).collect()).collect()
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

/// How long a file without a recorded size must have been left alone. Source: an estimate; tools that copy
/// write at least once a second.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// By this machine's clock; a time that lies ahead of it tells nothing.
fn was_just_written(metadata: &Metadata) -> bool {
    metadata.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age < SETTLED_AFTER)
}

/// What speaks against a file, without reading all of it.
fn look(candidate: &Candidate, metadata: &Metadata, wanted: &Wanted) -> Option<Examined> {
    let size = PayloadSize::new(metadata.len());
    if let Some(recorded) = candidate.car_size {
        if size < recorded {
            return Some(Examined::Arriving(format!("has {size} of {recorded} bytes")));
        }
        if size > recorded {
            match (padding(&candidate.path, size, recorded, wanted.piece_size), wanted.piece_size) {
                (Padding::Whole, _) => {}
                (Padding::Growing, Some(piece)) => {
                    return Some(Examined::Arriving(format!(
                        "has {size} of {piece} bytes of the padded piece"
                    )));
                }
                _ => return Some(Examined::Wrong(format!("has {size} bytes, `cars` says {recorded}"))),
            }
        }
    }
    if let Some(piece_size) = wanted.piece_size
        && size.get() > piece_size.get()
    {
        return Some(Examined::Wrong(format!("has {size} bytes, the deal's piece holds {piece_size}")));
    }
    if let (Some(deal), Some(recorded)) = (wanted.piece_cid, candidate.piece_cid)
        && deal != recorded
    {
        return Some(Examined::Wrong(format!("is piece {recorded} by `cars`, the deal is about {deal}")));
    }
    if size == PayloadSize::default() {
        return Some(Examined::Arriving("is empty".to_owned()));
    }
    match carferry_car::read_car_root(&candidate.path) {
        Ok(root)
            if root == wanted.payload_cid && candidate.car_size.is_none() && was_just_written(metadata) =>
        {
            let seconds = SETTLED_AFTER.as_secs();
            Some(Examined::Arriving(format!(
                "was written to within the last {seconds} s, and `cars` does not say how large it is"
            )))
        }
        Ok(root) if root == wanted.payload_cid => None,
        Ok(root) => {
            Some(Examined::Wrong(format!("has the root {root}, the deal is about {}", wanted.payload_cid)))
        }
        Err(error) => Some(Examined::Wrong(format!("is no CAR: {}", ErrorChain(&error)))),
    }
}

/// What follows the bytes of a CAR in a longer file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    /// Zeros up to the UNPADDED size of the deal's piece: the file is the piece, as providers serve it and
    /// some tools write it.
    Whole,
    /// Zeros, and fewer of them.
    Growing,
    /// Something else.
    Other,
}

/// Looks at what follows the bytes of a CAR. Of many zeros, only the first and the last are looked at;
/// whether all of the file is the piece, the piece CID says.
fn padding(
    path: &Path,
    size: PayloadSize,
    car_size: PayloadSize,
    piece_size: Option<UnpaddedPieceSize>,
) -> Padding {
    let Some(piece_size) = piece_size else { return Padding::Other };
    let (start, end) = (car_size.get(), size.get());
    let is_zero = |from: u64, to: u64| {
        let mut bytes = vec![1; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        let file = carferry_car::open_regular(path);
        file.and_then(|file| file.read_exact_at(&mut bytes, from)).is_ok()
            && bytes.iter().all(|byte| *byte == 0)
    };
    let last = end.saturating_sub(ZEROS_LOOKED_AT).max(start);
    if end > piece_size.get() || !is_zero(start, end.min(start + ZEROS_LOOKED_AT)) || !is_zero(last, end) {
        return Padding::Other;
    }
    if end == piece_size.get() { Padding::Whole } else { Padding::Growing }
}

/// Bytes at either end of the zeros behind a CAR that are looked at. Chosen: enough to tell zeros from data.
const ZEROS_LOOKED_AT: u64 = 1 << 20;

fn check_piece(
    checker: &PieceChecker,
    heartbeat: &Heartbeat,
    path: &Path,
    metadata: &Metadata,
    deal: PieceCid,
    wanted: &Wanted,
) -> io::Result<Examined> {
    Ok(match checker.check(path, metadata, wanted.piece_size, heartbeat)? {
        PieceVerdict::Piece(piece_cid) if piece_cid == deal => {
            Examined::Good(PayloadSize::new(metadata.len()))
        }
        PieceVerdict::Piece(piece_cid) => Examined::Wrong(format!(
            "{NOT_THE_PIECE}: its piece CID is {piece_cid}, the deal is about {deal}"
        )),
        PieceVerdict::Changed => Examined::Arriving("changed while it was read".to_owned()),
        PieceVerdict::Busy => Examined::Arriving("is being read for its piece CID already".to_owned()),
    })
}

#[cfg(test)]
mod tests;
