//! murmur3-x64-64, the hash of names in sharded folders (HAMT).
//!
//! Sources: the first half of `MurmurHash3_x64_128` with seed 0 (`smhasher`, `MurmurHash3.cpp`); boxo v0.10.1
//! ipld/unixfs/hamt/util.go reads it from its most significant byte on.

use crate::units::len64;

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// The first 64 bits of the hash. The most significant byte is the slot in the root shard.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0u64, 0u64);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = halves(block);
        h1 ^= mix_first(k1);
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix_second(k2);
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut block = [0; 16];
    block[..tail.len()].copy_from_slice(tail);
    let (k1, k2) = halves(&block);
    let length = len64(bytes.len());
    h1 ^= mix_first(k1) ^ length;
    h2 ^= mix_second(k2) ^ length;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn halves(block: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).expect("64 bits");
    (half(both), half(both >> 64))
}

fn mix_first(k1: u64) -> u64 {
    k1.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_second(k2: u64) -> u64 {
    k2.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: ipfs/specs src/unixfs.md, "Finding \"470.txt\" in a HAMT with fanout=256".
    #[test]
    fn bytes_are_taken_from_the_front() {
        for (name, wanted) in [("470.txt", [0x00, 0x6e]), ("742.txt", [0x00, 0xff])] {
            assert_eq!(hash(name.as_bytes()).to_be_bytes()[..2], wanted, "{name}");
        }
    }

    /// Source: spaolacci/murmur3 v1.1.0 `murmur_test.go`, the library that boxo uses.
    #[test]
    fn hashes_are_those_of_others() {
        for (text, wanted) in [
            ("", 0),
            ("hello", 0xcbd8_a7b3_41bd_9b02),
            ("hello, world", 0x342f_ac62_3a5e_bc8e),
            ("19 Jan 2038 at 3:14:07 AM", 0xb89e_5988_b737_affc),
            ("The quick brown fox jumps over the lazy dog.", 0xcd99_481f_9ee9_02c9),
        ] {
            assert_eq!(hash(text.as_bytes()), wanted, "{text:?}");
        }
    }
}
