//! Survey of a folder: its files, links and empty folders in a stable order, small enough for millions of
//! files.
//!
//! Folders come before what is in them, and everything stands in the order of the paths, name by name as
//! bytes. So what is planned from a survey is the same on every machine, in whatever order a disk lists its
//! names.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use carferry_car::{is_reserved_name, is_sparse, sorted_names};
use carferry_core::fsx;
use rustix::fs::{Access, access};

use crate::makecars::error::SkippedEntry;

/// Everything below a folder.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The input itself at 0; every other behind its parent.
    pub folders: Vec<Folder>,
    /// What is in the folders, in the order of the paths.
    pub items: Vec<Item>,
    /// What is left out on purpose.
    pub skipped: Vec<SkippedEntry>,
    /// The latest status change (ctime) of any file, nanoseconds since 1970.
    pub changed_nanos: Option<i64>,
    /// What should have been packed and cannot be.
    pub failed: Vec<SkippedEntry>,
}

/// Maximum depth of folders. Chosen: below the limit of `carferry_car`.
const DEPTH_MAX: u16 = 1000;

/// A folder by its place in [`Survey::folders`].
pub(crate) type FolderId = u32;

/// A folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Its parent; the input is its own.
    pub parent: FolderId,
    /// Its name; the input has none.
    pub name: Box<str>,
    /// How many folders it is in.
    pub depth: u16,
}

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it is.
    pub folder: FolderId,
    /// Its name; an empty folder has none: it is the folder itself.
    pub name: Box<str>,
    /// What it is.
    pub kind: Kind,
    /// Which bytes of a file are to be packed, if not all.
    pub range: Option<(u64, u64)>,
}

/// What an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Modification time, nanoseconds since 1970.
        mtime_nanos: i64,
        /// Whether it takes less room on disk than its size.
        is_sparse: bool,
    },
    /// A symbolic link, with its target.
    Symlink(Box<str>),
    /// A folder with nothing in it.
    EmptyFolder,
}

impl Survey {
    /// Path of a folder below the input, `/` between names; empty for the input.
    pub(crate) fn folder_path(&self, folder: FolderId) -> String {
        let mut names = Vec::new();
        let mut at = folder;
        while at != 0 {
            let folder = &self.folders[index(at)];
            names.push(&*folder.name);
            at = folder.parent;
        }
        names.reverse();
        names.join("/")
    }

    /// Path of an item below the input.
    pub(crate) fn path(&self, item: &Item) -> String {
        join(&self.folder_path(item.folder), &item.name)
    }

    /// Bytes to be packed.
    pub(crate) fn bytes(&self) -> u64 {
        self.items.iter().map(Item::bytes).fold(0, u64::saturating_add)
    }
}

impl Item {
    /// Bytes to be packed.
    pub(crate) fn bytes(&self) -> u64 {
        self.range.map_or_else(|| self.size(), |(from, to)| to - from)
    }

    /// Bytes of a file; nothing else has any.
    pub(crate) fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size, .. } => size,
            Kind::Symlink(_) | Kind::EmptyFolder => 0,
        }
    }
}

/// A name in a folder, as one path.
pub(crate) fn join(folder: &str, name: &str) -> String {
    match (folder.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (false, true) => folder.to_owned(),
        (false, false) => format!("{folder}/{name}"),
    }
}

/// The place of a folder in a list.
pub(crate) fn index(folder: FolderId) -> usize {
    usize::try_from(folder).unwrap_or(usize::MAX)
}

/// When the system last changed anything about a file (ctime), nanoseconds since 1970: no program sets it
/// back.
pub(crate) fn changed_nanos(metadata: &Metadata) -> Option<i64> {
    metadata.ctime().checked_mul(1_000_000_000)?.checked_add(metadata.ctime_nsec())
}

/// Walks `input`, a folder, and leaves `output` out.
///
/// # Errors
///
/// When the input itself cannot be listed, or is no folder.
pub(crate) fn survey(input: &Path, output: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    survey.folders.push(Folder { parent: 0, name: "".into(), depth: 0 });
    let names = sorted_names(input).map_err(|error| fsx::named("cannot list", input, error))?;
    // A stack on the heap, the next entry at its end: deeply nested folders must not overflow the thread's
    // stack.
    let mut to_visit: Vec<(FolderId, PathBuf)> = children(0, input, names);
    while let Some((folder, path)) = to_visit.pop() {
        if path == output {
            continue;
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) => survey.visit(folder, &path, &metadata, &mut to_visit),
            Err(error) => survey.fail(path, format!("cannot be looked at: {error}")),
        }
    }
    Ok(survey)
}

