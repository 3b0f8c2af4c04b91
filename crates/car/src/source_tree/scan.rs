//! Scans a path on disk: the source tree of everything at and below it.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fs, io};

use crate::build_error::{BuildError, Unsupported};
use crate::dag_pb;
use crate::limits::DIRECTORY_DEPTH_MAX;
use crate::source_tree::children::Children;
use crate::source_tree::{Folder, Node, SourceTree, Stamp, WholeFile};
use crate::sparse::allocated_bytes;
use crate::temporary_name::is_reserved_name;

/// Scans everything at and below a path. A link at the path itself is followed, links below it are packed as
/// links.
pub(crate) fn scan(path: &Path) -> Result<SourceTree, BuildError> {
    let metadata = fs::metadata(path).map_err(|error| BuildError::reading(path, error))?;
    let mut tree = SourceTree { label: path.to_owned(), folders: 0, ..SourceTree::new() };
    tree.root = if metadata.is_file() {
        let number = tree.paths.number(path);
        tree.scan_file(number, &metadata)
    } else {
        tree.scan_entry(path, 0, &metadata, 0)?
    };
    Ok(tree)
}

impl SourceTree {
    /// Scans a path. `folder` is the number of its folder's path.
    fn scan_entry(
        &mut self,
        path: &Path,
        folder: u32,
        metadata: &Metadata,
        depth: usize,
    ) -> Result<Node, BuildError> {
        let file_type = metadata.file_type();
        if file_type.is_symlink() {
            let target = fs::read_link(path).map_err(|error| BuildError::reading(path, error))?;
            return Ok(Node::Symlink(dag_pb::encode_symlink(target.as_os_str().as_bytes()).into()));
        }
        if file_type.is_file() {
            return Ok(self.scan_file(folder, metadata));
        }
        if !file_type.is_dir() {
            return Err(BuildError::not_supported(path, Unsupported::SpecialFile));
        }
        if depth >= DIRECTORY_DEPTH_MAX {
            return Err(BuildError::not_supported(path, Unsupported::TooDeep));
        }
        let stamp = Stamp::of(metadata);
        self.totals.modified = self.totals.modified.max(stamp.seen.modified);
        let number = self.folders;
        self.folders += 1;
        let own_path = self.paths.number(path);
        let mut children = Children::default();
        for name in sorted_names(path).map_err(|error| BuildError::reading(path, error))? {
            let child_path = path.join(&name);
            if is_reserved_name(name.as_bytes()) {
                return Err(BuildError::not_supported(&child_path, Unsupported::ReservedName));
            }
            let Ok(name) = name.into_string() else {
                return Err(BuildError::not_supported(&child_path, Unsupported::NameNotUtf8));
            };
            let metadata =
                fs::symlink_metadata(&child_path).map_err(|error| BuildError::reading(&child_path, error))?;
            let node = self.scan_entry(&child_path, own_path, &metadata, depth + 1)?;
            children.entry(&name, || node);
        }
        Ok(Node::Folder(Box::new(Folder { number, children, scanned: Some(Box::new((own_path, stamp))) })))
    }

    fn scan_file(&mut self, path: u32, metadata: &Metadata) -> Node {
        let Stamp { identity, seen } = Stamp::of(metadata);
        self.totals.add_file(seen.size, allocated_bytes(metadata), seen.modified);
        Node::File(WholeFile { path, expected: seen, identity: Some(Box::new(identity)) })
    }
}

/// The names in a folder, in byte order.
///
/// # Errors
///
/// If the folder cannot be listed.
pub fn sorted_names(folder: &Path) -> io::Result<Vec<OsString>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = entries.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}
