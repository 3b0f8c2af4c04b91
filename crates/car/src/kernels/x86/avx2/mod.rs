//! SHA-256 of eight nodes, one in each lane of AVX2, for processors without SHA extensions.
//!
//! The number of operations limits the speed: about 5400 for eight nodes, because a rotation takes three.
//! Measured on Zen 3: 240 cycles per node; the software path of `sha2` takes 1570.

pub(super) mod blake2b;
use std::arch::x86_64::{
    __m256i, _mm_set_epi64x, _mm256_add_epi32, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_or_si256, _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi32,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use crate::kernels::constants::{PADDING_ROUND, ROUND, START};
use crate::kernels::{DIGEST, Kernel, NODE, Rows, portable};

pub(super) static KERNEL: Kernel = Kernel {
    name: "avx2",
    hash_nodes,
    hash_windows,
    hash_blocks: crate::kernels::x86::hash_blocks,
    blocks_at_once: 4,
};

/// Nodes that are hashed at once.
const LANES: usize = 8;

type Nodes = [[u8; NODE]; LANES];
type Digests = [[u8; DIGEST]; LANES];

/// One vector per word.
type State = [__m256i; 8];
type Words = [__m256i; 16];

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert!(is_available(), "chosen only where it can run");
    let (groups, rest) = input.as_chunks::<NODE>().0.as_chunks::<LANES>();
    let (outputs, rest_output) = output.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<LANES>();
    for (digests, nodes) in outputs.iter_mut().zip(groups) {
        // SAFETY: the feature was just found.
        unsafe { hash_lanes(digests, nodes) }
    }
    // All lanes take about as long as one node in software.
    if rest.len() < 2 {
        (portable::KERNEL.hash_nodes)(rest_output.as_flattened_mut(), rest.as_flattened());
        return;
    }
    let (mut nodes, mut digests): (Nodes, Digests) = ([[0; NODE]; LANES], [[0; DIGEST]; LANES]);
    nodes[..rest.len()].copy_from_slice(rest);
    // SAFETY: the feature was just found.
    unsafe { hash_lanes(&mut digests, &nodes) }
    rest_output.copy_from_slice(&digests[..rest.len()]);
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    portable::expand_and_fold(hash_nodes, digests, windows, rows);
}

