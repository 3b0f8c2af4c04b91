//! BLAKE2b-256 of sixteen blocks of one length, eight in each of two interleaved AVX-512 streams.
//!
//! Written in assembly: every operation works in place and takes the message from memory, so the sixteen
//! words of state of both streams fill the 32 registers. The compiler does not find this allocation.

use std::arch::asm;
use std::arch::x86_64::{
    __m512i, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shuffle_i64x2, _mm512_storeu_si512,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use crate::kernels::x86::avx512::load;
use crate::kernels::x86::blake2b_constants::{CHUNK, PARAMETERS, START};
use crate::kernels::{DIGEST, portable};
use crate::profile::BlockHash;

/// Lanes of one stream.
const LANES: usize = 8;
/// Blocks that are hashed at once.
const AT_ONCE: usize = 2 * LANES;
/// Least number of blocks for lanes; fewer blocks are faster one after the other.
///
/// Measured on Zen 5: all lanes take as long as two or three blocks.
const BLOCKS_MIN: usize = 3;

/// Word `k` of lane `l` of stream `s` is lane `l` of `words[k][s]`.
type Message = [[__m512i; 2]; 16];
type State = [[__m512i; 2]; 8];

/// Hashes blocks of one length.
pub(super) fn hash_blocks(digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
    let length = blocks.first().map_or(0, |block| block.len());
    for (digests, blocks) in digests.chunks_mut(AT_ONCE).zip(blocks.chunks(AT_ONCE)) {
        if blocks.len() < BLOCKS_MIN || length == 0 || !crate::kernels::x86::avx512::is_available() {
            portable::hash_blocks(BlockHash::Blake2b256, digests, blocks);
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
fn hash_lanes(blocks: &[&[u8]; AT_ONCE], length: usize) -> [[u8; DIGEST]; AT_ONCE] {
    let zero = _mm512_setzero_si512();
    let mut state: State = START.map(|word| [_mm512_set1_epi64(word.cast_signed()); 2]);
    state[0] = state[0].map(|word| _mm512_xor_si512(word, _mm512_set1_epi64(PARAMETERS)));
    let mut message: Message = [[zero; 2]; 16];
    // The last bytes are hashed with the end mark, even when they fill a chunk.
    let last = (length - 1) / CHUNK * CHUNK;
    for at in (0..last).step_by(CHUNK) {
        for stream in 0..2 {
            load_message(&mut message, stream, |lane| (blocks[stream * LANES + lane], at));
        }
        compress(&mut state, &message, (at + CHUNK) as u64, 0);
    }
    let mut tails = [[0; CHUNK]; AT_ONCE];
    for (tail, block) in tails.iter_mut().zip(blocks) {
        tail[..length - last].copy_from_slice(&block[last..]);
    }
    for stream in 0..2 {
        load_message(&mut message, stream, |lane| (&tails[stream * LANES + lane], 0));
    }
    compress(&mut state, &message, length as u64, u64::MAX);

    let mut digests = [[0; DIGEST]; AT_ONCE];
    for (word, streams) in state.iter().take(DIGEST / 8).enumerate() {
        for (stream, vector) in streams.iter().enumerate() {
            for (lane, value) in words_of(*vector).into_iter().enumerate() {
                digests[stream * LANES + lane][word * 8..][..8].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    digests
}

/// Loads one stream's message: 128 bytes of each lane, transposed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_message<'a>(message: &mut Message, stream: usize, place: impl Fn(usize) -> (&'a [u8], usize)) {
    for half in 0..2 {
        let rows = std::array::from_fn(|lane| {
            let (bytes, at) = place(lane);
            load(bytes, at + half * 64)
        });
        for (word, column) in message[half * 8..].iter_mut().zip(columns(rows)) {
            word[stream] = column;
        }
    }
}

/// Transposes eight rows of eight words to one vector per word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn columns(rows: [__m512i; 8]) -> [__m512i; 8] {
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
    }
    let mut columns = pairs;
    for i in 0..2 {
        let a = _mm512_shuffle_i64x2::<0x88>(pairs[i], pairs[i + 2]);
        let b = _mm512_shuffle_i64x2::<0x88>(pairs[i + 4], pairs[i + 6]);
        let c = _mm512_shuffle_i64x2::<0xdd>(pairs[i], pairs[i + 2]);
        let d = _mm512_shuffle_i64x2::<0xdd>(pairs[i + 4], pairs[i + 6]);
        columns[i] = _mm512_shuffle_i64x2::<0x88>(a, b);
        columns[i + 4] = _mm512_shuffle_i64x2::<0xdd>(a, b);
        columns[i + 2] = _mm512_shuffle_i64x2::<0x88>(c, d);
        columns[i + 6] = _mm512_shuffle_i64x2::<0xdd>(c, d);
    }
    columns
}

#[inline]
#[target_feature(enable = "avx512f")]
fn words_of(vector: __m512i) -> [u64; 8] {
    let mut words = [0u64; 8];
    // SAFETY: 64 bytes can be written through the reference; the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
    words
}

/// Both streams: `x = x op y`.
macro_rules! op {
    ($op:literal ($x0:tt $x1:tt) ($y0:tt $y1:tt)) => {
        concat!(
            $op, " zmm", $x0, ", zmm", $x0, ", zmm", $y0, "\n", $op, " zmm", $x1, ", zmm", $x1, ", zmm", $y1,
            "\n",
        )
    };
}

/// Both streams: `x = x >>> bits`.
macro_rules! rotate {
    (($x0:tt $x1:tt) $bits:literal) => {
        concat!(
            "vprorq zmm",
            $x0,
            ", zmm",
            $x0,
            ", ",
            $bits,
            "\n",
            "vprorq zmm",
            $x1,
            ", zmm",
            $x1,
            ", ",
            $bits,
            "\n",
        )
    };
}

/// Both streams: `x = x + message[i]`.
macro_rules! add_word {
    (($x0:tt $x1:tt) $i:tt) => {
        concat!(
            "vpaddq zmm",
            $x0,
            ", zmm",
            $x0,
            ", zmmword ptr [{message} + ",
            $i,
            "*128]\n",
            "vpaddq zmm",
            $x1,
            ", zmm",
            $x1,
            ", zmmword ptr [{message} + ",
            $i,
            "*128 + 64]\n",
        )
    };
}

/// Half of four interleaved mixings.
macro_rules! mix {
    ($bits_d:literal $bits_b:literal
     $a0:tt $b0:tt $c0:tt $d0:tt $a1:tt $b1:tt $c1:tt $d1:tt
     $a2:tt $b2:tt $c2:tt $d2:tt $a3:tt $b3:tt $c3:tt $d3:tt
     $m0:tt $m1:tt $m2:tt $m3:tt) => {
        concat!(
            add_word!($a0 $m0), add_word!($a1 $m1), add_word!($a2 $m2), add_word!($a3 $m3),
            op!("vpaddq" $a0 $b0), op!("vpaddq" $a1 $b1), op!("vpaddq" $a2 $b2), op!("vpaddq" $a3 $b3),
            op!("vpxorq" $d0 $a0), op!("vpxorq" $d1 $a1), op!("vpxorq" $d2 $a2), op!("vpxorq" $d3 $a3),
            rotate!($d0 $bits_d), rotate!($d1 $bits_d), rotate!($d2 $bits_d), rotate!($d3 $bits_d),
            op!("vpaddq" $c0 $d0), op!("vpaddq" $c1 $d1), op!("vpaddq" $c2 $d2), op!("vpaddq" $c3 $d3),
            op!("vpxorq" $b0 $c0), op!("vpxorq" $b1 $c1), op!("vpxorq" $b2 $c2), op!("vpxorq" $b3 $c3),
            rotate!($b0 $bits_b), rotate!($b1 $bits_b), rotate!($b2 $bits_b), rotate!($b3 $bits_b),
        )
    };
}

/// One round with its order of the message words. Stream 0 is in zmm0 to 15, stream 1 in zmm16 to 31.
macro_rules! round {
    ($m0:tt $m1:tt $m2:tt $m3:tt $m4:tt $m5:tt $m6:tt $m7:tt
     $m8:tt $m9:tt $m10:tt $m11:tt $m12:tt $m13:tt $m14:tt $m15:tt) => {
        concat!(
            mix!(32 24 (0 16) (4 20) (8 24) (12 28) (1 17) (5 21) (9 25) (13 29)
                (2 18) (6 22) (10 26) (14 30) (3 19) (7 23) (11 27) (15 31) $m0 $m2 $m4 $m6),
            mix!(16 63 (0 16) (4 20) (8 24) (12 28) (1 17) (5 21) (9 25) (13 29)
                (2 18) (6 22) (10 26) (14 30) (3 19) (7 23) (11 27) (15 31) $m1 $m3 $m5 $m7),
            mix!(32 24 (0 16) (5 21) (10 26) (15 31) (1 17) (6 22) (11 27) (12 28)
                (2 18) (7 23) (8 24) (13 29) (3 19) (4 20) (9 25) (14 30) $m8 $m10 $m12 $m14),
            mix!(16 63 (0 16) (5 21) (10 26) (15 31) (1 17) (6 22) (11 27) (12 28)
                (2 18) (7 23) (8 24) (13 29) (3 19) (4 20) (9 25) (14 30) $m9 $m11 $m13 $m15),
        )
    };
}

/// Loads word `$k` of the working state from the state, and word `$k + 8` from the starting values.
macro_rules! start_word {
    ($k:tt ($x0:tt $x1:tt) ($y0:tt $y1:tt)) => {
        concat!(
            "vmovdqa64 zmm",
            $x0,
            ", zmmword ptr [{state} + ",
            $k,
            "*128]\n",
            "vmovdqa64 zmm",
            $x1,
            ", zmmword ptr [{state} + ",
            $k,
            "*128 + 64]\n",
            "vpbroadcastq zmm",
            $y0,
            ", qword ptr [{start} + ",
            $k,
            "*8]\n",
            "vmovdqa64 zmm",
            $y1,
            ", zmm",
            $y0,
            "\n",
        )
    };
}

/// Updates word `$k` of the state with both halves of the working state.
macro_rules! end_word {
    ($k:tt ($x0:tt $x1:tt) ($y0:tt $y1:tt)) => {
        concat!(
            "vpternlogq zmm",
            $x0,
            ", zmm",
            $y0,
            ", zmmword ptr [{state} + ",
            $k,
            "*128], 0x96\n",
            "vpternlogq zmm",
            $x1,
            ", zmm",
            $y1,
            ", zmmword ptr [{state} + ",
            $k,
            "*128 + 64], 0x96\n",
            "vmovdqa64 zmmword ptr [{state} + ",
            $k,
            "*128], zmm",
            $x0,
            "\n",
            "vmovdqa64 zmmword ptr [{state} + ",
            $k,
            "*128 + 64], zmm",
            $x1,
            "\n",
        )
    };
}

/// All eight words.
macro_rules! eight_words {
    ($word:ident) => {
        concat!(
            $word!(0 (0 16) (8 24)), $word!(1 (1 17) (9 25)), $word!(2 (2 18) (10 26)), $word!(3 (3 19) (11 27)),
            $word!(4 (4 20) (12 28)), $word!(5 (5 21) (13 29)), $word!(6 (6 22) (14 30)), $word!(7 (7 23) (15 31)),
        )
    };
}

/// Compresses one chunk of every lane. `bytes` is the number of bytes up to its end; `end` is all ones for
/// the last chunk.
#[inline(never)]
#[target_feature(enable = "avx512f")]
fn compress(state: &mut State, message: &Message, bytes: u64, end: u64) {
    let marks = [bytes, end];
    // SAFETY: the code reads 2048 bytes at `message`, reads and writes 1024 bytes at `state`, both aligned
    // for their vectors and the latter exclusively borrowed, and reads 64 bytes at `start` and 16 at
    // `marks`. It uses no stack, and names the registers it changes. The feature it needs is enabled for
    // the function.
    unsafe {
        asm!(
            eight_words!(start_word),
            "vpxorq zmm12, zmm12, qword ptr [{marks}]{{1to8}}",
            "vpxorq zmm28, zmm28, qword ptr [{marks}]{{1to8}}",
            "vpxorq zmm14, zmm14, qword ptr [{marks} + 8]{{1to8}}",
            "vpxorq zmm30, zmm30, qword ptr [{marks} + 8]{{1to8}}",
            twelve_rounds!(round),
            eight_words!(end_word),
            state = in(reg) state.as_mut_ptr(),
            message = in(reg) message.as_ptr(),
            start = in(reg) START.as_ptr(),
            marks = in(reg) marks.as_ptr(),
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
            out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
            out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(nostack),
        );
    }
}
