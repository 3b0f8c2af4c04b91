//! Reads JSON values as Go writes them: `null` for empty slices, and lists in which an entry may be
//! unreadable.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Go writes empty slices as `null`.
pub(crate) fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list that may be `null`.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent, bound(deserialize = "T: Deserialize<'de>"))]
pub(crate) struct List<T>(#[serde(deserialize_with = "null_is_empty")] pub Vec<T>);

/// A whole number as Go's `big.Int` is written: a decimal text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BigInt(pub u128);

impl<'de> Deserialize<'de> for BigInt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| D::Error::custom(format!("\"{text}\" is not a whole number")))
    }
}

/// The readable part of a list.
#[derive(Clone, Debug)]
pub(crate) struct EachEntry<T> {
    /// The entries that could be read, in their order.
    pub(crate) entries: Vec<T>,
    /// How many could not.
    pub(crate) unreadable: usize,
    /// What was wrong with the first of those.
    pub(crate) problem: Option<String>,
}

/// Reads a list; its entries are read one by one where not all can be read. A `null` list is empty, and a
/// `null` entry is unreadable.
pub(crate) fn read_each<T: DeserializeOwned>(text: &str) -> serde_json::Result<EachEntry<T>> {
    // The common case: all entries are readable, and one pass reads them.
    if let Ok(List(entries)) = serde_json::from_str::<List<T>>(text) {
        return Ok(EachEntry { entries, unreadable: 0, problem: None });
    }
    read_each_by(text, |entry| serde_json::from_str(entry))
}

/// Reads the entries of a list one by one.
pub(crate) fn read_each_by<T>(
    text: &str,
    read_entry: impl Fn(&str) -> serde_json::Result<T>,
) -> serde_json::Result<EachEntry<T>> {
    let texts: Option<Vec<&RawValue>> = serde_json::from_str(text)?;
    let mut read = EachEntry { entries: Vec::new(), unreadable: 0, problem: None };
    for entry in texts.unwrap_or_default() {
        match read_entry(entry.get()) {
            Ok(entry) => read.entries.push(entry),
            Err(problem) => {
                read.unreadable += 1;
                read.problem.get_or_insert_with(|| problem.to_string());
            }
        }
    }
    Ok(read)
}
