//! CIDs of blocks, and the lengths of a file's DAG calculated from the file's size.
//!
//! The DAG is balanced: leaves from left to right, `links_per_node` children per node, every leaf at the same
//! depth (boxo `balanced.Layout`). The length of a block decides whether it is inlined, and so the length of
//! its CID. Therefore the lengths of all blocks, sections and the CAR follow from the size of the file.

use crate::carv1::varint;
use crate::cids::{CODEC_DAG_PB, CODEC_RAW, HASH_BLAKE2B_256, HASH_IDENTITY, HASH_SHA2_256, cid_bytes};
use crate::profile::{BlockHash, CarOrder, DagParams, FolderRoot};
use crate::units::len64;
use crate::{dag_pb, kernels};

/// Codec of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Bytes of a file.
    Raw,
    /// A node with links.
    DagPb,
}

/// Lengths of a subtree, calculated without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Length of the topmost block.
    pub(crate) block_len: u64,
    /// Lengths of all blocks.
    pub(crate) tsize: u64,
    /// Bytes of file content.
    pub(crate) file_size: u64,
    /// Lengths of all sections.
    pub(crate) car_len: u64,
}

impl Codec {
    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Raw => CODEC_RAW,
            Self::DagPb => CODEC_DAG_PB,
        }
    }
}

impl DagParams {
    /// Whether a block of this length is inlined in its CID.
    fn inlines(&self, block_len: u64) -> bool {
        self.inline_limit.is_some_and(|limit| usize::try_from(block_len).is_ok_and(|length| length <= limit))
    }

    /// The parameters for the block of a root that is a folder.
    pub(crate) fn of_root_folder(&self) -> Self {
        match self.folder_root {
            FolderRoot::MayBeInlined => *self,
            FolderRoot::Hashed => Self { inline_limit: None, ..*self },
        }
    }

    /// Length of the CID of a block of this length.
    pub(crate) fn cid_len(&self, block_len: u64) -> u64 {
        let codec = 2; // version and codec, one byte each
        if self.inlines(block_len) {
            return codec + 1 + varint::len(block_len) + block_len;
        }
        codec + varint::len(self.hash_code()) + 1 + 32
    }

    /// Length of frame length and CID before a block of this length in a CAR.
    pub(crate) fn section_prefix_len(&self, block_len: u64) -> u64 {
        let cid_len = self.cid_len(block_len);
        varint::len(cid_len + block_len) + cid_len
    }

    /// Length of a block's section in a CAR.
    pub(crate) fn section_len(&self, block_len: u64) -> u64 {
        self.section_prefix_len(block_len) + block_len
    }

    /// The CID of a block.
    pub(crate) fn cid(&self, codec: Codec, block: &[u8]) -> Box<[u8]> {
        if self.inlines(len64(block.len())) {
            return cid_bytes(codec.code(), HASH_IDENTITY, block).into();
        }
        cid_bytes(codec.code(), self.hash_code(), &kernels::hash_blocks(self.block_hash, &[block])[0]).into()
    }

    /// The CIDs of blocks. The blocks are hashed together.
    pub(crate) fn cids(&self, codec: Codec, blocks: &[&[u8]]) -> Vec<Box<[u8]>> {
        let digests = kernels::hash_blocks(self.block_hash, blocks);
        let cid = |(block, digest): (&&[u8], [u8; 32])| {
            if self.inlines(len64(block.len())) {
                return cid_bytes(codec.code(), HASH_IDENTITY, block).into();
            }
            cid_bytes(codec.code(), self.hash_code(), &digest).into()
        };
        blocks.iter().zip(digests).map(cid).collect()
    }

    const fn hash_code(&self) -> u64 {
        match self.block_hash {
            BlockHash::Blake2b256 => HASH_BLAKE2B_256,
            BlockHash::Sha2_256 => HASH_SHA2_256,
        }
    }

    /// Bytes of content below a full node that is `level` levels above the leaves.
    pub(crate) fn span(&self, level: u32) -> u64 {
        let links = len64(self.links_per_node);
        (0..level).fold(u64::from(self.chunk_size), |span, _| span.saturating_mul(links))
    }

    /// Levels above the leaves in the tree of a file.
    pub(crate) fn levels(&self, file_size: u64) -> u32 {
        (0..64).find(|level| self.span(*level) >= file_size).expect("64 levels span any file")
    }

    /// Lengths of a file's tree.
    pub(crate) fn file_shape(&self, file_size: u64) -> Shape {
        self.subtree_shape(self.levels(file_size), file_size)
    }

