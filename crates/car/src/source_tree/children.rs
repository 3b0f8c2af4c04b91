//! The entries of a folder, sorted by the bytes of their names.
//!
//! ```text
//! chunks   |a b c d … |k l m … |t u|      each sorted, at most 256 entries; full if added in order
//! ```

use std::iter::Flatten;
use std::slice;

use crate::source_tree::Node;

/// Most entries of a chunk. Chosen: moving half of them takes less than a microsecond.
const CHUNK: usize = 256;

#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) name: Box<str>,
    pub(crate) node: Node,
}

/// A tree may have many millions of entries.
const _: () = assert!(size_of::<Child>() <= 56, "an entry is small");

/// The sorted entries. No chunk is empty.
#[derive(Debug, Default)]
pub(crate) struct Children {
    chunks: Vec<Vec<Child>>,
}

/// Entries in byte order of their names.
pub(crate) type InOrder<'a> = Flatten<slice::Iter<'a, Vec<Child>>>;

impl Children {
    pub(crate) fn iter(&self) -> InOrder<'_> {
        self.chunks.iter().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// The entry of a name, which is created if there is none. Returns `true` if it was created.
    pub(crate) fn entry(&mut self, name: &str, make: impl FnOnce() -> Node) -> (&mut Node, bool) {
        let (chunk, place) = self.position(name);
        let (at, is_new) = match place {
            Ok(at) => ((chunk, at), false),
            Err(at) => (self.insert(chunk, at, Child { name: name.into(), node: make() }), true),
        };
        (&mut self.chunks[at.0][at.1].node, is_new)
    }

    /// Finds a name: its chunk, and its index there, or the index at which it would be inserted.
    fn position(&self, name: &str) -> (usize, Result<usize, usize>) {
        // Most names are added in order.
        if let Some(last) = self.chunks.last()
            && *last[last.len() - 1].name < *name
        {
            return (self.chunks.len() - 1, Err(last.len()));
        }
        let chunk = self.chunks.partition_point(|chunk| *chunk[0].name <= *name).saturating_sub(1);
        match self.chunks.get(chunk) {
            Some(entries) => (chunk, entries.binary_search_by(|child| (*child.name).cmp(name))),
            None => (chunk, Err(0)),
        }
    }

    fn insert(&mut self, chunk: usize, at: usize, child: Child) -> (usize, usize) {
        let (mut chunk, mut at) = (chunk, at);
        let is_last = chunk + 1 == self.chunks.len();
        match self.chunks.get_mut(chunk) {
            None => self.chunks.push(Vec::new()),
            Some(entries) if entries.len() < CHUNK => {}
            Some(_) if at == CHUNK && is_last => {
                self.chunks.push(Vec::new());
                (chunk, at) = (chunk + 1, 0);
            }
            Some(entries) => {
                let behind = entries.split_off(CHUNK / 2);
                self.chunks.insert(chunk + 1, behind);
                if at > CHUNK / 2 {
                    (chunk, at) = (chunk + 1, at - CHUNK / 2);
                }
            }
        }
        self.chunks[chunk].insert(at, child);
        (chunk, at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn node() -> Node {
        Node::Symlink(Box::default())
    }

    #[test]
    fn entries_are_in_byte_order_in_whatever_order_they_were_added() {
        const COUNT: usize = 5000;
        // A step without a common factor visits every number once.
        for step in [1, COUNT - 1, 1237, 3] {
            let mut children = Children::default();
            let mut wanted = BTreeSet::new();
            for round in 0..2 {
                for number in (0..COUNT).map(|index| index * step % COUNT) {
                    let name = format!("é{number:x}");
                    assert_eq!(children.entry(&name, node).1, round == 0, "{name}, step {step}");
                    wanted.insert(name);
                }
            }
            let names: Vec<&str> = children.iter().map(|child| &*child.name).collect();
            assert!(names.iter().copied().eq(wanted.iter().map(String::as_str)), "step {step}");
            assert_eq!(children.len(), COUNT);
            assert!(children.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
        }
    }
}
