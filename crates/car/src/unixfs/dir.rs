//! Folders: what is in them, found before anything is read, and the lengths of their nodes.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use super::dag::Shape;
use super::pb;
use crate::assemble::{BuildError, Unsupported};
use crate::limits::{DIRECTORY_DEPTH_MAX, PLAIN_DIRECTORY_BYTES_MAX};
use crate::profile::DagParams;
use crate::units::len64;

/// How a file or folder looked when it was found; it must look the same when it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: SystemTime,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) content: Content,
    pub(crate) shape: Shape,
}

#[derive(Debug)]
pub(crate) enum Content {
    File(Stamp),
    Directory(Directory),
    /// The block of a symbolic link.
    Symlink(Vec<u8>),
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) stamp: Stamp,
    /// In byte order of the names.
    pub(crate) children: Vec<(Box<str>, Entry)>,
}

/// Sums over everything that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) modified: SystemTime,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

/// Finds everything at and below a path. A link at the path itself is followed, links below it are kept.
pub(crate) fn scan(path: &Path, params: &DagParams) -> Result<(Entry, Totals), BuildError> {
    let metadata = fs::metadata(path).map_err(|error| BuildError::reading(path, error))?;
    let mut totals = Totals { bytes: 0, files: 0, modified: SystemTime::UNIX_EPOCH };
    let entry = scan_entry(path, &metadata, params, &mut totals, 0)?;
    Ok((entry, totals))
}

fn scan_entry(
    path: &Path,
    metadata: &Metadata,
    params: &DagParams,
    totals: &mut Totals,
    depth: usize,
) -> Result<Entry, BuildError> {
    let file_type = metadata.file_type();
    let stamp = Stamp::of(metadata);
    if file_type.is_symlink() {
        let target = fs::read_link(path).map_err(|error| BuildError::reading(path, error))?;
        let block = pb::encode_symlink(target.as_os_str().as_bytes());
        let block_len = len64(block.len());
        return Ok(Entry { content: Content::Symlink(block), shape: params.block_shape(block_len, 0) });
    }
    totals.modified = totals.modified.max(stamp.modified);
    if file_type.is_file() {
        totals.files += 1;
        totals.bytes = totals.bytes.saturating_add(stamp.size);
        return Ok(Entry { content: Content::File(stamp), shape: params.file_shape(stamp.size) });
    }
    if !file_type.is_dir() {
        return Err(BuildError::not_supported(path, Unsupported::SpecialFile));
    }
    if depth >= DIRECTORY_DEPTH_MAX {
        return Err(BuildError::not_supported(path, Unsupported::TooDeep));
    }
    let mut children = Vec::new();
    for name in sorted_names(path)? {
        let child_path = path.join(&name);
        let Ok(name) = name.into_string() else {
            return Err(BuildError::not_supported(&child_path, Unsupported::NameNotUtf8));
        };
        let metadata =
            fs::symlink_metadata(&child_path).map_err(|error| BuildError::reading(&child_path, error))?;
        let entry = scan_entry(&child_path, &metadata, params, totals, depth + 1)?;
        children.push((name.into_boxed_str(), entry));
    }
    let shape = directory_shape(path, &children, params)?;
    Ok(Entry { content: Content::Directory(Directory { stamp, children }), shape })
}

fn sorted_names(path: &Path) -> Result<Vec<OsString>, BuildError> {
    let reading = |error| BuildError::reading(path, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(reading)? {
        names.push(entry.map_err(reading)?.file_name().into_vec());
    }
    names.sort_unstable();
    Ok(names.into_iter().map(OsString::from_vec).collect())
}

fn directory_shape(
    path: &Path,
    children: &[(Box<str>, Entry)],
    params: &DagParams,
) -> Result<Shape, BuildError> {
    let mut block_len = pb::DIRECTORY_DATA_LEN;
    let mut below = Shape { block_len: 0, tsize: 0, file_size: 0, car_len: 0 };
    for (name, entry) in children {
        let name_len = len64(name.len());
        block_len += pb::link_len(params.cid_len(entry.shape.block_len), name_len, entry.shape.tsize);
        below = entry.shape.above(below);
    }
    if block_len > PLAIN_DIRECTORY_BYTES_MAX {
        return Err(BuildError::not_supported(
            path,
            Unsupported::ShardedDirectory { entries: children.len() },
        ));
    }
    Ok(params.block_shape(block_len, 0).above(below))
}
