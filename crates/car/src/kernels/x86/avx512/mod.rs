//! SHA-256 nodes and piece windows with AVX-512, in two streams of sixteen lanes.
//!
//! Each lane hashes one subtree of a window, so digests stay in their lanes from level to level, one vector
//! per word. Only the last level of a batch stores digests as rows of bytes.

mod blake2b;
mod nodes;
mod sha256;
use std::arch::x86_64::{
    __m128i, __m512i, _MM_HINT_T0, _mm_prefetch, _mm_set_epi64x, _mm_storeu_si128, _mm512_alignr_epi64,
    _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_extracti32x4_epi32, _mm512_loadu_si512,
    _mm512_set_epi64, _mm512_setzero_si512, _mm512_shldv_epi64, _mm512_shrdv_epi64, _mm512_shuffle_epi8,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use crate::fr32::{FIELD_TOP, QUAD_RAW};
use crate::kernels::x86::avx512::nodes::{Digests, Words, hash_32_nodes};
use crate::kernels::x86::shani;
use crate::kernels::{DIGEST, Kernel, NODE, Rows, WINDOW_RAW, WINDOWS_AT_ONCE, portable};
use crate::profile::BlockHash;

pub(super) static KERNEL: Kernel =
    Kernel { name: "avx512", hash_nodes, hash_windows, hash_blocks, blocks_at_once: 16 };

/// Lanes of one vector.
const LANES: usize = 16;
/// Nodes that are hashed at once.
const AT_ONCE: usize = 2 * LANES;
/// Least number of nodes for lanes; fewer nodes are faster with the SHA extensions.
///
/// Measured on Zen 5: 32 lanes take as long as 11 nodes.
const NODES_MIN: usize = 12;
/// Quads of a window per lane.
const LANE_QUADS: usize = WINDOW_RAW / QUAD_RAW / LANES;
/// Bytes of a window's digests after the levels in lanes: two digests per lane.
const WINDOW_ROW: usize = AT_ONCE * DIGEST;

const CACHE_LINE: usize = 64;
/// Cache lines to prefetch with every second quad, so that the next window is in the cache after the last
/// quad.
const LINES_PER_STEP: usize = WINDOW_RAW.div_ceil(CACHE_LINE * LANE_QUADS / 2);

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Whether the processor can shift vectors by bits across words, as Fr32 expansion needs.
fn has_wide_shifts() -> bool {
    is_x86_feature_detected!("avx512vbmi2")
}

fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert!(is_available(), "chosen only where it can run");
    let whole = output.len() / DIGEST / AT_ONCE * AT_ONCE;
    let (lanes, rest) = output.split_at_mut(whole * DIGEST);
    let (lane_nodes, rest_nodes) = input.split_at(whole * NODE);
    // SAFETY: the features were just found.
    unsafe { hash_in_lanes(lanes, lane_nodes) }
    if rest.len() < NODES_MIN * DIGEST {
        hash_few(rest, rest_nodes);
        return;
    }
    let mut nodes = [0; AT_ONCE * NODE];
    let mut digests = [0; AT_ONCE * DIGEST];
    nodes[..rest_nodes.len()].copy_from_slice(rest_nodes);
    // SAFETY: the features were just found.
    unsafe { hash_in_lanes(&mut digests, &nodes) }
    rest.copy_from_slice(&digests[..rest.len()]);
}

/// Hashes nodes one or two at a time. Skylake and Cascade Lake have AVX-512, but no SHA extensions.
fn hash_few(output: &mut [u8], input: &[u8]) {
    if shani::is_available() { shani::hash_nodes(output, input) } else { portable::hash_nodes(output, input) }
}

fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    assert!(is_available(), "chosen only where it can run");
    if !has_wide_shifts() {
        portable::expand_and_fold(hash_nodes, digests, windows, rows);
        return;
    }
    let spans = windows.chunks(WINDOWS_AT_ONCE * WINDOW_RAW);
    for (digests, span) in digests.chunks_mut(WINDOWS_AT_ONCE * DIGEST).zip(spans) {
        let mut length = span.len() / WINDOW_RAW * WINDOW_ROW;
        rows.row.resize(WINDOWS_AT_ONCE * WINDOW_ROW, 0);
        rows.next.resize(WINDOWS_AT_ONCE * WINDOW_ROW, 0);
        let mut left = span;
        for row in rows.row[..length].chunks_exact_mut(WINDOW_ROW) {
            let row = row.first_chunk_mut().expect("rows of one length");
            let (window, after) = left.split_first_chunk().expect("a window for each row");
            // SAFETY: the features were just found.
            unsafe { hash_window_lanes(row, window, after) }
            left = after;
        }
        while length > 2 * digests.len() {
            hash_nodes(&mut rows.next[..length / 2], &rows.row[..length]);
            std::mem::swap(&mut rows.row, &mut rows.next);
            length /= 2;
        }
        hash_nodes(digests, &rows.row[..length]);
    }
}