    /// Lengths of a subtree of a file.
    pub(crate) fn subtree_shape(&self, level: u32, file_size: u64) -> Shape {
        if level == 0 {
            return self.block_shape(file_size, file_size);
        }
        let span = self.span(level - 1);
        let mut runs = Vec::with_capacity(2);
        if file_size >= span {
            runs.push((file_size / span, self.subtree_shape(level - 1, span)));
        }
        if !file_size.is_multiple_of(span) {
            runs.push((1, self.subtree_shape(level - 1, file_size % span)));
        }
        let mut block_len = 0;
        let mut block_sizes_len = 0;
        let mut below = Shape::NOTHING;
        for (count, child) in runs {
            block_len += count * dag_pb::link_len(self.cid_len(child.block_len), 0, child.tsize);
            block_sizes_len += count * dag_pb::block_size_len(child.file_size);
            below.tsize += count * child.tsize;
            below.car_len += count * child.car_len;
        }
        block_len += dag_pb::file_data_len(file_size, block_sizes_len);
        let shape = self.block_shape(block_len, file_size).above(below);
        Shape { tsize: self.tsize_of_file_node(shape.tsize, file_size), ..shape }
    }

    /// The size in links to a file node.
    pub(crate) fn tsize_of_file_node(&self, block_bytes: u64, file_size: u64) -> u64 {
        match self.order {
            CarOrder::DepthFirst => block_bytes,
            CarOrder::LeavesFirst => file_size,
        }
    }

    /// Lengths of all sections of a file, per level from the leaves up.
    pub(crate) fn level_lens(&self, file_size: u64) -> Vec<u64> {
        let level_len = |level| {
            let span = self.span(level);
            let section_len = |bytes| self.section_len(self.subtree_shape(level, bytes).block_len);
            let last = if file_size.is_multiple_of(span) && file_size > 0 {
                0
            } else {
                section_len(file_size % span)
            };
            let full = if file_size < span { 0 } else { file_size / span * section_len(span) };
            full + last
        };
        (0..=self.levels(file_size)).map(level_len).collect()
    }

    /// Lengths of one block by itself.
    pub(crate) fn block_shape(&self, block_len: u64, file_size: u64) -> Shape {
        Shape { block_len, tsize: block_len, file_size, car_len: self.section_len(block_len) }
    }
}

impl Shape {
    /// No block.
    pub(crate) const NOTHING: Self = Self { block_len: 0, tsize: 0, file_size: 0, car_len: 0 };

    /// The same block with the blocks of `below` under it.
    pub(crate) fn above(self, below: Self) -> Self {
        Self {
            tsize: self.tsize.saturating_add(below.tsize),
            car_len: self.car_len.saturating_add(below.car_len),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag_pb::Child;
    use crate::profile::Profile;

    /// Builds the DAG of a file of zeros block by block; returns the expected shape.
    fn built(params: &DagParams, file_size: u64) -> Shape {
        let mut row = Vec::new();
        let mut car_len = 0;
        let mut left = file_size;
        let mut last_block_len;
        loop {
            let len = left.min(params.chunk_size.into());
            let block = vec![0; usize::try_from(len).unwrap()];
            car_len += params.section_len(len);
            last_block_len = len;
            row.push(Child { cid: params.cid(Codec::Raw, &block), tsize: len, file_size: len });
            left -= len;
            if left == 0 {
                break;
            }
        }
        while row.len() > 1 {
            row = row
                .chunks(params.links_per_node)
                .map(|children| {
                    let block = dag_pb::encode_file(children);
                    last_block_len = u64::try_from(block.len()).unwrap();
                    car_len += params.section_len(last_block_len);
                    Child {
                        cid: params.cid(Codec::DagPb, &block),
                        tsize: last_block_len + children.iter().map(|child| child.tsize).sum::<u64>(),
                        file_size: children.iter().map(|child| child.file_size).sum(),
                    }
                })
                .collect();
        }
        Shape { block_len: last_block_len, tsize: row[0].tsize, file_size: row[0].file_size, car_len }
    }

    #[test]
    fn shapes_predict_the_blocks_that_are_built() {
        for base in [Profile::Lotus.params(), Profile::UnixfsV1_2025.params()] {
            let params = DagParams { chunk_size: 256, links_per_node: 4, ..base };
            for file_size in
                (0..700).chain([1023, 1024, 1025, 4096, 4097, 4222, 4223, 16_384, 16_385, 70_000])
            {
                let shape = params.file_shape(file_size);
                assert_eq!(shape, built(&params, file_size), "{file_size} bytes");
                let levels = params.level_lens(file_size);
                assert_eq!(levels.iter().sum::<u64>(), shape.car_len, "{file_size} bytes");
            }
        }
    }

    #[test]
    fn cids_have_the_predicted_length() {
        for profile in Profile::ALL {
            let params = profile.params();
            for length in [0, 1, 125, 126, 127, 128, 129, 300] {
                let cid = params.cid(Codec::Raw, &vec![7; length]);
                let length = u64::try_from(length).unwrap();
                assert_eq!(
                    u64::try_from(cid.len()).unwrap(),
                    params.cid_len(length),
                    "{profile}, {length} bytes"
                );
            }
        }
    }
}
