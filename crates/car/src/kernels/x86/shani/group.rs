//! Hashes four SHA-256 nodes side by side, and computes the message schedules of the next four meanwhile.
//!
//! A `sha256rnds2` waits four cycles for the one before it, but Zen 3 can start one in every cycle: four
//! nodes use all cycles, two nodes use half of them. Four nodes with their own schedules between the rounds
//! are little faster than two, because the schedules' words arrive late. Here the rounds need only words from
//! memory, and the schedules are computed one group ahead (`rounds`). Cycles per node on Zen 3: 150 for two
//! nodes with their own schedules, 123 for four, 70 for this module; the rounds alone take 64.
//!
//! The bytes of a piece are expanded two groups ahead, beside the rounds. Expanded before the rounds they
//! took 20 cycles per node, beside the rounds they take none.
//!
//! Words have the processor's byte order in and out, so the words of a row need no swap before the next row.

use std::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_prefetch, _mm_set_epi64x,
    _mm_shuffle_epi32, _mm_storeu_si128,
};

use crate::fr32::QUAD_RAW;
use crate::kernels::x86::shani::rounds::{
    own_block, own_block_expanding, padding_block, padding_block_expanding,
};
use crate::kernels::x86::shani::state::{Digests, GROUP, Nodes, Raw, Schedules, States};
use crate::kernels::{DIGEST, NODE};

/// Hashes nodes. The last group may be short.
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn hash_all(output: &mut [u8], input: &[u8]) {
    let (groups, rest) = input.as_chunks::<NODE>().0.as_chunks::<GROUP>();
    let (outputs, rest_output) = output.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<GROUP>();
    let (mut rest_nodes, mut rest_digests): (Nodes, Digests) = ([[0; NODE]; GROUP], [[0; DIGEST]; GROUP]);
    rest_nodes[..rest.len()].copy_from_slice(rest);
    let groups = groups.iter().chain((!rest.is_empty()).then_some(&rest_nodes));
    let mut schedules = Lookahead::new();
    // The first call hashes no group. The last call has no group to prepare, so it prepares the last one
    // again.
    let mut before = [[0; DIGEST]; GROUP];
    let outputs = [&mut before].into_iter().chain(outputs).chain([&mut rest_digests]);
    let last = groups.clone().last();
    for (following, digests) in groups.chain(last).zip(outputs) {
        schedules.hash_group(digests, following);
    }
    rest_output.copy_from_slice(&rest_digests[..rest.len()]);
}

/// Hashes pairs of leaves of adjacent windows to adjacent digests.
#[target_feature(enable = "sha,sse4.1,ssse3,avx,bmi2")]
pub(super) fn hash_windows(row: &mut [u8], windows: &[u8]) {
    let groups = windows.as_chunks::<{ 2 * QUAD_RAW }>().0;
    // The first two calls hash no group: they expand the first group and compute its schedules. The last two
    // calls have no group to expand, so they expand the last one again.
    let last = groups.last().into_iter().cycle().take(2);
    let mut before = [[[0; DIGEST]; GROUP]; 2];
    let digests = before.iter_mut().chain(row.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<GROUP>().0);
    let mut padded: [Nodes; 2] = [[[0; NODE]; GROUP]; 2];
    let [mut following, mut later] = padded.each_mut();
    let mut schedules = Lookahead::new();
    for (raw, digests) in groups.iter().chain(last).zip(digests) {
        prefetch(raw);
        schedules.hash_group_expanding(digests, following, later, raw);
        std::mem::swap(&mut following, &mut later);
    }
}

/// Prefetches the bytes of a later group. The address may be past the end of the bytes.
#[inline]
fn prefetch(raw: &Raw) {
    const AHEAD: usize = 4096;
    for line in 0..4 {
        let ahead = raw.as_ptr().wrapping_add(AHEAD + line * 64);
        // SAFETY: a prefetch reads no memory visibly and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) }
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn start() -> States {
    States {
        abef: [_mm_set_epi64x(0x6a09_e667_bb67_ae85, 0x510e_527f_9b05_688c); GROUP],
        cdgh: [_mm_set_epi64x(0x3c6e_f372_a54f_f53a, 0x1f83_d9ab_5be0_cd19); GROUP],
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn add(left: States, right: States) -> States {
    let mut sum = left;
    for node in 0..GROUP {
        sum.abef[node] = _mm_add_epi32(left.abef[node], right.abef[node]);
        sum.cdgh[node] = _mm_add_epi32(left.cdgh[node], right.cdgh[node]);
    }
    sum
}

/// The schedules of the present group and of the next one.
struct Lookahead {
    schedules: [Schedules; 2],
    /// Index of the schedules that were filled last.
    filled: usize,
}

impl Lookahead {
    fn new() -> Self {
        Self { schedules: [const { Schedules([[[0; 4]; GROUP]; 16]) }; 2], filled: 1 }
    }

    /// Hashes the group that was `following` in the last call, and computes the schedules of `following`.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3,avx")]
    fn hash_group(&mut self, digests: &mut Digests, following: &Nodes) {
        let (now, next) = self.swap();
        hash_group(digests, now, next, following);
    }

    /// The same, and expands two quads to the nodes of the next call's `following`.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3,avx,bmi2")]
    fn hash_group_expanding(
        &mut self,
        digests: &mut Digests,
        following: &Nodes,
        padded: &mut Nodes,
        raw: &Raw,
    ) {
        let (now, next) = self.swap();
        hash_group_expanding(digests, now, next, following, padded, raw);
    }

    /// The schedules that were computed in the last call, and the ones to fill.
    #[inline]
    fn swap(&mut self) -> (&Schedules, &mut Schedules) {
        let [first, second] = &mut self.schedules;
        self.filled ^= 1;
        if self.filled == 0 { (second, first) } else { (first, second) }
    }
}

#[inline(never)]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn hash_group(digests: &mut Digests, now: &Schedules, next: &mut Schedules, following: &Nodes) {
    let mut states = start();
    own_block(&mut states, now, next, following);
    let middle = add(states, start());
    states = middle;
    padding_block(&mut states, next, following);
    put_digests(digests, add(states, middle));
}

#[inline(never)]
#[target_feature(enable = "sha,sse4.1,ssse3,avx,bmi2")]
fn hash_group_expanding(
    digests: &mut Digests,
    now: &Schedules,
    next: &mut Schedules,
    following: &Nodes,
    padded: &mut Nodes,
    raw: &Raw,
) {
    let mut states = start();
    own_block_expanding(&mut states, now, next, following, padded, raw);
    let middle = add(states, start());
    states = middle;
    padding_block_expanding(&mut states, next, following, padded, raw);
    put_digests(digests, add(states, middle));
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn put_digests(digests: &mut Digests, states: States) {
    for (node, digest) in digests.iter_mut().enumerate() {
        let feba = _mm_shuffle_epi32::<0x1b>(states.abef[node]);
        let dchg = _mm_shuffle_epi32::<0xb1>(states.cdgh[node]);
        let (low, high) = digest.split_at_mut(DIGEST / 2);
        store(low, _mm_blend_epi16::<0xf0>(feba, dchg));
        store(high, _mm_alignr_epi8::<8>(dchg, feba));
        // The last byte of the digest is the lowest of its last word.
        digest[DIGEST - 4] &= 0x3f;
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn store(bytes: &mut [u8], value: __m128i) {
    let bytes: &mut [u8; 16] = bytes.try_into().expect("half a digest");
    // SAFETY: sixteen bytes can be written through the reference; the store needs no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
