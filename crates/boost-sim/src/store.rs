//! The deals of a provider, with indexes for lookups and for pages of GraphQL.
//!
//! ```text
//! deals by age    0 1 2 3 4 5 6 7 …      a page is read from the newest backwards
//! Accepted        1 0 0 1 1 0 1 1        one bit set for each checkpoint, and for
//! offline         1 1 1 1 0 1 1 1        each other thing that a filter names
//! ```
//!
//! A page costs one pass over the words of the bit sets: 1600 words for 100 000 deals.

use std::collections::HashMap;

use crate::record::{Checkpoint, Record};

/// What GraphQL's `filter` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Filter {
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) is_offline: Option<bool>,
    pub(crate) is_verified: Option<bool>,
    /// Whether only deals of another transfer type than this simulator has are wanted.
    pub(crate) nothing: bool,
}

/// Where a listing begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cursor {
    /// At the newest deal.
    #[default]
    Newest,
    /// At this deal.
    Deal(usize),
    /// At a deal that does not exist: nothing is older.
    Unknown,
}

/// What GraphQL's `deals` asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) query: Option<String>,
    pub(crate) filter: Filter,
    pub(crate) cursor: Cursor,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
}

/// One page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Number of deals that match query and filter; the cursor does not count.
    pub(crate) total: usize,
    pub(crate) deals: Vec<usize>,
    pub(crate) more: bool,
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, index: usize, value: bool) {
        if self.0.len() <= index / 64 {
            self.0.resize(index / 64 + 1, 0);
        }
        let word = &mut self.0[index / 64];
        *word = if value { *word | 1 << (index % 64) } else { *word & !(1 << (index % 64)) };
    }

    fn word(&self, number: usize) -> u64 {
        self.0.get(number).copied().unwrap_or(0)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| ones(*word)).sum()
    }
}

fn ones(word: u64) -> usize {
    usize::try_from(word.count_ones()).expect("u32 fits in usize")
}

/// Indexes of the bits of a word, highest first.
fn bits_from_the_top(number: usize, word: u64) -> impl Iterator<Item = usize> {
    (0..64).rev().filter(move |bit| word >> bit & 1 == 1).map(move |bit| number * 64 + bit)
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    deals: Vec<Record>,
    by_uuid: HashMap<String, usize>,
    by_signed_cid: HashMap<String, usize>,
    /// Texts that `query` finds as a whole, with their deals in the order of age.
    by_text: HashMap<String, Vec<usize>>,
    at: [Bits; 7],
    offline: Bits,
    verified: Bits,
    erring: Bits,
}

impl Store {
    /// Number of deals.
    pub(crate) fn len(&self) -> usize {
        self.deals.len()
    }

