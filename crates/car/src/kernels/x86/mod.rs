//! Kernels for x86-64: AVX-512 with sixteen lanes, SHA extensions, and AVX2 with eight lanes.

#![expect(clippy::many_single_char_names, reason = "the names of the standards")]
#![expect(clippy::needless_range_loop, reason = "lanes, streams and words are numbers in all tables at once")]
#![expect(clippy::large_types_passed_by_value, reason = "vectors stay in registers once they are inlined")]

/// The twelve rounds of `BLAKE2b` as assembly text, each by the macro `$round` with its order of the message
/// words. Source: RFC 7693 section 2.7; the last two orders are the first two again.
macro_rules! twelve_rounds {
    ($round:ident) => {
        concat!(
            $round!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
            $round!(14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3),
            $round!(11 8 12 0 5 2 15 13 10 14 3 6 7 1 9 4),
            $round!(7 9 3 1 13 12 11 14 2 6 5 10 4 0 15 8),
            $round!(9 0 5 7 2 4 10 15 14 1 11 12 6 8 3 13),
            $round!(2 12 6 10 0 11 8 3 4 13 7 5 15 14 1 9),
            $round!(12 5 1 15 14 13 4 10 0 7 6 3 9 2 8 11),
            $round!(13 11 7 14 12 1 3 9 5 0 15 4 8 6 2 10),
            $round!(6 15 14 9 11 3 0 8 12 2 13 7 1 4 10 5),
            $round!(10 2 8 4 7 6 1 5 15 11 9 14 3 12 13 0),
            $round!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
            $round!(14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3),
        )
    };
}

mod avx2;
mod avx512;
mod blake2b_constants;
#[cfg(feature = "bench")]
pub(super) mod instruction_floor;
mod shani;

use crate::kernels::{DIGEST, Kernel, portable};
use crate::profile::BlockHash;

/// The kernels that this processor can run, the fastest first.
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

/// Hashes blocks without AVX-512: `BLAKE2b` in four lanes of AVX2, SHA-256 by the portable kernel, whose
/// crate uses the SHA extensions.
fn hash_blocks(hash: BlockHash, digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    // Some small processors have the SHA extensions but no AVX2.
    if hash == BlockHash::Blake2b256 && avx2::is_available() {
        avx2::blake2b::hash_blocks(digests, blocks);
    } else {
        portable::hash_blocks(hash, digests, blocks);
    }
}
