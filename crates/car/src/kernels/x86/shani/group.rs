//! Four nodes side by side, and meanwhile the message schedules of the next four.
//!
//! A `sha256rnds2` waits four cycles for the one before it, but Zen 3 can start one in every cycle: four nodes fill
//! the unit, two leave half of it idle. With their own schedules between the rounds four nodes are little faster
//! than two, though, because whatever else a round waits for comes late. So the rounds need nothing but words from
//! memory, and the schedules are computed one group ahead, two nodes in turn: four words of a schedule take longer
//! than the rounds beside them.
//!
//! What bounds all this is that four vector operations start in a cycle, a load of words for two rounds being one of
//! them: the padding's words, which all nodes share, are loaded once for four nodes. Where each operation stands was
//! searched for by measuring some thousands of orders. Cycles a node on Zen 3: 150 for two nodes with their own
//! schedules, 123 for four, 84 with the schedules of one node after the other a group ahead, 73 for this; the rounds
//! alone are 64.
//!
//! Written in assembly, because the compiler's own order moves from build to build.

use std::arch::asm;
use std::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_prefetch, _mm_set_epi64x,
    _mm_shuffle_epi32, _mm_storeu_si128,
};
use std::mem::MaybeUninit;

use crate::kernels::constants::{PADDING_ROUND, ROUND};
use crate::kernels::{DIGEST, NODE};
use crate::piece::fr32::{FIELD_TOP, QUAD_PADDED, QUAD_RAW};

/// Nodes that are hashed side by side.
const GROUP: usize = 4;

/// Quads that expand to a group.
const QUADS: usize = GROUP * NODE / QUAD_PADDED;

type Nodes = [[u8; NODE]; GROUP];
type Digests = [[u8; DIGEST]; GROUP];

/// The words of one block of each node, the constants added; those of four rounds are beside each other.
///
/// No row is in two cache lines.
#[repr(align(64))]
struct Schedules([[[u32; 4]; GROUP]; 16]);

/// The words of one schedule, or the constants of the rounds; no four of them are in two cache lines.
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

/// The instructions want the state as (A B E F) and (C D G H), the first word on top.
#[derive(Clone, Copy)]
struct States {
    abef: [__m128i; GROUP],
    cdgh: [__m128i; GROUP],
}

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
        // SAFETY: the code reads 1024 bytes at `now` or 256 at `padding`, 256 at `constants` and 128 at `nodes`. It writes 32 bytes at every 64th of `next`, from the pair's place in the first four rounds to
        // that in the last: all of them are inside the schedules, which are exclusively borrowed and aligned. It
        // writes 256 bytes at `room`, which is aligned for it, and reads what it wrote there. It uses no stack, and says which registers it
        // changes. The features it needs are enabled for the function.
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
fn own_block(states: &mut States, now: &Schedules, next: &mut Schedules, following: &Nodes) {
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
fn padding_block(states: &mut States, next: &mut Schedules, following: &Nodes) {
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

#[inline]
#[target_feature(enable = "sse2")]
fn store(bytes: &mut [u8], value: __m128i) {
    let bytes: &mut [u8; 16] = bytes.try_into().expect("half a digest");
    // SAFETY: sixteen bytes can be written through the reference; the store needs no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
