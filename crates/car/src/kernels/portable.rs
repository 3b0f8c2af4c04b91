//! The set for every processor: one node or block after the other, through crates that bring their own assembly.

use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha2::{Digest, Sha256};

use super::{DIGEST, Kernel, NODE, Rows, WINDOW_RAW};
use crate::piece::fr32;
use crate::profile::BlockHash;

pub(super) static KERNEL: Kernel = Kernel { name: "portable", hash_nodes, hash_windows, hash_blocks };

pub(super) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    for (digest, node) in output.chunks_exact_mut(DIGEST).zip(input.chunks_exact(NODE)) {
        digest.copy_from_slice(&Sha256::digest(node));
        digest[DIGEST - 1] &= 0x3f;
    }
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    expand_and_fold(hash_nodes, digests, windows, rows);
}

/// Windows with any function for nodes: expanded first, then folded level by level.
pub(super) fn expand_and_fold(
    hash_nodes: fn(&mut [u8], &[u8]),
    digests: &mut [u8],
    windows: &[u8],
    rows: &mut Rows,
) {
    let padded = WINDOW_RAW / fr32::QUAD_RAW * fr32::QUAD_PADDED;
    for (digest, window) in digests.chunks_exact_mut(DIGEST).zip(windows.chunks_exact(WINDOW_RAW)) {
        rows.row.resize(padded, 0);
        rows.next.resize(padded / 2, 0);
        fr32::expand(&mut rows.row, window);
        let mut length = padded;
        while length > NODE {
            hash_nodes(&mut rows.next[..length / 2], &rows.row[..length]);
            std::mem::swap(&mut rows.row, &mut rows.next);
            rows.next.resize(padded, 0);
            length /= 2;
        }
        hash_nodes(digest, &rows.row[..NODE]);
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
