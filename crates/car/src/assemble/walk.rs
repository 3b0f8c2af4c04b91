//! The order of a CAR as a list of steps: depth first, every node before its children.
//!
//! A step says what comes next in the CAR: a node whose content follows later, a leaf to read, the end of a
//! node. Where a file's nodes stand behind its leaves, the steps are the same; only their places differ
//! (`layout`). Steps are cut into groups, the unit of work of one thread, by the bytes that have to be read.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::assemble::source::Source;
use crate::build_error::BuildError;
use crate::kernels;
use crate::profile::{CarOrder, DagParams};
use crate::source_tree::{Folder, InOrder, Node, SourceTree, Stamp};
use crate::units::len64;
use crate::unixfs::folder::{Shapes, ShardedFolder};
use crate::unixfs::hamt::{Link, Links};

/// Bytes of leaves in a group at least, where there are so many: fewer make the edges count, and small
/// writes.
const GROUP_BYTES_MIN: usize = 4 << 20;
/// Bytes of leaves in a group at most, when it has more than one: all groups of all threads are in memory at
/// once.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// What the sections of a group take beside its leaves.
const GROUP_OVERHEAD: usize = 8 << 10;
/// Leaves of a group at most: bounds what many tiny files keep in memory.
const GROUP_LEAVES: usize = 1024;
/// Files of a group at most, all of which are open at once: far below the usual limit of 1024 descriptors,
/// even with a group for each of many threads.
const GROUP_FILES: usize = 16;
/// Steps of a group at most.
const GROUP_STEPS: usize = 8 * GROUP_LEAVES;

/// As many leaves as are hashed at once, within limits: what more there is falls out of the caches before it
/// is used again. On Zen 3 two threads that pack groups of 4 MiB are 6 % faster than with 16.
fn group_bytes(params: &DagParams) -> usize {
    let leaves = kernels::blocks_at_once().saturating_mul(in_memory(params.chunk_size.into()));
    leaves.clamp(GROUP_BYTES_MIN, GROUP_BYTES_MAX) + GROUP_OVERHEAD
}

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
    /// A file starts that has so many bytes; only where its blocks follow level by level.
    StartFile { file_size: u64 },
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
    CloseShard(&'a ShardedFolder<'a>, usize),
    /// A folder of one block ends.
    CloseFolder(&'a Folder),
    /// Everything in a folder that was found on disk has been dealt with.
    EndFolder(&'a Path, Stamp),
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
        self.source.is_hole(self.offset, len64(self.len))
    }
}

/// Where the walk stands.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    params: DagParams,
    tree: &'a SourceTree,
    shapes: &'a Shapes<'a>,
    /// What is to come, the next at the end.
    stack: Vec<Place<'a>>,
    sequencer: u64,
    offset: u64,
    group_bytes: usize,
}

#[derive(Debug)]
enum Place<'a> {
    /// An entry and its name, which the root has not.
    Entry(Option<&'a str>, &'a Node),
    /// A folder and its entries that are left.
    Folder(&'a Folder, InOrder<'a>),
    /// A shard of a folder, and what is left of its links.
    Shard {
        folder: &'a ShardedFolder<'a>,
        shard: usize,
        links: Links<'a>,
    },
    /// Back to a folder of which all has been dealt with.
    EndFolder(&'a Path, Stamp),
    /// A node of a file: level above the leaves, and the bytes of its source's range that are still to come
    /// below it.
    FileNode {
        source: Arc<Source>,
        level: u32,
        from: u64,
        to: u64,
    },
    EndFile(Arc<Source>),
}

impl<'a> Walk<'a> {
    /// A walk whose first section starts at `offset`.
    pub(crate) fn new(tree: &'a SourceTree, shapes: &'a Shapes<'a>, params: DagParams, offset: u64) -> Self {
        let stack = vec![Place::Entry(None, &tree.root)];
        Self { params, tree, shapes, stack, sequencer: 0, offset, group_bytes: group_bytes(&params) }
    }

