//! SHA-256 nodes with the `ARMv8` SHA-2 instructions: two nodes are interleaved, because the rounds of one
//! node wait for `sha256h`.

use std::arch::aarch64::{
    uint32x4_t, vaddq_u32, vld1q_u8, vld1q_u32, vreinterpretq_u8_u32, vreinterpretq_u32_u8, vrev32q_u8,
    vsha256h2q_u32, vsha256hq_u32, vsha256su0q_u32, vsha256su1q_u32, vst1q_u8,
};

use crate::kernels::constants::{PADDING_ROUND, ROUND, START};
use crate::kernels::{DIGEST, Kernel, NODE, Rows, portable};

static KERNEL: Kernel = Kernel {
    name: "armsha2",
    hash_nodes,
    hash_windows,
    // The crates behind the portable kernel use these instructions for single streams.
    hash_blocks: portable::hash_blocks,
    blocks_at_once: 1,
};

/// The kernels that this processor can run, the fastest first.
pub(super) fn available() -> Vec<&'static Kernel> {
    if is_available() { vec![&KERNEL] } else { Vec::new() }
}

fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("sha2")
}

fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert!(is_available(), "chosen only where it can run");
    // SAFETY: the features were just found.
    unsafe { hash_all(output, input) }
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    portable::expand_and_fold(hash_nodes, digests, windows, rows);
}

#[target_feature(enable = "sha2")]
fn hash_all(output: &mut [u8], input: &[u8]) {
    let mut digests = output.chunks_exact_mut(2 * DIGEST);
    let mut nodes = input.chunks_exact(2 * NODE);
    for (digests, nodes) in (&mut digests).zip(&mut nodes) {
        hash::<2>(digests, nodes);
    }
    if let (digest @ [_, ..], node @ [_, ..]) = (digests.into_remainder(), nodes.remainder()) {
        hash::<1>(digest, node);
    }
}

/// Hashes `N` nodes side by side.
#[inline]
#[target_feature(enable = "sha2")]
fn hash<const N: usize>(digests: &mut [u8], nodes: &[u8]) {
    let start = [load_words(&START, 0), load_words(&START, 4)];
    let mut states = [start; N];
    let mut words: [[uint32x4_t; 4]; N] = std::array::from_fn(|node| {
        std::array::from_fn(|quarter| load_big_endian(nodes, node * NODE + quarter * 16))
    });
    for quarter in 0..16 {
        let round = load_words(&ROUND, quarter * 4);
        for (state, words) in states.iter_mut().zip(&mut words) {
            let [first, second, third, fourth] = *words;
            four_rounds(state, vaddq_u32(first, round));
            // The last sixteen rounds need no new words; the rotation of `words` keeps all of them in
            // registers.
            let next = if quarter < 12 {
                vsha256su1q_u32(vsha256su0q_u32(first, second), third, fourth)
            } else {
                first
            };
            *words = [second, third, fourth, next];
        }
    }
    let middles = states.map(|state| [vaddq_u32(state[0], start[0]), vaddq_u32(state[1], start[1])]);
    states = middles;
    for quarter in 0..16 {
        for state in &mut states {
            four_rounds(state, load_words(&PADDING_ROUND, quarter * 4));
        }
    }
    for ((digest, state), middle) in digests.chunks_exact_mut(DIGEST).zip(states).zip(middles) {
        store_big_endian(digest, 0, vaddq_u32(state[0], middle[0]));
        store_big_endian(digest, 16, vaddq_u32(state[1], middle[1]));
        digest[DIGEST - 1] &= 0x3f;
    }
}

/// Four rounds on the state (A B C D) and (E F G H).
#[inline]
#[target_feature(enable = "sha2")]
fn four_rounds(state: &mut [uint32x4_t; 2], words: uint32x4_t) {
    let [abcd, efgh] = *state;
    *state = [vsha256hq_u32(abcd, efgh, words), vsha256h2q_u32(efgh, abcd, words)];
}

#[inline]
#[target_feature(enable = "neon")]
fn load_words(words: &[u32], at: usize) -> uint32x4_t {
    let words: &[u32; 4] = words[at..].first_chunk().expect("four words are left");
    // SAFETY: sixteen bytes can be read through the reference.
    unsafe { vld1q_u32(words.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_big_endian(bytes: &[u8], at: usize) -> uint32x4_t {
    let bytes: &[u8; 16] = bytes[at..].first_chunk().expect("sixteen bytes are left");
    // SAFETY: sixteen bytes can be read through the reference.
    vreinterpretq_u32_u8(vrev32q_u8(unsafe { vld1q_u8(bytes.as_ptr()) }))
}

#[inline]
#[target_feature(enable = "neon")]
fn store_big_endian(bytes: &mut [u8], at: usize, words: uint32x4_t) {
    let bytes: &mut [u8; 16] = bytes[at..].first_chunk_mut().expect("sixteen bytes are left");
    // SAFETY: sixteen bytes can be written through the reference.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), vrev32q_u8(vreinterpretq_u8_u32(words))) }
}
