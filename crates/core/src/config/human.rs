//! Durations, byte sizes and lenient text in YAML, variables and flags.
//!
//! A duration without a unit is in seconds, as in `dealTimeout: 20` of the prototype's configuration files.
//! Units of deals (epochs, days of 2880 epochs) belong to the chain and are read in `model`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

/// Why a written value is not what its key needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HumanError {
    /// Not a duration.
    #[error(
        "\"{0}\" is not a duration: write seconds (20) or a number with ms, s, m, h or d (30s, 5m, 1h30m)"
    )]
    Duration(String),
    /// Not a byte size.
    #[error(
        "\"{0}\" is not a size: write bytes (1048576) or a number with KiB, MiB, GiB, TiB (64MiB) or kB, MB, GB, TB"
    )]
    Bytes(String),
    /// A value beyond what the agents can count.
    #[error("\"{0}\" is too large")]
    TooLarge(String),
}

/// Reads `20`, `30s`, `1.5h`, `1h30m`, `7d`, `250ms`; a number without unit counts seconds.
pub fn parse_duration(written: &str) -> Result<Duration, HumanError> {
    let bad = || HumanError::Duration(written.to_owned());
    let mut rest = written.trim();
    let mut total = Duration::ZERO;
    let mut parts = 0_usize;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(bad)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" | "sec" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" if parts == 0 && next.is_empty() => 1000,
            _ => return Err(bad()),
        };
        let part_ms = scaled(number, unit_ms).ok_or_else(|| HumanError::TooLarge(written.to_owned()))?;
        total = total
            .checked_add(Duration::from_millis(part_ms))
            .ok_or_else(|| HumanError::TooLarge(written.to_owned()))?;
        parts = parts.saturating_add(1);
        rest = next.trim_start();
    }
    if parts == 0 { Err(bad()) } else { Ok(total) }
}

/// Reads `1048576`, `64MiB`, `32 GiB`, `1.5TB`; a number without unit counts bytes.
pub fn parse_bytes(written: &str) -> Result<u64, HumanError> {
    let bad = || HumanError::Bytes(written.to_owned());
    let (number, after) = split_number(written.trim()).ok_or_else(bad)?;
    let unit_bytes: u64 = match after.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    scaled(number, unit_bytes).ok_or_else(|| HumanError::TooLarge(written.to_owned()))
}

/// For `#[serde(with = "…::human::duration")]` fields: a number of seconds or text with a unit.
pub mod duration {
    use super::{Deserializer, Duration, HumanError, Written, parse_duration};

    /// Deserializes a required duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Written::<Duration>::new("a duration", parse))
    }

    fn parse(written: &str) -> Result<Duration, HumanError> {
        parse_duration(written)
    }
}

/// As [`duration`], for `Option<Duration>` fields with `#[serde(default)]`.
pub mod optional_duration {
    use super::{Deserializer, Duration};

    /// Deserializes a duration that was written.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

/// For byte sizes: an integer or text with a unit.
pub mod bytes {
    use super::{Deserializer, Written, parse_bytes};

    /// Deserializes a required size in bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(Written::<u64>::new("a size in bytes", parse_bytes))
    }
}

/// As [`bytes`], for `Option<u64>` fields with `#[serde(default)]`.
pub mod optional_bytes {
    use super::Deserializer;

    /// Deserializes a size that was written.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        super::bytes::deserialize(deserializer).map(Some)
    }
}

/// For text that YAML may take for a number: a database named `2021` stays text.
pub mod text {
    use super::{Deserializer, Written};

    /// Deserializes required text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(Written::<String>::new("text", |written| Ok(written.to_owned())))
    }
}

/// As [`text`], for `Option<String>` fields with `#[serde(default)]`.
pub mod optional_text {
    use super::Deserializer;

    /// Deserializes text that was written.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        super::text::deserialize(deserializer).map(Some)
    }
}

/// As [`text`], for `Option<PathBuf>` fields with `#[serde(default)]`.
pub mod optional_path {
    use super::{Deserializer, PathBuf};

