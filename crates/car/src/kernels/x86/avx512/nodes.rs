//! Hashes 32 SHA-256 nodes at once, one in each lane of two interleaved AVX-512 streams.
//!
//! Written in assembly, because the compiler's order of the same instructions is 10 to 25 % slower on Zen 5
//! and changes from build to build. A single stream waits for its results (two cycles each), so every
//! instruction is written for both streams. All 32 registers are in use:
//!
//! ```text
//!             state a…h    last two words    temporaries
//! stream 0    zmm0–7       zmm16, zmm17      zmm20–25
//! stream 1    zmm8–15      zmm18, zmm19      zmm26–31
//! ```

use std::arch::asm;
use std::arch::x86_64::__m512i;

use crate::kernels::constants::{PADDING_ROUND, ROUND, START};

/// Word `k` of the message in lane `l` of stream `s` is lane `l` of `words[k][s]`.
pub(super) type Words = [[__m512i; 2]; 16];
/// Word `k` of the digest, in the same layout.
pub(super) type Digests = [[__m512i; 2]; 8];

/// Both streams: an instruction with two registers, and what follows them.
macro_rules! both {
    ($op:literal $x0:tt/$x1:tt $y0:tt/$y1:tt $tail:literal) => {
        concat!($op, " zmm", $x0, ", zmm", $y0, $tail, "\n", $op, " zmm", $x1, ", zmm", $y1, $tail, "\n")
    };
}

/// Both streams: an instruction with three registers, and what follows them.
macro_rules! both3 {
    ($op:literal $x0:tt/$x1:tt $y0:tt/$y1:tt $z0:tt/$z1:tt $tail:literal) => {
        concat!(
            $op, " zmm", $x0, ", zmm", $y0, ", zmm", $z0, $tail, "\n", $op, " zmm", $x1, ", zmm", $y1,
            ", zmm", $z1, $tail, "\n",
        )
    };
}

/// Both streams: adds word `$i` of the message.
macro_rules! add_word {
    ($x0:tt/$x1:tt $i:tt) => {
        concat!(
            "vpaddd zmm",
            $x0,
            ", zmm",
            $x0,
            ", zmmword ptr [{words} + ",
            $i,
            "*128]\n",
            "vpaddd zmm",
            $x1,
            ", zmm",
            $x1,
            ", zmmword ptr [{words} + ",
            $i,
            "*128 + 64]\n",
        )
    };
}

/// Both streams: adds round constant `$i`.
macro_rules! add_constant {
    ($x0:tt/$x1:tt $i:tt) => {
        concat!(
            "vpaddd zmm",
            $x0,
            ", zmm",
            $x0,
            ", dword ptr [{constants} + ",
            $i,
            "*4]{{1to16}}\n",
            "vpaddd zmm",
            $x1,
            ", zmm",
            $x1,
            ", dword ptr [{constants} + ",
            $i,
            "*4]{{1to16}}\n",
        )
    };
}

/// A round after word and constant were added to `h`.
macro_rules! round {
    ($a0:tt/$a1:tt $b0:tt/$b1:tt $c0:tt/$c1:tt $d0:tt/$d1:tt $e0:tt/$e1:tt $f0:tt/$f1:tt $g0:tt/$g1:tt $h0:tt/$h1:tt) => {
        concat!(
            both!("vmovdqa64" 20/26 $e0/$e1 ""),
            both!("vprord" 21/27 $e0/$e1 ", 6"),
            both!("vprord" 22/28 $e0/$e1 ", 11"),
            both3!("vpternlogd" 20/26 $f0/$f1 $g0/$g1 ", 0xca"),
            both!("vprord" 23/29 $e0/$e1 ", 25"),
            both3!("vpaddd" $h0/$h1 $h0/$h1 20/26 ""),
            both3!("vpternlogd" 21/27 22/28 23/29 ", 0x96"),
            both!("vprord" 22/28 $a0/$a1 ", 2"),
            both!("vmovdqa64" 24/30 $a0/$a1 ""),
            both!("vprord" 23/29 $a0/$a1 ", 13"),
            both3!("vpternlogd" 24/30 $b0/$b1 $c0/$c1 ", 0xe8"),
            both!("vprord" 25/31 $a0/$a1 ", 22"),
            both3!("vpaddd" $h0/$h1 $h0/$h1 21/27 ""),
            both3!("vpternlogd" 22/28 23/29 25/31 ", 0x96"),
            both3!("vpaddd" $d0/$d1 $d0/$d1 $h0/$h1 ""),
            both3!("vpaddd" $h0/$h1 $h0/$h1 24/30 ""),
            both3!("vpaddd" $h0/$h1 $h0/$h1 22/28 ""),
        )
    };
}