fn hash_blocks(hash: BlockHash, digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    assert!(is_available(), "chosen only where it can run");
    match hash {
        BlockHash::Blake2b256 => blake2b::hash_blocks(digests, blocks),
        BlockHash::Sha2_256 => sha256::hash_blocks(digests, blocks),
    }
}

/// Hashes nodes in lanes. Their number is a multiple of [`AT_ONCE`].
#[target_feature(enable = "avx512f,avx512bw")]
fn hash_in_lanes(output: &mut [u8], input: &[u8]) {
    for (output, input) in output.chunks_exact_mut(AT_ONCE * DIGEST).zip(input.chunks_exact(AT_ONCE * NODE)) {
        let mut words = zero_words();
        for stream in 0..2 {
            let rows: [__m512i; LANES] =
                std::array::from_fn(|lane| load(input, (stream * LANES + lane) * NODE));
            for (word, column) in words.iter_mut().zip(columns_of_words(rows)) {
                word[stream] = column;
            }
        }
        let mut digests = zero_digests();
        hash_32_nodes(&mut digests, &mut words);
        for (stream, output) in output.chunks_exact_mut(LANES * DIGEST).enumerate() {
            store_digests(output, 0, DIGEST, digests.map(|word| word[stream]));
        }
    }
}

/// Hashes a window to two digests per lane. Each lane has sixteen quads, 2 KiB after expansion.
///
/// Prefetches the bytes after the window (measured: 4 % less time for the whole pipeline).
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn hash_window_lanes(row: &mut [u8; WINDOW_ROW], window: &[u8; WINDOW_RAW], after: &[u8]) {
    let mut row_digests = [[_mm512_setzero_si512(); 8]; LANE_QUADS];
    let mut digests = zero_digests();
    // Two quads give four leaf nodes, which give two nodes, which are hashed together.
    let mut ahead = after[..after.len().min(WINDOW_RAW)].chunks(CACHE_LINE);
    for quad in (0..LANE_QUADS).step_by(2) {
        for line in ahead.by_ref().take(LINES_PER_STEP) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
        let mut parents = zero_words();
        for half in 0..2 {
            let mut words = load_quads(window, quad + half);
            hash_32_nodes(&mut digests, &mut words);
            for k in 0..8 {
                parents[k][half] = digests[k][0];
                parents[8 + k][half] = digests[k][1];
            }
        }
        hash_32_nodes(&mut digests, &mut parents);
        for k in 0..8 {
            row_digests[quad][k] = digests[k][0];
            row_digests[quad + 1][k] = digests[k][1];
        }
    }
    let mut length = LANE_QUADS;
    while length > 2 {
        for first in (0..length).step_by(4) {
            let mut words = zero_words();
            for k in 0..8 {
                words[k] = [row_digests[first][k], row_digests[first + 2][k]];
                words[8 + k] = [row_digests[first + 1][k], row_digests[first + 3][k]];
            }
            hash_32_nodes(&mut digests, &mut words);
            for k in 0..8 {
                row_digests[first / 2][k] = digests[k][0];
                row_digests[first / 2 + 1][k] = digests[k][1];
            }
        }
        length /= 2;
    }
    store_digests(row, 0, 2 * DIGEST, row_digests[0]);
    store_digests(row, DIGEST, 2 * DIGEST, row_digests[1]);
}

/// Loads and expands both leaf nodes of one quad in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn load_quads(window: &[u8; WINDOW_RAW], quad: usize) -> Words {
    let at = |lane: usize| (lane * LANE_QUADS + quad) * QUAD_RAW;
    let mut words = zero_words();
    let first = std::array::from_fn(|lane| fr32_first_half(load(window, at(lane))));
    for (word, column) in words.iter_mut().zip(columns_of_words(first)) {
        word[0] = column;
    }
    // The second half starts inside byte 63 and ends with the quad.
    let second = std::array::from_fn(|lane| fr32_second_half(load(window, at(lane) + 63)));
    for (word, column) in words.iter_mut().zip(columns_of_words(second)) {
        word[1] = column;
    }
    words
}