    /// Deserializes a path that was written.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        super::text::deserialize(deserializer).map(|path| Some(PathBuf::from(path)))
    }
}

/// For entries of a list that are a map, or the value of one of its keys alone: `miners: [f01000]`.
pub fn map_or_text<'de, D, T>(deserializer: D, of_text: fn(String) -> T) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Entry<T>(fn(String) -> T);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Entry<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map such as {miner: f01000}, or f01000 alone")
        }

        fn visit_str<E>(self, text: &str) -> Result<T, E> {
            Ok((self.0)(text.to_owned()))
        }

        fn visit_u64<E>(self, number: u64) -> Result<T, E> {
            Ok((self.0)(number.to_string()))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(Entry(of_text))
}

/// Values that are read by their text.
macro_rules! as_text {
    ($($visit:ident: $value:ty),*) => {
        $(fn $visit<E: serde::de::Error>(self, written: $value) -> Result<T, E> {
            self.visit_str(&written.to_string())
        })*
    };
}

/// Visits text and numbers alike, as the text they were written with.
pub(super) struct Written<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, HumanError>,
}

impl<T> Written<T> {
    pub(super) fn new(expected: &'static str, parse: fn(&str) -> Result<T, HumanError>) -> Self {
        Self { expected, parse }
    }
}

impl<'de, T> Visitor<'de> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, written: &str) -> Result<T, E> {
        (self.parse)(written).map_err(E::custom)
    }

    as_text! { visit_u64: u64, visit_i64: i64, visit_u128: u128, visit_i128: i128, visit_f64: f64, visit_bool: bool }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<T, E> {
        Err(E::custom(format!("{} is missing after the key", self.expected)))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self).map_err(D::Error::custom)
    }
}

/// Splits `1.5h` into (`1.5`, `h`); `None` when it does not begin with a digit.
fn split_number(written: &str) -> Option<(&str, &str)> {
    let end = written.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(written.len());
    let (number, after) = written.split_at(end);
    let starts_well = number.starts_with(|c: char| c.is_ascii_digit());
    let one_point = number.matches('.').count() <= 1 && !number.ends_with('.');
    (starts_well && one_point).then_some((number, after))
}

/// `number * unit` in whole units, exactly (no floating point); `None` beyond `u64`.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u128>().ok()?.checked_mul(u128::from(unit))?;
    let digits = fraction.get(..fraction.len().min(FRACTION_DIGITS_MAX))?;
    let fraction = if digits.is_empty() {
        0
    } else {
        let scale = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
        digits.parse::<u128>().ok()?.checked_mul(u128::from(unit))? / scale
    };
    u64::try_from(whole.checked_add(fraction)?).ok()
}

/// More digits after the point change no duration and no size: the finest unit is a millisecond or a byte.
const FRACTION_DIGITS_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let cases = [
            ("20", 20_000),
            ("0", 0),
            ("1.5", 1500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            (" 0.5h ", 1_800_000),
        ];
        for (written, ms) in cases {
            assert_eq!(parse_duration(written), Ok(Duration::from_millis(ms)), "{written}");
        }
        for written in ["", "s", "5 parsecs", "-1", "1.2.3s", "1h30", "30,5s", "1e3", "."] {
            assert_eq!(parse_duration(written), Err(HumanError::Duration(written.to_owned())), "{written}");
        }
        let huge = "99999999999999999999d";
        assert_eq!(parse_duration(huge), Err(HumanError::TooLarge(huge.to_owned())));
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        let cases = [
            ("1048576", 1 << 20),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("32GiB", 32 << 30),
            ("1.5KiB", 1536),
            ("2GB", 2_000_000_000),
            ("0", 0),
        ];
        for (written, bytes) in cases {
            assert_eq!(parse_bytes(written), Ok(bytes), "{written}");
        }
        for written in ["", "MiB", "12 apples", "-5", "1 2"] {
            assert_eq!(parse_bytes(written), Err(HumanError::Bytes(written.to_owned())), "{written}");
        }
        assert!(matches!(parse_bytes("99999999TiB"), Err(HumanError::TooLarge(_))));
    }
}
