//! The order of a CAR: depth first, every node before its children, as a list of steps.
//!
//! A step says what comes next in the CAR: a node whose content follows later, a leaf to read, the end of a
//! node. Steps are cut into groups, the unit of work of one thread, by the bytes that have to be read.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{BuildError, SourceChange};
use crate::holes::{is_hole, may_have_holes};
use crate::profile::DagParams;
use crate::readahead::{expect_sequential, read_ahead};
use crate::units::len64;
use crate::unixfs::dir::{Content, Directory, Entry, Stamp};
use crate::unixfs::hamt::{Link, Links, Shards};

/// Bytes of a group's sections at most, when it has more than one leaf.
pub(crate) const GROUP_BYTES: usize = (16 << 20) + (8 << 10);
/// Files above this are read ahead as far as the system does.
const READ_AHEAD_FROM: usize = 1 << 20;
/// Leaves of a group at most: bounds what many tiny files keep in memory.
const GROUP_LEAVES: usize = 1024;
/// Files of a group at most, all of which are open at once: far below the usual limit of 1024 descriptors, even with
/// a group for each of many threads.
const GROUP_FILES: usize = 16;
/// Steps of a group at most.
const GROUP_STEPS: usize = 8 * GROUP_LEAVES;

/// Work for one thread: leaves to read and hash, and what to make of them.
#[derive(Debug, Default)]
pub(crate) struct Group<'a> {
    pub(crate) turn: u64,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) steps: Vec<Step<'a>>,
    /// Where in the CAR the group starts, if no block before it is a repetition.
    pub(crate) offset: u64,
    /// Bytes of all sections that start in the group, holes included: the CAR's image.
    pub(crate) bytes: usize,
    /// Files that were opened for it.
    files: usize,
}

#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A node starts: its section has this length, its content is known at its end.
    OpenNode { section_len: u64 },
    /// The next leaf of the group.
    Leaf,
    /// A block that is known already.
    Symlink(&'a [u8]),
    /// Every leaf of a file has been read.
    EndFile(Arc<Source>),
    /// A file's node ends.
    CloseFileNode,
    /// A shard of a folder ends.
    CloseShard(&'a Directory, &'a Shards, usize),
    /// A folder of one block ends.
    CloseDirectory(&'a Directory),
    /// Everything in a folder has been dealt with.
    EndDirectory(&'a Directory, PathBuf),
}

/// A leaf and its place in the group's buffer.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) source: Arc<Source>,
    /// Where in the file.
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// Where in the buffer its section starts.
    pub(crate) at: usize,
    /// Length of frame length and CID before it.
    pub(crate) prefix_len: usize,
}

impl Group<'_> {
    /// A node starts here: its section is a hole in the image.
    fn open_node(&mut self, section_len: u64) {
        self.bytes += in_memory(section_len);
        self.steps.push(Step::OpenNode { section_len });
    }
}

impl Leaf {
    /// Where in the buffer its bytes are.
    pub(crate) fn block(&self) -> Range<usize> {
        let start = self.at + self.prefix_len;
        start..start + self.len
    }

    /// Whether it is zeros that were never written, so that it need not be read.
    ///
    /// The end of the file is looked at all the same, when the file's leaves are done.
    pub(crate) fn is_hole(&self) -> bool {
        self.source.sparse && self.len > 0 && is_hole(&self.source.file, self.offset, len64(self.len))
    }
}

/// An open file, and how it looked when it was found.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    pub(crate) path: PathBuf,
    stamp: Stamp,
    sparse: bool,
}

/// Where the walk stands.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    params: DagParams,
    path: PathBuf,
    /// What is to come, the next at the end.
    stack: Vec<Place<'a>>,
    turns: u64,
    offset: u64,
}

