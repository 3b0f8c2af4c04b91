//! Reference implementation of the piece commitment for tests: bit by bit and node by node, without tables.

use sha2::{Digest, Sha256};

/// Commitment of a payload, and the padded size of its piece.
pub(crate) fn commitment(payload: &[u8]) -> ([u8; 32], u64) {
    let mut quads = 1;
    while quads * 127 < payload.len() {
        quads *= 2;
    }
    let mut bits = Vec::new();
    for byte in payload.iter().chain(std::iter::repeat(&0)).take(quads * 127) {
        for bit in 0..8 {
            bits.push(byte >> bit & 1);
        }
    }
    let mut row: Vec<[u8; 32]> = Vec::new();
    for element in bits.chunks(254) {
        let mut leaf = [0; 32];
        for (index, bit) in element.iter().enumerate() {
            leaf[index / 8] |= bit << (index % 8);
        }
        row.push(leaf);
    }
    let padded = u64::try_from(row.len() * 32).unwrap();
    while row.len() > 1 {
        row = row.chunks(2).map(|pair| node(&pair[0], &pair[1])).collect();
    }
    (row[0], padded)
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut digest: [u8; 32] = Sha256::new().chain_update(left).chain_update(right).finalize().into();
    digest[31] &= 0x3f;
    digest
}
