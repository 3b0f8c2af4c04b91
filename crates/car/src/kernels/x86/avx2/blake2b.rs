//! BLAKE2b-256 of four blocks of one length, one in each lane of AVX2.
//!
//! Written in assembly: the sixteen words of state fill the sixteen registers, and the message comes from
//! memory. A rotation by 63 needs one more register, so the word of state that is used last after it is
//! spilled to memory.
//!
//! A compression has 1536 operations, for which Zen 3 needs 384 cycles at four a cycle. It takes 490: only
//! two of the four can be shuffles, and four interleaved mixings just cover the latencies. Some ten thousand
//! other orders were measured; none is faster by a hundredth.

use std::arch::asm;
use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_castsi128_si256, _mm256_inserti128_si256, _mm256_set1_epi64x,
    _mm256_setzero_si256, _mm256_storeu_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64,
    _mm256_xor_si256,
};

use crate::kernels::x86::avx2;
use crate::kernels::x86::blake2b_constants::{CHUNK, PARAMETERS, START};
use crate::kernels::{DIGEST, portable};
use crate::profile::BlockHash;

const LANES: usize = 4;
/// Least number of blocks for lanes; fewer blocks are faster one after the other.
///
/// Measured on Zen 3: all lanes take about as long as one block.
const BLOCKS_MIN: usize = 2;

/// Word `k` of lane `l` is lane `l` of `words[k]`.
type Message = [__m256i; 16];
type State = [__m256i; 8];

/// Shuffles that rotate words to the right: by 24 bits, then by 16.
static ROTATIONS: Rotations = Rotations([rotation(3), rotation(2)]);

/// Each of the two lies in one cache line.
#[repr(align(64))]
struct Rotations([[u8; 32]; 2]);

/// The shuffle that rotates words of eight bytes to the right by `bytes`.
const fn rotation(bytes: u8) -> [u8; 32] {
    let mut from = [0; 32];
    let mut at = 0;
    while at < 32 {
        // A shuffle works on halves of 16 bytes.
        from[at as usize] = (at & 8) | ((at + bytes) & 7);
        at += 1;
    }
    from
}

/// Hashes blocks of one length.
pub(in crate::kernels::x86) fn hash_blocks(digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    assert!(avx2::is_available(), "chosen only where it can run");
    let length = blocks.first().map_or(0, |block| block.len());
    for (digests, blocks) in digests.chunks_mut(LANES).zip(blocks.chunks(LANES)) {
        if blocks.len() < BLOCKS_MIN || length == 0 {
            portable::hash_blocks(BlockHash::Blake2b256, digests, blocks);
            continue;
        }
        // Unused lanes repeat the first block.
        let lanes = std::array::from_fn(|lane| *blocks.get(lane).unwrap_or(&blocks[0]));
        // SAFETY: the feature was just found.
        let all = unsafe { hash_lanes(&lanes, length) };
        digests.copy_from_slice(&all[..digests.len()]);
    }
}

#[target_feature(enable = "avx2")]
fn hash_lanes(blocks: &[&[u8]; LANES], length: usize) -> [[u8; DIGEST]; LANES] {
    let mut state: State = START.map(|word| _mm256_set1_epi64x(word.cast_signed()));
    state[0] = _mm256_xor_si256(state[0], _mm256_set1_epi64x(PARAMETERS));
    let mut message: Message = [_mm256_setzero_si256(); 16];
    // The last bytes are hashed with the end mark, even when they fill a chunk.
    let last = (length - 1) / CHUNK * CHUNK;
    for at in (0..last).step_by(CHUNK) {
        load_message(&mut message, blocks, at);
        compress(&mut state, &message, (at + CHUNK) as u64, 0);
    }
    let mut tails = [[0; CHUNK]; LANES];
    for (tail, block) in tails.iter_mut().zip(blocks) {
        tail[..length - last].copy_from_slice(&block[last..]);
    }
    load_message(&mut message, &tails.each_ref().map(<[u8; CHUNK]>::as_slice), 0);
    compress(&mut state, &message, length as u64, u64::MAX);

    let mut digests = [[0; DIGEST]; LANES];
    for (word, vector) in state.iter().take(DIGEST / 8).enumerate() {
        for (lane, value) in words_of(*vector).into_iter().enumerate() {
            digests[lane][word * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
    }
    digests
}

/// Loads and transposes 128 bytes of each lane. Two lanes share a register from the start.
#[inline]
#[target_feature(enable = "avx2")]
fn load_message(message: &mut Message, blocks: &[&[u8]; LANES], at: usize) {
    for (pair, words) in message.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let row = |lane: usize| load(blocks[lane], at + pair * 16);
        let both = |low, high| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
        let (even, odd) = (both(row(0), row(2)), both(row(1), row(3)));
        *words = [_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd)];
    }
}

