//! The SHA-256 rounds of four nodes in assembly, interleaved with the message schedules of two of the next
//! four.
//!
//! Four words of a schedule take longer than the rounds beside them, so two schedules advance alternately.
//! The words of the padding block are the same for all nodes and are loaded once for four nodes. The bytes of
//! a later group are optionally expanded between the rounds.
//!
//! Zen 3 decodes six instructions a cycle, and the position of a round among these decides which of the two
//! SHA units runs it: one instruction more or less in a row of four rounds changes the time by up to a
//! seventh. So most rows have a multiple of six instructions. The order of the instructions was found by
//! measuring some ten thousand orders. The compiler's order changes from build to build.
//!
//! Constraints on a new order: three values use xmm0: the words of the next rounds from their load to the
//! last round that takes them; the sum of `put`; the temporary of `ahead` from its second to its third step,
//! and of `ahead_other`. The instructions of one use stand together. The steps of `ahead` and of `expand`
//! keep their order, and `finish_other` stands before the `ahead_other` and the `put` of a row that use its
//! result.

use std::arch::asm;
use std::mem::MaybeUninit;

use crate::kernels::constants::{PADDING_ROUND, ROUND};
use crate::kernels::x86::shani::state::{Nodes, Raw, Schedules, States};

/// Words for all rounds. The words of four rounds are in one cache line.
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

/// Two rounds of one node with the words in xmm0. (A B E F) is in the odd registers, (C D G H) in the even
/// ones.
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

/// Loads the words of one node for its next two rounds.
macro_rules! own_words {
    (first $node:tt $four:tt) => {
        concat!("movq xmm0, [{now} + 64*", $four, " + 16*", $node, "]\n")
    };
    (last $node:tt $four:tt) => {
        concat!("movq xmm0, [{now} + 64*", $four, " + 16*", $node, " + 8]\n")
    };
}

/// Loads the words of the padding block for the next two rounds.
macro_rules! padding_words {
    (first $four:tt) => {
        concat!("movq xmm0, [{padding} + 16*", $four, "]\n")
    };
    (last $four:tt) => {
        concat!("movq xmm0, [{padding} + 16*", $four, " + 8]\n")
    };
}

/// Four rounds with the nodes' own words, interleaved with a step of two schedules.
///
/// The kind of a schedule's words: `none` before the first ones, `message`, `later`, or `last`, on which no
/// further words depend. Arguments: whether bytes are expanded, and which; the kind of the words two steps
/// back, one step back and now; the numbers of the words sixteen words ago, two steps back, one step back and
/// now; the registers of the first schedule, the oldest words first, and of the second.
macro_rules! own_row {
    ($expand:tt ($($bits:tt)*) $kind2:tt $kind1:tt $kind:tt, $ago:tt $back2:tt $back1:tt $four:tt,
     $x0:tt $x1:tt $x2:tt $x3:tt, $y1:tt $y2:tt $y3:tt) => {
        concat!(
            own_words!(first 0 $four),
            rounds!(first 0),
            own_words!(first 1 $four),
            expand!($expand 0 1, $four $($bits)*),
            rounds!(first 1),
            own_words!(first 2 $four),
            rounds!(first 2),
            put!($kind2 $back2 1 $y2),
            ahead!(1 $kind, $four, $x0 $x1 $x2 $x3),
            expand!($expand 0 2, $four $($bits)*),
            own_words!(first 3 $four),
            rounds!(first 3),
            own_words!(last 0 $four),
            rounds!(last 0),
            own_words!(last 1 $four),
            rounds!(last 1),
            ahead!(2 $kind, $four, $x0 $x1 $x2 $x3),
            expand!($expand 0 3, $four $($bits)*),
            ahead!(3 $kind, $four, $x0 $x1 $x2 $x3),
            put!($kind1 $back1 0 $x3),
            finish_other!($kind1 1, $back1, $y3 $y2),
            expand!($expand 0 4, $four $($bits)*),
            finish_other!($kind1 2, $back1, $y3 $y2),
            ahead!(4 $kind, $four, $x0 $x1 $x2 $x3),
            own_words!(last 2 $four),
            rounds!(last 2),
            expand!($expand 0 5, $four $($bits)*),
            ahead_other!($kind, $ago $four, $y1 $y2 $y3),
            expand!($expand 0 6, $four $($bits)*),
            own_words!(last 3 $four),
            rounds!(last 3),
        )
    };
    (end) => {
        concat!(
            put!(later 15 0 12), put!(later 14 1 15), finish_other!(last 1, 15, 13 15), put!(later 15 1 13),
        )
    };
}