    /// Every deal, oldest first.
    pub(crate) fn all(&self) -> &[Record] {
        &self.deals
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Record> {
        self.deals.get(index)
    }

    pub(crate) fn by_uuid(&self, uuid: &str) -> Option<&Record> {
        self.by_uuid.get(uuid).and_then(|index| self.deals.get(*index))
    }

    pub(crate) fn by_signed_cid(&self, cid: &str) -> Option<&Record> {
        self.by_signed_cid.get(cid).and_then(|index| self.deals.get(*index))
    }

    /// Number of deals at a checkpoint.
    pub(crate) fn count_at(&self, checkpoint: Checkpoint) -> usize {
        self.at[checkpoint.number()].count()
    }

    /// Adds a deal, whose index is [`Self::len`].
    pub(crate) fn insert(&mut self, record: Record, searchable: impl IntoIterator<Item = String>) {
        let index = self.deals.len();
        self.by_uuid.insert(record.uuid().to_owned(), index);
        self.by_signed_cid.insert(record.terms.names.signed_proposal_cid.clone(), index);
        for text in searchable {
            self.find_by(text, index);
        }
        self.offline.set(index, record.is_offline);
        self.verified.set(index, record.terms.verified);
        self.at[record.checkpoint.number()].set(index, true);
        self.erring.set(index, !record.err.is_empty());
        self.deals.push(record);
    }

    /// Replaces a deal's record.
    pub(crate) fn save(&mut self, record: &Record) {
        let index = record.index;
        let Some(before) = self.deals.get_mut(index) else { return };
        let before = std::mem::replace(before, record.clone());
        if before.checkpoint != record.checkpoint {
            self.at[before.checkpoint.number()].set(index, false);
            self.at[record.checkpoint.number()].set(index, true);
        }
        self.erring.set(index, !record.err.is_empty());
        if before.publish_cid != record.publish_cid
            && let Some(cid) = &record.publish_cid
        {
            self.find_by(cid.clone(), index);
        }
        if before.chain_deal_id != record.chain_deal_id {
            self.find_by(record.chain_deal_id.to_string(), index);
        }
    }

    fn find_by(&mut self, text: String, index: usize) {
        let found = self.by_text.entry(text).or_default();
        if found.last() != Some(&index) {
            found.push(index);
        }
    }

    /// One page, newest deals first.
    pub(crate) fn page(&self, listing: &Listing) -> Page {
        let selected = listing.query.as_ref().map(|query| self.found_by(query));
        let word_of = |number: usize| {
            let word = selected.as_ref().map_or(u64::MAX, |selected| selected.word(number));
            word & self.filtered(listing.filter, number)
        };
        let words = self.deals.len().div_ceil(64);
        let total = (0..words).map(|number| ones(word_of(number))).sum();
        let mut page = Page { total, deals: Vec::new(), more: false };
        let mut skip = listing.offset;
        for number in (0..words).rev() {
            let mut word = word_of(number);
            word &= match listing.cursor {
                Cursor::Newest => u64::MAX,
                Cursor::Deal(index) => not_newer(index, number),
                Cursor::Unknown => 0,
            };
            if ones(word) <= skip {
                skip -= ones(word);
                continue;
            }
            for index in bits_from_the_top(number, word).skip(std::mem::take(&mut skip)) {
                if page.deals.len() == listing.limit {
                    page.more = true;
                    return page;
                }
                page.deals.push(index);
            }
        }
        page
    }

    /// Bits of deals that a filter lets through.
    fn filtered(&self, filter: Filter, number: usize) -> u64 {
        let first = number * 64;
        let existing = self.deals.len().saturating_sub(first);
        let mut word = if existing >= 64 { u64::MAX } else { (1 << existing) - 1 };
        if filter.nothing {
            return 0;
        }
        if let Some(checkpoint) = filter.checkpoint {
            word &= self.at[checkpoint.number()].word(number);
        }
        for (wanted, bits) in [(filter.is_offline, &self.offline), (filter.is_verified, &self.verified)] {
            match wanted {
                Some(true) => word &= bits.word(number),
                Some(false) => word &= !bits.word(number),
                None => {}
            }
        }
        word
    }

    /// Deals that have this text as a whole value, or as a part of their error.
    fn found_by(&self, query: &str) -> Bits {
        let mut found = Bits::default();
        let query = query.trim_matches([' ', '\t', '\n']);
        for index in self.by_text.get(query).into_iter().flatten() {
            found.set(*index, true);
        }
        for number in 0..self.deals.len().div_ceil(64) {
            for index in bits_from_the_top(number, self.erring.word(number)) {
                if self.deals[index].err.contains(query) {
                    found.set(index, true);
                }
            }
        }
        found
    }
}

/// Bits of a word that stand for deals up to this one.
fn not_newer(cursor: usize, number: usize) -> u64 {
    match cursor.checked_sub(number * 64) {
        None => 0,
        Some(bit) if bit >= 63 => u64::MAX,
        Some(bit) => (2 << bit) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::{bits_from_the_top, not_newer};

    #[test]
    fn cursors_keep_older_deals() {
        assert_eq!(not_newer(0, 0), 1);
        assert_eq!(not_newer(63, 0), u64::MAX);
        assert_eq!(not_newer(63, 1), 0);
        assert_eq!(not_newer(65, 1), 0b11);
        assert_eq!(not_newer(200, 1), u64::MAX);
    }

    #[test]
    fn bits_come_from_the_top() {
        assert_eq!(bits_from_the_top(1, 0b1011).collect::<Vec<_>>(), [67, 65, 64]);
    }
}
