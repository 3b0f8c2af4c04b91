//! What a group of four nodes is hashed from and into: messages, schedules, states, digests.

use std::arch::x86_64::__m128i;

use crate::fr32::{QUAD_PADDED, QUAD_RAW};
use crate::kernels::{DIGEST, NODE};

/// Nodes that are hashed side by side.
pub(super) const GROUP: usize = 4;

pub(super) type Nodes = [[u8; NODE]; GROUP];
/// Two quads, which expand to a group.
pub(super) type Raw = [u8; 2 * QUAD_RAW];
const _: () = assert!(2 * QUAD_PADDED == GROUP * NODE);
pub(super) type Digests = [[u8; DIGEST]; GROUP];

/// The words of one block of each node, the constants added; those of four rounds are beside each other.
///
/// No row is in two cache lines.
#[repr(align(64))]
pub(super) struct Schedules(pub(super) [[[u32; 4]; GROUP]; 16]);

/// The instructions want the state as (A B E F) and (C D G H), the first word on top.
#[derive(Clone, Copy)]
pub(super) struct States {
    pub(super) abef: [__m128i; GROUP],
    pub(super) cdgh: [__m128i; GROUP],
}
