//! Files that were found to be a piece, remembered over restarts in a small file.
//!
//! A restarted locator must answer within seconds: Curio gives up a read after about 15 s of outage, and
//! hashing what is offered takes hours. A file counts as the same by path, size, modification time and change
//! time (ctime), which no program can put back.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use carferry_car::{PayloadSize, PieceCid, open_regular};
use carferry_core::car_server::{FileStamp, OfferedCar};
use carferry_core::fsx::create_temp_beside;
use serde::{Deserialize, Serialize};

/// The file's name in `setting.stateDir`.
pub(super) const FILE_NAME: &str = "verified-pieces.jsonl";

/// By what a file is recognised over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    stamp: FileStamp,
    changed_seconds: i64,
    changed_nanos: i64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            stamp: FileStamp::of(metadata),
            changed_seconds: metadata.ctime(),
            changed_nanos: metadata.ctime_nsec(),
        }
    }
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    path: PathBuf,
    piececid: String,
    bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// The files that were hashed, by their paths.
#[derive(Debug, Default)]
pub(super) struct Verified {
    files: HashMap<PathBuf, (PieceCid, Identity)>,
    folder: Option<PathBuf>,
}

impl Verified {
    /// What an earlier process remembered in this folder. A file or a line that cannot be read is passed
    /// over: it costs another hash.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub(super) fn load(folder: Option<PathBuf>) -> io::Result<Self> {
        let Some(folder) = folder else { return Ok(Self::default()) };
        fs::create_dir_all(&folder)?;
        let text = fs::read_to_string(folder.join(FILE_NAME)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let files = lines.filter_map(|line| {
            let stamp =
                FileStamp { bytes: line.bytes, modified_seconds: line.mtime.0, modified_nanos: line.mtime.1 };
            let identity = Identity { stamp, changed_seconds: line.ctime.0, changed_nanos: line.ctime.1 };
            Some((line.path, (line.piececid.parse().ok()?, identity)))
        });
        Ok(Self { files: files.collect(), folder: Some(folder) })
    }

    /// The remembered files that are as they were, to be offered at once. Touches each of them.
    pub(super) fn still_there(&self) -> Vec<OfferedCar> {
        let look = |(path, (piece_cid, identity)): (&PathBuf, &(PieceCid, Identity))| {
            let metadata = open_regular(path).and_then(|file| file.metadata()).ok()?;
            (Identity::of(&metadata) == *identity).then(|| offered(path, *piece_cid, &metadata))
        };
        self.files.iter().filter_map(look).collect()
    }

    /// Whether this file was found to be this piece, and is as it was.
    pub(super) fn knows(&self, path: &Path, metadata: &Metadata, piece_cid: PieceCid) -> bool {
        self.files.get(path) == Some(&(piece_cid, Identity::of(metadata)))
    }

    /// Remembers a file.
    pub(super) fn remember(&mut self, path: &Path, metadata: &Metadata, piece_cid: PieceCid) {
        self.files.insert(path.to_owned(), (piece_cid, Identity::of(metadata)));
    }

    /// Forgets the files of which this says no.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&PieceCid) -> bool) {
        self.files.retain(|_, (piece_cid, _)| is_kept(piece_cid));
    }

    /// Writes everything down, whole or not at all.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written; what is remembered in memory stays.
    pub(super) fn save(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let (mut file, guard) = create_temp_beside(&folder.join(FILE_NAME))?;
        let mut text = String::new();
        for (path, (piece_cid, identity)) in &self.files {
            let Identity { stamp, changed_seconds, changed_nanos } = *identity;
            let line = Line {
                path: path.clone(),
                piececid: piece_cid.to_string(),
                bytes: stamp.bytes,
                mtime: (stamp.modified_seconds, stamp.modified_nanos),
                ctime: (changed_seconds, changed_nanos),
            };
            // A path that is no UTF-8 is hashed again after each restart.
            if let Ok(line) = serde_json::to_string(&line) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        file.write_all(text.as_bytes())?;
        guard.publish()
    }
}

/// A verified file as it is offered: all of its bytes, zeros behind the CAR included.
pub(super) fn offered(path: &Path, piece_cid: PieceCid, metadata: &Metadata) -> OfferedCar {
    let stamp = FileStamp::of(metadata);
    OfferedCar { piece_cid, path: path.to_owned(), size: PayloadSize::new(stamp.bytes), stamp }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: &str = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";

    #[test]
    fn a_file_is_remembered_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let (kept, changed) = (folder.path().join("kept.car"), folder.path().join("changed.car"));
        let piece = PIECE.parse::<PieceCid>().unwrap();
        let mut verified = Verified::load(Some(state.clone())).unwrap();
        for path in [&kept, &changed] {
            fs::write(path, "a CAR").unwrap();
            verified.remember(path, &path.metadata().unwrap(), piece);
        }
        verified.save().unwrap();

        let before = changed.metadata().unwrap().modified().unwrap();
        fs::write(&changed, "a bar").unwrap();
        fs::File::options().write(true).open(&changed).unwrap().set_modified(before).unwrap();
        let again = Verified::load(Some(state.clone())).unwrap();
        let there: Vec<PathBuf> = again.still_there().into_iter().map(|car| car.path).collect();
        assert_eq!(
            there,
            std::slice::from_ref(&kept),
            "the other has its old size and time, and another change time"
        );
        assert!(again.knows(&kept, &kept.metadata().unwrap(), piece));
        assert!(!again.knows(&changed, &changed.metadata().unwrap(), piece));

        fs::write(state.join(FILE_NAME), "{\"path\": \"torn").unwrap();
        assert!(Verified::load(Some(state)).unwrap().still_there().is_empty(), "a torn file is no error");
        assert!(Verified::load(None).unwrap().save().is_ok(), "without a folder nothing is written");
    }
}
