//! The set for every processor: one node or block after the other, through crates that bring their own
//! assembly.

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

/// Windows whose rows are folded together, so that few calls are for short rows; they stay in the second
/// cache.
const FOLDED: usize = 8;
/// An expanded window.
const PADDED: usize = WINDOW_RAW / fr32::QUAD_RAW * fr32::QUAD_PADDED;
/// The digests of a window's first nodes.
const ROW: usize = PADDED / 2;

/// Windows with any function for nodes: expanded first, then folded level by level.
pub(super) fn expand_and_fold(
    hash_nodes: fn(&mut [u8], &[u8]),
    digests: &mut [u8],
    windows: &[u8],
    rows: &mut Rows,
) {
    let first_rows = |rows: &mut [u8], windows: &[u8], room: &mut [u8]| {
        let padded = &mut room[..PADDED];
        for (row, window) in rows.chunks_exact_mut(ROW).zip(windows.chunks_exact(WINDOW_RAW)) {
            fr32::expand(padded, window);
            hash_nodes(row, padded);
        }
    };
    fold(first_rows, hash_nodes, digests, windows, rows);
}

/// Windows with any function for the first rows of some, which is given room for an expanded window, and any
/// for nodes.
pub(super) fn fold(
    first_rows: impl Fn(&mut [u8], &[u8], &mut [u8]),
    hash_nodes: fn(&mut [u8], &[u8]),
    digests: &mut [u8],
    windows: &[u8],
    rows: &mut Rows,
) {
    let room = PADDED.max(ROW * FOLDED.min(windows.len() / WINDOW_RAW));
    // Never shorter: what grows again would be filled with zeros again.
    for row in [&mut rows.row, &mut rows.next] {
        row.resize(row.len().max(room), 0);
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
