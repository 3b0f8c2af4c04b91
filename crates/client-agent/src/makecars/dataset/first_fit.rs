//! First-fit search over very many pieces: the first piece with enough free space, in logarithmic time.

/// Free space of the pieces, in their order, in a tree whose inner nodes hold the larger of two.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstFitTree {
    count: usize,
    /// Leaves behind inner nodes: node `i` has the children `2i` and `2i + 1`, the root is 1.
    tree: Vec<u64>,
}

impl FirstFitTree {
    /// One more piece.
    pub(crate) fn push(&mut self, free: u64) {
        if self.count == self.leaves() {
            self.grow();
        }
        self.count += 1;
        self.set(self.count - 1, free);
    }

    /// Sets the free space of a piece.
    pub(crate) fn set(&mut self, piece: usize, free: u64) {
        let mut node = self.leaves() + piece;
        self.tree[node] = free;
        while node > 1 {
            node /= 2;
            self.tree[node] = self.tree[2 * node].max(self.tree[2 * node + 1]);
        }
    }

    /// The first piece with at least this much free space.
    pub(crate) fn first_with(&self, wanted: u64) -> Option<usize> {
        // Every item needs some space, and nodes without a piece have none.
        let wanted = wanted.max(1);
        if self.tree.get(1).is_none_or(|most| *most < wanted) {
            return None;
        }
        let mut node = 1;
        while node < self.leaves() {
            node *= 2;
            if self.tree[node] < wanted {
                node += 1;
            }
        }
        Some(node - self.leaves())
    }

    fn leaves(&self) -> usize {
        self.tree.len() / 2
    }

    fn grow(&mut self) {
        let leaves = (2 * self.leaves()).max(1);
        let spaces: Vec<u64> = self.tree.split_off(self.leaves().min(self.tree.len()));
        self.tree = vec![0; 2 * leaves];
        for (piece, free) in spaces.into_iter().take(self.count).enumerate() {
            self.set(piece, free);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_with_room_is_found_as_a_search_from_the_front_finds_it() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut spaces, mut list) = (FirstFitTree::default(), Vec::new());
        for _ in 0..3000 {
            match rng.u8(0..4) {
                0 => {
                    let free = rng.u64(0..100);
                    spaces.push(free);
                    list.push(free);
                }
                1 if !list.is_empty() => {
                    let (piece, free) = (rng.usize(0..list.len()), rng.u64(0..100));
                    spaces.set(piece, free);
                    list[piece] = free;
                }
                _ => {
                    let wanted = rng.u64(1..110);
                    let found = list.iter().position(|free| *free >= wanted);
                    assert_eq!(spaces.first_with(wanted), found);
                }
            }
        }
        assert!(list.len() > 100);
    }
}
