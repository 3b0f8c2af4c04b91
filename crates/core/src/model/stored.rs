//! Lenient deserialization of stored values: integers, texts, times, flags.
//!
//! The prototype (Python) stored doubles for integers, and naive local times; a shell may store either. A
//! value that cannot be read is an error that names the field; a missing value is `None`.

use bson::{Bson, DateTime};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::model::address::MinerId;
use crate::model::{ImportState, IntentState, PieceState, PlanState, PublishMethod, Refusal, StatusSource};

/// Makes the stored name of an enumeration a value of queries and updates.
macro_rules! stored_by_name {
    ($($name:ty),+ $(,)?) => {
        $(impl From<$name> for Bson {
            fn from(value: $name) -> Self {
                Self::String(value.as_str().to_owned())
            }
        })+
    };
}

stored_by_name!(ImportState, IntentState, PieceState, PlanState, PublishMethod, Refusal, StatusSource);

/// Largest whole number that a double holds exactly.
const DOUBLE_EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// An integer from Int32, Int64, a whole double, a numeric string or a boolean.
pub fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) if number.fract() == 0.0 && number.abs() <= DOUBLE_EXACT_MAX => {
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
            let whole = *number as i64;
            Some(whole)
        }
        Bson::String(text) => text.trim().parse().ok(),
        Bson::Boolean(yes) => Some(i64::from(*yes)),
        _ => None,
    }
}

/// For `#[serde(deserialize_with)]`: see [`integer`]; null is `None`.
pub fn opt_integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Bson::deserialize(deserializer)? {
        Bson::Null | Bson::Undefined => Ok(None),
        value => integer(&value)
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("expected a whole number, found {value}"))),
    }
}

/// A text from a string, or from a number as the shell writes one; null is `None`.
pub fn opt_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Bson::deserialize(deserializer)? {
        Bson::Null | Bson::Undefined => Ok(None),
        Bson::String(text) => Ok(Some(text)),
        Bson::Int32(number) => Ok(Some(number.to_string())),
        Bson::Int64(number) => Ok(Some(number.to_string())),
        Bson::Double(number) => Ok(Some(number.to_string())),
        Bson::Decimal128(number) => Ok(Some(number.to_string())),
        value => Err(D::Error::custom(format!("expected a text, found {value}"))),
    }
}

/// A miner's ID in its canonical text, see [`MinerId::canonical`].
pub fn opt_miner<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(opt_text(deserializer)?.map(|text| MinerId::canonical(&text)))
}

/// As [`opt_miner`], where there must be one.
pub fn miner<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(MinerId::canonical(&String::deserialize(deserializer)?))
}

/// A time from a date, from seconds since 1970 (integer or double) or from an RFC 3339 string; anything
/// else, null included, is `None`: no decision hangs on a prototype's date.
pub fn opt_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime>, D::Error> {
    Ok(match Bson::deserialize(deserializer)? {
        Bson::DateTime(time) => Some(time),
        Bson::String(text) => DateTime::parse_rfc3339_str(text).ok(),
        Bson::Double(seconds) if seconds.is_finite() && seconds.abs() < 1e12 => {
            #[expect(clippy::cast_possible_truncation, reason = "below 10^15 milliseconds")]
            let millis = (seconds * 1000.0) as i64;
            Some(DateTime::from_millis(millis))
        }
        Bson::Int32(seconds) => Some(DateTime::from_millis(i64::from(seconds) * 1000)),
        Bson::Int64(seconds) => Some(DateTime::from_millis(seconds.saturating_mul(1000))),
        _ => None,
    })
}

/// A flag from a boolean or a number; null is `None`.
pub fn opt_flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(match Bson::deserialize(deserializer)? {
        Bson::Boolean(yes) => Some(yes),
        other => integer(&other).map(|number| number != 0),
    })
}

/// A stored number that is below zero in no document that an agent wrote; 0 where it is.
pub fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::model::OfflineDealDoc;

    #[test]
    fn integers_of_every_writer_are_read() {
        for (value, expected) in [
            (Bson::Int32(7), Some(7)),
            (Bson::Int64(5_000_000_000), Some(5_000_000_000)),
            (Bson::Double(1_065_353_216.0), Some(1_065_353_216)),
            (Bson::Double(0.5), None),
            (Bson::Double(f64::NAN), None),
            (Bson::String("7".into()), Some(7)),
            (Bson::String("seven".into()), None),
            (Bson::Boolean(true), Some(1)),
        ] {
            assert_eq!(integer(&value), expected, "{value}");
        }
    }

    #[test]
    fn states_are_written_by_the_names_that_they_are_read_by() {
        fn names<T: serde::Serialize + Copy + Into<Bson>>(values: &[T]) -> Vec<(Bson, Bson)> {
            let both = |value: &T| ((*value).into(), bson::serialize_to_bson(value).unwrap());
            values.iter().map(both).collect()
        }
        use ImportState as Import;
        use IntentState as Intent;
        use PieceState as Piece;
        use PlanState as Plan;
        let import = [Import::Waiting, Import::Retrying, Import::SetAside, Import::Missed, Import::Failed];
        let all = [
            names(&import),
            names(&[Import::Done, Import::Unknown]),
            names(&[Intent::Intended, Intent::Confirmed, Intent::Refused, Intent::Abandoned]),
            names(&[Piece::Open, Piece::Done, Piece::Failed]),
            names(&[Plan::Writing, Plan::Ready, Plan::Ended]),
            names(&[PublishMethod::Start, PublishMethod::Stateless]),
            names(&[StatusSource::Chain, StatusSource::Node, StatusSource::Provider]),
        ];
        for (written, read) in all.into_iter().flatten() {
            assert_eq!(written, read);
        }
    }

    #[test]
    fn records_name_a_miner_by_one_text() {
        for written in ["f01000", "t01000", "t001000"] {
            let deal: OfflineDealDoc = bson::deserialize_from_document(doc! { "miner": written }).unwrap();
            assert_eq!(deal.miner.as_deref(), Some("f01000"), "{written}");
        }
        let deal: OfflineDealDoc = bson::deserialize_from_document(doc! { "miner": "none" }).unwrap();
        assert_eq!(deal.miner.as_deref(), Some("none"));
    }
}