/// Replaces word `$i` by the word sixteen rounds later. `$n` holds the word two before it, then the new one.
macro_rules! schedule {
    ($i:tt $i1:tt $i9:tt $n0:tt/$n1:tt) => {
        concat!(
            "vmovdqa64 zmm20, zmmword ptr [{words} + ", $i1, "*128]\n",
            "vmovdqa64 zmm26, zmmword ptr [{words} + ", $i1, "*128 + 64]\n",
            both!("vprord" 21/27 20/26 ", 7"),
            both!("vprord" 22/28 20/26 ", 18"),
            both!("vpsrld" 20/26 20/26 ", 3"),
            both!("vprord" 23/29 $n0/$n1 ", 17"),
            both!("vprord" 24/30 $n0/$n1 ", 19"),
            both!("vpsrld" $n0/$n1 $n0/$n1 ", 10"),
            both3!("vpternlogd" 20/26 21/27 22/28 ", 0x96"),
            add_word!(20/26 $i),
            both3!("vpternlogd" $n0/$n1 23/29 24/30 ", 0x96"),
            add_word!(20/26 $i9),
            both3!("vpaddd" $n0/$n1 $n0/$n1 20/26 ""),
            "vmovdqa64 zmmword ptr [{words} + ", $i, "*128], zmm", $n0, "\n",
            "vmovdqa64 zmmword ptr [{words} + ", $i, "*128 + 64], zmm", $n1, "\n",
        )
    };
}

/// Sixteen rounds; `$step` is the macro of one round.
macro_rules! sixteen_rounds {
    ($step:ident) => {
        concat!(
            $step!(0 1 9 16/18 0/8 1/9 2/10 3/11 4/12 5/13 6/14 7/15),
            $step!(1 2 10 17/19 7/15 0/8 1/9 2/10 3/11 4/12 5/13 6/14),
            $step!(2 3 11 16/18 6/14 7/15 0/8 1/9 2/10 3/11 4/12 5/13),
            $step!(3 4 12 17/19 5/13 6/14 7/15 0/8 1/9 2/10 3/11 4/12),
            $step!(4 5 13 16/18 4/12 5/13 6/14 7/15 0/8 1/9 2/10 3/11),
            $step!(5 6 14 17/19 3/11 4/12 5/13 6/14 7/15 0/8 1/9 2/10),
            $step!(6 7 15 16/18 2/10 3/11 4/12 5/13 6/14 7/15 0/8 1/9),
            $step!(7 8 0 17/19 1/9 2/10 3/11 4/12 5/13 6/14 7/15 0/8),
            $step!(8 9 1 16/18 0/8 1/9 2/10 3/11 4/12 5/13 6/14 7/15),
            $step!(9 10 2 17/19 7/15 0/8 1/9 2/10 3/11 4/12 5/13 6/14),
            $step!(10 11 3 16/18 6/14 7/15 0/8 1/9 2/10 3/11 4/12 5/13),
            $step!(11 12 4 17/19 5/13 6/14 7/15 0/8 1/9 2/10 3/11 4/12),
            $step!(12 13 5 16/18 4/12 5/13 6/14 7/15 0/8 1/9 2/10 3/11),
            $step!(13 14 6 17/19 3/11 4/12 5/13 6/14 7/15 0/8 1/9 2/10),
            $step!(14 15 7 16/18 2/10 3/11 4/12 5/13 6/14 7/15 0/8 1/9),
            $step!(15 0 8 17/19 1/9 2/10 3/11 4/12 5/13 6/14 7/15 0/8),
        )
    };
}

/// A round of the message block that computes a later word.
macro_rules! message_step {
    ($i:tt $i1:tt $i9:tt $n0:tt/$n1:tt $a0:tt/$a1:tt $b0:tt/$b1:tt $c0:tt/$c1:tt $d0:tt/$d1:tt $e0:tt/$e1:tt $f0:tt/$f1:tt $g0:tt/$g1:tt $h0:tt/$h1:tt) => {
        concat!(
            add_word!($h0/$h1 $i),
            add_constant!($h0/$h1 $i),
            round!($a0/$a1 $b0/$b1 $c0/$c1 $d0/$d1 $e0/$e1 $f0/$f1 $g0/$g1 $h0/$h1),
            schedule!($i $i1 $i9 $n0/$n1),
        )
    };
}

/// A round of the message block without a later word.
macro_rules! last_step {
    ($i:tt $i1:tt $i9:tt $n0:tt/$n1:tt $a0:tt/$a1:tt $b0:tt/$b1:tt $c0:tt/$c1:tt $d0:tt/$d1:tt $e0:tt/$e1:tt $f0:tt/$f1:tt $g0:tt/$g1:tt $h0:tt/$h1:tt) => {
        concat!(
            add_word!($h0/$h1 $i),
            add_constant!($h0/$h1 $i),
            round!($a0/$a1 $b0/$b1 $c0/$c1 $d0/$d1 $e0/$e1 $f0/$f1 $g0/$g1 $h0/$h1),
        )
    };
}

/// A round of the padding block, whose words are included in the constants.
macro_rules! padding_step {
    ($i:tt $i1:tt $i9:tt $n0:tt/$n1:tt $a0:tt/$a1:tt $b0:tt/$b1:tt $c0:tt/$c1:tt $d0:tt/$d1:tt $e0:tt/$e1:tt $f0:tt/$f1:tt $g0:tt/$g1:tt $h0:tt/$h1:tt) => {
        concat!(
            add_constant!($h0/$h1 $i),
            round!($a0/$a1 $b0/$b1 $c0/$c1 $d0/$d1 $e0/$e1 $f0/$f1 $g0/$g1 $h0/$h1),
        )
    };
}

