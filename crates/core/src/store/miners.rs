//! Filters by miner: records may name a miner by several spellings of its ID.

use bson::{Document, doc};

use crate::model::address::MinerId;

/// Matches the records of this miner.
pub(super) fn written_as(miner: &str) -> Document {
    doc! { "$in": spellings(miner) }
}

/// Matches the records of any of these miners.
pub(super) fn any_of(miners: &[String]) -> Document {
    doc! { "$in": miners.iter().flat_map(|miner| spellings(miner)).collect::<Vec<_>>() }
}

fn spellings(miner: &str) -> Vec<String> {
    miner.parse::<MinerId>().map_or_else(|_| vec![miner.to_owned()], MinerId::spellings)
}
