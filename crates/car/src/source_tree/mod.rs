//! What goes into a CAR: folders, symbolic links, and files or parts of files, before anything is read.
//!
//! A tree is filled by a planner ([`SourceTree`]) or by looking at a path (`scan`); both pack the same way.
//! It knows nothing of blocks: lengths follow from it and the parameters (`unixfs`).

mod children;
mod error;
mod scan;
mod stamp;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::dag_pb;
use crate::limits::DIRECTORY_DEPTH_MAX;
use crate::source_tree::children::Children;
pub(crate) use crate::source_tree::children::{Child, InOrder};
pub use crate::source_tree::error::TreeError;
pub(crate) use crate::source_tree::scan::scan;
pub use crate::source_tree::scan::sorted_names;
pub use crate::source_tree::stamp::SourceStamp;
pub(crate) use crate::source_tree::stamp::{Identity, Stamp};

/// What goes into one CAR: folders, symbolic links, and files or byte ranges of files on disk.
///
/// Places in the tree are `/`-separated names below its root folder. Names stand in byte order, in whatever
/// order they were added. In memory, a whole file that keeps its name takes 70 to 90 bytes, and any other
/// part 200 (measured with a million of them under names of 16 bytes, in folders of a thousand and more).
#[derive(Debug)]
pub struct SourceTree {
    /// What it is called in errors about all of it.
    pub(crate) label: PathBuf,
    pub(crate) root: Node,
    pub(crate) totals: Totals,
    /// How many folders there are, which is the number of the next one.
    pub(crate) folders: u32,
    places: Places,
}

/// A file, or a part of it, that becomes a UnixFS file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// The file on disk.
    pub path: PathBuf,
    /// Which of its bytes; the first chunk starts with the first of them.
    pub range: Range<u64>,
    /// How the whole file looked when this was planned.
    pub expected: SourceStamp,
}

/// Something in a tree.
#[derive(Debug)]
pub(crate) enum Node {
    /// All of a file that has the name of its entry; the root if it is a file.
    File(WholeFile),
    Part(Box<Part>),
    Folder(Box<Folder>),
    /// The block of a symbolic link.
    Symlink(Box<[u8]>),
}

#[derive(Debug)]
pub(crate) struct WholeFile {
    /// Number of the path of its folder, or of its own if it is the root.
    place: u32,
    expected: SourceStamp,
    /// Known if the file has been looked at.
    identity: Option<Box<Identity>>,
}

/// A part of a file, or a file with another name than its entry.
#[derive(Debug)]
pub(crate) struct Part {
    file: WholeFile,
    name: Box<OsStr>,
    range: Range<u64>,
}

#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) number: u32,
    pub(crate) children: Children,
    /// Number of its path and how it looked, if it was found on disk.
    found: Option<Box<(u32, Stamp)>>,
}

/// Sums over a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    /// Bytes that the files take on disk, where that is known: fewer where they have holes.
    pub(crate) allocated: u64,
    pub(crate) files: u64,
    pub(crate) modified: SystemTime,
}

/// Where the bytes of a file of the tree are.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) range: Range<u64>,
    pub(crate) expected: SourceStamp,
    pub(crate) identity: Option<Identity>,
}

/// Paths that many files share, by number.
#[derive(Debug, Default)]
struct Places {
    paths: Vec<Arc<Path>>,
    numbers: HashMap<Arc<Path>, u32>,
    /// The one asked for last: most files are added with their neighbours.
    last: u32,
}

impl Default for SourceTree {
    fn default() -> Self {
        Self::new()
    }
}

impl SourceTree {
    /// An empty root folder.
    pub fn new() -> Self {
        Self {
            label: PathBuf::from("source tree"),
            root: Node::Folder(Box::new(Folder { number: 0, children: Children::default(), found: None })),
            totals: Totals::default(),
            folders: 1,
            places: Places::default(),
        }
    }

    /// Adds a file or a part of one; folders above it are added where there are none.
    ///
    /// The file is not looked at before the tree is packed.
    ///
    /// # Errors
    ///
    /// [`TreeError`]: [`TreeError::Taken`] for whatever is there already, [`TreeError::Range`] beyond the file.
    pub fn add_file(&mut self, at: &str, part: FilePart) -> Result<(), TreeError> {
        let FilePart { path, range, expected } = part;
        if range.start > range.end || range.end > expected.size {
            return Err(TreeError::Range { path, range, size: expected.size });
        }
        let (Some(folder), Some(file_name)) = (path.parent(), path.file_name()) else {
            return Err(TreeError::NotAFile { path });
        };
        let place = self.places.number(folder);
        let length = range.end - range.start;
        self.add(at, |name| {
            let file = WholeFile { place, expected, identity: None };
            if file_name == name && range == (0..expected.size) {
                return Node::File(file);
            }
            Node::Part(Box::new(Part { file, name: file_name.into(), range }))
        })?;
        self.totals.add_file(length, length, expected.modified);
        Ok(())
    }

    /// Adds a folder, and those above it. Nothing happens if it is there; a folder without entries is packed
    /// too.
    ///
    /// # Errors
    ///
    /// [`TreeError`].
    pub fn add_folder(&mut self, at: &str) -> Result<(), TreeError> {
        check_names(at)?;
        self.folder_at(at, at).map(|_| ())
    }

