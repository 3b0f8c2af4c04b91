//! The sets for x86-64: SHA extensions, and AVX-512 with sixteen lanes.

#![expect(clippy::many_single_char_names, reason = "the names of the standards")]
#![expect(clippy::needless_range_loop, reason = "lanes, streams and words are numbers in all tables at once")]
#![expect(clippy::large_types_passed_by_value, reason = "vectors stay in registers once they are inlined")]

mod avx512;
mod blake2b;
mod node_lanes;
mod sha256_lanes;
mod shani;

use super::Kernel;

/// The sets that this processor can run, the fastest first.
pub(super) fn available() -> Vec<&'static Kernel> {
    let mut kernels = Vec::new();
    if avx512::is_available() {
        kernels.push(&avx512::KERNEL);
    }
    if shani::is_available() {
        kernels.push(&shani::KERNEL);
    }
    kernels
}
