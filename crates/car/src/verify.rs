//! Reads a CAR back: frames, hashes, root, links and commitment, in one pass.
//!
//! The bytes of a block are forgotten once they are hashed; what stays is the set of CIDs. Links are followed
//! in dag-pb blocks, the only ones with links that this crate writes; blocks of other codecs are hashed only.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::carv1::header::HeaderError;
use crate::carv1::reader::{ReadError, Reader, Section};
use crate::cids::{
    CODEC_DAG_PB, CidError, HASH_BLAKE2B_256, HASH_IDENTITY, HASH_SHA2_256, PayloadCid, PieceCid, cid_bytes,
    split_cid,
};
use crate::kernels::hash_blocks;
use crate::piece::Commitment;
use crate::profile::BlockHash;
use crate::progress::Progress;
use crate::units::{PaddedPieceSize, PayloadSize, PieceSizeError, len64};
use crate::unixfs::pb;

/// A CAR in which everything is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCar {
    /// The one root.
    pub payload_cid: PayloadCid,
    /// Commitment of the whole file.
    pub piece_cid: PieceCid,
    /// Bytes of the file.
    pub payload_size: PayloadSize,
    /// Size of its piece.
    pub padded_piece_size: PaddedPieceSize,
    /// Sections of the CAR.
    pub block_count: u64,
    /// Sections that cannot be reached from the root through dag-pb links: suspicious, but not wrong.
    pub unreachable_blocks: u64,
    /// Linked blocks inside their CIDs that have no section: whole for every reader, but not how Lotus writes
    /// a CAR, so perhaps one that lost its end.
    pub inlined_without_section: u64,
}

/// The first thing that is wrong with a CAR, and where.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a CARv1 with one root.
    #[error("not a usable CAR: bad header at byte 0")]
    Header(#[source] HeaderError),
    /// The file ends too early.
    #[error("the CAR is cut: it ends inside the header or section that starts at byte {offset}")]
    Truncated {
        /// Where the cut section starts.
        offset: u64,
    },
    /// A section's length cannot be true.
    #[error("damaged section at byte {offset}: a malformed length, or one of {length:?} bytes")]
    SectionLength {
        /// Where the section starts.
        offset: u64,
        /// The length, if it is a number.
        length: Option<u64>,
    },
    /// A section of no bytes: padding, which is no part of a CAR.
    #[error("empty section at byte {offset}: zeros behind the blocks are no part of a CAR")]
    EmptySection {
        /// Where the section starts.
        offset: u64,
    },
    /// A section does not start with a CID.
    #[error("damaged section at byte {offset}: it does not start with a CID")]
    Cid {
        /// Where the section starts.
        offset: u64,
        /// What is wrong with the CID.
        source: CidError,
    },
    /// A block's hash function is not known here, so the block cannot be checked.
    #[error("cannot check block {cid} at byte {offset}: unknown hash function {hash:#x}")]
    UnknownHash {
        /// Where the section starts.
        offset: u64,
        /// The block's CID.
        cid: PayloadCid,
        /// The multihash code.
        hash: u64,
    },
    /// A block is not what its CID says.
    #[error("damaged block {cid} at byte {offset}: its bytes have another hash")]
    WrongHash {
        /// Where the section starts.
        offset: u64,
        /// The block's CID.
        cid: PayloadCid,
    },
    /// A block that should have links cannot be decoded.
    #[error("malformed block {cid} at byte {offset}: not dag-pb")]
    MalformedBlock {
        /// Where the section starts.
        offset: u64,
        /// The block's CID.
        cid: PayloadCid,
    },
    /// A block that is linked to is not in the CAR.
    #[error("incomplete CAR: block {cid}, which the block at byte {offset} links to, is missing")]
    MissingBlock {
        /// Where the section with the link starts.
        offset: u64,
        /// The missing block's CID.
        cid: PayloadCid,
    },
    /// The root is not in the CAR.
    #[error("incomplete CAR: its root {cid} is missing")]
    MissingRoot {
        /// The root.
        cid: PayloadCid,
    },
    /// No piece holds a file of this size.
    #[error(transparent)]
    Size(#[from] PieceSizeError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl VerifyError {
    /// Where in the file the trouble is, if it is in the file.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Header(_) | Self::MissingRoot { .. } => Some(0),
            Self::Truncated { offset }
            | Self::SectionLength { offset, .. }
            | Self::EmptySection { offset }
            | Self::Cid { offset, .. }
            | Self::UnknownHash { offset, .. }
            | Self::WrongHash { offset, .. }
            | Self::MalformedBlock { offset, .. }
            | Self::MissingBlock { offset, .. } => Some(*offset),
            Self::Unreadable { .. } | Self::Size(_) | Self::Cancelled => None,
        }
    }
}

/// Checks a CAR: one root which is there, every block's hash, every dag-pb link; computes its commitment.
///
/// # Errors
///
/// [`VerifyError`]: the first thing wrong in the order of the file; what is missing only after all of it.
pub fn verify_car(path: &Path, progress: &dyn Progress) -> Result<VerifiedCar, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable { path: path.to_owned(), source };
    verify(File::open(path).map_err(unreadable)?, path, progress)
}

/// The root of a CAR from its header alone; nothing else is checked.
///
/// # Errors
///
/// [`VerifyError`] about the file or its header.
pub fn read_car_root(path: &Path) -> Result<PayloadCid, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable { path: path.to_owned(), source };
    let mut reader =
        Reader::new(File::open(path).map_err(unreadable)?.take(HEADER_READ_BYTES), |_: &[u8]| {});
    reader.header().map_err(|error| at(0, path, error))
}

