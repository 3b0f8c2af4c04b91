//! Hashes two SHA-256 nodes side by side, each with its own message schedule, without any schedule in
//! advance.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    _mm_storeu_si128,
};

use crate::kernels::constants::{PADDING_ROUND, ROUND};
use crate::kernels::{DIGEST, NODE};

/// Hashes nodes two by two, and the last one alone.
#[target_feature(enable = "sha,sse4.1,ssse3")]
pub(super) fn hash_all(output: &mut [u8], input: &[u8]) {
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
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn hash<const N: usize>(digests: &mut [u8], nodes: &[u8]) {
    let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    // The instructions take the state as (A B E F) and (C D G H), the first word on top.
    let abef_start = _mm_set_epi64x(0x6a09_e667_bb67_ae85, 0x510e_527f_9b05_688c);
    let cdgh_start = _mm_set_epi64x(0x3c6e_f372_a54f_f53a, 0x1f83_d9ab_5be0_cd19);
    let mut abef = [abef_start; N];
    let mut cdgh = [cdgh_start; N];
    let mut words: [[__m128i; N]; 4] = std::array::from_fn(|quarter| {
        std::array::from_fn(|node| _mm_shuffle_epi8(load(nodes, node * NODE + quarter * 16), big_endian))
    });

    for quarter in 0..16 {
        let round = load_words(&ROUND, quarter * 4);
        let scheduled = words[quarter % 4].map(|word| _mm_add_epi32(word, round));
        four_rounds(&mut abef, &mut cdgh, scheduled);
        if quarter < 12 {
            for node in 0..N {
                let [first, second, third, fourth] =
                    std::array::from_fn(|ahead| words[(quarter + ahead) % 4][node]);
                let sum =
                    _mm_add_epi32(_mm_sha256msg1_epu32(first, second), _mm_alignr_epi8::<4>(fourth, third));
                words[quarter % 4][node] = _mm_sha256msg2_epu32(sum, fourth);
            }
        }
    }
    for node in 0..N {
        abef[node] = _mm_add_epi32(abef[node], abef_start);
        cdgh[node] = _mm_add_epi32(cdgh[node], cdgh_start);
    }

    let (abef_middle, cdgh_middle) = (abef, cdgh);
    for quarter in 0..16 {
        four_rounds(&mut abef, &mut cdgh, [load_words(&PADDING_ROUND, quarter * 4); N]);
    }
    for node in 0..N {
        let feba = _mm_shuffle_epi32::<0x1b>(_mm_add_epi32(abef[node], abef_middle[node]));
        let dchg = _mm_shuffle_epi32::<0xb1>(_mm_add_epi32(cdgh[node], cdgh_middle[node]));
        let abcd = _mm_blend_epi16::<0xf0>(feba, dchg);
        let efgh = _mm_alignr_epi8::<8>(dchg, feba);
        store(digests, node * DIGEST, _mm_shuffle_epi8(abcd, big_endian));
        store(digests, node * DIGEST + 16, _mm_shuffle_epi8(efgh, big_endian));
        digests[node * DIGEST + DIGEST - 1] &= 0x3f;
    }
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn four_rounds<const N: usize>(abef: &mut [__m128i; N], cdgh: &mut [__m128i; N], words: [__m128i; N]) {
    for node in 0..N {
        cdgh[node] = _mm_sha256rnds2_epu32(cdgh[node], abef[node], words[node]);
    }
    for node in 0..N {
        abef[node] = _mm_sha256rnds2_epu32(abef[node], cdgh[node], _mm_shuffle_epi32::<0x0e>(words[node]));
    }
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn load(bytes: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 16] = bytes[at..].first_chunk().expect("sixteen bytes are left");
    // SAFETY: sixteen bytes can be read through the reference; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn load_words(words: &[u32; 64], at: usize) -> __m128i {
    let words: &[u32; 4] = words[at..].first_chunk().expect("four words are left");
    // SAFETY: sixteen bytes can be read through the reference; the load needs no alignment.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn store(bytes: &mut [u8], at: usize, value: __m128i) {
    let bytes: &mut [u8; 16] = bytes[at..].first_chunk_mut().expect("sixteen bytes are left");
    // SAFETY: sixteen bytes can be written through the reference; the store needs no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