#[derive(Debug)]
enum Place<'a> {
    Entry(Option<&'a str>, &'a Entry),
    /// A folder and how many of its children have been dealt with.
    Directory(&'a Directory, usize),
    /// A shard of a folder, and what is left of its links.
    Shard {
        directory: &'a Directory,
        shards: &'a Shards,
        shard: usize,
        links: Links<'a>,
    },
    /// Back to a folder of which all has been dealt with.
    EndDirectory(&'a Directory),
    /// A node of a file: level above the leaves, and the bytes of the file that are still to come below it.
    FileNode {
        source: Arc<Source>,
        level: u32,
        from: u64,
        to: u64,
    },
    EndFile(Arc<Source>),
    /// Back to the parent's path.
    LeavePath,
}

impl<'a> Walk<'a> {
    /// A walk whose first section starts at `offset`.
    pub(crate) fn new(path: &Path, root: &'a Entry, params: DagParams, offset: u64) -> Self {
        Self { params, path: path.to_owned(), stack: vec![Place::Entry(None, root)], turns: 0, offset }
    }

    /// The next group, or `None` at the end.
    pub(crate) fn next_group(&mut self) -> Result<Option<Group<'a>>, BuildError> {
        let mut group = Group { turn: self.turns, offset: self.offset, ..Group::default() };
        while group.leaves.len() < GROUP_LEAVES
            && group.files < GROUP_FILES
            && group.steps.len() < GROUP_STEPS
            && group.bytes < GROUP_BYTES
        {
            match self.stack.pop() {
                None => break,
                Some(place) => {
                    if let Some(full) = self.step(place, &mut group)? {
                        self.stack.push(full);
                        break;
                    }
                }
            }
        }
        if group.steps.is_empty() {
            return Ok(None);
        }
        self.turns += 1;
        self.offset += len64(group.bytes);
        Ok(Some(group))
    }

    /// Takes one step; hands the place back if its leaf does not fit into the group.
    fn step(&mut self, place: Place<'a>, group: &mut Group<'a>) -> Result<Option<Place<'a>>, BuildError> {
        match place {
            Place::Entry(name, entry) => {
                if let Some(name) = name {
                    self.path.push(name);
                    self.stack.push(Place::LeavePath);
                }
                self.enter(entry, group)?;
            }
            Place::Directory(directory, done) => match directory.children.get(done) {
                Some((name, entry)) => {
                    self.stack.push(Place::Directory(directory, done + 1));
                    self.stack.push(Place::Entry(Some(name), entry));
                }
                None => group.steps.push(Step::CloseDirectory(directory)),
            },
            Place::Shard { directory, shards, shard, mut links } => {
                let Some(link) = links.next() else {
                    group.steps.push(Step::CloseShard(directory, shards, shard));
                    return Ok(None);
                };
                self.stack.push(Place::Shard { directory, shards, shard, links });
                match link {
                    Link::Shard(below) => self.open_shard(directory, shards, below, group),
                    Link::Entry(index) => {
                        let (name, entry) = &directory.children[index];
                        self.stack.push(Place::Entry(Some(name), entry));
                    }
                }
            }
            Place::EndDirectory(directory) => {
                group.steps.push(Step::EndDirectory(directory, self.path.clone()));
            }
            Place::FileNode { source, level: 0, from, to } => {
                let len = in_memory(to - from);
                let prefix_len = in_memory(self.params.section_prefix_len(to - from));
                if !group.leaves.is_empty() && group.bytes + prefix_len + len > GROUP_BYTES {
                    return Ok(Some(Place::FileNode { source, level: 0, from, to }));
                }
                let at = group.bytes;
                group.bytes += prefix_len + len;
                group.leaves.push(Leaf { source, offset: from, len, at, prefix_len });
                group.steps.push(Step::Leaf);
            }
            Place::FileNode { level, from, to, .. } if from == to => {
                debug_assert!(level > 0, "leaves have no end of their own");
                group.steps.push(Step::CloseFileNode);
            }
            Place::FileNode { source, level, from, to } => {
                let end = to.min(from + self.params.span(level - 1));
                self.stack.push(Place::FileNode { source: Arc::clone(&source), level, from: end, to });
                self.open_node(source, level - 1, from, end, group);
            }
            Place::EndFile(source) => group.steps.push(Step::EndFile(source)),
            Place::LeavePath => {
                self.path.pop();
            }
        }
        Ok(None)
    }

    fn enter(&mut self, entry: &'a Entry, group: &mut Group<'a>) -> Result<(), BuildError> {
        match &entry.content {
            Content::File(stamp) => {
                let source = Arc::new(Source::open(&self.path, *stamp)?);
                group.files += 1;
                self.stack.push(Place::EndFile(Arc::clone(&source)));
                self.open_node(source, self.params.levels(stamp.size), 0, stamp.size, group);
            }
            Content::Directory(directory) => {
                self.stack.push(Place::EndDirectory(directory));
                if let Some(shards) = &directory.shards {
                    self.open_shard(directory, shards, 0, group);
                } else {
                    group.open_node(self.params.section_len(entry.shape.block_len));
                    self.stack.push(Place::Directory(directory, 0));
                }
            }
            Content::Symlink(block) => {
                group.bytes += in_memory(self.params.section_len(len64(block.len())));
                group.steps.push(Step::Symlink(block));
            }
        }
        Ok(())
    }

    fn open_shard(
        &mut self,
        directory: &'a Directory,
        shards: &'a Shards,
        shard: usize,
        group: &mut Group<'a>,
    ) {
        group.open_node(self.params.section_len(shards.block_len(shard)));
        self.stack.push(Place::Shard { directory, shards, shard, links: shards.links(shard) });
    }

    fn open_node(&mut self, source: Arc<Source>, level: u32, from: u64, to: u64, group: &mut Group<'a>) {
        if level > 0 {
            let shape = self.params.subtree_shape(level, to - from);
            group.open_node(self.params.section_len(shape.block_len));
        }
        self.stack.push(Place::FileNode { source, level, from, to });
    }
}

