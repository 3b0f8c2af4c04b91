//! The graph of a CAR's blocks as far as it is known: by CIDs alone, the blocks themselves are forgotten.

use std::collections::HashMap;

use crate::carv1::reader::Section;
use crate::cids::{
    CODEC_CBOR, CODEC_DAG_CBOR, CODEC_DAG_PB, CODEC_JSON, CODEC_RAW, CidError, HASH_IDENTITY, PayloadCid,
    cid_bytes, split_cid,
};
use crate::units::len64;
use crate::verify::{VerifyError, named};
use crate::{dag_cbor, dag_pb};

/// Which blocks are there, which are linked to, and which can be reached from the root.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// By CID in its version 1 form.
    index: HashMap<Box<[u8]>, u32>,
    blocks: Vec<Block>,
    /// Blocks of codecs that may have links, which are not known here.
    unfollowed: u64,
}

#[derive(Debug)]
struct Block {
    place: Place,
    reachable: bool,
    /// Section with the first link to it.
    linked_at: u64,
    /// Linked to by a CID of version 0.
    version_0: bool,
    /// Links, kept only until the block is known to be reachable.
    links: Vec<u32>,
}

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nowhere so far: linked to only.
    Missing,
    /// Inside its own CID.
    Cid,
    /// In a section, perhaps also inside its CID.
    Section,
}

impl Graph {
    /// Notes a link from the section at `offset`.
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
        // A block inside its CID is shorter than the block that links to it: this ends.
        if parts.hash == HASH_IDENTITY {
            self.set_links(index, parts.codec, cid, parts.digest, offset)?;
        }
        Ok(index)
    }

    /// Notes a section.
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

    /// Marks a block, and what it is known to link to, as reachable.
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

    /// Blocks of codecs that may have links, which were not followed.
    pub(super) fn unfollowed(&self) -> u64 {
        self.unfollowed
    }

    /// Looks for what is missing; returns how many sections cannot be reached, and how many blocks live in
    /// their CIDs alone.
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
            // 0x01 and the codec come before what is the whole of a CID of version 0.
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
