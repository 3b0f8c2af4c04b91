//! Piece commitments (commP): Fr32 expansion, then a binary tree of SHA-256 nodes.
//!
//! ```text
//! payload  ....................................00000   zeros up to 127 · 2ⁿ
//! windows  |32,512 bytes|32,512 bytes| ... |          each 32 KiB after expansion
//! digests        d            d        ...            level 10
//! tree            \__ ... _____/                      zero subtrees come from a table
//! ```
//!
//! What lives here: the piece commitment of a stream ([`Commitment`]), of a file ([`file::piece_of_file`])
//! and of bytes in any order ([`assembler::PieceAssembler`]). What does not: CIDs of blocks, CARs.

pub(crate) mod assembler;
pub(crate) mod file;
pub(crate) mod merkle;
#[cfg(test)]
pub(crate) mod reference;

use std::io;
use std::io::Read;

use crate::cids::PieceCid;
use crate::fr32::{QUAD_PADDED, QUAD_RAW};
use crate::kernels::{DIGEST, Rows};
use crate::piece::merkle::{Digest, GrowingTree, fold_row, parent, zero_digest};
use crate::progress::Progress;
use crate::readahead::Buffer;
use crate::units::{PaddedPieceSize, PayloadSize, PieceSizeError, len64};
use crate::{fr32, kernels};

/// Level of a window's digest: 32 KiB of padded bytes.
pub(crate) const WINDOW_LEVEL: usize = 10;
/// Padded bytes of a window.
pub(crate) const WINDOW_PADDED: usize = DIGEST << WINDOW_LEVEL;
/// Payload bytes of a window.
pub(crate) const WINDOW_RAW: usize = kernels::WINDOW_RAW;
const _: () = assert!(WINDOW_RAW == WINDOW_PADDED / QUAD_PADDED * QUAD_RAW);

/// Size and piece commitment of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceInfo {
    /// Number of bytes.
    pub payload_size: PayloadSize,
    /// Piece commitment of the bytes.
    pub piece_cid: PieceCid,
    /// Size of the smallest piece that holds the bytes.
    pub padded_piece_size: PaddedPieceSize,
}

impl PieceInfo {
    /// The piece commitment of the same bytes in a larger piece, filled up with zeros. A smaller piece size
    /// returns the commitment of the own size.
    pub fn piece_cid_in(&self, padded_piece_size: PaddedPieceSize) -> PieceCid {
        let mut commitment = *self.piece_cid.commitment();
        for level in level_of(self.padded_piece_size)..level_of(padded_piece_size) {
            commitment = parent(&commitment, zero_digest(level));
        }
        PieceCid::from_commitment(commitment)
    }
}

/// Why a piece has no commitment.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// The source cannot be read.
    #[error("cannot read the bytes of the piece")]
    Read(#[source] io::Error),
    /// The file's length changed while it was read.
    #[error("the file changed while it was read")]
    Changed,
    /// No piece holds the bytes.
    #[error(transparent)]
    Size(#[from] PieceSizeError),
    /// The caller cancelled the operation.
    #[error("cancelled")]
    Cancelled,
}

/// Piece commitment (commP) of a byte stream, fed in chunks of any length.
///
/// ```
/// use carferry_car::Commitment;
///
/// let mut commitment = Commitment::new();
/// commitment.update(&[0; 100]);
/// commitment.update(&[0; 27]);
/// let piece = commitment.finish().unwrap();
/// assert_eq!(
///     piece.piece_cid.to_string(),
///     "baga6ea4seaqdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy"
/// );
/// ```
#[derive(Debug)]
pub struct Commitment {
    tree: GrowingTree,
    /// Bytes of the last, incomplete window.
    tail: Vec<u8>,
    payload_bytes: u64,
    scratch: Scratch,
}

impl Commitment {
    /// The commitment before the first byte.
    pub fn new() -> Self {
        Self {
            tree: GrowingTree::new(WINDOW_LEVEL),
            tail: Vec::with_capacity(WINDOW_RAW),
            payload_bytes: 0,
            scratch: Scratch::default(),
        }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.payload_bytes += len64(bytes.len());
        let mut bytes = bytes;
        if !self.tail.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(WINDOW_RAW - self.tail.len()));
            self.tail.extend_from_slice(head);
            bytes = rest;
            if self.tail.len() < WINDOW_RAW {
                return;
            }
            self.tree.push(self.scratch.window_digest(&self.tail));
            self.tail.clear();
        }
        let (windows, rest) = bytes.split_at(bytes.len() - bytes.len() % WINDOW_RAW);
        for digest in self.scratch.window_digests(windows) {
            self.tree.push(*digest);
        }
        self.tail.extend_from_slice(rest);
    }

    /// The commitment of all bytes so far.
    ///
    /// # Errors
    ///
    /// [`PieceSizeError::TooLarge`] if no piece holds the bytes.
    pub fn finish(mut self) -> Result<PieceInfo, PieceSizeError> {
        let payload_size = PayloadSize::new(self.payload_bytes);
        let padded_piece_size = payload_size.padded_piece_size()?;
        let level = level_of(padded_piece_size);
        let commitment = if level < WINDOW_LEVEL {
            self.scratch.small_piece(&self.tail, level)
        } else {
            if !self.tail.is_empty() {
                self.tree.push(self.scratch.window_digest(&self.tail));
            }
            self.tree.root(level)
        };
        Ok(PieceInfo { payload_size, piece_cid: PieceCid::from_commitment(commitment), padded_piece_size })
    }
}

impl Default for Commitment {
    fn default() -> Self {
        Self::new()
    }
}

