//! Encodes CARv1 sections.

use crate::carv1::varint;
use crate::units::len64;

/// Encodes frame length and CID, which precede a block.
pub(crate) fn section_prefix(cid: &[u8], block_len: usize) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(cid.len() + 4);
    varint::push(&mut prefix, len64(cid.len() + block_len));
    prefix.extend_from_slice(cid);
    prefix
}

/// Encodes a whole section.
pub(crate) fn section(cid: &[u8], block: &[u8]) -> Vec<u8> {
    let mut section = section_prefix(cid, block.len());
    section.extend_from_slice(block);
    section
}
