//! Four nodes side by side, and meanwhile the message schedules of the next four.
//!
//! A `sha256rnds2` waits four cycles for the one before it, but Zen 3 can start one in every cycle: four nodes fill
//! the unit, two leave half of it idle. With their own schedules between the rounds four nodes are little faster
//! than two, though, because whatever else a round waits for comes late. So the rounds need nothing but words from
//! memory, and the schedules are computed one group ahead. Measured on Zen 3: 150 cycles a node for two nodes with
//! their own schedules, 123 for four, 84 for this; the rounds alone are 64.
//!
//! The rounds are written in assembly, because the compiler's own order takes 81 to 120 cycles and moves from build to build.

use std::arch::asm;
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_set_epi64x, _mm_shuffle_epi8,
    _mm_shuffle_epi32, _mm_storeu_si128,
};

use crate::kernels::constants::{PADDING_ROUND, ROUND};
use crate::kernels::{DIGEST, NODE};

/// Nodes that are hashed side by side.
const GROUP: usize = 4;

type Nodes = [[u8; NODE]; GROUP];
type Digests = [[u8; DIGEST]; GROUP];

/// The words of one block of each node, the constants added; those of four rounds are beside each other.
///
/// No row is in two cache lines.
#[repr(align(64))]
struct Schedules([[[u32; 4]; GROUP]; 16]);

/// The instructions want the state as (A B E F) and (C D G H), the first word on top.
#[derive(Clone, Copy)]
struct States {
    abef: [__m128i; GROUP],
    cdgh: [__m128i; GROUP],
}

static PADDING: Schedules = {
    let mut schedules = [[[0; 4]; GROUP]; 16];
    let mut i = 0;
    while i < 64 * GROUP {
        let (round, node) = (i / GROUP, i % GROUP);
        schedules[round / 4][node][round % 4] = PADDING_ROUND[round];
        i += 1;
    }
    Schedules(schedules)
};

#[target_feature(enable = "sha,sse4.1,ssse3")]
pub(super) fn hash_all(output: &mut [u8], input: &[u8]) {
    let (groups, rest) = input.as_chunks::<NODE>().0.as_chunks::<GROUP>();
    let (outputs, rest_output) = output.as_chunks_mut::<DIGEST>().0.as_chunks_mut::<GROUP>();
    let (mut rest_nodes, mut rest_digests): (Nodes, Digests) = ([[0; NODE]; GROUP], [[0; DIGEST]; GROUP]);
    rest_nodes[..rest.len()].copy_from_slice(rest);
    let groups = groups.iter().chain((!rest.is_empty()).then_some(&rest_nodes));
    let outputs = outputs.iter_mut().chain([&mut rest_digests]);

    let Some(first) = groups.clone().next() else { return };
    let mut schedules = [const { Schedules([[[0; 4]; GROUP]; 16]) }; 2];
    let [mut now, mut next] = schedules.each_mut();
    // The first schedules, and digests of nothing.
    hash_group(&mut [[0; DIGEST]; GROUP], now, next, first);
    // After the last group there is nothing to prepare; the first one again does no harm.
    for (following, digests) in groups.skip(1).chain([first]).zip(outputs) {
        std::mem::swap(&mut now, &mut next);
        hash_group(digests, now, next, following);
    }
    rest_output.copy_from_slice(&rest_digests[..rest.len()]);
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

/// Hashes the group whose schedules are `now`, and computes those of `following` meanwhile.
#[inline(never)]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn hash_group(digests: &mut Digests, now: &Schedules, next: &mut Schedules, following: &Nodes) {
    let mut states = start();
    rounds_and_schedules(&mut states, now, next, following, [0, 1]);
    let middle = add(states, start());
    states = middle;
    rounds_and_schedules(&mut states, &PADDING, next, following, [2, 3]);
    let end = add(states, middle);
    for (node, digest) in digests.iter_mut().enumerate() {
        let feba = _mm_shuffle_epi32::<0x1b>(end.abef[node]);
        let dchg = _mm_shuffle_epi32::<0xb1>(end.cdgh[node]);
        let (low, high) = digest.split_at_mut(DIGEST / 2);
        store(low, _mm_shuffle_epi8(_mm_blend_epi16::<0xf0>(feba, dchg), big_endian()));
        store(high, _mm_shuffle_epi8(_mm_alignr_epi8::<8>(dchg, feba), big_endian()));
        digest[DIGEST - 1] &= 0x3f;
    }
}

