//! Assigns each block its offset in the CAR, in the CAR's order, and writes every block once.
//!
//! The length of every section is known before its content. A node reserves a *placeholder* of its length,
//! and its children follow behind. A block that the CAR already has is not written again: a repeated leaf is
//! left out; a repeated node is recognised when its last child is laid out. All blocks below a repeated node
//! are repeated too, so nothing follows its placeholder, and the placeholder is freed.
//!
//! With [`CarOrder::LeavesFirst`] repeated blocks are written again. The nodes of a file stand behind its
//! leaves at offsets that are known in advance: a node is written as soon as its last child is laid out.
//!
//! ```text
//! |leaf|leaf|leaf|leaf|leaf|leaf|node|node|root|leaf|…
//! end of the leaves so far ─┘    └─ next node of level 1
//! ```

use std::collections::HashSet;
use std::fs;
use std::ops::Range;

use crate::assemble::source::check_stamp;
use crate::assemble::walk::{Group, Step};
use crate::build_error::BuildError;
use crate::carv1::{header, writer};
use crate::dag_pb;
use crate::dag_pb::Child;
use crate::profile::{CarOrder, DagParams};
use crate::source_tree::{Folder, Stamp};
use crate::units::len64;
use crate::unixfs::dag::Codec;

/// Bytes and their offset in the CAR.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

#[derive(Debug)]
pub(crate) enum Bytes {
    /// In the group's buffer.
    Buffer(Range<usize>),
    /// A node, or the header.
    Owned(Vec<u8>),
}

/// The totals of a CAR after the layout of its last block.
#[derive(Debug)]
pub(crate) struct LaidOut {
    pub(crate) root: Box<[u8]>,
    /// CID of each file; only with [`CarOrder::LeavesFirst`].
    pub(crate) file_cids: Vec<Box<[u8]>>,
    pub(crate) length: u64,
    pub(crate) blocks: u64,
}

/// The layout after some groups of blocks.
#[derive(Debug)]
pub(crate) struct Layout {
    params: DagParams,
    /// Offset of the next section.
    end: u64,
    /// CIDs of all blocks so far.
    written: HashSet<Box<[u8]>>,
    /// Nodes whose children are not all laid out, the root first.
    open: Vec<OpenNode>,
    /// The file whose nodes are open; only with [`CarOrder::LeavesFirst`].
    file: Option<NodeOffsets>,
    file_cids: Vec<Box<[u8]>>,
    blocks: u64,
    root: Option<Box<[u8]>>,
    header_len: u64,
    header_written: bool,
}

/// Offsets of a file's nodes with [`CarOrder::LeavesFirst`].
#[derive(Debug)]
struct NodeOffsets {
    /// Offset of the next node of each level; leaves go to the layout's end.
    next: Vec<u64>,
    end: u64,
}

#[derive(Debug)]
struct OpenNode {
    offset: u64,
    section_len: u64,
    children: Vec<Child>,
}

impl Layout {
    /// The layout of an empty CAR. Only the length of the root's CID is known.
    pub(crate) fn new(params: DagParams, root_cid_len: u64) -> Self {
        let header_len = header::header_len(root_cid_len);
        Self {
            params,
            end: header_len,
            written: HashSet::new(),
            open: Vec::new(),
            file: None,
            file_cids: Vec::new(),
            blocks: 0,
            root: None,
            header_len,
            header_written: false,
        }
    }

    /// Lays out a group of leaves and nodes; returns the extents to write. `cids` are those of the leaves,
    /// which lie in the group's buffer.
    pub(crate) fn lay(&mut self, group: &Group<'_>, cids: Vec<Box<[u8]>>) -> Result<Vec<Extent>, BuildError> {
        let mut extents = Vec::new();
        let mut leaves = group.leaves.iter().zip(cids);
        for step in &group.steps {
            match step {
                Step::StartFile { file_size } => self.start_file(*file_size),
                Step::OpenNode { section_len } => {
                    let offset = self.offset_of_node(*section_len);
                    self.open.push(OpenNode { offset, section_len: *section_len, children: Vec::new() });
                }
                Step::Leaf => {
                    let (leaf, cid) = leaves.next().expect("a step for each leaf");
                    if self.mark_written(&cid) {
                        let range = leaf.at..leaf.at + leaf.prefix_len + leaf.len;
                        let offset = self.append(range.len());
                        push_range(&mut extents, offset, range);
                    }
                    let len = len64(leaf.len);
                    self.add_child(Child { cid, tsize: len, file_size: len });
                }
                Step::Symlink(block) => {
                    let cid = self.params.cid(Codec::DagPb, block);
                    if self.mark_written(&cid) {
                        let section = writer::section(&cid, block);
                        extents.push(Extent {
                            offset: self.append(section.len()),
                            bytes: Bytes::Owned(section),
                        });
                    }
                    let tsize = len64(block.len());
                    self.add_child(Child { cid, tsize, file_size: 0 });
                }
                Step::EndFile(source) => {
                    source.check()?;
                    self.end = self.file.take().map_or(self.end, |file| file.end);
                }
                Step::CloseFileNode => {
                    let node = self.open.pop().expect("a node is closed once");
                    let block = dag_pb::encode_file(&node.children);
                    let file_size = node.children.iter().map(|child| child.file_size).sum();
                    let cid = self.params.cid(Codec::DagPb, &block);
                    self.close(&node, cid, &block, file_size, &mut extents);
                }
                Step::CloseShard(folder, shard) => {
                    let node = self.open.pop().expect("a node is closed once");
                    let name = |entry: usize| &*folder.entries[entry].name;
                    let block = folder.shards.encode(*shard, &node.children, name);
                    let cid = self.folder_cid(&block);
                    self.close(&node, cid, &block, 0, &mut extents);
                }
                Step::CloseFolder(folder) => {
                    let node = self.open.pop().expect("a node is closed once");
                    let block = encode_folder(folder, &node.children);
                    let cid = self.folder_cid(&block);
                    self.close(&node, cid, &block, 0, &mut extents);
                }
                Step::EndFolder(path, stamp) => {
                    let metadata = fs::metadata(path).map_err(|error| BuildError::reading(path, error))?;
                    check_stamp(path, *stamp, Stamp::of(&metadata))?;
                }
            }
        }
        if let Some(root) = &self.root
            && !self.header_written
        {
            self.header_written = true;
            let header = header::encode(root);
            debug_assert_eq!(
                u64::try_from(header.len()),
                Ok(self.header_len),
                "the length of the header was predicted"
            );
            extents.push(Extent { offset: 0, bytes: Bytes::Owned(header) });
        }
        Ok(extents)
    }

