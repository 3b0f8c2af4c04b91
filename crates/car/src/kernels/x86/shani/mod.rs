//! SHA extensions: many nodes in groups of four, few in pairs.

mod group;
mod pair;

use crate::kernels::{Kernel, NODE, Rows, portable};

pub(super) static KERNEL: Kernel =
    Kernel { name: "shani", hash_nodes, hash_windows, hash_blocks: super::hash_blocks, blocks_at_once: 4 };

/// From so many nodes on, groups beat pairs, whose first schedules need not be waited for. Measured on Zen 3.
const WORTH_IT: usize = 8;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
}

pub(super) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert!(is_available(), "chosen only where it can run");
    if input.len() < WORTH_IT * NODE || !groups_can_run() {
        // SAFETY: the features were just found.
        unsafe { pair::hash_all(output, input) }
    } else {
        // SAFETY: the features were just found.
        unsafe { group::hash_all(output, input) }
    }
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    if !is_available() || !groups_can_run() {
        portable::expand_and_fold(hash_nodes, digests, windows, rows);
        return;
    }
    // SAFETY: the features were just found.
    let first_row = |row: &mut [u8], window: &[u8], _: &mut [u8]| unsafe { group::hash_window(row, window) };
    portable::fold(first_row, hash_nodes, digests, windows, rows);
}

/// Some small processors have the SHA extensions and no AVX; Miri runs no assembly.
fn groups_can_run() -> bool {
    is_x86_feature_detected!("avx") && !cfg!(miri)
}
