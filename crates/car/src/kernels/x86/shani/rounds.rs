//! The rounds of four nodes, between them the message schedules of two of the next four, in assembly.
//!
//! What bounds this on Zen 3 is that four vector operations start in a cycle, a load of words for two rounds being one
//! of them, and that four words of a schedule take longer than the rounds beside them. So two schedules go on in turn;
//! the padding's words, which all nodes share, are loaded once for four nodes. Where each operation stands was searched
//! for by measuring some thousands of orders; the compiler's own order moves from build to build.

use std::arch::asm;
use std::mem::MaybeUninit;

use super::group::{Nodes, Schedules, States};
use crate::kernels::constants::{PADDING_ROUND, ROUND};

/// Words for all rounds; those of four rounds are in one cache line.
#[repr(align(64))]
struct Words([[u32; 4]; 16]);

static CONSTANTS: Words = words(&ROUND);
static PADDING: Words = words(&PADDING_ROUND);

const fn words(all: &[u32; 64]) -> Words {
    let mut words = [[0; 4]; 16];
    let mut i = 0;
    while i < 64 {
        words[i / 4][i % 4] = all[i];
        i += 1;
    }
    Words(words)
}

/// Two rounds of one node with the words in xmm0. (A B E F) is in the odd registers, (C D G H) in the even ones.
macro_rules! rounds {
    (first 0) => {
        "sha256rnds2 xmm2, xmm1\n"
    };
    (first 1) => {
        "sha256rnds2 xmm4, xmm3\n"
    };
    (first 2) => {
        "sha256rnds2 xmm6, xmm5\n"
    };
    (first 3) => {
        "sha256rnds2 xmm8, xmm7\n"
    };
    (last 0) => {
        "sha256rnds2 xmm1, xmm2\n"
    };
    (last 1) => {
        "sha256rnds2 xmm3, xmm4\n"
    };
    (last 2) => {
        "sha256rnds2 xmm5, xmm6\n"
    };
    (last 3) => {
        "sha256rnds2 xmm7, xmm8\n"
    };
}

/// Two rounds of one node with words of its own.
macro_rules! own_rounds {
    (first $node:tt $four:tt) => {
        concat!("movq xmm0, [{now} + 64*", $four, " + 16*", $node, "]\n", rounds!(first $node))
    };
    (last $node:tt $four:tt) => {
        concat!("movq xmm0, [{now} + 64*", $four, " + 16*", $node, " + 8]\n", rounds!(last $node))
    };
}

/// Words of the padding block for the next two rounds.
macro_rules! padding_words {
    (first $four:tt) => {
        concat!("movq xmm0, [{padding} + 16*", $four, "]\n")
    };
    (last $four:tt) => {
        concat!("movq xmm0, [{padding} + 16*", $four, " + 8]\n")
    };
}

/// Words `$four` of the message of one node of the pair.
macro_rules! load {
    ($four:tt $node:tt $w:tt) => {
        concat!("vmovdqu xmm", $w, ", [{nodes} + 16*", $four, " + 64*", $node, "]\n")
    };
}

/// Puts down words `$four` of one node's schedule, the constants added.
macro_rules! put {
    (none $four:tt $node:tt $w:tt) => {
        ""
    };
    ($kind:tt $four:tt $node:tt $w:tt) => {
        concat!(
            "vpaddd xmm0, xmm",
            $w,
            ", [{constants} + 16*",
            $four,
            "]\n",
            "vmovdqa [{next} + 64*",
            $four,
            " + 16*",
            $node,
            "], xmm0\n",
        )
    };
}

