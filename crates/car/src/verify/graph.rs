//! The graph of a CAR's blocks by CID: missing blocks, and blocks that the root does not reach.

use std::collections::HashMap;

use crate::carv1::reader::Section;
use crate::cids::{
    CODEC_CBOR, CODEC_DAG_CBOR, CODEC_DAG_PB, CODEC_JSON, CODEC_RAW, CidError, HASH_IDENTITY, PayloadCid,
    cid_bytes, split_cid,
};
use crate::units::len64;
use crate::verify::{VerifyError, named};
use crate::{dag_cbor, dag_pb};

/// Blocks with a section, linked blocks, and blocks that the root reaches.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// By CID in its version 1 form.
    index: HashMap<Box<[u8]>, u32>,
    blocks: Vec<Block>,
    /// Blocks of codecs that may have links in an unknown format.
    unfollowed: u64,
}

#[derive(Debug)]
struct Block {
    place: Place,
    reachable: bool,
    /// Offset of the section with the first link to the block.
    linked_at: u64,
    /// Whether a CID of version 0 links to the block.
    version_0: bool,
    /// Links of the block, until the block is marked as reachable.
    links: Vec<u32>,
}

/// Location of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Linked to, but not found so far.
    Missing,
    /// Inside its own CID.
    Cid,
    /// In a section, possibly also inside its CID.
    Section,
}

impl Graph {
    /// Records a link from the section at `offset`.
    pub(super) fn link(&mut self, cid: &[u8], offset: u64) -> Result<u32, VerifyError> {
        let (parts, length) = split_cid(cid).map_err(|source| VerifyError::Cid { offset, source })?;
        if length != cid.len() {
            let source = CidError::TrailingBytes(cid.len() - length);
            return Err(VerifyError::Cid { offset, source });
        }
        let key = cid_bytes(parts.codec, parts.hash, parts.digest).into_boxed_slice();
        if let Some(index) = self.index.get(&key) {
            return Ok(*index);
        }
        let index = u32::try_from(self.blocks.len()).expect("fewer than 2^32 blocks fit in memory");
        self.index.insert(key, index);
        self.blocks.push(Block {
            place: if parts.hash == HASH_IDENTITY { Place::Cid } else { Place::Missing },
            reachable: false,
            linked_at: offset,
            version_0: cid.len() == 34 && cid.starts_with(&[0x12, 0x20]),
            links: Vec::new(),
        });
        // The recursion ends, because a block inside its CID is shorter than the block that links to it.
        if parts.hash == HASH_IDENTITY {
            self.set_links(index, parts.codec, cid, parts.digest, offset)?;
        }
        Ok(index)
    }

    /// Records a section.
    pub(super) fn add(&mut self, section: &Section<'_>) -> Result<(), VerifyError> {
        let offset = section.offset;
        let (parts, _) = split_cid(section.cid).map_err(|source| VerifyError::Cid { offset, source })?;
        let index = self.link(section.cid, offset)?;
        let block = self.block(index);
        let before = std::mem::replace(&mut block.place, Place::Section);
        if before == Place::Missing {
            self.set_links(index, parts.codec, section.cid, section.block, offset)?;
        }
        Ok(())
    }

    fn set_links(
        &mut self,
        index: u32,
        codec: u64,
        cid: &[u8],
        block: &[u8],
        offset: u64,
    ) -> Result<(), VerifyError> {
        let (links, format) = match codec {
            CODEC_DAG_PB => (dag_pb::links(block).ok(), "dag-pb"),
            CODEC_DAG_CBOR => (dag_cbor::links(block), "dag-cbor"),
            CODEC_RAW | CODEC_CBOR | CODEC_JSON => return Ok(()),
            _ => {
                self.unfollowed += 1;
                return Ok(());
            }
        };
        let links = links
            .ok_or_else(|| VerifyError::MalformedBlock { offset, cid: named(cid), format })?
            .into_iter()
            .map(|link| self.link(link, offset))
            .collect::<Result<Vec<_>, _>>()?;
        if self.block(index).reachable {
            for link in links {
                self.reach(link);
            }
        } else {
            self.block(index).links = links;
        }
        Ok(())
    }

    /// Marks a block, and all blocks that it is known to link to, as reachable.
    pub(super) fn reach(&mut self, index: u32) {
        let mut to_reach = vec![index];
        while let Some(index) = to_reach.pop() {
            let block = self.block(index);
            if !block.reachable {
                block.reachable = true;
                to_reach.append(&mut block.links);
            }
        }
    }

    /// Number of blocks of codecs that may have links; their links were not followed.
    pub(super) fn unfollowed(&self) -> u64 {
        self.unfollowed
    }

    /// Checks that no block is missing. Returns the number of unreachable sections, and of blocks that exist
    /// only inside their CIDs.
    pub(super) fn finish(self, root: u32, root_cid: &PayloadCid) -> Result<(u64, u64), VerifyError> {
        let root = usize::try_from(root).expect("u32 fits in usize");
        let has_others = self.blocks.iter().any(|block| block.place == Place::Section && !block.reachable);
        match self.blocks[root].place {
            Place::Missing | Place::Cid if root_cid.is_of_nothing() && has_others => {
                return Err(VerifyError::PlaceholderRoot { cid: root_cid.clone() });
            }
            Place::Missing => return Err(VerifyError::MissingRoot { cid: root_cid.clone() }),
            Place::Cid | Place::Section => {}
        }
        let missing = self.blocks.iter().enumerate().filter(|(_, block)| block.place == Place::Missing);
        if let Some((index, block)) = missing.min_by_key(|(_, block)| block.linked_at) {
            let cid = self.index.iter().find(|(_, at)| usize::try_from(**at) == Ok(index));
            let (cid, _) = cid.expect("every block is in the index");
            // A CID of version 0 is this key without 0x01 and the codec.
            let cid = named(if block.version_0 { &cid[2..] } else { cid });
            return Err(VerifyError::MissingBlock { offset: block.linked_at, cid });
        }
        let count =
            |wanted: fn(&Block) -> bool| len64(self.blocks.iter().filter(|block| wanted(block)).count());
        let unreachable = count(|block| block.place == Place::Section && !block.reachable);
        let inlined_only = count(|block| block.place == Place::Cid);
        Ok((unreachable, inlined_only))
    }

    fn block(&mut self, index: u32) -> &mut Block {
        let index = usize::try_from(index).expect("u32 fits in usize");
        &mut self.blocks[index]
    }
}
