//! Messages, schedules, states and digests of a group of four SHA-256 nodes.

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

/// The words of one block of each node with the round constants added. The words of four rounds are adjacent.
///
/// Each row lies in one cache line.
#[repr(align(64))]
pub(super) struct Schedules(pub(super) [[[u32; 4]; GROUP]; 16]);

/// The states of four nodes. The instructions take a state as (A B E F) and (C D G H), the first word on top.
#[derive(Clone, Copy)]
pub(super) struct States {
    pub(super) abef: [__m128i; GROUP],
    pub(super) cdgh: [__m128i; GROUP],
}
