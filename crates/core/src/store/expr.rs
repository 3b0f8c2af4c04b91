//! MongoDB expressions and filters that several queries share: the server's time, counters, subdocuments,
//! deal states by number.

use std::time::Duration;

use bson::{Document, doc};

use crate::model::{DealStatus, ImportState};

/// The server's clock, in an expression.
pub(super) const NOW: &str = "$$NOW";

/// Stored counters are taken modulo this number, so that adding to one never overflows, even if another user
/// of the database wrote its value.
pub(super) const N_MAX: i64 = 1 << 52;

/// Documents asked for in one call.
pub(super) const PAGE: usize = 1000;

/// A duration as MongoDB counts it.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The server's time after this duration.
pub(super) fn from_now(duration: Duration) -> Document {
    doc! { "$add": [NOW, millis(duration)] }
}

/// The server's time before this duration.
pub(super) fn ago(duration: Duration) -> Document {
    doc! { "$subtract": [NOW, millis(duration)] }
}

/// A stored counter; a value that is no number counts as 0.
pub(super) fn count_of(field: &str) -> Document {
    doc! { "$convert": { "input": field, "to": "long", "onError": 0_i64, "onNull": 0_i64 } }
}

/// A stored counter, increased by one.
pub(super) fn one_more(field: &str) -> Document {
    doc! { "$add": [{ "$mod": [count_of(field), N_MAX] }, 1_i64] }
}

/// A stored subdocument as it is; a value of another type is removed.
pub(super) fn object_or_nothing(field: &str) -> Document {
    doc! { "$cond": [{ "$eq": [{ "$type": field }, "object"] }, field, "$$REMOVE"] }
}

/// The fields as an update sets them, without those that other calls write, and with the server's times.
pub(super) fn stamped(mut fields: Document, others: &[&str]) -> Document {
    for other in others {
        fields.remove(other);
    }
    let literal = |(name, value)| (name, doc! { "$literal": value }.into());
    let mut set: Document = fields.into_iter().map(literal).collect();
    set.insert("createdtime", doc! { "$ifNull": ["$createdtime", NOW] });
    set.insert("updatedtime", NOW);
    set
}

/// The fields as an upsert sets them: only where the document does not have them yet.
pub(super) fn where_missing(fields: Document) -> Document {
    let kept = |(name, value): (String, bson::Bson)| {
        let kept = doc! { "$ifNull": [format!("${name}"), { "$literal": value }] };
        (name, kept.into())
    };
    fields.into_iter().map(kept).collect()
}

/// Deal states by their numbers.
pub(super) fn numbers(states: &[DealStatus]) -> Vec<i64> {
    states.iter().map(|state| state.stored()).collect()
}

/// States in which a deal is no replica and awaits nothing.
pub(super) fn dead_states() -> Vec<i64> {
    let mut states = numbers(&DealStatus::FAILED);
    states.push(DealStatus::EXPIRED.stored());
    states
}

/// Matches states of `import` in which nothing is tried any more.
pub(super) fn import_is_final() -> Document {
    doc! { "$in": ImportState::FINAL.to_vec() }
}

/// Matches states of `import` in which another try is made. A deal that was handed over waits for its
/// market's word, and is no due deal (`handed`).
pub(super) fn import_goes_on() -> Document {
    let over = [ImportState::FINAL.as_slice(), &[ImportState::Handed]].concat();
    doc! { "$nin": over }
}
