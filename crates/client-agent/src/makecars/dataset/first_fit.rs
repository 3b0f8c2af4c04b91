//! How much room each piece has, asked for the first with enough: first-fit over very many pieces.

/// Rooms in the order of the pieces, in a tree of the largest of two.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstFitTree {
    count: usize,
    /// Leaves behind inner nodes: node `i` has the children `2i` and `2i + 1`, the root is 1.
    tree: Vec<u64>,
}

impl FirstFitTree {
    /// One more piece.
    pub(crate) fn push(&mut self, room: u64) {
        if self.count == self.leaves() {
            self.grow();
        }
        self.count += 1;
        self.set(self.count - 1, room);
    }

    /// A piece has so much room now.
    pub(crate) fn set(&mut self, piece: usize, room: u64) {
        let mut node = self.leaves() + piece;
        self.tree[node] = room;
        while node > 1 {
            node /= 2;
            self.tree[node] = self.tree[2 * node].max(self.tree[2 * node + 1]);
        }
    }

    /// The first piece with at least so much room.
    pub(crate) fn first_with(&self, wanted: u64) -> Option<usize> {
        // Nothing needs no room at all, and nodes without a piece have none.
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
        let rooms: Vec<u64> = self.tree.split_off(self.leaves().min(self.tree.len()));
        self.tree = vec![0; 2 * leaves];
        for (piece, room) in rooms.into_iter().take(self.count).enumerate() {
            self.set(piece, room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_with_room_is_found_as_a_search_from_the_front_finds_it() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut rooms, mut list) = (FirstFitTree::default(), Vec::new());
        for _ in 0..3000 {
            match rng.u8(0..4) {
                0 => {
                    let room = rng.u64(0..100);
                    rooms.push(room);
                    list.push(room);
                }
                1 if !list.is_empty() => {
                    let (piece, room) = (rng.usize(0..list.len()), rng.u64(0..100));
                    rooms.set(piece, room);
                    list[piece] = room;
                }
                _ => {
                    let wanted = rng.u64(1..110);
                    let found = list.iter().position(|room| *room >= wanted);
                    assert_eq!(rooms.first_with(wanted), found);
                }
            }
        }
        assert!(list.len() > 100);
    }
}
