//! Four nodes side by side, and meanwhile the message schedules of the next four.
//!
//! A `sha256rnds2` waits four cycles for the one before it, but Zen 3 can start one in every cycle: four nodes fill
//! the unit, two leave half of it idle. With their own schedules between the rounds four nodes are little faster
//! than two, though, because whatever else a round waits for comes late. So the rounds need nothing but words from
//! memory, and the schedules are computed one group ahead (`rounds`). Cycles a node on Zen 3: 150 for two nodes with
//! their own schedules, 123 for four, 71 for this; the rounds alone are 64.
//!
//! Words have the processor's order of bytes here, in and out: from row to row they need no turning.

use std::arch::asm;
use std::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_prefetch, _mm_set_epi64x,
    _mm_shuffle_epi32, _mm_storeu_si128,
};

use super::rounds::{own_block, padding_block};
use crate::kernels::{DIGEST, NODE};
use crate::piece::fr32::{FIELD_TOP, QUAD_PADDED, QUAD_RAW};

/// Nodes that are hashed side by side.
pub(super) const GROUP: usize = 4;

/// Quads that expand to a group.
const QUADS: usize = GROUP * NODE / QUAD_PADDED;

pub(super) type Nodes = [[u8; NODE]; GROUP];
type Digests = [[u8; DIGEST]; GROUP];

/// The words of one block of each node, the constants added; those of four rounds are beside each other.
///
/// No row is in two cache lines.
#[repr(align(64))]
pub(super) struct Schedules(pub(super) [[[u32; 4]; GROUP]; 16]);

/// The instructions want the state as (A B E F) and (C D G H), the first word on top.
#[derive(Clone, Copy)]
pub(super) struct States {
    pub(super) abef: [__m128i; GROUP],
    pub(super) cdgh: [__m128i; GROUP],
}

/// Hashes nodes, the last group of which may be short.
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn hash_all(output: &mut [u8], input: &[u8]) {
    let (groups, rest) = input.as_chunks::<NODE>().0.as_chunks::<GROUP>();
    let (outputs, rest_output) = output.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<GROUP>();
    let (mut rest_nodes, mut rest_digests): (Nodes, Digests) = ([[0; NODE]; GROUP], [[0; DIGEST]; GROUP]);
    rest_nodes[..rest.len()].copy_from_slice(rest);
    let groups = groups.iter().chain((!rest.is_empty()).then_some(&rest_nodes));
    let mut line = Line::new();
    // The first group has none before it; after the last there is nothing to prepare, and it again does no harm.
    let mut before = [[0; DIGEST]; GROUP];
    let outputs = [&mut before].into_iter().chain(outputs).chain([&mut rest_digests]);
    let last = groups.clone().last();
    for (following, digests) in groups.chain(last).zip(outputs) {
        line.hash_group(digests, following);
    }
    rest_output.copy_from_slice(&rest_digests[..rest.len()]);
}

/// The digests of the first nodes of a window, which is expanded group by group.
///
/// That takes no vector operations, so that it costs next to nothing beside the rounds.
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn hash_window(row: &mut [u8], window: &[u8]) {
    let mut groups = window.as_chunks::<{ QUADS * QUAD_RAW }>().0.iter();
    let mut padded: [Nodes; 2] = [[[0; NODE]; GROUP]; 2];
    // Expanded one group earlier than needed: bytes that were just stored in words cannot be loaded in vectors at once.
    let [mut following, mut later] = padded.each_mut();
    let mut expand_next = |padded: &mut Nodes| {
        if let Some(raw) = groups.next() {
            prefetch(raw);
            expand(padded, raw);
        }
    };
    expand_next(later);
    let mut line = Line::new();
    let mut before = [[0; DIGEST]; GROUP];
    for digests in [&mut before].into_iter().chain(row.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<GROUP>().0)
    {
        std::mem::swap(&mut following, &mut later);
        expand_next(later);
        line.hash_group(digests, following);
    }
}