    /// The totals, after the last group.
    pub(crate) fn finish(self) -> LaidOut {
        LaidOut {
            root: self.root.expect("the walk ends with the root"),
            file_cids: self.file_cids,
            length: self.end,
            blocks: self.blocks,
        }
    }

    /// Offset of the next section.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Reserves the bytes of the next section; returns its offset.
    fn append(&mut self, len: usize) -> u64 {
        let offset = self.end;
        self.end += len64(len);
        offset
    }

    /// The CID of a folder's or shard's block. Its node is no longer in `open`.
    fn folder_cid(&self, block: &[u8]) -> Box<[u8]> {
        let is_root = self.open.is_empty();
        let params = if is_root { self.params.of_root_folder() } else { self.params };
        params.cid(Codec::DagPb, block)
    }

    fn close(
        &mut self,
        node: &OpenNode,
        cid: Box<[u8]>,
        block: &[u8],
        file_size: u64,
        extents: &mut Vec<Extent>,
    ) {
        let section = writer::section(&cid, block);
        debug_assert_eq!(
            u64::try_from(section.len()),
            Ok(node.section_len),
            "the length of the node was predicted"
        );
        if self.mark_written(&cid) {
            extents.push(Extent { offset: node.offset, bytes: Bytes::Owned(section) });
        } else {
            debug_assert_eq!(
                self.end,
                node.offset + node.section_len,
                "nothing stands behind the placeholder of a repeated node"
            );
            self.end = node.offset;
        }
        let block_len = len64(block.len());
        let tsize = block_len + node.children.iter().map(|child| child.tsize).sum::<u64>();
        let tsize = self.params.tsize_of_file_node(tsize, file_size);
        self.add_child(Child { cid, tsize, file_size });
    }

    /// Adds a finished block to the node that links to it.
    fn add_child(&mut self, child: Child) {
        match (self.open.last_mut(), self.params.order) {
            (Some(parent), _) => parent.children.push(child),
            (None, CarOrder::DepthFirst) => self.root = Some(child.cid),
            (None, CarOrder::LeavesFirst) => self.file_cids.push(child.cid),
        }
    }

    /// Returns whether a block has to be written, and counts it if so.
    fn mark_written(&mut self, cid: &[u8]) -> bool {
        let written = match self.params.order {
            CarOrder::DepthFirst => self.written.insert(cid.into()),
            CarOrder::LeavesFirst => {
                self.root.get_or_insert_with(|| cid.into());
                true
            }
        };
        self.blocks += u64::from(written);
        written
    }

    fn start_file(&mut self, file_size: u64) {
        let mut end = self.end;
        let mut next = Vec::new();
        for level_len in self.params.level_lens(file_size) {
            next.push(end);
            end += level_len;
        }
        self.file = Some(NodeOffsets { next, end });
    }

    /// Reserves the placeholder of a node; returns its offset.
    fn offset_of_node(&mut self, section_len: u64) -> u64 {
        let next = match &mut self.file {
            None => &mut self.end,
            Some(file) => {
                // Only nodes of this file are open, its root first.
                let level = file.next.len() - 1 - self.open.len();
                &mut file.next[level]
            }
        };
        let offset = *next;
        *next += section_len;
        offset
    }
}

fn encode_folder(folder: &Folder, children: &[Child]) -> Vec<u8> {
    debug_assert_eq!(folder.children.len(), children.len(), "every entry became a block");
    dag_pb::encode_directory(folder.children.iter().map(|child| &*child.name).zip(children))
}

/// Adds a range of the buffer. It extends the last extent if both the offsets and the ranges are adjacent.
fn push_range(extents: &mut Vec<Extent>, offset: u64, range: Range<usize>) {
    if let Some(Extent { offset: start, bytes: Bytes::Buffer(before) }) = extents.last_mut()
        && before.end == range.start
        && *start + len64(before.len()) == offset
    {
        before.end = range.end;
        return;
    }
    extents.push(Extent { offset, bytes: Bytes::Buffer(range) });
}