impl Survey {
    fn visit(
        &mut self,
        folder: FolderId,
        path: &Path,
        metadata: &Metadata,
        to_visit: &mut Vec<(FolderId, PathBuf)>,
    ) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            // UnixFS names are UTF-8: other tools could not read it back.
            return self.fail(path.to_owned(), "its name is not UTF-8".to_owned());
        };
        if is_reserved_name(name.as_bytes()) {
            // `extract` refuses such names, which are its own.
            let reason = "a temporary file of carferry".to_owned();
            return self.skipped.push(SkippedEntry { path: path.to_owned(), reason });
        }
        let depth = self.folders[index(folder)].depth + 1;
        if depth >= DEPTH_MAX {
            return self.fail(path.to_owned(), "folders are nested too deeply".to_owned());
        }
        let kind = metadata.file_type();
        if kind.is_dir() {
            let Ok(id) = FolderId::try_from(self.folders.len()) else {
                return self.fail(path.to_owned(), "too many folders".to_owned());
            };
            match sorted_names(path) {
                Ok(names) => {
                    self.folders.push(Folder { parent: folder, name: name.into(), depth });
                    if names.is_empty() {
                        self.items.push(Item {
                            folder: id,
                            name: "".into(),
                            kind: Kind::EmptyFolder,
                            range: None,
                        });
                    }
                    to_visit.append(&mut children(id, path, names));
                }
                Err(error) => self.fail(path.to_owned(), format!("cannot list the folder: {error}")),
            }
        } else if kind.is_file() {
            let mtime_nanos = metadata.mtime().checked_mul(1_000_000_000);
            let mtime_nanos = mtime_nanos.and_then(|nanos| nanos.checked_add(metadata.mtime_nsec()));
            let Some(mtime_nanos) = mtime_nanos else {
                return self.fail(path.to_owned(), "its modification time is out of all range".to_owned());
            };
            // Known now, it keeps no other file out of its piece.
            if let Err(error) = access(path, Access::READ_OK) {
                return self.fail(path.to_owned(), format!("cannot be read: {error}"));
            }
            self.changed_nanos = self.changed_nanos.max(changed_nanos(metadata));
            let kind = Kind::File { size: metadata.len(), mtime_nanos, is_sparse: is_sparse(metadata) };
            self.items.push(Item { folder, name: name.into(), kind, range: None });
        } else if kind.is_symlink() {
            match fs::read_link(path).map(|target| target.to_str().map(Box::from)) {
                Ok(Some(target)) => {
                    self.items.push(Item {
                        folder,
                        name: name.into(),
                        kind: Kind::Symlink(target),
                        range: None,
                    });
                }
                Ok(None) => self.fail(path.to_owned(), "the link's target is not UTF-8".to_owned()),
                Err(error) => self.fail(path.to_owned(), format!("cannot read the link: {error}")),
            }
        } else {
            let reason = "neither a file, a folder nor a symbolic link".to_owned();
            self.skipped.push(SkippedEntry { path: path.to_owned(), reason });
        }
    }

    fn fail(&mut self, path: PathBuf, reason: String) {
        self.failed.push(SkippedEntry { path, reason });
    }
}

fn children(folder: FolderId, path: &Path, names: Vec<std::ffi::OsString>) -> Vec<(FolderId, PathBuf)> {
    names.into_iter().rev().map(|name| (folder, path.join(name))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn everything_is_found_in_the_order_of_the_paths() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path();
        for file in ["b/x", "b/a/y", "b.txt", "a", "out/z.car", "c d/\u{1f600}", "c d/\u{ff5e}"] {
            fs::create_dir_all(input.join(file).parent().unwrap()).unwrap();
            fs::write(input.join(file), file).unwrap();
        }
        fs::create_dir(input.join("empty")).unwrap();
        symlink("../b", input.join("b/link")).unwrap();
        fs::write(input.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").unwrap();
        fs::write(input.join(".x.carferry-part"), "").unwrap();
        let survey = survey(input, &input.join("out")).unwrap();
        let paths: Vec<_> = survey.items.iter().map(|item| survey.path(item)).collect();
        let wanted = ["a", "b/a/y", "b/link", "b/x", "b.txt", "c d/\u{ff5e}", "c d/\u{1f600}", "empty"]
            .map(str::to_owned);
        assert_eq!(paths, wanted);
        assert_eq!(survey.items[2].kind, Kind::Symlink("../b".into()));
        assert_eq!(survey.items[7].kind, Kind::EmptyFolder);
        assert_eq!((survey.failed.len(), survey.skipped.len()), (1, 1));
        assert_eq!(survey.bytes(), 1 + 5 + 3 + 5 + 8 + 7);
    }
}
