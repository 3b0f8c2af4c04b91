//! SHA-256 nodes with the SHA extensions: many nodes in groups of four, few nodes in pairs.

#[macro_use]
mod fr32;
#[macro_use]
mod schedules;

mod group;
mod pair;
mod rounds;
mod state;

use crate::kernels::{DIGEST, Kernel, NODE, Rows, portable};

pub(super) static KERNEL: Kernel = Kernel {
    name: "shani",
    hash_nodes,
    hash_windows,
    hash_blocks: crate::kernels::x86::hash_blocks,
    blocks_at_once: 4,
};

/// Least number of nodes for groups. Fewer nodes are faster in pairs, which have no schedules in advance.
/// Measured on Zen 3.
const GROUP_NODES_MIN: usize = 8;

/// Nodes whose words are converted together from and to big-endian byte order.
const SWAPPED: usize = 256;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
}

pub(super) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert!(is_available(), "chosen only where it can run");
    if input.len() < GROUP_NODES_MIN * NODE || !groups_can_run() {
        // SAFETY: the features were just found.
        unsafe { pair::hash_all(output, input) }
        return;
    }
    let mut nodes = [0; SWAPPED * NODE];
    for (output, input) in output.chunks_mut(SWAPPED * DIGEST).zip(input.chunks(SWAPPED * NODE)) {
        let nodes = &mut nodes[..input.len()];
        nodes.copy_from_slice(input);
        swap_words(nodes);
        hash_words(output, nodes);
        swap_words(output);
    }
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    assert!(is_available(), "chosen only where it can run");
    if !groups_can_run() {
        portable::expand_and_fold(hash_nodes, digests, windows, rows);
        return;
    }
    // SAFETY: the features were just found.
    let first_rows =
        |rows: &mut [u8], windows: &[u8], _: &mut [u8]| unsafe { group::hash_windows(rows, windows) };
    portable::fold(first_rows, hash_words, digests, windows, rows);
    swap_words(digests);
}

/// Hashes nodes whose words have the processor's byte order, to digests in the same order.
fn hash_words(output: &mut [u8], input: &[u8]) {
    assert!(is_available() && groups_can_run(), "called only where it can run");
    // SAFETY: the features were just found.
    unsafe { group::hash_all(output, input) }
}

/// Converts big-endian words to the processor's byte order, or back.
fn swap_words(bytes: &mut [u8]) {
    for word in bytes.as_chunks_mut().0 {
        *word = u32::from_be_bytes(*word).to_ne_bytes();
    }
}

/// Whether the groups of four can run. Some small processors have the SHA extensions without AVX and BMI2;
/// Miri runs no assembly.
fn groups_can_run() -> bool {
    is_x86_feature_detected!("avx") && is_x86_feature_detected!("bmi2") && !cfg!(miri)
}