/// Enough for every header with one root, so that the rest of a large file is left alone.
const HEADER_READ_BYTES: u64 = 64 << 10;

fn verify(source: impl Read, path: &Path, progress: &dyn Progress) -> Result<VerifiedCar, VerifyError> {
    let mut commitment = Commitment::new();
    let mut reader = Reader::new(source, |bytes: &[u8]| {
        commitment.update(bytes);
        progress.advance(len64(bytes.len()));
    });
    let payload_cid = reader.header().map_err(|error| at(0, path, error))?;
    let mut graph = Graph::default();
    let root = graph.link(payload_cid.as_bytes(), 0)?;
    graph.reach(root);
    let mut block_count = 0;
    loop {
        if progress.is_cancelled() {
            return Err(VerifyError::Cancelled);
        }
        let (sections, failure) = reader.batch();
        let is_end = sections.is_empty();
        let hashes = check_hashes(&sections);
        for (section, hash) in sections.iter().zip(hashes) {
            hash?;
            graph.add(section)?;
        }
        block_count += len64(sections.len());
        if let Some(error) = failure {
            return Err(at(reader.offset(), path, error));
        }
        if is_end {
            break;
        }
    }
    let (unreachable_blocks, inlined_without_section) = graph.finish(root, &payload_cid)?;
    let piece = commitment.finish()?;
    Ok(VerifiedCar {
        payload_cid,
        piece_cid: piece.piece_cid,
        payload_size: piece.payload_size,
        padded_piece_size: piece.padded_piece_size,
        block_count,
        unreachable_blocks,
        inlined_without_section,
    })
}

fn at(offset: u64, path: &Path, error: ReadError) -> VerifyError {
    match error {
        ReadError::Io(source) => VerifyError::Unreadable { path: path.to_owned(), source },
        ReadError::Truncated => VerifyError::Truncated { offset },
        ReadError::BadLength => VerifyError::SectionLength { offset, length: None },
        ReadError::TooLong(length) => VerifyError::SectionLength { offset, length: Some(length) },
        ReadError::Empty => VerifyError::EmptySection { offset },
        ReadError::Header(source) => VerifyError::Header(source),
        ReadError::Cid(source) => VerifyError::Cid { offset, source },
    }
}

fn named(cid: &[u8]) -> PayloadCid {
    PayloadCid::from_bytes(cid).expect("the reader split this CID off")
}

/// The verdict on each section's hash. All blocks of one hash function are hashed together.
fn check_hashes(sections: &[Section<'_>]) -> Vec<Result<(), VerifyError>> {
    let digests = [BlockHash::Blake2b256, BlockHash::Sha2_256].map(|hash| {
        let is_wanted = |section: &&Section<'_>| {
            split_cid(section.cid).is_ok_and(|(parts, _)| block_hash(parts.hash) == Some(hash))
        };
        let blocks: Vec<&[u8]> = sections.iter().filter(is_wanted).map(|section| section.block).collect();
        hash_blocks(hash, &blocks).into_iter()
    });
    let [mut blake2b, mut sha2] = digests;
    let mut check = |section: &Section<'_>| {
        let offset = section.offset;
        let (parts, _) = split_cid(section.cid).map_err(|source| VerifyError::Cid { offset, source })?;
        let matches = match block_hash(parts.hash) {
            Some(BlockHash::Blake2b256) => blake2b.next().is_some_and(|digest| parts.digest == digest),
            Some(BlockHash::Sha2_256) => sha2.next().is_some_and(|digest| parts.digest == digest),
            None if parts.hash == HASH_IDENTITY => parts.digest == section.block,
            None => {
                return Err(VerifyError::UnknownHash { offset, cid: named(section.cid), hash: parts.hash });
            }
        };
        if matches { Ok(()) } else { Err(VerifyError::WrongHash { offset, cid: named(section.cid) }) }
    };
    sections.iter().map(&mut check).collect()
}

fn block_hash(code: u64) -> Option<BlockHash> {
    match code {
        HASH_BLAKE2B_256 => Some(BlockHash::Blake2b256),
        HASH_SHA2_256 => Some(BlockHash::Sha2_256),
        _ => None,
    }
}

/// Which blocks are there, which are linked to, and which can be reached from the root.
#[derive(Debug, Default)]
struct Graph {
    /// By CID in its version 1 form.
    index: HashMap<Box<[u8]>, u32>,
    blocks: Vec<Block>,
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
    fn link(&mut self, cid: &[u8], offset: u64) -> Result<u32, VerifyError> {
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
    fn add(&mut self, section: &Section<'_>) -> Result<(), VerifyError> {
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
        if codec != CODEC_DAG_PB {
            return Ok(());
        }
        let links = pb::links(block)
            .map_err(|_| VerifyError::MalformedBlock { offset, cid: named(cid) })?
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
    fn reach(&mut self, index: u32) {
        let mut to_reach = vec![index];
        while let Some(index) = to_reach.pop() {
            let block = self.block(index);
            if !block.reachable {
                block.reachable = true;
                to_reach.append(&mut block.links);
            }
        }
    }

    /// Looks for what is missing; returns how many sections cannot be reached, and how many blocks live in
    /// their CIDs alone.
    fn finish(self, root: u32, root_cid: &PayloadCid) -> Result<(u64, u64), VerifyError> {
        let root = usize::try_from(root).expect("u32 fits in usize");
        if self.blocks[root].place == Place::Missing {
            return Err(VerifyError::MissingRoot { cid: root_cid.clone() });
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