/// Asks for what lies some groups further on, past the end of the bytes as well.
#[inline]
fn prefetch(raw: &[u8; QUADS * QUAD_RAW]) {
    const AHEAD: usize = 4096;
    for line in 0..4 {
        let ahead = raw.as_ptr().wrapping_add(AHEAD + line * 64);
        // SAFETY: a prefetch of any address whatever does no harm.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) }
    }
}

/// Fr32 (`piece::fr32`) without vectors.
#[inline]
fn expand(padded: &mut Nodes, raw: &[u8; QUADS * QUAD_RAW]) {
    let quads = padded.as_flattened_mut().as_chunks_mut::<QUAD_PADDED>().0;
    for (padded, raw) in quads.iter_mut().zip(raw.as_chunks::<QUAD_RAW>().0) {
        let [first, second, third, fourth] = padded.as_chunks_mut().0 else { unreachable!("four elements") };
        element::<0>(first, raw);
        element::<1>(second, raw);
        element::<2>(third, raw);
        element::<3>(fourth, raw);
    }
}

/// One of a quad's four elements: 254 bits from where the one before it ends, and two zeros.
#[inline]
fn element<const INDEX: usize>(padded: &mut [u8; 32], raw: &[u8; QUAD_RAW]) {
    let word = |index: usize| {
        // The last word of a quad has seven bytes of its own.
        let (at, skipped) = if index < 15 { (index * 8, 0) } else { (QUAD_RAW - 8, 8) };
        u64::from_le_bytes(*raw[at..].first_chunk().expect("eight bytes are left")) >> skipped
    };
    let mut before = if INDEX == 0 { 0 } else { scalar(word(4 * INDEX - 1)) };
    let words: [u64; 4] = std::array::from_fn(|at| {
        let word = scalar(word(4 * INDEX + at));
        let shifted = if INDEX == 0 { word } else { (word << (2 * INDEX)) | (before >> (64 - 2 * INDEX)) };
        before = word;
        if at == 3 { shifted & FIELD_TOP } else { shifted }
    });
    for (padded, word) in padded.as_chunks_mut().0.iter_mut().zip(words) {
        // Words of four bytes the other way round.
        *padded = word.swap_bytes().rotate_left(32).to_le_bytes();
    }
}

/// The same word, which the compiler cannot put into a vector with others.
#[inline]
fn scalar(word: u64) -> u64 {
    let mut word = word;
    // SAFETY: no code.
    unsafe { asm!("/* {0} */", inout(reg) word, options(pure, nomem, nostack, preserves_flags)) }
    word
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
    /// Which of them are those of the next group to be hashed.
    now: usize,
}

impl Line {
    fn new() -> Self {
        Self { schedules: [const { Schedules([[[0; 4]; GROUP]; 16]) }; 2], now: 0 }
    }

    /// Hashes the group that was `following` the last time, and computes the schedules of this one meanwhile.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3,avx")]
    fn hash_group(&mut self, digests: &mut Digests, following: &Nodes) {
        let [first, second] = &mut self.schedules;
        let (now, next) = if self.now == 0 { (first, second) } else { (second, first) };
        hash_group(digests, now, next, following);
        self.now ^= 1;
    }
}

/// Hashes the group whose schedules are `now`, and computes those of `following` meanwhile.
#[inline(never)]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
fn hash_group(digests: &mut Digests, now: &Schedules, next: &mut Schedules, following: &Nodes) {
    let mut states = start();
    own_block(&mut states, now, next, following);
    let middle = add(states, start());
    states = middle;
    padding_block(&mut states, next, following);
    let end = add(states, middle);
    for (node, digest) in digests.iter_mut().enumerate() {
        let feba = _mm_shuffle_epi32::<0x1b>(end.abef[node]);
        let dchg = _mm_shuffle_epi32::<0xb1>(end.cdgh[node]);
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