/// Four rounds with the words of the padding block, which are the same for all nodes; the rest is as in
/// `own_row`.
macro_rules! padding_row {
    ($expand:tt ($($bits:tt)*) $kind2:tt $kind1:tt $kind:tt, $ago:tt $back2:tt $back1:tt $four:tt,
     $x0:tt $x1:tt $x2:tt $x3:tt, $y1:tt $y2:tt $y3:tt) => {
        concat!(
            padding_words!(first $four),
            rounds!(first 0), rounds!(first 1), rounds!(first 2),
            expand!($expand 1 1, $four $($bits)*),
            ahead!(1 $kind, $four, $x0 $x1 $x2 $x3),
            rounds!(first 3),
            expand!($expand 1 2, $four $($bits)*),
            put!($kind1 $back1 0 $x3),
            expand!($expand 1 3, $four $($bits)*),
            ahead!(2 $kind, $four, $x0 $x1 $x2 $x3), ahead!(3 $kind, $four, $x0 $x1 $x2 $x3),
            expand!($expand 1 4, $four $($bits)*),
            finish_other!($kind1 1, $back1, $y3 $y2), finish_other!($kind1 2, $back1, $y3 $y2),
            padding_words!(last $four),
            rounds!(last 0), rounds!(last 1),
            ahead!(4 $kind, $four, $x0 $x1 $x2 $x3),
            rounds!(last 2), rounds!(last 3),
            ahead_other!($kind, $ago $four, $y1 $y2 $y3),
            put!($kind1 $back1 1 $y3),
            expand!($expand 1 5, $four $($bits)*), expand!($expand 1 6, $four $($bits)*),
        )
    };
    (end) => { concat!(put!(later 15 0 12), finish_other!(last 1, 15, 13 15), put!(later 15 1 13)) };
}

/// All sixty-four rounds.
macro_rules! sixteen_rows {
    ($row:ident $expand:tt) => {
        concat!(
            $row!($expand (whole) none none message, 0 0 0 0, 9 10 11 12, 13 14 15),
            $row!($expand (whole) none message message, 0 0 0 1, 10 11 12 9, 14 15 13),
            $row!($expand (whole) message message message, 0 0 1 2, 11 12 9 10, 15 13 14),
            $row!($expand (whole top) message message message, 0 1 2 3, 12 9 10 11, 13 14 15),
            $row!($expand (6) message message later, 0 2 3 4, 9 10 11 12, 14 15 13),
            $row!($expand (6) message later later, 1 3 4 5, 10 11 12 9, 15 13 14),
            $row!($expand (6) later later later, 2 4 5 6, 11 12 9 10, 13 14 15),
            $row!($expand (6 top) later later later, 3 5 6 7, 12 9 10 11, 14 15 13),
            $row!($expand (4) later later later, 4 6 7 8, 9 10 11 12, 15 13 14),
            $row!($expand (4) later later later, 5 7 8 9, 10 11 12 9, 13 14 15),
            $row!($expand (4) later later later, 6 8 9 10, 11 12 9 10, 14 15 13),
            $row!($expand (4 top) later later later, 7 9 10 11, 12 9 10 11, 15 13 14),
            $row!($expand (2) later later later, 8 10 11 12, 9 10 11 12, 13 14 15),
            $row!($expand (2) later last later, 9 11 12 13, 10 11 12 9, 14 15 13),
            $row!($expand (2) later last later, 10 12 13 14, 11 12 9 10, 15 13 14),
            $row!($expand (2 top) later last later, 11 13 14 15, 12 9 10 11, 13 14 15),
            $row!(end),
        )
    };
}

