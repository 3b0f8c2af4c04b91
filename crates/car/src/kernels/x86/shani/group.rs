//! Four nodes side by side, and meanwhile the message schedules of the next four.
//!
//! A `sha256rnds2` waits four cycles for the one before it, but Zen 3 can start one in every cycle: four
//! nodes keep it busy, two half of the time. With their own schedules between the rounds four nodes are
//! little faster than two, though, because whatever else a round waits for comes late. So the rounds need
//! nothing but words from memory, and the schedules are computed one group ahead (`rounds`). Cycles a node on
//! Zen 3: 150 for two nodes with their own schedules, 123 for four, 70 for this; the rounds alone are 64.
//!
//! The bytes of a piece are expanded one group earlier still, and beside the rounds as well: before them that
//! took 20 cycles a node, there it takes none.
//!
//! Words have the processor's order of bytes here, in and out: from row to row they need no turning.

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

/// Hashes nodes, the last group of which may be short.
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn hash_all(output: &mut [u8], input: &[u8]) {
    let (groups, rest) = input.as_chunks::<NODE>().0.as_chunks::<GROUP>();
    let (outputs, rest_output) = output.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<GROUP>();
    let (mut rest_nodes, mut rest_digests): (Nodes, Digests) = ([[0; NODE]; GROUP], [[0; DIGEST]; GROUP]);
    rest_nodes[..rest.len()].copy_from_slice(rest);
    let groups = groups.iter().chain((!rest.is_empty()).then_some(&rest_nodes));
    let mut line = Line::new();
    // The first group has none before it; after the last there is nothing to prepare: the last once more does
    // no harm.
    let mut before = [[0; DIGEST]; GROUP];
    let outputs = [&mut before].into_iter().chain(outputs).chain([&mut rest_digests]);
    let last = groups.clone().last();
    for (following, digests) in groups.chain(last).zip(outputs) {
        line.hash_group(digests, following);
    }
    rest_output.copy_from_slice(&rest_digests[..rest.len()]);
}

/// The digests of the leaves of windows, pair by pair; windows and digests lie one behind the other.
#[target_feature(enable = "sha,sse4.1,ssse3,avx,bmi2")]
pub(super) fn hash_windows(row: &mut [u8], windows: &[u8]) {
    let groups = windows.as_chunks::<{ 2 * QUAD_RAW }>().0;
    // Two calls hash nothing, because the first group is expanded in the one and has its schedules after the
    // other; the last two have nothing to expand: the last group once more does no harm.
    let last = groups.last().into_iter().cycle().take(2);
    let mut before = [[[0; DIGEST]; GROUP]; 2];
    let digests = before.iter_mut().chain(row.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<GROUP>().0);
    let mut padded: [Nodes; 2] = [[[0; NODE]; GROUP]; 2];
    let [mut following, mut later] = padded.each_mut();
    let mut line = Line::new();
    for (raw, digests) in groups.iter().chain(last).zip(digests) {
        prefetch(raw);
        line.hash_group_expanding(digests, following, later, raw);
        std::mem::swap(&mut following, &mut later);
    }
}

/// Asks for what lies some groups further on, past the end of the bytes as well.
#[inline]
fn prefetch(raw: &Raw) {
    const AHEAD: usize = 4096;
    for line in 0..4 {
        let ahead = raw.as_ptr().wrapping_add(AHEAD + line * 64);
        // SAFETY: a prefetch of any address whatever does no harm.
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

/// Groups one after the other.
struct Line {
    schedules: [Schedules; 2],
    /// Which of them was filled last.
    filled: usize,
}

impl Line {
    fn new() -> Self {
        Self { schedules: [const { Schedules([[[0; 4]; GROUP]; 16]) }; 2], filled: 1 }
    }

    /// Hashes the group that was `following` the last time, and computes the schedules of this one meanwhile.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3,avx")]
    fn hash_group(&mut self, digests: &mut Digests, following: &Nodes) {
        let (now, next) = self.turn();
        hash_group(digests, now, next, following);
    }

    /// The same, and expands two quads to the nodes that will follow the next time.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3,avx,bmi2")]
    fn hash_group_expanding(
        &mut self,
        digests: &mut Digests,
        following: &Nodes,
        padded: &mut Nodes,
        raw: &Raw,
    ) {
        let (now, next) = self.turn();
        hash_group_expanding(digests, now, next, following, padded, raw);
    }

    /// The schedules that were computed the last time, and the room for others.
    #[inline]
    fn turn(&mut self) -> (&Schedules, &mut Schedules) {
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
