//! Walks the DAG: creates folders, starts files, and cuts their leaves into groups for the threads.
//!
//! A group is the work of one thread. Nodes are read and checked here, one at a time, and so are leaves that
//! are nodes, as older kubo writes them. Raw leaves, which have nearly all bytes, are read by the group's
//! thread.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::vec;

use rustix::fs::{readlinkat, symlinkat};
use rustix::io::Errno;

use crate::cids::CODEC_RAW;
use crate::extract::output_dir::{Folder, Tree, is_folder, is_symlink};
use crate::extract::parts::{Begun, Parts};
use crate::extract::plan::Holes;
use crate::extract::store::{Place, Store, whole};
use crate::extract::target::{Replace, Started, Target, remove, rename, start_whole};
use crate::extract::{Existing, ExtractError, ExtractOptions, Outcome, Placement, Root, Symlinks, name};
use crate::limits::FILE_DEPTH_MAX;
use crate::temporary_name::{Beside, beside};
use crate::units::len64;
use crate::unixfs::decode::{FileNode, Node, NotUnixfs, ShardLink, decode};

/// Most bytes of leaves in a group of several leaves.
pub(super) const GROUP_BYTES: u64 = 16 << 20;
/// Most leaves of a group.
const GROUP_LEAVES: usize = 1024;
/// Most files that are started in a group. All of them are open at the same time, with their folders.
pub(super) const GROUP_FILES: usize = 16;
/// Most steps of a group: bounds how long holes and folders keep other threads waiting.
const GROUP_STEPS: usize = 64 << 10;

/// The work of one thread.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) leaves: Vec<Leaf>,
    /// Results without bytes, and files to finish.
    pub(super) events: Vec<Event>,
    /// Bytes that were left as holes.
    pub(super) hole_bytes: u64,
    bytes: u64,
    files: usize,
    steps: usize,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.events.is_empty() && self.hole_bytes == 0
    }
}

/// Bytes of a file.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) target: Arc<Target>,
    /// Offset in the target.
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) cid: Box<[u8]>,
    pub(super) bytes: Bytes,
}

#[derive(Debug)]
pub(super) enum Bytes {
    /// Not read yet.
    At(Place),
    /// Read and checked.
    Here(Vec<u8>),
}

#[derive(Debug)]
pub(super) enum Event {
    Folder(PathBuf),
    Symlink(PathBuf, Outcome),
    /// A file with an outcome that needed no bytes.
    File(PathBuf, Outcome),
    /// A target that has all its bytes.
    End(Arc<Target>),
}

/// The state of a walk.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    store: &'a Store,
    options: &'a ExtractOptions,
    holes: &'a Holes,
    /// By root, then by path inside of the root.
    placements: HashMap<&'a [u8], HashMap<&'a Path, &'a Placement>>,
    /// The present root.
    root: Vec<u8>,
    stack: Vec<Frame>,
    /// Present path inside of the CAR and of the output.
    inside: PathBuf,
    tree: Tree,
    parts: Parts,
}

#[derive(Debug)]
enum Frame {
    /// Remaining names of the folder at `inside`, or of one of its shards.
    Entries(vec::IntoIter<(Box<[u8]>, Entry)>),
    /// Remaining parts of a file. The next one starts at `at`.
    File { target: Arc<Target>, at: u64, level: usize, children: vec::IntoIter<(Box<[u8]>, u64)> },
    /// The end of a folder.
    Leave,
}