    /// Adds a symbolic link; folders above it are added where there are none. Nobody looks where it leads.
    ///
    /// # Errors
    ///
    /// [`TreeError`]: [`TreeError::Taken`] for whatever is there already.
    pub fn add_symlink(&mut self, at: &str, target: &[u8]) -> Result<(), TreeError> {
        self.add(at, |_| Node::Symlink(dag_pb::encode_symlink(target).into()))
    }

    /// Adds something that is no folder.
    fn add(&mut self, at: &str, make: impl FnOnce(&str) -> Node) -> Result<(), TreeError> {
        check_names(at)?;
        let (above, name) = at.rsplit_once('/').unwrap_or(("", at));
        let folder = self.folder_at(above, at)?;
        match folder.children.entry(name, || make(name)) {
            (_, true) => Ok(()),
            (_, false) => Err(TreeError::Taken { at: at.to_owned() }),
        }
    }

    /// The folder at a place, made if it is not there, for the sake of `at`.
    fn folder_at(&mut self, place: &str, at: &str) -> Result<&mut Folder, TreeError> {
        let mut folder = match &mut self.root {
            Node::Folder(folder) => &mut **folder,
            _ => return Err(TreeError::Taken { at: at.to_owned() }),
        };
        let mut done = 0;
        for name in place.split('/').filter(|name| !name.is_empty()) {
            let number = self.folders;
            let (node, is_new) = folder.children.entry(name, || {
                Node::Folder(Box::new(Folder { number, children: Children::default(), found: None }))
            });
            self.folders += u32::from(is_new);
            done += name.len() + 1;
            folder = match node {
                Node::Folder(folder) => folder,
                _ => return Err(TreeError::Taken { at: place[..done - 1].to_owned() }),
            };
        }
        Ok(folder)
    }

    /// Where the bytes of a file are, of which the entry has this name.
    pub(crate) fn source(&self, name: Option<&str>, node: &Node) -> Option<SourceFile> {
        let (file, name, range) = match node {
            Node::File(file) => (file, name.map(OsStr::new), 0..file.expected.size),
            Node::Part(part) => (&part.file, Some(&*part.name), part.range.clone()),
            Node::Folder(_) | Node::Symlink(_) => return None,
        };
        let place = self.places.path(file.place);
        Some(SourceFile {
            path: name.map_or_else(|| place.to_path_buf(), |name| place.join(name)),
            range,
            expected: file.expected,
            identity: file.identity.as_deref().copied(),
        })
    }

    /// The first file in the order of the tree.
    pub(crate) fn first_file(&self) -> Option<&Node> {
        fn first(node: &Node) -> Option<&Node> {
            match node {
                Node::Folder(folder) => folder.children.iter().find_map(|child| first(&child.node)),
                Node::Symlink(_) => None,
                Node::File(_) | Node::Part(_) => Some(node),
            }
        }
        first(&self.root)
    }

    /// Path of a folder and how it looked, if it was found on disk.
    pub(crate) fn found(&self, folder: &Folder) -> Option<(&Arc<Path>, Stamp)> {
        folder.found.as_deref().map(|(place, stamp)| (self.places.path(*place), *stamp))
    }
}

impl Node {
    /// Bytes of a file.
    pub(crate) fn file_size(&self) -> u64 {
        match self {
            Self::File(file) => file.expected.size,
            Self::Part(part) => part.range.end - part.range.start,
            Self::Folder(_) | Self::Symlink(_) => 0,
        }
    }
}

impl Totals {
    fn add_file(&mut self, bytes: u64, allocated: u64, modified: SystemTime) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.allocated = self.allocated.saturating_add(allocated);
        self.modified = self.modified.max(modified);
    }
}

impl Default for Totals {
    fn default() -> Self {
        Self { bytes: 0, allocated: 0, files: 0, modified: SystemTime::UNIX_EPOCH }
    }
}

impl Places {
    fn number(&mut self, path: &Path) -> u32 {
        if self.paths.get(index(self.last)).is_some_and(|last| **last == *path) {
            return self.last;
        }
        self.last = self.numbers.get(path).copied().unwrap_or_else(|| {
            let path: Arc<Path> = path.into();
            let number = u32::try_from(self.paths.len()).expect("fewer than 2^32 folders fit in memory");
            self.paths.push(Arc::clone(&path));
            self.numbers.insert(path, number);
            number
        });
        self.last
    }

    fn path(&self, number: u32) -> &Arc<Path> {
        &self.paths[index(number)]
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("u32 fits in usize")
}

/// Checks every name of a place in the tree.
fn check_names(at: &str) -> Result<(), TreeError> {
    let bad = |name: &&str| matches!(*name, "" | "." | "..") || name.contains('\0');
    if let Some(name) = at.split('/').find(bad) {
        return Err(TreeError::BadName { at: at.to_owned(), name: name.to_owned() });
    }
    if at.split('/').count() > DIRECTORY_DEPTH_MAX {
        return Err(TreeError::TooDeep { at: at.to_owned() });
    }
    Ok(())
}