/// Word `$k` of the state: the starting value.
macro_rules! start_word {
    ($k:tt $x0:tt/$x1:tt) => {
        concat!(
            "vpbroadcastd zmm",
            $x0,
            ", dword ptr [{start} + ",
            $k,
            "*4]\n",
            "vmovdqa64 zmm",
            $x1,
            ", zmm",
            $x0,
            "\n",
        )
    };
}

/// Word `$k` of the state after the first block: adds the starting value, and stores the sum.
macro_rules! middle_word {
    ($k:tt $x0:tt/$x1:tt) => {
        concat!(
            "vpaddd zmm",
            $x0,
            ", zmm",
            $x0,
            ", dword ptr [{start} + ",
            $k,
            "*4]{{1to16}}\n",
            "vpaddd zmm",
            $x1,
            ", zmm",
            $x1,
            ", dword ptr [{start} + ",
            $k,
            "*4]{{1to16}}\n",
            "vmovdqa64 zmmword ptr [{digests} + ",
            $k,
            "*128], zmm",
            $x0,
            "\n",
            "vmovdqa64 zmmword ptr [{digests} + ",
            $k,
            "*128 + 64], zmm",
            $x1,
            "\n",
        )
    };
}

/// Word `$k` of the digest: adds the stored sum.
macro_rules! end_word {
    ($k:tt $x0:tt/$x1:tt) => {
        concat!(
            "vpaddd zmm",
            $x0,
            ", zmm",
            $x0,
            ", zmmword ptr [{digests} + ",
            $k,
            "*128]\n",
            "vpaddd zmm",
            $x1,
            ", zmm",
            $x1,
            ", zmmword ptr [{digests} + ",
            $k,
            "*128 + 64]\n",
            "vmovdqa64 zmmword ptr [{digests} + ",
            $k,
            "*128], zmm",
            $x0,
            "\n",
            "vmovdqa64 zmmword ptr [{digests} + ",
            $k,
            "*128 + 64], zmm",
            $x1,
            "\n",
        )
    };
}

/// All eight words of the state.
macro_rules! eight_words {
    ($word:ident) => {
        concat!(
            $word!(0 0/8), $word!(1 1/9), $word!(2 2/10), $word!(3 3/11),
            $word!(4 4/12), $word!(5 5/13), $word!(6 6/14), $word!(7 7/15),
        )
    };
}

/// Hashes 32 nodes and clears the two top bits of each digest's last byte. Overwrites the words.
///
/// Never inlined: three copies of the code do not fit into the instruction cache (measured: 20 % slower).
#[inline(never)]
#[target_feature(enable = "avx512f")]
pub(super) fn hash_32_nodes(digests: &mut Digests, words: &mut Words) {
    // The words are big-endian numbers: the last byte of the digest is the lowest byte of its last word.
    static TRUNCATION: u32 = 0xffff_ff3f;
    // SAFETY: the code reads and writes 2048 bytes at `words` and 1024 bytes at `digests`, exclusively
    // borrowed and aligned for their vectors, and reads 256 bytes at each table of constants, whose
    // pointers advance by 64 bytes in each of four passes. It uses no stack, and names the registers it
    // changes. The feature it needs is enabled for the function.
    unsafe {
        asm!(
            eight_words!(start_word),
            "vmovdqa64 zmm16, zmmword ptr [{words} + 14*128]",
            "vmovdqa64 zmm18, zmmword ptr [{words} + 14*128 + 64]",
            "vmovdqa64 zmm17, zmmword ptr [{words} + 15*128]",
            "vmovdqa64 zmm19, zmmword ptr [{words} + 15*128 + 64]",
            "mov {passes:e}, 3",
            "2:",
            sixteen_rounds!(message_step),
            "add {constants}, 64",
            "dec {passes:e}",
            "jnz 2b",
            sixteen_rounds!(last_step),
            eight_words!(middle_word),
            "mov {constants}, {padding}",
            "mov {passes:e}, 4",
            "3:",
            sixteen_rounds!(padding_step),
            "add {constants}, 64",
            "dec {passes:e}",
            "jnz 3b",
            eight_words!(end_word),
            "vpandd zmm7, zmm7, dword ptr [{truncation}]{{1to16}}",
            "vpandd zmm15, zmm15, dword ptr [{truncation}]{{1to16}}",
            "vmovdqa64 zmmword ptr [{digests} + 7*128], zmm7",
            "vmovdqa64 zmmword ptr [{digests} + 7*128 + 64], zmm15",
            words = in(reg) words.as_mut_ptr(),
            digests = in(reg) digests.as_mut_ptr(),
            constants = inout(reg) ROUND.as_ptr() => _,
            padding = in(reg) PADDING_ROUND.as_ptr(),
            start = in(reg) START.as_ptr(),
            truncation = in(reg) &raw const TRUNCATION,
            passes = out(reg) _,
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
