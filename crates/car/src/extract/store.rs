//! Finds and reads blocks in all CARs of a run, and checks them against their CIDs.

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

/// Most cached results of whether a block is zeros. Chosen: a sparse file has one or two such blocks.
const ZEROS_MAX: usize = 1024;

/// All CARs and the index of their blocks, 24 bytes per block.
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

/// Location of a block by the index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// Inlined in its CID.
    Cid,
    Section(Entry),
}

/// Why a block cannot be read. [`Store::error`] adds the path that it belongs to.
#[derive(Debug)]
pub(super) enum BlockError {
    Cid(CidError),
    UnknownHash(u64),
    Missing,
    Damaged(Entry),
    Unreadable(Entry, io::Error),
}

impl Store {
    /// Opens CARs and indexes their blocks; returns the roots in their headers as well.
    pub(super) fn open(
        paths: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<(Self, Vec<Result<PayloadCid, HeaderError>>), ExtractError> {
        let (mut cars, mut entries, mut roots) = (Vec::new(), Vec::new(), Vec::new());
        for (number, path) in (0..).zip(paths) {
            let unreadable = |source| ExtractError::Unreadable { car: path.clone(), source };
            let file = open_regular(path).map_err(unreadable)?;
            // Advice only: the index reads the starts of sections, and not the blocks between them.
            let _ = fadvise(&file, 0, None, Advice::Random);
            roots.push(index::read(&mut entries, number, path, &file, progress)?);
            expect_sequential(&file);
            cars.push(Car { path: path.clone(), file });
        }
        entries.sort_unstable();
        Ok((Self { cars, entries, zeros: Mutex::default() }, roots))
    }

    /// Finds a block without reading it.
    pub(super) fn find(&self, cid: &[u8]) -> Result<Place, BlockError> {
        let parts = whole(cid)?;
        if parts.hash == HASH_IDENTITY {
            return Ok(Place::Cid);
        }
        block_hash(parts.hash).ok_or(BlockError::UnknownHash(parts.hash))?;
        self.copies(&parts).first().copied().map(Place::Section).ok_or(BlockError::Missing)
    }

    /// Length of a block.
    pub(super) fn len_of(cid: &[u8], place: Place) -> Result<u64, BlockError> {
        match place {
            Place::Cid => Ok(len64(whole(cid)?.digest.len())),
            Place::Section(entry) => Ok(u64::from(entry.len)),
        }
    }

    /// Reads and checks a block.
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

    /// Reads a section's block without checking it.
    pub(super) fn read(&self, entry: Entry, block: &mut [u8]) -> Result<(), BlockError> {
        let file = &self.car(entry).file;
        file.read_exact_at(block, entry.offset).map_err(|error| BlockError::Unreadable(entry, error))
    }

    /// Whether a block is known to be zeros.
    pub(super) fn is_known_zero(&self, cid: &[u8]) -> bool {
        self.zeros().get(cid).copied().unwrap_or(false)
    }

    /// Caches whether a block is zeros.
    pub(super) fn record_zero(&self, cid: &[u8], is_zero: bool) {
        let mut zeros = self.zeros();
        if zeros.len() < ZEROS_MAX && !zeros.contains_key(cid) {
            zeros.insert(cid.into(), is_zero);
        }
    }

    /// Reads a block and caches whether it is zeros, unless that is known or the cache is full.
    pub(super) fn detect_zeros(&self, cid: &[u8]) {
        let is_known_or_full = {
            let zeros = self.zeros();
            zeros.contains_key(cid) || zeros.len() >= ZEROS_MAX
        };
        if !is_known_or_full && let Ok(block) = self.block(cid) {
            self.record_zero(cid, is_zero(&block));
        }
    }

    /// An error about a block that belongs to a path inside of a CAR.
    pub(super) fn error(&self, cid: &[u8], inside: &Path, error: BlockError) -> ExtractError {
        let inside = inside.to_owned();
        // All errors but the first occur after the CID was parsed.
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

    /// The error for an intact block that is not UnixFS.
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

/// Parses bytes that are exactly one CID.
pub(super) fn whole(cid: &[u8]) -> Result<CidParts<'_>, BlockError> {
    let (parts, length) = split_cid(cid).map_err(BlockError::Cid)?;
    let more = cid.len() - length;
    if more == 0 { Ok(parts) } else { Err(BlockError::Cid(CidError::TrailingBytes(more))) }
}