/// The first two field elements of a quad from its first 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn fr32_first_half(bytes: __m512i) -> __m512i {
    let before = _mm512_alignr_epi64::<7>(bytes, _mm512_setzero_si512());
    let shifted = _mm512_shldv_epi64(bytes, before, _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0));
    _mm512_and_si512(shifted, field_mask())
}

/// The last two field elements of a quad from its last 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn fr32_second_half(bytes: __m512i) -> __m512i {
    let after = _mm512_alignr_epi64::<1>(_mm512_setzero_si512(), bytes);
    let shifted = _mm512_shrdv_epi64(bytes, after, _mm512_set_epi64(2, 2, 2, 2, 4, 4, 4, 4));
    _mm512_and_si512(shifted, field_mask())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn field_mask() -> __m512i {
    const TOP: i64 = FIELD_TOP.cast_signed();
    _mm512_set_epi64(TOP, -1, -1, -1, TOP, -1, -1, -1)
}

/// Transposes sixteen rows of sixteen big-endian words to one vector per word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn columns_of_words(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let rows = rows.map(|row| swap_bytes(row));
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in 0..4 {
        fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    let mut columns = fours;
    for i in 0..4 {
        let a = _mm512_shuffle_i32x4::<0x88>(fours[i], fours[i + 4]);
        let b = _mm512_shuffle_i32x4::<0x88>(fours[i + 8], fours[i + 12]);
        let c = _mm512_shuffle_i32x4::<0xdd>(fours[i], fours[i + 4]);
        let d = _mm512_shuffle_i32x4::<0xdd>(fours[i + 8], fours[i + 12]);
        columns[i] = _mm512_shuffle_i32x4::<0x88>(a, b);
        columns[i + 8] = _mm512_shuffle_i32x4::<0xdd>(a, b);
        columns[i + 4] = _mm512_shuffle_i32x4::<0x88>(c, d);
        columns[i + 12] = _mm512_shuffle_i32x4::<0xdd>(c, d);
    }
    columns
}

/// Stores sixteen digests, one vector per word, as bytes: the digest of lane `l` at `start + l · stride`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn store_digests(output: &mut [u8], start: usize, stride: usize, words: [__m512i; 8]) {
    let pairs: [__m512i; 8] = std::array::from_fn(|i| {
        if i % 2 == 0 {
            _mm512_unpacklo_epi32(words[i], words[i + 1])
        } else {
            _mm512_unpackhi_epi32(words[i - 1], words[i])
        }
    });
    // Part `q` of `fours[k]` is words 0 to 3 of lane `4q + k`; of `fours[4 + k]`, words 4 to 7.
    let mut fours = pairs;
    for half in [0, 4] {
        fours[half] = _mm512_unpacklo_epi64(pairs[half], pairs[half + 2]);
        fours[half + 1] = _mm512_unpackhi_epi64(pairs[half], pairs[half + 2]);
        fours[half + 2] = _mm512_unpacklo_epi64(pairs[half + 1], pairs[half + 3]);
        fours[half + 3] = _mm512_unpackhi_epi64(pairs[half + 1], pairs[half + 3]);
    }
    for k in 0..4 {
        for (offset, four) in [(0, swap_bytes(fours[k])), (16, swap_bytes(fours[4 + k]))] {
            let parts = [
                _mm512_extracti32x4_epi32::<0>(four),
                _mm512_extracti32x4_epi32::<1>(four),
                _mm512_extracti32x4_epi32::<2>(four),
                _mm512_extracti32x4_epi32::<3>(four),
            ];
            for (q, part) in parts.into_iter().enumerate() {
                store(output, start + (4 * q + k) * stride + offset, part);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swap_bytes(words: __m512i) -> __m512i {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(order))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero_words() -> Words {
    [[_mm512_setzero_si512(); 2]; 16]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero_digests() -> Digests {
    [[_mm512_setzero_si512(); 2]; 8]
}

/// Loads the 64 bytes at an offset.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8], at: usize) -> __m512i {
    let bytes: &[u8; 64] = bytes[at..].first_chunk().expect("64 bytes are left");
    // SAFETY: 64 bytes can be read through the reference; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(bytes: &mut [u8], at: usize, value: __m128i) {
    let bytes: &mut [u8; 16] = bytes[at..].first_chunk_mut().expect("16 bytes are left");
    // SAFETY: 16 bytes can be written through the reference; the store needs no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
