//! Folders: what is in them, found before anything is read, and the lengths of their nodes.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use super::dag::Shape;
use super::hamt::{SameHash, Shards};
use super::{murmur3, pb};
use crate::assemble::{BuildError, Unsupported};
use crate::limits::{DIRECTORY_DEPTH_MAX, SHARDING_BYTES};
use crate::profile::{DagParams, ShardRule};
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
    /// In byte order of the names, or of their hashes where the folder is sharded.
    pub(crate) children: Vec<(Box<str>, Entry)>,
    /// The shards, if it is sharded.
    pub(crate) shards: Option<Shards>,
}

/// Sums over everything that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    /// Bytes that the files take on disk: fewer where they have holes.
    pub(crate) allocated: u64,
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
    let mut totals = Totals { bytes: 0, allocated: 0, files: 0, modified: SystemTime::UNIX_EPOCH };
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
        // Source: stat(2), a block of `st_blocks` has 512 bytes on Linux.
        totals.allocated = totals.allocated.saturating_add(metadata.blocks().saturating_mul(512));
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
    let mut shape = plain_shape(&children, params);
    let mut shards = None;
    if is_sharded(&children, shape, params) {
        let (found, sharded) = shard(&mut children, params)
            .map_err(|name| BuildError::not_supported(&path.join(&*name), Unsupported::SameHash))?;
        shape = sharded;
        shards = Some(found);
    }
    Ok(Entry { content: Content::Directory(Directory { stamp, children, shards }), shape })
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

/// Lengths of a folder that is one block.
fn plain_shape(children: &[(Box<str>, Entry)], params: &DagParams) -> Shape {
    let mut block_len = pb::DIRECTORY_DATA_LEN;
    let mut below = Shape::NOTHING;
    for (name, entry) in children {
        let name_len = len64(name.len());
        block_len += pb::link_len(params.cid_len(entry.shape.block_len), name_len, entry.shape.tsize);
        below = entry.shape.above(below);
    }
    params.block_shape(block_len, 0).above(below)
}

fn is_sharded(children: &[(Box<str>, Entry)], plain: Shape, params: &DagParams) -> bool {
    match params.shard_rule {
        ShardRule::LinksBytes => {
            let link =
                |(name, entry): &(Box<str>, Entry)| len64(name.len()) + params.cid_len(entry.shape.block_len);
            children.iter().map(link).sum::<u64>() >= SHARDING_BYTES
        }
        ShardRule::BlockBytes => plain.block_len > SHARDING_BYTES,
    }
}

/// Brings the entries of a folder into the order of their hashes; returns its shards and its lengths, or a name
/// that has the hash of another one.
fn shard(children: &mut [(Box<str>, Entry)], params: &DagParams) -> Result<(Shards, Shape), Box<str>> {
    children.sort_by_cached_key(|(name, _)| murmur3::hash(name.as_bytes()));
    let hashes: Vec<u64> = children.iter().map(|(name, _)| murmur3::hash(name.as_bytes())).collect();
    let entry = |index: usize| {
        let (name, entry) = &children[index];
        (len64(name.len()), entry.shape)
    };
    Shards::new(params, &hashes, entry).map_err(|SameHash(index)| children[index].0.clone())
}