#[derive(Debug)]
enum Entry {
    Named(Box<[u8]>),
    Shard,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        store: &'a Store,
        options: &'a ExtractOptions,
        holes: &'a Holes,
    ) -> Result<Self, ExtractError> {
        let mut placements = HashMap::<_, HashMap<_, _>>::new();
        for placement in &options.placements {
            let of_root = placements.entry(placement.payload_cid.as_bytes()).or_default();
            of_root.insert(placement.inside.as_path(), placement);
        }
        Ok(Self {
            store,
            options,
            holes,
            placements,
            root: Vec::new(),
            stack: Vec::new(),
            inside: PathBuf::new(),
            tree: Tree::open(&options.output)?,
            parts: Parts::default(),
        })
    }

    /// The output folder.
    pub(super) fn output(&self) -> Arc<Folder> {
        self.tree.root()
    }

    /// The lock for changes of part lists.
    pub(super) fn lists(&self) -> Arc<Mutex<()>> {
        self.parts.lists()
    }

    /// Starts with a root. The following groups have everything below it.
    pub(super) fn enter_root(&mut self, root: &Root) -> Result<Group, ExtractError> {
        let mut group = Group::default();
        self.root = root.cid.to_bytes();
        self.inside.clear();
        self.enter(root.cid.as_bytes(), &root.name, Depth::Root, &mut group)?;
        Ok(group)
    }

    /// The next group below the root; `None` at the end.
    pub(super) fn next_group(&mut self) -> Result<Option<Group>, ExtractError> {
        let mut group = Group::default();
        while group.bytes < GROUP_BYTES
            && group.leaves.len() < GROUP_LEAVES
            && group.files < GROUP_FILES
            && group.steps < GROUP_STEPS
        {
            group.steps += 1;
            match self.stack.last_mut() {
                None if group.is_empty() => return Ok(None),
                None => break,
                Some(Frame::Leave) => {
                    self.inside.pop();
                    self.stack.pop();
                }
                Some(Frame::Entries(entries)) => match entries.next() {
                    None => drop(self.stack.pop()),
                    Some((cid, Entry::Named(name))) => {
                        self.inside.push(name::as_path(&name));
                        self.enter(&cid, &name, Depth::Below, &mut group)?;
                    }
                    Some((cid, Entry::Shard)) => self.enter_shard(&cid)?,
                },
                Some(Frame::File { target, at, level, children }) => match children.next() {
                    None => drop(self.stack.pop()),
                    Some((cid, len)) => {
                        let part = Part { target: Arc::clone(target), at: *at, len, level: *level + 1 };
                        *at += len;
                        self.part(part, cid, &mut group)?;
                    }
                },
            }
        }
        Ok(Some(group))
    }

    /// Visits a root, or an entry of a folder.
    fn enter(
        &mut self,
        cid: &[u8],
        name: &[u8],
        depth: Depth,
        group: &mut Group,
    ) -> Result<(), ExtractError> {
        let of_block = |error| self.store.error(cid, &self.inside, error);
        if whole(cid).map_err(of_block)?.codec == CODEC_RAW {
            let place = self.store.find(cid).map_err(of_block)?;
            let len = Store::len_of(cid, place).map_err(of_block)?;
            if let Some(target) = self.start_file(name, len, depth, group)? {
                self.part(Part { target, at: 0, len, level: 0 }, cid.into(), group)?;
            }
            return Ok(());
        }
        let block = self.store.block(cid).map_err(of_block)?;
        let node = decode(&block).map_err(|source| self.store.not_unixfs(cid, &self.inside, source))?;
        let entries = match node {
            Node::File(file) => {
                if let Some(target) = self.start_file(name, file.size, depth, group)? {
                    self.file_node(Part { target, at: 0, len: file.size, level: 0 }, &file, group);
                }
                return Ok(());
            }
            Node::Symlink(target) => return self.symlink(name, target, depth, group),
            Node::Directory(links) => {
                links.iter().map(|link| (link.cid.into(), Entry::Named(link.name.into()))).collect()
            }
            Node::Shard(shard) => shard_entries(&shard.links),
        };
        let _folder = self.tree.enter(&self.inside)?;
        if depth == Depth::Below {
            group.events.push(Event::Folder(self.inside.clone()));
            self.stack.push(Frame::Leave);
        }
        self.stack.push(Frame::Entries(entries.into_iter()));
        Ok(())
    }

    /// Visits a shard below the root shard of the present folder.
    fn enter_shard(&mut self, cid: &[u8]) -> Result<(), ExtractError> {
        let block = self.store.block(cid).map_err(|error| self.store.error(cid, &self.inside, error))?;
        match decode(&block) {
            Ok(Node::Shard(shard)) => {
                self.stack.push(Frame::Entries(shard_entries(&shard.links).into_iter()));
                Ok(())
            }
            Ok(_) => Err(self.store.not_unixfs(cid, &self.inside, NotUnixfs::Misplaced)),
            Err(source) => Err(self.store.not_unixfs(cid, &self.inside, source)),
        }
    }

    /// Starts a file. Returns `None` if it needs no bytes.
    fn start_file(
        &mut self,
        name: &[u8],
        size: u64,
        depth: Depth,
        group: &mut Group,
    ) -> Result<Option<Arc<Target>>, ExtractError> {
        let existing = self.options.existing;
        let placement = self.placements.get(&*self.root).and_then(|of_root| of_root.get(&*self.inside));
        let (started, left) = match placement {
            None => (None, None),
            Some(placement) => {
                match self.parts.start(&mut self.tree, placement, &self.inside, size, existing)? {
                    Begun::Joined(started) => (Some(started), None),
                    Begun::Left(other_state) => (None, Some(other_state)),
                }
            }
        };
        let part_of = placement.map(|placement| (placement.file.clone(), placement.file_size));
        let started = match started {
            Some(started) => started,
            None => start_whole(self.folder(depth)?, name, &self.inside, size, existing)?,
        };
        let inside = self.inside.clone();
        self.leave_name(depth);
        group.files += 1;
        match started {
            Started::Settled(outcome) => {
                group.events.push(Event::File(inside, outcome));
                Ok(None)
            }
            Started::Target(mut target) => {
                target.other_state = target.other_state.or(left);
                target.part_of = part_of;
                let target = Arc::new(target);
                if size == 0 {
                    group.events.push(Event::End(target));
                    return Ok(None);
                }
                Ok(Some(target))
            }
        }
    }

    /// Visits a block with a part of a file in or below it.
    fn part(&mut self, part: Part, cid: Box<[u8]>, group: &mut Group) -> Result<(), ExtractError> {
        let Part { target, at, len, level } = part;
        if len == 0 {
            return Ok(());
        }
        let of_block = |error| self.store.error(&cid, &target.inside, error);
        let not_unixfs = |source| self.store.not_unixfs(&cid, &target.inside, source);
        let is_raw = whole(&cid).map_err(of_block)?.codec == CODEC_RAW;
        let place = self.store.find(&cid).map_err(of_block)?;
        // The plan does not read nodes that are as long as their content.
        if is_raw && Store::len_of(&cid, place).map_err(of_block)? != len {
            return Err(not_unixfs(NotUnixfs::Sizes));
        }
        if if is_raw { self.store.is_known_zero(&cid) } else { self.holes.contains(&cid, len) } {
            target.write_zeros(at, len)?;
            group.hole_bytes += len;
            if target.advance(len) {
                group.events.push(Event::End(target));
            }
            return Ok(());
        }
        if is_raw {
            group.bytes += len;
            group.leaves.push(Leaf { target, at, len, cid, bytes: Bytes::At(place) });
            return Ok(());
        }
        if level > FILE_DEPTH_MAX {
            return Err(ExtractError::TooDeep { inside: target.inside.clone() });
        }
        let block = self.store.block(&cid).map_err(of_block)?;
        match decode(&block).map_err(not_unixfs)? {
            Node::File(file) if file.size == len => {
                self.file_node(Part { target, at, len, level }, &file, group);
                Ok(())
            }
            Node::File(_) => Err(not_unixfs(NotUnixfs::Sizes)),
            _ => Err(not_unixfs(NotUnixfs::Misplaced)),
        }
    }

    /// Adds the bytes in a node of a file, and a frame for its children.
    fn file_node(&mut self, part: Part, node: &FileNode<'_>, group: &mut Group) {
        let Part { target, at, level, .. } = part;
        let len = len64(node.data.len());
        if len > 0 {
            let (target, bytes) = (Arc::clone(&target), Bytes::Here(node.data.to_vec()));
            group.bytes += len;
            group.leaves.push(Leaf { target, at, len, cid: Box::default(), bytes });
        }
        if !node.children.is_empty() {
            let children: Vec<_> = node.children.iter().map(|(cid, len)| ((*cid).into(), *len)).collect();
            let children = children.into_iter();
            self.stack.push(Frame::File { target, at: at + len, level, children });
        }
    }

    fn symlink(
        &mut self,
        name: &[u8],
        target: &[u8],
        depth: Depth,
        group: &mut Group,
    ) -> Result<(), ExtractError> {
        let outcome = match self.options.symlinks {
            Symlinks::Skip => Outcome::Skipped,
            Symlinks::Restore => restore_symlink(&*self.folder(depth)?, name, target, self.options.existing)?,
        };
        group.events.push(Event::Symlink(self.inside.clone(), outcome));
        self.leave_name(depth);
        Ok(())
    }

    /// The folder that has the present entry.
    fn folder(&mut self, depth: Depth) -> Result<Arc<Folder>, ExtractError> {
        let folder = if depth == Depth::Below { self.inside.parent() } else { None };
        self.tree.enter(folder.unwrap_or(Path::new("")))
    }

    /// Removes the name of an entry that is not a folder from the path.
    fn leave_name(&mut self, depth: Depth) {
        if depth == Depth::Below {
            self.inside.pop();
        }
    }
}

