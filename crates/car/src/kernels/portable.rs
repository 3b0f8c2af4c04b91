//! The kernel for every processor: the crates `sha2` and `blake2`, one node or block after the other.

use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha2::{Digest, Sha256};

use crate::fr32;
use crate::kernels::{DIGEST, Kernel, NODE, Rows, WINDOW_RAW};
use crate::profile::BlockHash;

pub(super) static KERNEL: Kernel =
    Kernel { name: "portable", hash_nodes, hash_windows, hash_blocks, blocks_at_once: 1 };

pub(super) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    for (digest, node) in output.chunks_exact_mut(DIGEST).zip(input.chunks_exact(NODE)) {
        digest.copy_from_slice(&Sha256::digest(node));
        digest[DIGEST - 1] &= 0x3f;
    }
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    expand_and_fold(hash_nodes, digests, windows, rows);
}

/// Windows whose rows are folded together, so that few calls have short rows. They fit into the second-level
/// cache.
const FOLDED: usize = 8;
/// Bytes of an expanded window.
const PADDED: usize = WINDOW_RAW / fr32::QUAD_RAW * fr32::QUAD_PADDED;
/// Bytes of the digests of a window's first nodes.
const ROW: usize = PADDED / 2;

/// Hashes windows with a given function for nodes: expands them, then folds them level by level.
pub(super) fn expand_and_fold(
    hash_nodes: fn(&mut [u8], &[u8]),
    digests: &mut [u8],
    windows: &[u8],
    rows: &mut Rows,
) {
    let first_rows = |rows: &mut [u8], windows: &[u8], scratch: &mut [u8]| {
        let padded = &mut scratch[..PADDED];
        for (row, window) in rows.chunks_exact_mut(ROW).zip(windows.chunks_exact(WINDOW_RAW)) {
            fr32::expand(padded, window);
            hash_nodes(row, padded);
        }
    };
    fold(first_rows, hash_nodes, digests, windows, rows);
}

/// Hashes windows with given functions for the first rows of some windows and for nodes. `first_rows` gets a
/// scratch buffer for an expanded window.
pub(super) fn fold(
    first_rows: impl Fn(&mut [u8], &[u8], &mut [u8]),
    hash_nodes: fn(&mut [u8], &[u8]),
    digests: &mut [u8],
    windows: &[u8],
    rows: &mut Rows,
) {
    let bytes = PADDED.max(ROW * FOLDED.min(windows.len() / WINDOW_RAW));
    // Never shortened, because growing again would fill the bytes with zeros again.
    for row in [&mut rows.row, &mut rows.next] {
        row.resize(row.len().max(bytes), 0);
    }
    for (digests, windows) in digests.chunks_mut(FOLDED * DIGEST).zip(windows.chunks(FOLDED * WINDOW_RAW)) {
        let mut length = digests.len() / DIGEST * ROW;
        first_rows(&mut rows.row[..length], windows, &mut rows.next);
        while length > 2 * digests.len() {
            hash_nodes(&mut rows.next[..length / 2], &rows.row[..length]);
            std::mem::swap(&mut rows.row, &mut rows.next);
            length /= 2;
        }
        hash_nodes(digests, &rows.row[..length]);
    }
}

pub(super) fn hash_blocks(hash: BlockHash, digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    for (digest, block) in digests.iter_mut().zip(blocks) {
        *digest = match hash {
            BlockHash::Blake2b256 => Blake2b::<U32>::digest(block).into(),
            BlockHash::Sha2_256 => Sha256::digest(block).into(),
        };
    }
}
