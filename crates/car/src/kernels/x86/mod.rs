//! The sets for x86-64: AVX-512 with sixteen lanes, SHA extensions, and AVX2 with eight lanes.

#![expect(clippy::many_single_char_names, reason = "the names of the standards")]
#![expect(clippy::needless_range_loop, reason = "lanes, streams and words are numbers in all tables at once")]
#![expect(clippy::large_types_passed_by_value, reason = "vectors stay in registers once they are inlined")]

mod avx2;
mod avx512;
mod blake2b;
mod node_lanes;
mod sha256_lanes;
mod shani;

use blake2b_simd::many::{HashManyJob, hash_many};

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

/// Blocks without AVX-512: several with `BLAKE2b` in four lanes, all else as everywhere. The crates use AVX2 and the
/// SHA extensions by themselves.
///
/// Measured on Zen 3: `many` takes 0.39 of the time of one block after the other.
fn hash_blocks(hash: BlockHash, digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    if hash != BlockHash::Blake2b256 || blocks.len() < 2 {
        portable::hash_blocks(hash, digests, blocks);
        return;
    }
    let mut params = blake2b_simd::Params::new();
    params.hash_length(DIGEST);
    let mut jobs: Vec<_> = blocks.iter().map(|block| HashManyJob::new(&params, block)).collect();
    hash_many(&mut jobs);
    for (digest, job) in digests.iter_mut().zip(jobs) {
        digest.copy_from_slice(job.to_hash().as_bytes());
    }
}
