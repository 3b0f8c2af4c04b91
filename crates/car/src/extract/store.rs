//! The blocks of all CARs of a run, of which no byte is handed out unchecked.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

use crate::carv1::header::HeaderError;
use crate::cids::{CidError, CidParts, HASH_IDENTITY, PayloadCid, split_cid};
use crate::extract::index::Entry;
use crate::extract::{ExtractError, index};
use crate::kernels::{hash_blocks, is_zero};
use crate::limits::BLOCK_COPIES_MAX;
use crate::progress::Progress;
use crate::readahead::expect_sequential;
use crate::regular::open_regular;
use crate::units::len64;
use crate::unixfs::decode::NotUnixfs;
use crate::verify::block_hash;

/// Blocks of which it is remembered whether they are zeros. Source: ours; a file with holes has one or two.
const ZEROS_MAX: usize = 1024;

/// Every CAR, and where its blocks are: 24 bytes a block.
#[derive(Debug)]
pub(super) struct Store {
    cars: Vec<Car>,
    /// In order of their keys.
    entries: Vec<Entry>,
    zeros: Mutex<HashMap<Box<[u8]>, bool>>,
}

#[derive(Debug)]
struct Car {
    path: PathBuf,
    file: File,
}

/// Where a block is, or seems to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// Inside its CID.
    Cid,
    Section(Entry),
}

/// Why a block cannot be had; [`Store::error`] says for whom.
#[derive(Debug)]
pub(super) enum BlockError {
    Cid(CidError),
    UnknownHash(u64),
    Missing,
    Damaged(Entry),
    Unreadable(Entry, io::Error),
}

