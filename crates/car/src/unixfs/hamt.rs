//! Sharded folders (HAMT): a tree of shards in which the hash of its name decides the slot of an entry.
//!
//! ```text
//! hash of a name   6b|03|f1|…            one byte per level, the first one for the root shard
//! root shard       …  "6B" ──► shard     several hashes begin with this byte: a shard below
//!                     "9Cname" ──► file  a single hash: the entry itself
//! ```
//!
//! The order of hashes is the order of links, depth first, so a shard is a range of the entries. The shards
//! follow from the names, their lengths from the lengths of the entries.
//!
//! Source: boxo v0.10.1 ipld/unixfs/hamt/hamt.go.

use crate::dag_pb;
use crate::dag_pb::Child;
use crate::profile::DagParams;
use crate::unixfs::dag::Shape;
use crate::unixfs::murmur3;

/// Most levels of shards: bytes of a hash.
const LEVELS_MAX: u32 = 8;
/// Length of the two hexadecimal digits before each link's name.
const PREFIX_LEN: u64 = 2;

/// The shards of one folder, each before the shards below it, which is the order of their blocks in a CAR.
#[derive(Debug)]
pub(crate) struct Shards(Vec<Shard>);

#[derive(Debug, Clone, Copy)]
struct Shard {
    /// Range of entries in and below the shard, in the order of their hashes.
    first: usize,
    end: usize,
    /// The first shard after all shards below this one.
    after: usize,
    level: u32,
    block_len: u64,
}

/// The target of a shard's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// The entry with this number in the order of hashes.
    Entry(usize),
    /// The shard with this number.
    Shard(usize),
}

/// Two entries have the same hash, so no tree of shards can hold both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SameHash(pub(crate) usize);

/// The slot of an entry with this hash in a shard of this level.
fn slot(hash: u64, level: u32) -> u8 {
    let level = usize::try_from(level).expect("u32 fits in usize");
    hash.to_be_bytes()[level]
}

impl Shards {
    /// Calculates the shards for entries with these hashes, which are in ascending order. `entry` returns the
    /// length of a name, and the shape.
    ///
    /// Returns the shape of the folder with everything below it as well.
    pub(crate) fn new(
        params: &DagParams,
        hashes: &[u64],
        entry: impl Fn(usize) -> (u64, Shape),
    ) -> Result<(Self, Shape), SameHash> {
        debug_assert!(hashes.is_sorted(), "entries are in the order of their hashes");
        let mut shards = Self(Vec::new());
        let shape = shards.add(params, hashes, &entry, 0..hashes.len(), 0)?;
        Ok((shards, shape))
    }

    /// Adds a shard and the shards below it. The recursion is limited by the number of levels.
    fn add(
        &mut self,
        params: &DagParams,
        hashes: &[u64],
        entry: &impl Fn(usize) -> (u64, Shape),
        entries: std::ops::Range<usize>,
        level: u32,
    ) -> Result<Shape, SameHash> {
        if level == LEVELS_MAX {
            return Err(SameHash(entries.start));
        }
        let number = self.0.len();
        self.0.push(Shard { first: entries.start, end: entries.end, after: 0, level, block_len: 0 });
        let mut links_len = 0;
        let mut below = Shape::NOTHING;
        let mut at = entries.start;
        while at < entries.end {
            let slot_of = |index: usize| slot(hashes[index], level);
            let run = (at..entries.end).take_while(|index| slot_of(*index) == slot_of(at)).count();
            let (name_len, shape) = match run {
                1 => entry(at),
                _ => (0, self.add(params, hashes, entry, at..at + run, level + 1)?),
            };
            links_len +=
                dag_pb::link_len(params.cid_len(shape.block_len), PREFIX_LEN + name_len, shape.tsize);
            below = shape.above(below);
            at += run;
        }
        let last_slot = slot(hashes[entries.end - 1], level);
        let block_len = links_len + dag_pb::shard_data_len(last_slot);
        let after = self.0.len();
        let shard = &mut self.0[number];
        shard.block_len = block_len;
        shard.after = after;
        Ok(params.block_shape(block_len, 0).above(below))
    }

    /// The length of a shard's block.
    pub(crate) fn block_len(&self, shard: usize) -> u64 {
        self.0[shard].block_len
    }