/// Runs all rounds of a block and computes two schedules, which are stored in `next`.
macro_rules! rounds_and_schedules {
    ($states:expr, $next:expr, $pair:literal, $nodes:expr, $rows:ident $expand:ident, $($operands:tt)*) => {{
        let States { abef, cdgh } = $states;
        let nodes = &$nodes.as_chunks::<2>().0[$pair];
        // Holds words of a schedule; `Words` has the size and alignment that the code needs.
        let mut scratch = MaybeUninit::<Words>::uninit();
        // SAFETY: the code reads 1024 bytes at `now` or 256 at `padding`, 256 at `constants` and 128 at
        // `nodes`. With expansion it reads one of the two quads at `raw`; no load passes the quad's end: the
        // last load of eight bytes ends there, and so do the four bytes of the last word. It writes the
        // quad's half of `padded`, which is exclusively borrowed. It writes 32 bytes at every 64th of `next`,
        // from the pair's offset in the first four rounds to that in the last: all of them are inside the
        // schedules, which are exclusively borrowed and aligned. It writes 192 of the 256 bytes at
        // `scratch`, which is aligned for it, and reads only bytes that it wrote there. It uses no stack, and
        // names the registers that it changes. The features it needs are enabled for the function.
        unsafe {
            asm!(
                sixteen_rows!($rows $expand),
                $($operands)*
                next = in(reg) $next.0.as_mut_ptr().cast::<[u32; 4]>().add(2 * $pair),
                nodes = in(reg) nodes.as_ptr(),
                constants = in(reg) CONSTANTS.0.as_ptr(),
                scratch = in(reg) scratch.as_mut_ptr(),
                inout("xmm1") abef[0], inout("xmm2") cdgh[0],
                inout("xmm3") abef[1], inout("xmm4") cdgh[1],
                inout("xmm5") abef[2], inout("xmm6") cdgh[2],
                inout("xmm7") abef[3], inout("xmm8") cdgh[3],
                out("xmm0") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                out("xmm14") _, out("xmm15") _,
                options(nostack),
            );
        }
    }};
}

/// The rounds of the nodes' own blocks, and the schedules of the first two following nodes.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn own_block(states: &mut States, now: &Schedules, next: &mut Schedules, following: &Nodes) {
    rounds_and_schedules!(states, next, 0, following, own_row alone, now = in(reg) now.0.as_ptr(),);
}

/// The rounds of the padding block, and the schedules of the other two following nodes.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx")]
pub(super) fn padding_block(states: &mut States, next: &mut Schedules, following: &Nodes) {
    rounds_and_schedules!(states, next, 1, following, padding_row alone, padding = in(reg) PADDING.0.as_ptr(),);
}

/// [`own_block`], and expands the first of two quads to the first two of four nodes.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx,bmi2")]
pub(super) fn own_block_expanding(
    states: &mut States,
    now: &Schedules,
    next: &mut Schedules,
    following: &Nodes,
    padded: &mut Nodes,
    raw: &Raw,
) {
    rounds_and_schedules!(
        states, next, 0, following, own_row expanding,
        now = in(reg) now.0.as_ptr(),
        padded = in(reg) padded.as_mut_ptr(), raw = in(reg) raw.as_ptr(), word = out(reg) _,
    );
}

/// [`padding_block`], and expands the second of two quads to the other two of four nodes.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3,avx,bmi2")]
pub(super) fn padding_block_expanding(
    states: &mut States,
    next: &mut Schedules,
    following: &Nodes,
    padded: &mut Nodes,
    raw: &Raw,
) {
    rounds_and_schedules!(
        states, next, 1, following, padding_row expanding,
        padding = in(reg) PADDING.0.as_ptr(),
        padded = in(reg) padded.as_mut_ptr(), raw = in(reg) raw.as_ptr(), word = out(reg) _,
    );
}