    /// Bytes of a group's sections at most, when it has more than one leaf.
    pub(crate) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    /// The next group, or `None` at the end.
    pub(crate) fn next_group(&mut self) -> Result<Option<Group<'a>>, BuildError> {
        let mut group = Group { turn: self.sequencer, offset: self.offset, ..Group::default() };
        while group.leaves.len() < GROUP_LEAVES
            && group.files < GROUP_FILES
            && group.steps.len() < GROUP_STEPS
            && group.bytes < self.group_bytes
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
        self.sequencer += 1;
        self.offset += len64(group.bytes);
        Ok(Some(group))
    }

    /// Takes one step; hands the place back if its leaf does not fit into the group.
    fn step(&mut self, place: Place<'a>, group: &mut Group<'a>) -> Result<Option<Place<'a>>, BuildError> {
        match place {
            Place::Entry(name, node) => self.enter(name, node, group)?,
            Place::Folder(folder, mut children) => {
                let Some(child) = children.next() else {
                    if self.params.order == CarOrder::DepthFirst {
                        group.steps.push(Step::CloseFolder(folder));
                    }
                    return Ok(None);
                };
                self.stack.push(Place::Folder(folder, children));
                self.stack.push(Place::Entry(Some(&child.name), &child.node));
            }
            Place::Shard { folder, shard, mut links } => {
                let Some(link) = links.next() else {
                    group.steps.push(Step::CloseShard(folder, shard));
                    return Ok(None);
                };
                self.stack.push(Place::Shard { folder, shard, links });
                match link {
                    Link::Shard(below) => self.open_shard(folder, below, self.params, group),
                    Link::Entry(index) => {
                        let child = folder.entries[index];
                        self.stack.push(Place::Entry(Some(&child.name), &child.node));
                    }
                }
            }
            Place::EndFolder(path, stamp) => group.steps.push(Step::EndFolder(path, stamp)),
            Place::FileNode { source, level: 0, from, to } => {
                let len = in_memory(to - from);
                let prefix_len = in_memory(self.params.section_prefix_len(to - from));
                if !group.leaves.is_empty() && group.bytes + prefix_len + len > self.group_bytes {
                    return Ok(Some(Place::FileNode { source, level: 0, from, to }));
                }
                let at = group.bytes;
                group.bytes += prefix_len + len;
                let offset = source.range.start + from;
                group.leaves.push(Leaf { source, offset, len, at, prefix_len });
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
            Place::EndFile(source) => {
                if self.params.order == CarOrder::LeavesFirst {
                    // The nodes above the leaves are a hole behind them.
                    let levels = self.params.level_lens(source.range.end - source.range.start);
                    group.bytes += in_memory(levels[1..].iter().sum());
                }
                group.steps.push(Step::EndFile(source));
            }
        }
        Ok(None)
    }

    fn enter(
        &mut self,
        name: Option<&'a str>,
        node: &'a Node,
        group: &mut Group<'a>,
    ) -> Result<(), BuildError> {
        match node {
            Node::Folder(folder) => {
                if let Some((path, stamp)) = self.tree.found(folder) {
                    self.stack.push(Place::EndFolder(path, stamp));
                }
                let params = if name.is_none() { self.params.of_root_folder() } else { self.params };
                if let Some(sharded) = self.shapes.sharded(folder) {
                    self.open_shard(sharded, 0, params, group);
                    return Ok(());
                }
                if self.params.order == CarOrder::DepthFirst {
                    group.open_node(params.section_len(self.shapes.of(node).block_len));
                }
                self.stack.push(Place::Folder(folder, folder.children.iter()));
            }
            Node::Symlink(_) if self.params.order == CarOrder::LeavesFirst => {}
            Node::Symlink(block) => {
                group.bytes += in_memory(self.params.section_len(len64(block.len())));
                group.steps.push(Step::Symlink(block));
            }
            Node::File(_) | Node::Part(_) => {
                let source = self.tree.source(name, node).expect("a file has a source");
                let source = Arc::new(Source::open(source)?);
                group.files += 1;
                self.stack.push(Place::EndFile(Arc::clone(&source)));
                let size = node.file_size();
                if self.params.order == CarOrder::LeavesFirst {
                    group.steps.push(Step::StartFile { file_size: size });
                }
                self.open_node(source, self.params.levels(size), 0, size, group);
            }
        }
        Ok(())
    }

    fn open_shard(
        &mut self,
        folder: &'a ShardedFolder<'a>,
        shard: usize,
        params: DagParams,
        group: &mut Group<'a>,
    ) {
        group.open_node(params.section_len(folder.shards.block_len(shard)));
        self.stack.push(Place::Shard { folder, shard, links: folder.shards.links(shard) });
    }

    fn open_node(&mut self, source: Arc<Source>, level: u32, from: u64, to: u64, group: &mut Group<'a>) {
        if level > 0 {
            let section_len = self.params.section_len(self.params.subtree_shape(level, to - from).block_len);
            match self.params.order {
                CarOrder::DepthFirst => group.open_node(section_len),
                CarOrder::LeavesFirst => group.steps.push(Step::OpenNode { section_len }),
            }
        }
        self.stack.push(Place::FileNode { source, level, from, to });
    }
}

/// The length of a block or section, all of which are made in memory.
fn in_memory(length: u64) -> usize {
    usize::try_from(length).expect("a section fits in memory")
}
