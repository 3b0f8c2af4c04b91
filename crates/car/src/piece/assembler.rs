//! Piece commitment of bytes that several threads feed in any order, each byte once.
//!
//! A window that arrives whole is hashed in its buffer. A window that arrives in parts (it touches a node's
//! placeholder or the edge of a group) is kept until its last byte arrives. The digests of 32 adjacent
//! windows are folded into one when all have arrived, so a 64 GiB piece keeps 2 MiB of digests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::cids::PieceCid;
use crate::kernels::{DIGEST, WINDOWS_AT_ONCE};
use crate::piece::merkle::{Digest, GrowingTree, fold_row, zero_digest};
use crate::piece::{PieceInfo, Scratch, WINDOW_LEVEL, WINDOW_RAW, level_of};
use crate::units::{PayloadSize, PieceSizeError, len64};

/// Windows whose digests are folded into one.
const SPAN: usize = 32;
const SPAN_LEVEL: usize = WINDOW_LEVEL + 5;

#[derive(Debug, Default)]
pub(crate) struct PieceAssembler {
    parts: Mutex<HashMap<u64, Part>>,
    digests: Mutex<Digests>,
}

/// A window with missing bytes.
#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    filled: usize,
}

#[derive(Debug, Default)]
struct Digests {
    open: HashMap<u64, Span>,
    /// Digests of whole spans by position.
    whole: Vec<Option<Digest>>,
}

#[derive(Debug)]
struct Span {
    row: Vec<u8>,
    present: u32,
}

impl PieceAssembler {
    /// Adds bytes of the payload that start at `offset`. Each byte is added once.
    pub(crate) fn feed(&self, offset: u64, bytes: &[u8], scratch: &mut Scratch) {
        let window_raw = len64(WINDOW_RAW);
        let mut window = offset / window_raw;
        let start = usize::try_from(offset % window_raw).expect("less than a window");
        let mut bytes = bytes;
        if start > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(WINDOW_RAW - start));
            self.feed_part(window, start, head, scratch);
            bytes = rest;
            window += 1;
        }
        let (whole, tail) = bytes.split_at(bytes.len() - bytes.len() % WINDOW_RAW);
        for windows in whole.chunks(WINDOWS_AT_ONCE * WINDOW_RAW) {
            self.put(window, scratch.window_digests(windows));
            window += len64(windows.len() / WINDOW_RAW);
        }
        if !tail.is_empty() {
            self.feed_part(window, 0, tail, scratch);
        }
    }

    /// The commitment, after every byte of the payload was fed.
    pub(crate) fn finish(self, payload_size: PayloadSize) -> Result<PieceInfo, PieceSizeError> {
        let padded_piece_size = payload_size.padded_piece_size()?;
        let level = level_of(padded_piece_size);
        let window_raw = len64(WINDOW_RAW);
        let last = payload_size.get() / window_raw;
        let mut scratch = Scratch::default();
        let part = self.parts.lock().unwrap_or_else(PoisonError::into_inner).remove(&last);
        let tail = part.map(|part| part.bytes).unwrap_or_default();
        let mut commitment = None;
        if level < WINDOW_LEVEL {
            let length = usize::try_from(payload_size.get()).expect("less than a window");
            commitment = Some(scratch.small_piece(tail.get(..length).unwrap_or_default(), level));
        } else if !tail.is_empty() {
            self.put(last, &[scratch.window_digest(&tail)]);
        }
        debug_assert!(
            self.parts.lock().unwrap_or_else(PoisonError::into_inner).is_empty(),
            "every window but the last is whole"
        );
        let commitment = commitment
            .unwrap_or_else(|| self.digests.into_inner().unwrap_or_else(PoisonError::into_inner).root(level));
        Ok(PieceInfo { payload_size, piece_cid: PieceCid::from_commitment(commitment), padded_piece_size })
    }

    /// Stores a part of a window. Returns the window after its last part.
    fn fill(&self, window: u64, start: usize, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.entry(window).or_insert_with(|| Part { bytes: vec![0; WINDOW_RAW], filled: 0 });
        part.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        part.filled += bytes.len();
        debug_assert!(part.filled <= WINDOW_RAW, "no byte comes twice");
        if part.filled == WINDOW_RAW { parts.remove(&window).map(|part| part.bytes) } else { None }
    }

    /// Adds a part of a window.
    fn feed_part(&self, window: u64, start: usize, bytes: &[u8], scratch: &mut Scratch) {
        if let Some(whole) = self.fill(window, start, bytes) {
            self.put(window, &[scratch.window_digest(&whole)]);
        }
    }

    /// Adds the digests of adjacent windows.
    pub(super) fn put(&self, window: u64, digests: &[Digest]) {
        let mut row = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        for (window, digest) in (window..).zip(digests) {
            row.put(window, digest);
        }
    }
}

impl Digests {
    fn put(&mut self, window: u64, digest: &Digest) {
        let span_length = len64(SPAN);
        let index = window / span_length;
        let slot = usize::try_from(window % span_length).expect("less than a span");
        let span = self.open.entry(index).or_insert_with(|| Span { row: vec![0; SPAN * DIGEST], present: 0 });
        debug_assert_eq!(span.present >> slot & 1, 0, "no window comes twice");
        span.row[slot * DIGEST..(slot + 1) * DIGEST].copy_from_slice(digest);
        span.present |= 1 << slot;
        if span.present == u32::MAX
            && let Some(span) = self.open.remove(&index)
        {
            self.close(index, span);
        }
    }

    fn close(&mut self, index: u64, mut span: Span) {
        let mut spare = Vec::new();
        let mut length = span.row.len();
        while length > DIGEST {
            length = fold_row(&mut span.row[..length], &mut spare);
        }
        let index = usize::try_from(index).expect("the digests of a piece fit in memory");
        if self.whole.len() <= index {
            self.whole.resize(index + 1, None);
        }
        self.whole[index] = Some(span.row[..DIGEST].try_into().expect("one digest is left"));
    }

    fn root(mut self, level: usize) -> Digest {
        // Only the last span can be open; its missing windows are zeros.
        debug_assert!(self.open.len() <= 1, "every span but the last is whole");
        let last = self.open.drain().next();
        if level < SPAN_LEVEL {
            let span = last.map(|(_, span)| span);
            let mut tree = GrowingTree::new(WINDOW_LEVEL);
            if let Some(span) = span {
                debug_assert!((span.present + 1).is_power_of_two(), "windows are missing only at the end");
                let present = usize::try_from(span.present.count_ones()).expect("at most 32");
                for digest in span.row.chunks_exact(DIGEST).take(present) {
                    tree.push(digest.try_into().expect("digests have 32 bytes"));
                }
            }
            return tree.root(level);
        }
        if let Some((index, mut span)) = last {
            for (slot, digest) in span.row.chunks_exact_mut(DIGEST).enumerate() {
                if span.present >> slot & 1 == 0 {
                    digest.copy_from_slice(zero_digest(WINDOW_LEVEL));
                }
            }
            self.close(index, span);
        }
        let mut tree = GrowingTree::new(SPAN_LEVEL);
        for digest in self.whole {
            debug_assert!(digest.is_some(), "spans have no gaps");
            tree.push(digest.unwrap_or(*zero_digest(SPAN_LEVEL)));
        }
        tree.root(level)
    }
}