/// Four words of the first schedule from the sixteen before, which are in four registers; in three steps.
macro_rules! ahead {
    (1 message, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { load!($four 0 $w0) };
    (1 later, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { concat!("sha256msg1 xmm", $w0, ", xmm", $w1, "\n") };
    (2 later, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => {
        concat!(
            "vpalignr xmm0, xmm", $w3, ", xmm", $w2, ", 4\n",
            "vpaddd xmm", $w0, ", xmm", $w0, ", xmm0\n",
        )
    };
    (3 later, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { concat!("sha256msg2 xmm", $w0, ", xmm", $w3, "\n") };
    ($step:tt message, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { "" };
}

/// Four words of the second schedule, for which three registers are left: those of sixteen words ago come from
/// `room`; in two steps, the second of which is for the words `$four` that `$w` has after the first.
macro_rules! ahead_too {
    (1 message, $ago:tt $four:tt, $w:tt $w2:tt $w3:tt) => { load!($four 1 $w) };
    (1 later, $ago:tt $four:tt, $w:tt $w2:tt $w3:tt) => {
        concat!(
            "vmovdqa xmm0, [{room} + 16*", $ago, "]\n",
            "sha256msg1 xmm0, xmm", $w, "\n",
            "vpalignr xmm", $w, ", xmm", $w3, ", xmm", $w2, ", 4\n",
            "vpaddd xmm", $w, ", xmm", $w, ", xmm0\n",
        )
    };
    (2 none, $four:tt, $w:tt $w3:tt) => { "" };
    (2 message, $four:tt, $w:tt $w3:tt) => { concat!("vmovdqa [{room} + 16*", $four, "], xmm", $w, "\n") };
    (2 later, $four:tt, $w:tt $w3:tt) => {
        concat!(
            ahead_too!(2 late, $four, $w $w3),
            ahead_too!(2 message, $four, $w $w3),
        )
    };
    (2 late, $four:tt, $w:tt $w3:tt) => { concat!("sha256msg2 xmm", $w, ", xmm", $w3, "\n") };
}

/// Four rounds with the nodes' own words, and what goes on of two schedules meanwhile.
///
/// What words the schedules are at, two steps back, one step back and now; the numbers of these and of those of
/// sixteen words ago; the registers of the first schedule, the oldest words first, and of the second.
macro_rules! own_row {
    ($kind2:tt $kind1:tt $kind:tt, $ago:tt $back2:tt $back1:tt $four:tt,
     $x0:tt $x1:tt $x2:tt $x3:tt, $y1:tt $y2:tt $y3:tt) => {
        concat!(
            own_rounds!(first 0 $four),
            own_rounds!(first 1 $four),
            own_rounds!(first 2 $four),
            put!($kind2 $back2 1 $y2), ahead!(1 $kind, $four, $x0 $x1 $x2 $x3),
            own_rounds!(first 3 $four),
            own_rounds!(last 0 $four),
            ahead!(2 $kind, $four, $x0 $x1 $x2 $x3),
            own_rounds!(last 1 $four),
            put!($kind1 $back1 0 $x3), ahead_too!(2 $kind1, $back1, $y3 $y2), ahead!(3 $kind, $four, $x0 $x1 $x2 $x3),
            own_rounds!(last 2 $four),
            ahead_too!(1 $kind, $ago $four, $y1 $y2 $y3),
            own_rounds!(last 3 $four),
        )
    };
}

/// Four rounds with the padding's words, which are the same for all nodes, and the rest as in `own_row`.
macro_rules! padding_row {
    ($kind2:tt $kind1:tt $kind:tt, $ago:tt $back2:tt $back1:tt $four:tt,
     $x0:tt $x1:tt $x2:tt $x3:tt, $y1:tt $y2:tt $y3:tt) => {
        concat!(
            padding_words!(first $four),
            rounds!(first 0), rounds!(first 1), rounds!(first 2),
            ahead!(1 $kind, $four, $x0 $x1 $x2 $x3),
            rounds!(first 3),
            put!($kind1 $back1 0 $x3), ahead_too!(2 $kind1, $back1, $y3 $y2), ahead!(2 $kind, $four, $x0 $x1 $x2 $x3),
            padding_words!(last $four),
            rounds!(last 0), rounds!(last 1),
            ahead!(3 $kind, $four, $x0 $x1 $x2 $x3),
            rounds!(last 2), rounds!(last 3),
            put!($kind1 $back1 1 $y3), ahead_too!(1 $kind, $ago $four, $y1 $y2 $y3),
        )
    };
}

/// All sixty-four rounds.
macro_rules! sixteen_rows {
    ($row:ident) => {
        concat!(
            $row!(none none message, 0 0 0 0, 9 10 11 12, 13 14 15),
            $row!(none message message, 0 0 0 1, 10 11 12 9, 14 15 13),
            $row!(message message message, 0 0 1 2, 11 12 9 10, 15 13 14),
            $row!(message message message, 0 1 2 3, 12 9 10 11, 13 14 15),
            $row!(message message later, 0 2 3 4, 9 10 11 12, 14 15 13),
            $row!(message later later, 1 3 4 5, 10 11 12 9, 15 13 14),
            $row!(later later later, 2 4 5 6, 11 12 9 10, 13 14 15),
            $row!(later later later, 3 5 6 7, 12 9 10 11, 14 15 13),
            $row!(later later later, 4 6 7 8, 9 10 11 12, 15 13 14),
            $row!(later later later, 5 7 8 9, 10 11 12 9, 13 14 15),
            $row!(later later later, 6 8 9 10, 11 12 9 10, 14 15 13),
            $row!(later later later, 7 9 10 11, 12 9 10 11, 15 13 14),
            $row!(later later later, 8 10 11 12, 9 10 11 12, 13 14 15),
            $row!(later late later, 9 11 12 13, 10 11 12 9, 14 15 13),
            $row!(later late later, 10 12 13 14, 11 12 9 10, 15 13 14),
            $row!(later late later, 11 13 14 15, 12 9 10 11, 13 14 15),
        )
    };
}

/// Runs all rounds of a block, and meanwhile two schedules, which are put down behind `next`.
macro_rules! rounds_and_schedules {
    ($states:expr, $next:expr, $pair:literal, $nodes:expr, $words:ident = $from:expr, $($code:tt)*) => {{
        let States { abef, cdgh } = $states;
        let nodes = &$nodes.as_chunks::<2>().0[$pair];
        let mut room = MaybeUninit::<Words>::uninit();
        // SAFETY: the code reads 1024 bytes at `now` or 256 at `padding`, 256 at `constants` and 128 at `nodes`. It
        // writes 32 bytes at every 64th of `next`, from the pair's place in the first four rounds to that in the last:
        // all of them are inside the schedules, which are exclusively borrowed and aligned. It writes 192 of the 256
        // bytes at `room`, which is aligned for it, and reads what it wrote there. It uses no stack, and says which
        // registers it changes. The features it needs are enabled for the function.
        unsafe {
            asm!(
                $($code)*
                $words = in(reg) $from,
                next = in(reg) $next.0.as_mut_ptr().cast::<[u32; 4]>().add(2 * $pair),
                nodes = in(reg) nodes.as_ptr(),
                constants = in(reg) CONSTANTS.0.as_ptr(),
                room = in(reg) room.as_mut_ptr(),
                inout("xmm1") abef[0], inout("xmm2") cdgh[0],
                inout("xmm3") abef[1], inout("xmm4") cdgh[1],
                inout("xmm5") abef[2], inout("xmm6") cdgh[2],
                inout("xmm7") abef[3], inout("xmm8") cdgh[3],
                out("xmm0") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                out("xmm14") _, out("xmm15") _,
                options(nostack, preserves_flags),
            );
        }
    }};
}

/// The rounds of the nodes themselves, and the schedules of the first two nodes that follow.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn own_block(states: &mut States, now: &Schedules, next: &mut Schedules, following: &Nodes) {
    rounds_and_schedules!(
        states,
        next,
        0,
        following,
        now = now.0.as_ptr(),
        sixteen_rows!(own_row),
        put!(later 15 0 12),
        put!(later 14 1 15),
        ahead_too!(2 late, 15, 13 15),
        put!(later 15 1 13),
    );
}

/// The rounds of the padding, and the schedules of the other two.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn padding_block(states: &mut States, next: &mut Schedules, following: &Nodes) {
    rounds_and_schedules!(
        states,
        next,
        1,
        following,
        padding = PADDING.0.as_ptr(),
        sixteen_rows!(padding_row),
        put!(later 15 0 12),
        ahead_too!(2 late, 15, 13 15),
        put!(later 15 1 13),
    );
}
