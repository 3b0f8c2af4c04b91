//! The planned content of a CAR: folders, symbolic links, and files or byte ranges of files.
//!
//! A tree is filled by a planner ([`SourceTree`]) or by a scan of a path (`scan`). It has no blocks: their
//! lengths follow from the tree and the parameters of the DAG (`unixfs`).

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

/// The planned content of one CAR: folders, symbolic links, and files or byte ranges of files on disk.
///
/// Paths in the tree are `/`-separated names below its root folder. Names are sorted by their bytes. A whole
/// file that keeps its name takes 70 to 90 bytes of memory, any other range 200 (measured with a million of
/// them with names of 16 bytes, in folders of a thousand and more).
#[derive(Debug)]
pub struct SourceTree {
    /// Path for errors about the whole tree.
    pub(crate) label: PathBuf,
    pub(crate) root: Node,
    pub(crate) totals: Totals,
    /// Number of folders, which is the number of the next one.
    pub(crate) folders: u32,
    paths: SharedPaths,
}

/// A file, or a part of it, that becomes a UnixFS file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// The file on disk.
    pub path: PathBuf,
    /// The packed bytes. The first chunk starts at the start of the range.
    pub range: Range<u64>,
    /// Stamp of the whole file when it was planned.
    pub expected: SourceStamp,
}

/// An entry of a tree.
#[derive(Debug)]
pub(crate) enum Node {
    /// A whole file with the name of its entry, or a root that is a file.
    File(WholeFile),
    Part(Box<Part>),
    Folder(Box<Folder>),
    /// The block of a symbolic link.
    Symlink(Box<[u8]>),
}

#[derive(Debug)]
pub(crate) struct WholeFile {
    /// Number of the path of its folder, or of its own path if the file is the root.
    path: u32,
    expected: SourceStamp,
    /// Known if the file was scanned.
    identity: Option<Box<Identity>>,
}

/// A range of a file, or a file with another name than its entry.
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
    /// Number of its path and its stamp, if it was scanned on disk.
    scanned: Option<Box<(u32, Stamp)>>,
}

/// Sums over a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    /// Bytes that the files take on disk, where that is known. Sparse files take fewer bytes than their
    /// length.
    pub(crate) allocated: u64,
    pub(crate) files: u64,
    pub(crate) modified: SystemTime,
}

/// Path, range and expected state of a file of the tree.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) range: Range<u64>,
    pub(crate) expected: SourceStamp,
    pub(crate) identity: Option<Identity>,
}

/// Paths of folders by number; the files of a folder share its path.
#[derive(Debug, Default)]
struct SharedPaths {
    paths: Vec<Arc<Path>>,
    numbers: HashMap<Arc<Path>, u32>,
    /// The last result: most files are added together with others of their folder.
    last: u32,
}

impl Default for SourceTree {
    fn default() -> Self {
        Self::new()
    }
}

impl SourceTree {
    /// A tree with an empty root folder.
    pub fn new() -> Self {
        Self {
            label: PathBuf::from("source tree"),
            root: Node::Folder(Box::new(Folder { number: 0, children: Children::default(), scanned: None })),
            totals: Totals::default(),
            folders: 1,
            paths: SharedPaths::default(),
        }
    }

    /// Adds a file or a range of a file. Missing folders above it are added.
    ///
    /// The file is not opened before the tree is packed.
    ///
    /// # Errors
    ///
    /// [`TreeError::Taken`] if another entry has the path, [`TreeError::Range`] for a range beyond the file,
    /// and other [`TreeError`]s.
    pub fn add_file(&mut self, at: &str, part: FilePart) -> Result<(), TreeError> {
        let FilePart { path, range, expected } = part;
        if range.start > range.end || range.end > expected.size {
            return Err(TreeError::Range { path, range, size: expected.size });
        }
        let (Some(folder), Some(file_name)) = (path.parent(), path.file_name()) else {
            return Err(TreeError::NotAFile { path });
        };
        let folder = self.paths.number(folder);
        let length = range.end - range.start;
        self.add(at, |name| {
            let file = WholeFile { path: folder, expected, identity: None };
            if file_name == name && range == (0..expected.size) {
                return Node::File(file);
            }
            Node::Part(Box::new(Part { file, name: file_name.into(), range }))
        })?;
        self.totals.add_file(length, length, expected.modified);
        Ok(())
    }

    /// Adds a folder and the folders above it. An existing folder is not changed. Folders without entries are
    /// packed too.
    ///
    /// # Errors
    ///
    /// [`TreeError`].
    pub fn add_folder(&mut self, at: &str) -> Result<(), TreeError> {
        check_names(at)?;
        self.folder_at(at, at).map(|_| ())
    }

    /// Adds a symbolic link. Missing folders above it are added. The target is not checked.
    ///
    /// # Errors
    ///
    /// [`TreeError::Taken`] if another entry has the path, and other [`TreeError`]s.
    pub fn add_symlink(&mut self, at: &str, target: &[u8]) -> Result<(), TreeError> {
        self.add(at, |_| Node::Symlink(dag_pb::encode_symlink(target).into()))
    }

    /// Adds an entry that is not a folder.
    fn add(&mut self, at: &str, make: impl FnOnce(&str) -> Node) -> Result<(), TreeError> {
        check_names(at)?;
        let (above, name) = at.rsplit_once('/').unwrap_or(("", at));
        let folder = self.folder_at(above, at)?;
        match folder.children.entry(name, || make(name)) {
            (_, true) => Ok(()),
            (_, false) => Err(TreeError::Taken { at: at.to_owned() }),
        }
    }

    /// The folder at `path`, which is created if it does not exist. Errors name `at`, the entry to add.
    fn folder_at(&mut self, path: &str, at: &str) -> Result<&mut Folder, TreeError> {
        let mut folder = match &mut self.root {
            Node::Folder(folder) => &mut **folder,
            _ => return Err(TreeError::Taken { at: at.to_owned() }),
        };
        let mut done = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let number = self.folders;
            let (node, is_new) = folder.children.entry(name, || {
                Node::Folder(Box::new(Folder { number, children: Children::default(), scanned: None }))
            });
            self.folders += u32::from(is_new);
            done += name.len() + 1;
            folder = match node {
                Node::Folder(folder) => folder,
                _ => return Err(TreeError::Taken { at: path[..done - 1].to_owned() }),
            };
        }
        Ok(folder)
    }

    /// The source of a file whose entry has this name.
    pub(crate) fn source(&self, name: Option<&str>, node: &Node) -> Option<SourceFile> {
        let (file, name, range) = match node {
            Node::File(file) => (file, name.map(OsStr::new), 0..file.expected.size),
            Node::Part(part) => (&part.file, Some(&*part.name), part.range.clone()),
            Node::Folder(_) | Node::Symlink(_) => return None,
        };
        let folder = self.paths.path(file.path);
        Some(SourceFile {
            path: name.map_or_else(|| folder.to_path_buf(), |name| folder.join(name)),
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

    /// Path and stamp of a folder that was scanned on disk.
    pub(crate) fn scanned(&self, folder: &Folder) -> Option<(&Arc<Path>, Stamp)> {
        folder.scanned.as_deref().map(|(path, stamp)| (self.paths.path(*path), *stamp))
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

impl SharedPaths {
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

/// Checks every name of a path in the tree.
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