#[inline(never)]
#[target_feature(enable = "avx2")]
fn hash_lanes(digests: &mut Digests, nodes: &Nodes) {
    let mut words: Words = [_mm256_setzero_si256(); 16];
    for half in 0..2 {
        let rows = std::array::from_fn(|lane| load(&nodes[lane], half * 32));
        words[half * 8..][..8].copy_from_slice(&columns(rows));
    }
    let start: State = START.map(|word| _mm256_set1_epi32(word.cast_signed()));
    let mut state = start;
    for (pass, constants) in ROUND.as_chunks::<16>().0.iter().enumerate() {
        for at in [0, 8] {
            eight_rounds(&mut state, |i| {
                let word = words[at + i];
                if pass < 3 {
                    words[at + i] = later_word(&words, at + i);
                }
                _mm256_add_epi32(word, _mm256_set1_epi32(constants[at + i].cast_signed()))
            });
        }
    }
    let middle = add(state, start);
    state = middle;
    for constants in PADDING_ROUND.as_chunks::<8>().0 {
        eight_rounds(&mut state, |i| _mm256_set1_epi32(constants[i].cast_signed()));
    }
    let mut end = add(state, middle);
    // The words are big-endian numbers: the last byte of the digest is the lowest byte of its last word.
    end[7] = _mm256_and_si256(end[7], _mm256_set1_epi32(0xffff_ff3f_u32.cast_signed()));
    for (digest, row) in digests.iter_mut().zip(columns(end)) {
        // SAFETY: 32 bytes can be written through the reference; the store needs no alignment.
        unsafe { _mm256_storeu_si256(digest.as_mut_ptr().cast(), row) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(left: State, right: State) -> State {
    std::array::from_fn(|i| _mm256_add_epi32(left[i], right[i]))
}

/// Eight rounds, after which every word has its role again: the roles rotate, not the values.
#[inline]
#[target_feature(enable = "avx2")]
fn eight_rounds(state: &mut State, mut word: impl FnMut(usize) -> __m256i) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    (d, h) = round([a, b, c, d, e, f, g, h], word(0));
    (c, g) = round([h, a, b, c, d, e, f, g], word(1));
    (b, f) = round([g, h, a, b, c, d, e, f], word(2));
    (a, e) = round([f, g, h, a, b, c, d, e], word(3));
    (h, d) = round([e, f, g, h, a, b, c, d], word(4));
    (g, c) = round([d, e, f, g, h, a, b, c], word(5));
    (f, b) = round([c, d, e, f, g, h, a, b], word(6));
    (e, a) = round([b, c, d, e, f, g, h, a], word(7));
    *state = [a, b, c, d, e, f, g, h];
}

/// The new values for the roles of d and h.
#[inline]
#[target_feature(enable = "avx2")]
fn round([a, b, c, d, e, f, g, h]: State, word: __m256i) -> (__m256i, __m256i) {
    let choice = _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g)));
    let sum1 = xor3(rotate_right::<6, 26>(e), rotate_right::<11, 21>(e), rotate_right::<25, 7>(e));
    let first = _mm256_add_epi32(_mm256_add_epi32(h, word), _mm256_add_epi32(choice, sum1));
    let sum0 = xor3(rotate_right::<2, 30>(a), rotate_right::<13, 19>(a), rotate_right::<22, 10>(a));
    // The compiler keeps a ^ b, which is b ^ c of the next round.
    let majority = _mm256_xor_si256(b, _mm256_and_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(b, c)));
    (_mm256_add_epi32(d, first), _mm256_add_epi32(first, _mm256_add_epi32(majority, sum0)))
}

/// The word sixteen rounds after word `i`.
#[inline]
#[target_feature(enable = "avx2")]
fn later_word(words: &Words, i: usize) -> __m256i {
    let (x, y) = (words[(i + 1) % 16], words[(i + 14) % 16]);
    let sum0 = xor3(rotate_right::<7, 25>(x), rotate_right::<18, 14>(x), _mm256_srli_epi32::<3>(x));
    let sum1 = xor3(rotate_right::<17, 15>(y), rotate_right::<19, 13>(y), _mm256_srli_epi32::<10>(y));
    _mm256_add_epi32(_mm256_add_epi32(words[i], words[(i + 9) % 16]), _mm256_add_epi32(sum0, sum1))
}

/// Rotates words to the right by `RIGHT` bits. `LEFT` is 32 minus `RIGHT`.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate_right<const RIGHT: i32, const LEFT: i32>(x: __m256i) -> __m256i {
    const { assert!(RIGHT + LEFT == 32) }
    _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(x), _mm256_slli_epi32::<LEFT>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor3(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_xor_si256(_mm256_xor_si256(x, y), z)
}

/// Transposes eight rows of eight big-endian words to one vector per word, or back.
#[inline]
#[target_feature(enable = "avx2")]
fn columns(rows: [__m256i; 8]) -> [__m256i; 8] {
    let order = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
    let rows = rows.map(|row| _mm256_shuffle_epi8(row, order));
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in [0, 4] {
        fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut columns = fours;
    for i in 0..4 {
        columns[i] = _mm256_permute2x128_si256::<0x20>(fours[i], fours[i + 4]);
        columns[i + 4] = _mm256_permute2x128_si256::<0x31>(fours[i], fours[i + 4]);
    }
    columns
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; NODE], at: usize) -> __m256i {
    let bytes: &[u8; 32] = bytes[at..].first_chunk().expect("32 bytes are left");
    // SAFETY: 32 bytes can be read through the reference; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
