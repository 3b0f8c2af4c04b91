//! Sharded folders: a tree of shards in which a hash of its name says where an entry stands (HAMT).
//!
//! ```text
//! hash of a name   6b|03|f1|…            a byte a level, the first one for the root shard
//! root shard       …  "6B" ──► shard     several names begin with this byte: a shard below
//!                     "9Cname" ──► file  one name alone: the entry itself
//! ```
//!
//! Entries in the order of their hashes are in the order of links, depth first, so a shard is a range of them.
//! Which shards there are follows from the names alone, and their lengths from those of the entries.
//!
//! Source: boxo v0.10.1 ipld/unixfs/hamt/hamt.go.

use super::dag::Shape;
use super::murmur3;
use super::pb::{self, Child};
use crate::profile::DagParams;

/// Levels of shards at most: bytes of a hash.
const LEVELS_MAX: u32 = 8;
/// Length of the two hexadecimal digits before each link's name.
const PREFIX_LEN: u64 = 2;

/// The shards of one folder, every one before those below it: the order of their blocks in a CAR.
#[derive(Debug)]
pub(crate) struct Shards(Vec<Shard>);

#[derive(Debug, Clone, Copy)]
struct Shard {
    /// Entries in and below it, in the order of their hashes.
    first: usize,
    end: usize,
    /// The first shard that is not below it.
    after: usize,
    level: u32,
    block_len: u64,
}

/// What a shard links to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// The entry with this number in the order of hashes.
    Entry(usize),
    /// The shard with this number.
    Shard(usize),
}

/// Two entries of which the whole hash is the same: no tree of shards can tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SameHash(pub(crate) usize);

/// Where in a shard of this level an entry with this hash stands.
fn slot(hash: u64, level: u32) -> u8 {
    let level = usize::try_from(level).expect("u32 fits in usize");
    hash.to_be_bytes()[level]
}

impl Shards {
    /// The shards for entries with these hashes, in ascending order; `entry` tells length of name and shape.
    ///
    /// Returns the shape of the folder with all below it as well.
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

    /// Recursive by level, of which there are few.
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
            links_len += pb::link_len(params.cid_len(shape.block_len), PREFIX_LEN + name_len, shape.tsize);
            below = shape.above(below);
            at += run;
        }
        let last_slot = slot(hashes[entries.end - 1], level);
        let block_len = links_len + pb::shard_data_len(last_slot);
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

    /// The block of a shard with these children, where each entry has this name.
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
        pb::encode_shard(links)
    }

    /// What a shard links to, in the order of its links.
    pub(crate) fn links(&self, shard: usize) -> Links<'_> {
        let Shard { first, end, .. } = self.0[shard];
        Links { shards: self, entry: first, end, shard: shard + 1 }
    }
}

/// The links of a shard that are left.
#[derive(Debug, Clone)]
pub(crate) struct Links<'a> {
    shards: &'a Shards,
    entry: usize,
    end: usize,
    /// The next shard that may be below this one.
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