impl Store {
    /// Opens CARs and finds their blocks; returns the roots in their headers, too.
    pub(super) fn open(
        paths: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<(Self, Vec<Result<PayloadCid, HeaderError>>), ExtractError> {
        let (mut cars, mut entries, mut roots) = (Vec::new(), Vec::new(), Vec::new());
        for (number, path) in (0..).zip(paths) {
            let unreadable = |source| ExtractError::Unreadable { car: path.clone(), source };
            let file = open_regular(path).map_err(unreadable)?;
            // Only advice: what lies between two sections' starts is not wanted yet.
            let _ = fadvise(&file, 0, None, Advice::Random);
            roots.push(index::read(&mut entries, number, path, &file, progress)?);
            expect_sequential(&file);
            cars.push(Car { path: path.clone(), file });
        }
        entries.sort_unstable();
        Ok((Self { cars, entries, zeros: Mutex::default() }, roots))
    }

    /// Finds a block; nothing of it is read.
    pub(super) fn find(&self, cid: &[u8]) -> Result<Place, BlockError> {
        let parts = whole(cid)?;
        if parts.hash == HASH_IDENTITY {
            return Ok(Place::Cid);
        }
        block_hash(parts.hash).ok_or(BlockError::UnknownHash(parts.hash))?;
        self.copies(&parts).first().copied().map(Place::Section).ok_or(BlockError::Missing)
    }

    /// Bytes of a block that was found.
    pub(super) fn len_of(cid: &[u8], place: Place) -> Result<u64, BlockError> {
        match place {
            Place::Cid => Ok(len64(whole(cid)?.digest.len())),
            Place::Section(entry) => Ok(u64::from(entry.len)),
        }
    }

    /// A block, checked.
    pub(super) fn block(&self, cid: &[u8]) -> Result<Vec<u8>, BlockError> {
        let parts = whole(cid)?;
        if parts.hash == HASH_IDENTITY {
            return Ok(parts.digest.to_vec());
        }
        let hash = block_hash(parts.hash).ok_or(BlockError::UnknownHash(parts.hash))?;
        let mut failure = BlockError::Missing;
        for entry in self.copies(&parts) {
            let mut block = vec![0; usize::try_from(entry.len).expect("u32 fits in usize")];
            match self.read(*entry, &mut block) {
                Ok(()) if hash_blocks(hash, &[&block]) == [parts.digest] => return Ok(block),
                Ok(()) => failure = BlockError::Damaged(*entry),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Reads a section's block, unchecked.
    pub(super) fn read(&self, entry: Entry, block: &mut [u8]) -> Result<(), BlockError> {
        let file = &self.car(entry).file;
        file.read_exact_at(block, entry.offset).map_err(|error| BlockError::Unreadable(entry, error))
    }

    /// Whether a block is known to be zeros.
    pub(super) fn is_known_zero(&self, cid: &[u8]) -> bool {
        self.zeros().get(cid).copied().unwrap_or(false)
    }

    /// Notes whether a block is zeros.
    pub(super) fn note_zero(&self, cid: &[u8], is_zero: bool) {
        let mut zeros = self.zeros();
        if zeros.len() < ZEROS_MAX && !zeros.contains_key(cid) {
            zeros.insert(cid.into(), is_zero);
        }
    }

    /// Looks whether a block is zeros, unless that is known, or too many others are.
    pub(super) fn look_for_zeros(&self, cid: &[u8]) {
        let is_asked = {
            let zeros = self.zeros();
            zeros.contains_key(cid) || zeros.len() >= ZEROS_MAX
        };
        if !is_asked && let Ok(block) = self.block(cid) {
            self.note_zero(cid, is_zero(&block));
        }
    }

    /// An error about a block that belongs to a path inside of a CAR.
    pub(super) fn error(&self, cid: &[u8], inside: &Path, error: BlockError) -> ExtractError {
        let inside = inside.to_owned();
        // Every error but the first comes after the CID has been taken apart.
        let named = || PayloadCid::from_bytes(cid).expect("it was split before");
        match error {
            BlockError::Cid(source) => ExtractError::Link { inside, source },
            BlockError::UnknownHash(hash) => ExtractError::UnknownHash { cid: named(), hash, inside },
            BlockError::Missing => {
                let cars = self.cars.iter().map(|car| car.path.clone()).collect();
                ExtractError::MissingBlock { cars, cid: named(), inside }
            }
            BlockError::Damaged(entry) => {
                let car = self.car(entry).path.clone();
                ExtractError::DamagedBlock { car, offset: entry.offset, cid: named(), inside }
            }
            BlockError::Unreadable(entry, source) => {
                ExtractError::Unreadable { car: self.car(entry).path.clone(), source }
            }
        }
    }

    /// An error about a whole block that belongs to a path inside of a CAR.
    pub(super) fn not_unixfs(&self, cid: &[u8], inside: &Path, source: NotUnixfs) -> ExtractError {
        match PayloadCid::from_bytes(cid) {
            Ok(cid) => ExtractError::NotUnixfs { inside: inside.to_owned(), cid, source },
            Err(error) => self.error(cid, inside, BlockError::Cid(error)),
        }
    }

    /// The sections that may hold a block, in the order of the CARs.
    fn copies(&self, parts: &CidParts<'_>) -> &[Entry] {
        let key = index::key(parts);
        let start = self.entries.partition_point(|entry| entry.key < key);
        let count = self.entries[start..].iter().take(BLOCK_COPIES_MAX).take_while(|entry| entry.key == key);
        &self.entries[start..start + count.count()]
    }

    fn car(&self, entry: Entry) -> &Car {
        &self.cars[usize::try_from(entry.car).expect("u32 fits in usize")]
    }

    fn zeros(&self) -> std::sync::MutexGuard<'_, HashMap<Box<[u8]>, bool>> {
        self.zeros.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of a CID that stands alone.
pub(super) fn whole(cid: &[u8]) -> Result<CidParts<'_>, BlockError> {
    let (parts, length) = split_cid(cid).map_err(BlockError::Cid)?;
    let more = cid.len() - length;
    if more == 0 { Ok(parts) } else { Err(BlockError::Cid(CidError::TrailingBytes(more))) }
}
