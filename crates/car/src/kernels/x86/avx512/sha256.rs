//! SHA-256 of sixteen blocks of one length, one in each lane of an AVX-512 vector.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_ror_epi32, _mm512_set1_epi32, _mm512_srli_epi32,
    _mm512_ternarylogic_epi32,
};

use crate::kernels::constants::{ROUND, START};
use crate::kernels::x86::avx512::{columns_of_words, load, store_digests};
use crate::kernels::{DIGEST, portable};
use crate::profile::BlockHash;

/// Blocks that are hashed at once.
const LANES: usize = 16;
/// Bytes of one compression.
const CHUNK: usize = 64;
/// Least number of blocks for lanes; fewer blocks are faster one after the other.
///
/// Measured on Zen 5: all lanes take as long as eight blocks through the SHA extensions.
const BLOCKS_MIN: usize = 9;

type Words = [__m512i; 16];
type State = [__m512i; 8];

/// Hashes blocks of one length.
pub(super) fn hash_blocks(digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    let length = blocks.first().map_or(0, |block| block.len());
    for (digests, blocks) in digests.chunks_mut(LANES).zip(blocks.chunks(LANES)) {
        if blocks.len() < BLOCKS_MIN || !crate::kernels::x86::avx512::is_available() {
            portable::hash_blocks(BlockHash::Sha2_256, digests, blocks);
            continue;
        }
        // Unused lanes repeat the first block.
        let lanes = std::array::from_fn(|lane| *blocks.get(lane).unwrap_or(&blocks[0]));
        // SAFETY: the features were just found.
        let all = unsafe { hash_lanes(&lanes, length) };
        digests.copy_from_slice(&all[..digests.len()]);
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn hash_lanes(blocks: &[&[u8]; LANES], length: usize) -> [[u8; DIGEST]; LANES] {
    let mut state: State = START.map(|word| _mm512_set1_epi32(word.cast_signed()));
    let whole = length / CHUNK * CHUNK;
    for at in (0..whole).step_by(CHUNK) {
        let words = columns_of_words(std::array::from_fn(|lane| load(blocks[lane], at)));
        compress(&mut state, words);
    }
    // The rest, a one bit, zeros, and the length in bits at the end of one or two chunks.
    let mut tails = [[0; 2 * CHUNK]; LANES];
    let rest = length - whole;
    let tail_len = if rest < CHUNK - 8 { CHUNK } else { 2 * CHUNK };
    for (tail, block) in tails.iter_mut().zip(blocks) {
        tail[..rest].copy_from_slice(&block[whole..]);
        tail[rest] = 0x80;
        tail[tail_len - 8..tail_len].copy_from_slice(&(length as u64 * 8).to_be_bytes());
    }
    for at in (0..tail_len).step_by(CHUNK) {
        let words = columns_of_words(std::array::from_fn(|lane| load(&tails[lane], at)));
        compress(&mut state, words);
    }
    let mut digests = [[0; DIGEST]; LANES];
    store_digests(digests.as_flattened_mut(), 0, DIGEST, state);
    digests
}

#[inline(never)]
#[target_feature(enable = "avx512f")]
fn compress(state: &mut State, mut words: Words) {
    let mut working = *state;
    for (pass, constants) in ROUND.as_chunks::<16>().0.iter().enumerate() {
        eight_rounds(&mut working, &words, constants, 0);
        eight_rounds(&mut working, &words, constants, 8);
        if pass < 3 {
            for i in 0..16 {
                words[i] = later_word(&words, i);
            }
        }
    }
    for (word, worked) in state.iter_mut().zip(working) {
        *word = _mm512_add_epi32(*word, worked);
    }
}

/// Eight rounds, after which every word has its role again: the roles rotate, not the values.
#[inline]
#[target_feature(enable = "avx512f")]
fn eight_rounds(state: &mut State, words: &Words, constants: &[u32; 16], at: usize) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    let word = |i: usize| _mm512_add_epi32(words[at + i], _mm512_set1_epi32(constants[at + i].cast_signed()));
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
#[target_feature(enable = "avx512f")]
fn round([a, b, c, d, e, f, g, h]: State, word: __m512i) -> (__m512i, __m512i) {
    let choice = _mm512_ternarylogic_epi32::<0xca>(e, f, g);
    let sum1 = _mm512_ternarylogic_epi32::<0x96>(
        _mm512_ror_epi32::<6>(e),
        _mm512_ror_epi32::<11>(e),
        _mm512_ror_epi32::<25>(e),
    );
    let first = _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(h, word), choice), sum1);
    let sum0 = _mm512_ternarylogic_epi32::<0x96>(
        _mm512_ror_epi32::<2>(a),
        _mm512_ror_epi32::<13>(a),
        _mm512_ror_epi32::<22>(a),
    );
    let majority = _mm512_ternarylogic_epi32::<0xe8>(a, b, c);
    (_mm512_add_epi32(d, first), _mm512_add_epi32(_mm512_add_epi32(sum0, majority), first))
}

/// The word sixteen rounds after word `i`.
#[inline]
#[target_feature(enable = "avx512f")]
fn later_word(words: &Words, i: usize) -> __m512i {
    let (x, y) = (words[(i + 1) % 16], words[(i + 14) % 16]);
    let sum0 = _mm512_ternarylogic_epi32::<0x96>(
        _mm512_ror_epi32::<7>(x),
        _mm512_ror_epi32::<18>(x),
        _mm512_srli_epi32::<3>(x),
    );
    let sum1 = _mm512_ternarylogic_epi32::<0x96>(
        _mm512_ror_epi32::<17>(y),
        _mm512_ror_epi32::<19>(y),
        _mm512_srli_epi32::<10>(y),
    );
    let sums = _mm512_add_epi32(sum0, sum1);
    _mm512_add_epi32(_mm512_add_epi32(words[i], words[(i + 9) % 16]), sums)
}