impl Source {
    fn open(path: &Path, stamp: Stamp) -> Result<Self, BuildError> {
        // Without waiting: a pipe that has taken the file's name would keep the thread for ever.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open fit in an int");
        let mut options = File::options();
        let file = options.read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| BuildError::reading(path, error))?;
        if stamp.size > len64(READ_AHEAD_FROM) {
            expect_sequential(&file);
        }
        let metadata = file.metadata().map_err(|error| BuildError::reading(path, error))?;
        check_stamp(path, stamp, Stamp::of(&metadata))?;
        Ok(Self { file, path: path.to_owned(), stamp, sparse: may_have_holes(&metadata) })
    }

    /// Reads from a place in the file, as far as one call goes.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// Checks that the file still looks as it did when it was found.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let metadata = self.file.metadata().map_err(|error| BuildError::reading(&self.path, error))?;
        check_stamp(&self.path, self.stamp, Stamp::of(&metadata))
    }

    /// Has the system read what comes after `offset`, while what is before it is worked on.
    pub(crate) fn read_ahead(&self, offset: u64) {
        if let Some(length) = NonZeroU64::new(self.stamp.size.saturating_sub(offset).min(len64(GROUP_BYTES)))
        {
            read_ahead(&self.file, offset, length);
        }
    }

    /// Bytes that the file has.
    pub(crate) fn size(&self) -> u64 {
        self.stamp.size
    }
}

/// The length of a block or section, all of which are made in memory.
fn in_memory(length: u64) -> usize {
    usize::try_from(length).expect("a section fits in memory")
}

/// Checks that a file or folder looks as it did when it was found.
pub(crate) fn check_stamp(path: &Path, before: Stamp, now: Stamp) -> Result<(), BuildError> {
    let change = if (before.device, before.inode) != (now.device, now.inode) {
        SourceChange::Replaced
    } else if before.size != now.size {
        SourceChange::Size { before: before.size, now: now.size }
    } else if before.modified != now.modified {
        SourceChange::Modified
    } else {
        return Ok(());
    };
    Err(BuildError::changed(path, change))
}
