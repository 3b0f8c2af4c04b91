//! Where each block lands in the CAR, decided in the CAR's order.
//!
//! The length of every section is known before its content, so a node leaves a *hole* of its length and its
//! children follow behind. A block that was there before is not written again: a leaf is left out; a node
//! turns out to be a repetition only at its end, but then all below it was one too, nothing was laid behind
//! its hole, and the hole is given back.
//!
//! Where leaves come first, nothing is left out, and the nodes of a file have places of their own behind its
//! leaves, which are known as well: a node is written as soon as its last child is there.
//!
//! ```text
//! |leaf|leaf|leaf|leaf|leaf|leaf|node|node|root|leaf|…
//! end of the leaves so far ─┘    └─ next of level 1
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

/// Bytes for a place in the CAR.
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

/// A CAR of which every block has its place.
#[derive(Debug)]
pub(crate) struct LaidOut {
    pub(crate) root: Box<[u8]>,
    /// Where leaves come first, the CID of each file.
    pub(crate) file_cids: Vec<Box<[u8]>>,
    pub(crate) length: u64,
    pub(crate) blocks: u64,
}

/// The state of the layout after the groups so far.
#[derive(Debug)]
pub(crate) struct Layout {
    params: DagParams,
    /// Where the next section goes.
    end: u64,
    /// CIDs of all blocks so far.
    written: HashSet<Box<[u8]>>,
    /// Nodes that are not complete, the root first.
    open: Vec<OpenNode>,
    /// The file whose nodes are open, where leaves come first.
    file: Option<FilePlaces>,
    file_cids: Vec<Box<[u8]>>,
    blocks: u64,
    root: Option<Box<[u8]>>,
    header_len: u64,
    header_laid: bool,
}

/// Where the nodes of a file go.
#[derive(Debug)]
struct FilePlaces {
    /// Where the next node of each level goes; that of the leaves is the layout's end.
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
    /// An empty CAR, of which the length of the root's CID is known.
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
            header_laid: false,
        }
    }

    /// Lays out a group, whose leaves have these CIDs and lie in its buffer; returns what to write where.
    pub(crate) fn lay(&mut self, group: &Group<'_>, cids: Vec<Box<[u8]>>) -> Result<Vec<Extent>, BuildError> {
        let mut extents = Vec::new();
        let mut leaves = group.leaves.iter().zip(cids);
        for step in &group.steps {
            match step {
                Step::StartFile { file_size } => self.start_file(*file_size),
                Step::OpenNode { section_len } => {
                    let offset = self.place_of_node(*section_len);
                    self.open.push(OpenNode { offset, section_len: *section_len, children: Vec::new() });
                }
                Step::Leaf => {
                    let (leaf, cid) = leaves.next().expect("a step for each leaf");
                    if self.is_to_be_written(&cid) {
                        let range = leaf.at..leaf.at + leaf.prefix_len + leaf.len;
                        let offset = self.append(range.len());
                        push_range(&mut extents, offset, range);
                    }
                    let len = len64(leaf.len);
                    self.adopt(Child { cid, tsize: len, file_size: len });
                }
                Step::Symlink(block) => {
                    let cid = self.params.cid(Codec::DagPb, block);
                    if self.is_to_be_written(&cid) {
                        let section = writer::section(&cid, block);
                        extents.push(Extent {
                            offset: self.append(section.len()),
                            bytes: Bytes::Owned(section),
                        });
                    }
                    let tsize = len64(block.len());
                    self.adopt(Child { cid, tsize, file_size: 0 });
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
            && !self.header_laid
        {
            self.header_laid = true;
            let header = header::encode(root);
            debug_assert_eq!(u64::try_from(header.len()), Ok(self.header_len), "the header was foretold");
            extents.push(Extent { offset: 0, bytes: Bytes::Owned(header) });
        }
        Ok(extents)
    }

    /// What the CAR is, once everything is laid out.
    pub(crate) fn finish(self) -> LaidOut {
        LaidOut {
            root: self.root.expect("the walk ends with the root"),
            file_cids: self.file_cids,
            length: self.end,
            blocks: self.blocks,
        }
    }

    /// Where the next section goes.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Takes the place for the next section.
    fn append(&mut self, len: usize) -> u64 {
        let offset = self.end;
        self.end += len64(len);
        offset
    }

    /// The CID of a folder's block, or of a shard's, whose own node is open no more.
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
        debug_assert_eq!(u64::try_from(section.len()), Ok(node.section_len), "the node was foretold");
        if self.is_to_be_written(&cid) {
            extents.push(Extent { offset: node.offset, bytes: Bytes::Owned(section) });
        } else {
            debug_assert_eq!(self.end, node.offset + node.section_len, "nothing lies behind a repeated node");
            self.end = node.offset;
        }
        let block_len = len64(block.len());
        let tsize = block_len + node.children.iter().map(|child| child.tsize).sum::<u64>();
        let tsize = self.params.tsize_of_file_node(tsize, file_size);
        self.adopt(Child { cid, tsize, file_size });
    }

    /// Gives a finished block to the node it belongs to.
    fn adopt(&mut self, child: Child) {
        match (self.open.last_mut(), self.params.order) {
            (Some(parent), _) => parent.children.push(child),
            (None, CarOrder::DepthFirst) => self.root = Some(child.cid),
            (None, CarOrder::LeavesFirst) => self.file_cids.push(child.cid),
        }
    }

    /// Whether a block is written, which is counted as well.
    fn is_to_be_written(&mut self, cid: &[u8]) -> bool {
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
        self.file = Some(FilePlaces { next, end });
    }

    /// Takes the place for a node.
    fn place_of_node(&mut self, section_len: u64) -> u64 {
        let next = match &mut self.file {
            None => &mut self.end,
            Some(file) => {
                // Only nodes of this file are open: the root of it first.
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

/// Adds a range of the buffer, as one extent with the one before if they touch on both sides.
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