/// Two rounds of one node, whose words are `$at` bytes behind the first of `$four`.
macro_rules! two_rounds {
    ($four:literal $at:literal $x:literal $y:literal) => {
        concat!("movq xmm0, [{now} + 64*", $four, " + ", $at, "]\nsha256rnds2 xmm", $x, ", xmm", $y, "\n")
    };
}

/// The first two of four rounds. (A B E F) is in the odd registers, (C D G H) in the even ones.
macro_rules! first {
    ($four:literal) => {
        concat!(
            two_rounds!($four 0 2 1), two_rounds!($four 16 4 3),
            two_rounds!($four 32 6 5), two_rounds!($four 48 8 7),
        )
    };
}

/// The last two of four rounds.
macro_rules! last {
    ($four:literal) => {
        concat!(
            two_rounds!($four 8 1 2), two_rounds!($four 24 3 4),
            two_rounds!($four 40 5 6), two_rounds!($four 56 7 8),
        )
    };
}

/// Puts down words `$four` of the node's schedule.
macro_rules! put {
    ($four:literal $w:literal) => {
        concat!(
            "movdqu xmm13, [{constants} + 16*",
            $four,
            "]\npaddd xmm13, xmm",
            $w,
            "\nmovdqu [{next} + 64*",
            $four,
            "], xmm13\n",
        )
    };
}

/// Words `$four` of the schedule are the message itself.
macro_rules! message {
    ($four:literal $w:literal) => {
        concat!(
            "movdqu xmm", $w, ", [{node} + 16*", $four, "]\npshufb xmm", $w, ", xmm14\n", put!($four $w),
        )
    };
}

/// Words `$four` of the schedule from the sixteen before, of which the first four are replaced.
macro_rules! later {
    ($four:literal $w0:literal $w1:literal $w2:literal $w3:literal) => {
        concat!(
            "movdqa xmm13, xmm", $w3, "\npalignr xmm13, xmm", $w2, ", 4\nsha256msg1 xmm", $w0, ", xmm", $w1,
            "\npaddd xmm", $w0, ", xmm13\nsha256msg2 xmm", $w0, ", xmm", $w3, "\n", put!($four $w0),
        )
    };
}

/// All rounds with the words of `now`, and meanwhile the schedules of two of the nodes that follow.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn rounds_and_schedules(
    states: &mut States,
    now: &Schedules,
    next: &mut Schedules,
    following: &Nodes,
    nodes: [usize; 2],
) {
    let States { abef, cdgh } = states;
    for (now, node) in now.0.as_chunks::<8>().0.iter().zip(nodes) {
        // SAFETY: the code reads 512 bytes at `now`, 256 at `constants` and 64 at `node`. It writes 16 bytes at
        // every 64th of `next`, from the node's place in the first four rounds to that in the last: all of them
        // are inside the schedules, which are exclusively borrowed. It needs no alignment, uses no stack, and says
        // which registers it changes. The features it needs are enabled for the function.
        unsafe {
            asm!(
                first!(0), message!(0 9), last!(0), message!(1 10),
                first!(1), message!(2 11), last!(1), message!(3 12),
                first!(2), later!(4 9 10 11 12), last!(2), later!(5 10 11 12 9),
                first!(3), later!(6 11 12 9 10), last!(3), later!(7 12 9 10 11),
                first!(4), later!(8 9 10 11 12), last!(4), later!(9 10 11 12 9),
                first!(5), later!(10 11 12 9 10), last!(5), later!(11 12 9 10 11),
                first!(6), later!(12 9 10 11 12), last!(6), later!(13 10 11 12 9),
                first!(7), later!(14 11 12 9 10), last!(7), later!(15 12 9 10 11),
                now = in(reg) now.as_ptr(),
                next = in(reg) next.0.as_mut_ptr().cast::<[u32; 4]>().add(node),
                node = in(reg) following[node].as_ptr(),
                constants = in(reg) ROUND.as_ptr(),
                inout("xmm1") abef[0], inout("xmm2") cdgh[0],
                inout("xmm3") abef[1], inout("xmm4") cdgh[1],
                inout("xmm5") abef[2], inout("xmm6") cdgh[2],
                inout("xmm7") abef[3], inout("xmm8") cdgh[3],
                out("xmm0") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                in("xmm14") big_endian(),
                options(nostack, preserves_flags),
            );
        }
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn big_endian() -> __m128i {
    _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203)
}

#[inline]
#[target_feature(enable = "sse2")]
fn store(bytes: &mut [u8], value: __m128i) {
    let bytes: &mut [u8; 16] = bytes.try_into().expect("half a digest");
    // SAFETY: sixteen bytes can be written through the reference; the store needs no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