/// A part of a file.
struct Part {
    target: Arc<Target>,
    at: u64,
    len: u64,
    /// Number of the file's nodes above it.
    level: usize,
}

/// Whether an entry is a root or is in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Root,
    Below,
}

fn shard_entries(links: &[ShardLink<'_>]) -> Vec<(Box<[u8]>, Entry)> {
    let entry = |link: &ShardLink<'_>| match link {
        ShardLink::Shard(cid) => ((*cid).into(), Entry::Shard),
        ShardLink::Entry(link) => (link.cid.into(), Entry::Named(link.name.into())),
    };
    links.iter().map(entry).collect()
}

fn restore_symlink(
    folder: &Folder,
    name: &[u8],
    target: &[u8],
    existing: Existing,
) -> Result<Outcome, ExtractError> {
    let failed = |error: Errno| ExtractError::output(&folder.path_of(name), error);
    let Some(stat) = folder.stat(name)? else {
        return symlinkat(target, &folder.fd, name).map_err(failed).map(|()| Outcome::Written);
    };
    let path = folder.path_of(name);
    // A killed run may have left its temporary link.
    let temporary = beside(name, Beside::New);
    remove(folder, &temporary)?;
    match existing {
        _ if is_folder(&stat) => Err(ExtractError::InTheWay { path }),
        Existing::Refuse => Err(ExtractError::Exists { path }),
        Existing::Keep if is_symlink(&stat) => {
            let there = readlinkat(&folder.fd, name, Vec::new()).map_err(failed)?;
            Ok(if there.as_bytes() == target { Outcome::Same } else { Outcome::Different })
        }
        Existing::Keep => Ok(Outcome::Different),
        Existing::Replace => {
            symlinkat(target, &folder.fd, &*temporary).map_err(failed)?;
            rename(folder, &temporary, name, Replace::Yes).map(|()| Outcome::Written)
        }
    }
}
