//! Walks a source tree in the order of the CAR, and cuts the walk into groups for the threads.
//!
//! The walk is a list of steps, depth first, every node before its children: a node whose content follows
//! later, a leaf to read, the end of a node. With [`CarOrder::LeavesFirst`] the steps are the same, and only
//! the offsets of nodes differ (`layout`). A group is the unit of work of one thread; its size is limited by
//! the bytes to read.

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

/// Least bytes of leaves in a group, but for the last one. Smaller groups cause small writes.
const GROUP_BYTES_MIN: usize = 4 << 20;
/// Most bytes of leaves in a group of several leaves. The groups of all threads are in memory at the same
/// time.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// Bytes of frames, CIDs and nodes in a group, in addition to its leaves.
const GROUP_OVERHEAD: usize = 8 << 10;
/// Most leaves of a group: bounds the memory of many tiny files.
const GROUP_LEAVES: usize = 1024;
/// Most files of a group. All of them are open at the same time; with a group for each of many threads they
/// stay far below the usual limit of 1024 descriptors.
const GROUP_FILES: usize = 16;
/// Most steps of a group.
const GROUP_STEPS: usize = 8 * GROUP_LEAVES;

/// Bytes of a group: as many leaves as one kernel call hashes, within limits. More bytes would fall out of
/// the processor's caches before their second use. On Zen 3 two threads are 6 % faster with groups of 4 MiB
/// than with 16 MiB.
fn group_bytes(params: &DagParams) -> usize {
    let leaves = kernels::blocks_at_once().saturating_mul(in_memory(params.chunk_size.into()));
    leaves.clamp(GROUP_BYTES_MIN, GROUP_BYTES_MAX) + GROUP_OVERHEAD
}

/// The work of one thread: leaves to read and hash, and the steps of their layout.
#[derive(Debug, Default)]
pub(crate) struct Group<'a> {
    /// Sequence number.
    pub(crate) number: u64,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) steps: Vec<Step<'a>>,
    /// Offset of the group in the CAR, if no block before it is repeated.
    pub(crate) offset: u64,
    /// Bytes of all sections that start in the group, placeholders of nodes included.
    pub(crate) bytes: usize,
    /// Files that were opened for the group.
    files: usize,
}

#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A file of this size starts; only with [`CarOrder::LeavesFirst`].
    StartFile { file_size: u64 },
    /// A node starts. The length of its section is known, its content follows at its end.
    OpenNode { section_len: u64 },
    /// The next leaf of the group.
    Leaf,
    /// The block of a symbolic link.
    Symlink(&'a [u8]),
    /// Every leaf of a file has been read.
    EndFile(Arc<Source>),
    /// A file's node ends.
    CloseFileNode,
    /// A shard of a folder ends.
    CloseShard(&'a ShardedFolder<'a>, usize),
    /// A folder of one block ends.
    CloseFolder(&'a Folder),
    /// All entries of a folder that was scanned on disk are laid out; its stamp is checked again.
    EndFolder(&'a Path, Stamp),
}

/// A leaf and its position in the group's buffer.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) source: Arc<Source>,
    /// Offset in the file.
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// Start of its section in the buffer.
    pub(crate) at: usize,
    /// Length of the frame length and CID before the block.
    pub(crate) prefix_len: usize,
}

impl Group<'_> {
    /// A node starts here: its section is a placeholder in the group's bytes.
    fn open_node(&mut self, section_len: u64) {
        self.bytes += in_memory(section_len);
        self.steps.push(Step::OpenNode { section_len });
    }
}

impl Leaf {
    /// Range of the block in the buffer.
    pub(crate) fn block(&self) -> Range<usize> {
        let start = self.at + self.prefix_len;
        start..start + self.len
    }

    /// Whether the leaf is a hole of a sparse file, so that it need not be read.
    ///
    /// The end of the file is still checked after the file's last leaf.
    pub(crate) fn is_hole(&self) -> bool {
        self.source.is_hole(self.offset, len64(self.len))
    }
}

/// The state of a walk.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    params: DagParams,
    tree: &'a SourceTree,
    shapes: &'a Shapes<'a>,
    /// Open places of the tree, the next one at the end.
    stack: Vec<Place<'a>>,
    /// Sequence number of the next group.
    next_number: u64,
    offset: u64,
    group_bytes: usize,
}

#[derive(Debug)]
enum Place<'a> {
    /// An entry and its name. The root has no name.
    Entry(Option<&'a str>, &'a Node),
    /// A folder and its remaining entries.
    Folder(&'a Folder, InOrder<'a>),
    /// A shard of a folder and its remaining links.
    Shard {
        folder: &'a ShardedFolder<'a>,
        shard: usize,
        links: Links<'a>,
    },
    /// A folder whose entries are all laid out.
    EndFolder(&'a Path, Stamp),
    /// A node of a file: its level above the leaves, and the bytes of the source's range that remain below
    /// it.
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
        Self { params, tree, shapes, stack, next_number: 0, offset, group_bytes: group_bytes(&params) }
    }

    /// Most bytes of the sections of a group with several leaves.
    pub(crate) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    /// The next group; `None` at the end of the tree.
    pub(crate) fn next_group(&mut self) -> Result<Option<Group<'a>>, BuildError> {
        let mut group = Group { number: self.next_number, offset: self.offset, ..Group::default() };
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
        self.next_number += 1;
        self.offset += len64(group.bytes);
        Ok(Some(group))
    }

    /// Takes one step. Returns the place if its leaf does not fit into the group.
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
                    // The nodes above the leaves are placeholders behind them.
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
                if let Some((path, stamp)) = self.tree.scanned(folder) {
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

/// The length of a block or section as `usize`. Every section fits in memory.
fn in_memory(length: u64) -> usize {
    usize::try_from(length).expect("a section fits in memory")
}
