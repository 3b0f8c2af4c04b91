//! The sets for x86-64: AVX-512 with sixteen lanes, SHA extensions, and AVX2 with eight lanes.

#![expect(clippy::many_single_char_names, reason = "the names of the standards")]
#![expect(clippy::needless_range_loop, reason = "lanes, streams and words are numbers in all tables at once")]
#![expect(clippy::large_types_passed_by_value, reason = "vectors stay in registers once they are inlined")]

mod avx2;
mod avx512;
mod blake2b;
mod blake2b_avx2;
mod node_lanes;
mod sha256_lanes;
mod shani;

use super::{DIGEST, Kernel, portable};
use crate::profile::BlockHash;

/// The sets that this processor can run, the fastest first.
pub(super) fn available() -> Vec<&'static Kernel> {
    let mut kernels = Vec::new();
    if avx512::is_available() {
        kernels.push(&avx512::KERNEL);
    }
    if shani::is_available() {
        kernels.push(&shani::KERNEL);
    }
    if avx2::is_available() {
        kernels.push(&avx2::KERNEL);
    }
    kernels
}

/// Blocks without AVX-512: `BLAKE2b` in four lanes, all else as everywhere; `sha2` uses the SHA extensions by itself.
fn hash_blocks(hash: BlockHash, digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    // Some small processors have the SHA extensions and no AVX2.
    if hash == BlockHash::Blake2b256 && avx2::is_available() {
        blake2b_avx2::hash_blocks(digests, blocks);
    } else {
        portable::hash_blocks(hash, digests, blocks);
    }
}
