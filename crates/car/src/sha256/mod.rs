//! Many 64-byte SHA-256 nodes at once: the inner work of every piece commitment.
//!
//! What lives here: the kernels and the one door to them. What does not: trees, padding, anything that knows
//! what a piece is.

mod portable;

/// Bytes of one digest.
pub(crate) const DIGEST: usize = 32;
/// Bytes of one node's input: two digests.
pub(crate) const NODE: usize = 64;

/// Hashes nodes: every 64 bytes of `input` give 32 bytes of `output`, the two top bits of the last one cleared
/// (`sha2-256-trunc254-padded`).
pub(crate) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert_eq!(input.len() % NODE, 0, "nodes are 64 bytes");
    assert_eq!(output.len() * 2, input.len(), "two digests in, one out");
    portable::hash_nodes(output, input);
}
