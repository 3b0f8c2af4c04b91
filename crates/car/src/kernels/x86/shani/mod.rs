//! SHA extensions: many nodes in groups of four, few in pairs.

mod group;
mod pair;

use crate::kernels::{Kernel, NODE, Rows, portable};

pub(super) static KERNEL: Kernel =
    Kernel { name: "shani", hash_nodes, hash_windows, hash_blocks: super::hash_blocks };

/// From so many nodes on, groups beat pairs, whose first schedules need not be waited for. Measured on Zen 3.
const WORTH_IT: usize = 8;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
}

pub(super) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert!(is_available(), "chosen only where it can run");
    // Miri runs no assembly.
    if input.len() < WORTH_IT * NODE || !is_x86_feature_detected!("avx") || cfg!(miri) {
        // SAFETY: the features were just found.
        unsafe { pair::hash_all(output, input) }
    } else {
        // SAFETY: the features were just found.
        unsafe { group::hash_all(output, input) }
    }
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    portable::expand_and_fold(hash_nodes, digests, windows, rows);
}