/// The commitment of everything a reader gives.
///
/// # Errors
///
/// [`PieceError`]; nothing is retried.
pub fn piece_of(mut reader: impl Read, progress: &dyn Progress) -> Result<PieceInfo, PieceError> {
    let mut commitment = Commitment::new();
    let mut buffer = Buffer::default();
    buffer.place(0, 32 * WINDOW_RAW);
    let buffer = buffer.bytes_mut();
    loop {
        if progress.is_cancelled() {
            return Err(PieceError::Cancelled);
        }
        match reader.read(buffer) {
            Ok(0) => return Ok(commitment.finish()?),
            Ok(count) => {
                commitment.update(&buffer[..count]);
                progress.advance(len64(count));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PieceError::Read(error)),
        }
    }
}

/// Level of a piece's root.
pub(crate) fn level_of(piece: PaddedPieceSize) -> usize {
    usize::try_from(piece.height()).expect("u32 fits in usize")
}

/// Buffers for the hashing of windows, allocated once per thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    rows: Rows,
    digests: Vec<Digest>,
    filled: Vec<u8>,
}

impl Scratch {
    /// Digests of adjacent whole windows.
    pub(crate) fn window_digests(&mut self, windows: &[u8]) -> &[Digest] {
        self.digests.resize(windows.len() / WINDOW_RAW, [0; DIGEST]);
        kernels::hash_windows(self.digests.as_flattened_mut(), windows, &mut self.rows);
        &self.digests
    }

    /// Digest of one window. A short window is filled up with zeros.
    pub(crate) fn window_digest(&mut self, raw: &[u8]) -> Digest {
        self.filled.clear();
        self.filled.extend_from_slice(raw);
        self.filled.resize(WINDOW_RAW, 0);
        let mut digest = [0; DIGEST];
        kernels::hash_windows(&mut digest, &self.filled, &mut self.rows);
        digest
    }

    /// Root of a piece smaller than a window.
    pub(crate) fn small_piece(&mut self, raw: &[u8], level: usize) -> Digest {
        let padded = DIGEST << level;
        self.filled.clear();
        self.filled.extend_from_slice(raw);
        self.filled.resize(padded / QUAD_PADDED * QUAD_RAW, 0);
        let Rows { row, next } = &mut self.rows;
        row.resize(padded, 0);
        fr32::expand(row, &self.filled);
        let mut length = padded;
        while length > DIGEST {
            length = fold_row(&mut row[..length], next);
        }
        row[..DIGEST].try_into().expect("one digest is left")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::assembler::PieceAssembler;
    use super::*;

    /// Every byte differs from its neighbours, and from the byte at the same position of other chunks.
    fn test_pattern(length: usize) -> Vec<u8> {
        (0..251).cycle().take(length).collect()
    }

    fn check(payload: &[u8], cuts: &[usize]) {
        let (wanted, padded) = reference::commitment(payload);
        let mut commitment = Commitment::new();
        let assembler = PieceAssembler::default();
        let mut scratch = Scratch::default();
        let mut pieces = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([payload.len()]) {
            commitment.update(&payload[start..end]);
            pieces.push((start, &payload[start..end]));
            start = end;
        }
        // Every other piece first, the rest backwards.
        let late: Vec<_> = pieces.iter().skip(1).step_by(2).rev().collect();
        for (offset, bytes) in pieces.iter().step_by(2).chain(late) {
            assembler.feed(u64::try_from(*offset).unwrap(), bytes, &mut scratch);
        }
        let payload_size = PayloadSize::new(u64::try_from(payload.len()).unwrap());
        for piece in [commitment.finish().unwrap(), assembler.finish(payload_size).unwrap()] {
            assert_eq!(piece.piece_cid.commitment(), &wanted, "{} bytes, cut at {cuts:?}", payload.len());
            assert_eq!(piece.padded_piece_size.get(), padded, "{} bytes", payload.len());
            assert_eq!(piece.payload_size, payload_size);
        }
    }

    #[test]
    fn sizes_around_every_boundary_agree_with_the_reference() {
        let mut sizes = vec![0, 1, 31, 32, 63, 64, 65];
        for quads in [1, 2, 3, 4, 8, 16, 64, 128, 255, 256, 257, 511, 512, 513, 1024] {
            sizes.extend([quads * QUAD_RAW - 1, quads * QUAD_RAW, quads * QUAD_RAW + 1]);
        }
        for size in sizes {
            check(&test_pattern(size), &[]);
        }
    }

    /// Every size up to 4 KiB, then one in 61: a prime, so that all remainders come.
    #[test]
    fn all_small_sizes_agree_with_the_reference() {
        for size in (0..4096).chain((4096..65_536).step_by(61)) {
            check(&test_pattern(size), &[size / 3]);
        }
    }

    #[test]
    fn pieces_of_several_spans_agree_with_the_reference() {
        for windows in [31, 32, 33, 63, 65] {
            let length = windows * WINDOW_RAW - 5;
            check(&test_pattern(length), &[1, WINDOW_RAW, 3 * WINDOW_RAW + 7]);
        }
    }

    #[test]
    fn a_payload_can_be_cut_anywhere() {
        let payload = test_pattern(127);
        for at in 0..=127 {
            check(&payload, &[at]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_commitment_is_that_of_the_reference(
            length in 0usize..65_536,
            seed in any::<u8>(),
            cuts in proptest::collection::vec(0.0f64..1.0, 0..8),
        ) {
            let payload: Vec<u8> = test_pattern(length).iter().map(|byte| byte ^ seed).collect();
            #[expect(
                clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                reason = "a share of a length is a smaller length"
            )]
            let mut cuts: Vec<usize> = cuts.iter().map(|share| (share * length as f64) as usize).collect();
            cuts.sort_unstable();
            check(&payload, &cuts);
        }
    }
}
