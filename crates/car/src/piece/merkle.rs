//! The Merkle tree of a piece: digests of zero subtrees, and a tree that grows from left to right.
//!
//! A *level* counts from the 32-byte leaves: a digest of level `n` stands for `32 · 2ⁿ` padded bytes.

use std::sync::LazyLock;

use crate::kernels::{DIGEST, NODE, hash_nodes};

/// One node of the tree.
pub(crate) type Digest = [u8; DIGEST];

/// Most levels: a padded piece has at most `2^63` bytes.
const LEVELS: usize = 60;

static ZERO_DIGESTS: LazyLock<[Digest; LEVELS]> = LazyLock::new(|| {
    let mut digests = [[0; DIGEST]; LEVELS];
    for level in 1..LEVELS {
        digests[level] = parent(&digests[level - 1], &digests[level - 1]);
    }
    digests
});

/// The digest of a subtree of zeros.
pub(crate) fn zero_digest(level: usize) -> &'static Digest {
    &ZERO_DIGESTS[level]
}

/// The digest of two digests.
pub(crate) fn parent(left: &Digest, right: &Digest) -> Digest {
    let mut node = [0; NODE];
    node[..DIGEST].copy_from_slice(left);
    node[DIGEST..].copy_from_slice(right);
    let mut digest = [0; DIGEST];
    hash_nodes(&mut digest, &node);
    digest
}

/// Replaces the digests of `row` by those of the next level; returns how many bytes these take.
pub(crate) fn fold_row(row: &mut [u8], spare: &mut Vec<u8>) -> usize {
    spare.resize(row.len() / 2, 0);
    hash_nodes(spare, row);
    row[..spare.len()].copy_from_slice(spare);
    spare.len()
}

/// A tree whose subtrees of equal size arrive from left to right. Holds one digest per level.
#[derive(Debug, Clone)]
pub(crate) struct GrowingTree {
    /// Level of the subtrees that are pushed.
    base: usize,
    /// Complete left siblings, by level above `base`.
    pending: Vec<Option<Digest>>,
    pushed: u64,
}

impl GrowingTree {
    pub(crate) fn new(base: usize) -> Self {
        Self { base, pending: Vec::new(), pushed: 0 }
    }

    pub(crate) fn push(&mut self, digest: Digest) {
        self.pushed += 1;
        let mut digest = digest;
        for slot in &mut self.pending {
            let Some(left) = slot.take() else {
                *slot = Some(digest);
                return;
            };
            digest = parent(&left, &digest);
        }
        self.pending.push(Some(digest));
    }

    /// The root at `level`; all subtrees after the last pushed one are zeros.
    pub(crate) fn root(&self, level: usize) -> Digest {
        debug_assert!(self.pushed <= 1 << (level - self.base), "the piece holds what was pushed");
        let mut right = *zero_digest(self.base);
        for above in 0..level - self.base {
            right = match self.pending.get(above).copied().flatten() {
                Some(left) => parent(&left, &right),
                None => parent(&right, zero_digest(self.base + above)),
            };
        }
        match self.pending.get(level - self.base).copied().flatten() {
            Some(whole) => whole,
            None => right,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cids::PieceCid;

    #[test]
    fn zero_digests_are_the_published_ones() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/published.json")).unwrap();
        let vectors = vectors["zero_pieces"]["vectors"].as_array().unwrap();
        for vector in vectors {
            let level = usize::try_from(vector["padded"].as_u64().unwrap().trailing_zeros() - 5).unwrap();
            let piece_cid = PieceCid::from_commitment(*zero_digest(level)).to_string();
            assert_eq!(piece_cid, vector["piece_cid"].as_str().unwrap(), "level {level}");
        }
        assert_eq!(vectors.len(), 35);
    }

    #[test]
    fn a_growing_tree_is_filled_up_with_zeros() {
        for count in 0..=16 {
            let digests: Vec<Digest> = (0..count).map(|index| [index; DIGEST]).collect();
            let mut tree = GrowingTree::new(3);
            for digest in &digests {
                tree.push(*digest);
            }
            let mut row = digests;
            row.resize(16, *zero_digest(3));
            while row.len() > 1 {
                row = row.chunks(2).map(|pair| parent(&pair[0], &pair[1])).collect();
            }
            assert_eq!(tree.root(7), row[0], "{count} digests");
        }
    }
}