    /// Encodes a shard with these children. `name` returns the name of an entry.
    pub(crate) fn encode<'a>(
        &self,
        shard: usize,
        children: &[Child],
        name: impl Fn(usize) -> &'a str,
    ) -> Vec<u8> {
        let level = self.0[shard].level;
        let slot_of = |entry| slot(murmur3::hash(name(entry).as_bytes()), level);
        let links = self.links(shard).zip(children).map(|(link, child)| match link {
            Link::Entry(entry) => (slot_of(entry), name(entry), child),
            Link::Shard(below) => (slot_of(self.0[below].first), "", child),
        });
        dag_pb::encode_shard(links)
    }

    /// The links of a shard, in order.
    pub(crate) fn links(&self, shard: usize) -> Links<'_> {
        let Shard { first, end, .. } = self.0[shard];
        Links { shards: self, entry: first, end, shard: shard + 1 }
    }
}

/// The remaining links of a shard.
#[derive(Debug, Clone)]
pub(crate) struct Links<'a> {
    shards: &'a Shards,
    entry: usize,
    end: usize,
    /// The next shard that may be linked.
    shard: usize,
}

impl Iterator for Links<'_> {
    type Item = Link;

    fn next(&mut self) -> Option<Link> {
        if self.entry == self.end {
            return None;
        }
        match self.shards.0.get(self.shard) {
            Some(below) if below.first == self.entry => {
                let link = Link::Shard(self.shard);
                self.entry = below.end;
                self.shard = below.after;
                Some(link)
            }
            _ => {
                self.entry += 1;
                Some(Link::Entry(self.entry - 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::units::len64;
    use crate::unixfs::dag::Codec;

    /// Names with a pair whose hashes agree in their first three bytes, which makes deep shards.
    ///
    /// Found by trying `n0`, `n1`, …: the first such pair, and all names before it.
    fn colliding_names() -> Vec<String> {
        let mut seen = std::collections::HashMap::new();
        let mut names = Vec::new();
        for number in 0.. {
            let name = format!("n{number}");
            let before = seen.insert(murmur3::hash(name.as_bytes()) >> 40, number);
            names.push(name);
            if before.is_some() {
                break;
            }
        }
        names
    }

    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 127 {
            bytes.push(u8::try_from(number & 127).unwrap() | 128);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).unwrap());
        bytes
    }

    fn field(tag: u8, value: &[u8]) -> Vec<u8> {
        [&[tag], &varint(len64(value.len()))[..], value].concat()
    }

    /// Encodes the shard with these entries slot by slot; returns the blocks of all shards, parents first.
    fn slow(params: &DagParams, entries: &[(&str, &Child)], level: usize) -> (Child, Vec<Vec<u8>>) {
        let (mut links, mut bits, mut tsize, mut below) = (Vec::new(), [0u8; 32], 0, Vec::new());
        for place in 0..=255u8 {
            let here: Vec<_> = entries
                .iter()
                .filter(|(name, _)| murmur3::hash(name.as_bytes()).to_be_bytes()[level] == place)
                .copied()
                .collect();
            let (name, child) = match here[..] {
                [] => continue,
                [(name, child)] => (format!("{place:02X}{name}"), child.clone()),
                _ => {
                    let (child, blocks) = slow(params, &here, level + 1);
                    below.extend(blocks);
                    (format!("{place:02X}"), child)
                }
            };
            let size = [&[0x18], &varint(child.tsize)[..]].concat();
            let link = [field(0x0a, &child.cid), field(0x12, name.as_bytes()), size].concat();
            links.extend(field(0x12, &link));
            bits[31 - usize::from(place) / 8] |= 1 << (place % 8);
            tsize += child.tsize;
        }
        let first = bits.iter().position(|byte| *byte != 0).unwrap();
        let data = [&[0x08, 0x05], &field(0x12, &bits[first..])[..], &[0x28, 0x22, 0x30, 0x80, 0x02]];
        let block = [links, field(0x0a, &data.concat())].concat();
        let cid = params.cid(Codec::DagPb, &block);
        let child = Child { cid, tsize: tsize + len64(block.len()), file_size: 0 };
        (child, [vec![block], below].concat())
    }

    /// Builds the shards from the last to the first; returns the root and all blocks, parents first.
    fn encoded(params: &DagParams, shards: &Shards, entries: &[(&str, &Child)]) -> (Child, Vec<Vec<u8>>) {
        let mut done: Vec<Option<Child>> = vec![None; shards.0.len()];
        let mut blocks = vec![Vec::new(); shards.0.len()];
        for shard in (0..shards.0.len()).rev() {
            let children: Vec<Child> = shards
                .links(shard)
                .map(|link| match link {
                    Link::Entry(entry) => entries[entry].1.clone(),
                    Link::Shard(below) => done[below].clone().unwrap(),
                })
                .collect();
            let block = shards.encode(shard, &children, |entry| entries[entry].0);
            assert_eq!(len64(block.len()), shards.block_len(shard), "shard {shard} has the predicted length");
            let tsize = len64(block.len()) + children.iter().map(|child| child.tsize).sum::<u64>();
            done[shard] = Some(Child { cid: params.cid(Codec::DagPb, &block), tsize, file_size: 0 });
            blocks[shard] = block;
        }
        (done[0].clone().unwrap(), blocks)
    }

    /// Compares the shards of some names with the slowly encoded ones; returns their depth.
    fn check(params: &DagParams, names: &[String]) -> u32 {
        let leaf = |name: &String| {
            let block = vec![b'x'; name.len() * 40 % 300];
            let len = len64(block.len());
            (Child { cid: params.cid(Codec::Raw, &block), tsize: len, file_size: len }, len)
        };
        let leaves: Vec<_> = names.iter().map(leaf).collect();
        let mut entries: Vec<_> =
            names.iter().zip(&leaves).map(|(name, (child, len))| (&**name, child, *len)).collect();
        entries.sort_by_key(|(name, ..)| murmur3::hash(name.as_bytes()));
        let hashes: Vec<u64> = entries.iter().map(|(name, ..)| murmur3::hash(name.as_bytes())).collect();
        let shape = |entry: usize| (len64(entries[entry].0.len()), params.block_shape(entries[entry].2, 0));
        let (shards, shape) = Shards::new(params, &hashes, shape).unwrap();
        let entries: Vec<_> = entries.iter().map(|(name, child, _)| (*name, *child)).collect();
        let (root, blocks) = slow(params, &entries, 0);
        let (found, found_blocks) = encoded(params, &shards, &entries);
        assert!(found_blocks == blocks, "{} names", names.len());
        assert_eq!((&found.cid, found.tsize), (&root.cid, root.tsize), "{} names", names.len());
        assert_eq!(shape.tsize, root.tsize, "{} names", names.len());
        let sections =
            blocks.iter().map(|block| len64(block.len())).chain(leaves.iter().map(|(_, len)| *len));
        let car_len: u64 = sections.map(|len| params.section_len(len)).sum();
        assert_eq!(shape.car_len, car_len, "{} names", names.len());
        shards.0.iter().map(|shard| shard.level).max().unwrap()
    }

    #[test]
    fn shards_are_those_that_are_written_out_place_by_place() {
        let names = colliding_names();
        for params in [Profile::Lotus.params(), Profile::UnixfsV1_2025.params()] {
            assert_eq!(check(&params, &names), 3, "three bytes agree");
            assert_eq!(check(&params, &names[..1]), 0);
            let pair = murmur3::hash(names[names.len() - 1].as_bytes()) >> 40;
            let pair: Vec<String> =
                names.iter().filter(|name| murmur3::hash(name.as_bytes()) >> 40 == pair).cloned().collect();
            assert_eq!(pair.len(), 2);
            assert_eq!(check(&params, &pair), 3, "shards with one shard below each other");
        }
    }

    #[test]
    fn one_hash_for_two_names_is_an_error() {
        let params = Profile::Lotus.params();
        let entry = |_| (5, params.block_shape(3, 3));
        let outcome = Shards::new(&params, &[1, 7, 7, 9], entry);
        assert_eq!(outcome.map(|_| ()), Err(SameHash(1)));
        let (shards, _) = Shards::new(&params, &[1, 6, 7, 9], entry).unwrap();
        assert_eq!(shards.0.len(), 8, "a shard for each byte of the hash");
        assert_eq!(shards.links(7).collect::<Vec<_>>(), [0, 1, 2, 3].map(Link::Entry));
        assert_eq!(shards.links(6).collect::<Vec<_>>(), [Link::Shard(7)]);
    }
}