/// Sixteen bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 16] = bytes[at..].first_chunk().expect("sixteen bytes");
    // SAFETY: 16 bytes can be read through the reference; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn words_of(vector: __m256i) -> [u64; LANES] {
    let mut words = [0; LANES];
    // SAFETY: 32 bytes can be written through the reference; the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) }
    words
}

/// `x = x op y`.
macro_rules! op {
    ($op:literal $x:tt $y:tt) => {
        concat!($op, " ymm", $x, ", ymm", $x, ", ymm", $y, "\n")
    };
}

/// `x = x + message[i]`.
macro_rules! add_word {
    ($x:tt $i:tt) => {
        concat!("vpaddq ymm", $x, ", ymm", $x, ", ymmword ptr [{message} + ", $i, "*32]\n")
    };
}

/// `x = x >>> bits`; a rotation by 63 uses the register `$t`.
macro_rules! rotate {
    (32 $x:tt) => {
        concat!("vpshufd ymm", $x, ", ymm", $x, ", 0xb1\n")
    };
    (24 $x:tt) => {
        concat!("vpshufb ymm", $x, ", ymm", $x, ", ymmword ptr [{rotations}]\n")
    };
    (16 $x:tt) => {
        concat!("vpshufb ymm", $x, ", ymm", $x, ", ymmword ptr [{rotations} + 32]\n")
    };
    (63 $x:tt $t:tt) => {
        concat!(
            "vpaddq ymm",
            $t,
            ", ymm",
            $x,
            ", ymm",
            $x,
            "\n",
            "vpsrlq ymm",
            $x,
            ", ymm",
            $x,
            ", 63\n",
            "vpxor ymm",
            $x,
            ", ymm",
            $x,
            ", ymm",
            $t,
            "\n",
        )
    };
}

/// `c = c + d`; the word of state `c` is in its register or in `scratch`.
macro_rules! add_state {
    (register $c:tt $d:tt) => {
        op!("vpaddq" $c $d)
    };
    (scratch $c:tt $d:tt) => {
        concat!("vpaddq ymm", $c, ", ymm", $d, ", ymmword ptr [{scratch}]\n")
    };
}

/// Half of four interleaved mixings, up to the second rotation. `$from` says where the third word of the last
/// mixing is.
macro_rules! mix {
    ($bits:tt $from:tt $b0:tt $c0:tt $d0:tt $b1:tt $c1:tt $d1:tt $b2:tt $c2:tt $d2:tt $b3:tt $c3:tt $d3:tt
     $m0:tt $m1:tt $m2:tt $m3:tt) => {
        concat!(
            add_word!(0 $m0), add_word!(1 $m1), add_word!(2 $m2), add_word!(3 $m3),
            op!("vpaddq" 0 $b0), op!("vpaddq" 1 $b1), op!("vpaddq" 2 $b2), op!("vpaddq" 3 $b3),
            op!("vpxor" $d0 0), op!("vpxor" $d1 1), op!("vpxor" $d2 2), op!("vpxor" $d3 3),
            rotate!($bits $d0), rotate!($bits $d1), rotate!($bits $d2), rotate!($bits $d3),
            op!("vpaddq" $c0 $d0), op!("vpaddq" $c1 $d1), op!("vpaddq" $c2 $d2), add_state!($from $c3 $d3),
            op!("vpxor" $b0 $c0), op!("vpxor" $b1 $c1), op!("vpxor" $b2 $c2), op!("vpxor" $b3 $c3),
        )
    };
}

/// Four interleaved mixings. Afterwards the word of state `$t` is in `scratch`.
macro_rules! mix_all {
    ($t:tt, $b0:tt $c0:tt $d0:tt $b1:tt $c1:tt $d1:tt $b2:tt $c2:tt $d2:tt $b3:tt $c3:tt $d3:tt
     $m0:tt $m1:tt $m2:tt $m3:tt $m4:tt $m5:tt $m6:tt $m7:tt) => {
        concat!(
            mix!(32 scratch $b0 $c0 $d0 $b1 $c1 $d1 $b2 $c2 $d2 $b3 $c3 $d3 $m0 $m2 $m4 $m6),
            rotate!(24 $b0), rotate!(24 $b1), rotate!(24 $b2), rotate!(24 $b3),
            mix!(16 register $b0 $c0 $d0 $b1 $c1 $d1 $b2 $c2 $d2 $b3 $c3 $d3 $m1 $m3 $m5 $m7),
            "vmovdqa ymmword ptr [{scratch}], ymm", $t, "\n",
            rotate!(63 $b0 $t), rotate!(63 $b1 $t), rotate!(63 $b2 $t), rotate!(63 $b3 $t),
        )
    };
}

/// One round with its order of the message words. `scratch` has the word of state that is used last.
macro_rules! round {
    ($m0:tt $m1:tt $m2:tt $m3:tt $m4:tt $m5:tt $m6:tt $m7:tt
     $m8:tt $m9:tt $m10:tt $m11:tt $m12:tt $m13:tt $m14:tt $m15:tt) => {
        concat!(
            mix_all!(9, 4 8 12 5 9 13 6 10 14 7 11 15 $m0 $m1 $m2 $m3 $m4 $m5 $m6 $m7),
            mix_all!(11, 5 10 15 6 11 12 7 8 13 4 9 14 $m8 $m9 $m10 $m11 $m12 $m13 $m14 $m15),
        )
    };
}

/// Loads word `$k` of the working state from the state, and word `$k + 8` from the starting values.
macro_rules! start_word {
    ($k:tt $x:tt $y:tt) => {
        concat!(
            "vmovdqa ymm",
            $x,
            ", ymmword ptr [{state} + ",
            $k,
            "*32]\n",
            "vpbroadcastq ymm",
            $y,
            ", qword ptr [{start} + ",
            $k,
            "*8]\n",
        )
    };
}

/// Updates word `$k` of the state with both halves of the working state.
macro_rules! end_word {
    ($k:tt $x:tt $y:tt) => {
        concat!(
            op!("vpxor" $x $y),
            "vpxor ymm", $x, ", ymm", $x, ", ymmword ptr [{state} + ", $k, "*32]\n",
            "vmovdqa ymmword ptr [{state} + ", $k, "*32], ymm", $x, "\n",
        )
    };
}

/// All eight words.
macro_rules! eight_words {
    ($word:ident) => {
        concat!(
            $word!(0 0 8), $word!(1 1 9), $word!(2 2 10), $word!(3 3 11),
            $word!(4 4 12), $word!(5 5 13), $word!(6 6 14), $word!(7 7 15),
        )
    };
}

/// Compresses one chunk of every lane. `bytes` is the number of bytes up to its end; `end` is all ones for
/// the last chunk.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn compress(state: &mut State, message: &Message, bytes: u64, end: u64) {
    let marks = [bytes, end].map(|mark| _mm256_set1_epi64x(mark.cast_signed()));
    let mut scratch = _mm256_setzero_si256();
    // SAFETY: the code reads 512 bytes at `message`, reads and writes 256 bytes at `state` and 32 at
    // `scratch`, all aligned for their vectors and the latter two exclusively borrowed, and reads 64
    // bytes at `start`, at `marks` and at `rotations`. It uses no stack, and names the registers it
    // changes. The feature it needs is enabled for the function.
    unsafe {
        asm!(
            eight_words!(start_word),
            "vpxor ymm12, ymm12, ymmword ptr [{marks}]",
            "vpxor ymm14, ymm14, ymmword ptr [{marks} + 32]",
            "vmovdqa ymmword ptr [{scratch}], ymm11",
            twelve_rounds!(round),
            "vmovdqa ymm11, ymmword ptr [{scratch}]",
            eight_words!(end_word),
            state = in(reg) state.as_mut_ptr(),
            message = in(reg) message.as_ptr(),
            start = in(reg) START.as_ptr(),
            marks = in(reg) marks.as_ptr(),
            rotations = in(reg) ROTATIONS.0.as_ptr(),
            scratch = in(reg) &raw mut scratch,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack),
        );
    }
}
