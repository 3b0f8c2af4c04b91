//! The hours of the day in which data is handed over (`setting.importHours`): `22:00-06:00`, in UTC, because
//! the database's clock decides and not this machine's.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

const MINUTES_A_DAY: u32 = 24 * 60;

/// A part of each day, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Minutes after midnight; belongs to it.
    from: u32,
    /// Minutes after midnight; does not belong to it. Before `from` where the hours pass midnight.
    to: u32,
}

impl Hours {
    /// How long until these hours begin; `None` within them. The time is in milliseconds since 1970.
    pub fn begin_in(self, now_ms: i64) -> Option<Duration> {
        let ms_a_day = i64::from(MINUTES_A_DAY) * 60_000;
        let of_day = u64::try_from(now_ms.rem_euclid(ms_a_day)).unwrap_or(0);
        let (from, to) = (u64::from(self.from) * 60_000, u64::from(self.to) * 60_000);
        let is_within = if from < to { (from..to).contains(&of_day) } else { of_day >= from || of_day < to };
        let day = u64::try_from(ms_a_day).unwrap_or(0);
        (!is_within).then(|| Duration::from_millis((from + day - of_day) % day))
    }
}

impl std::str::FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("\"{text}\" is no part of a day: write it as 22:00-06:00, in UTC");
        let minutes = |part: &str| {
            let (hour, minute) = part.trim().split_once(':')?;
            let (hour, minute) = (hour.parse::<u32>().ok()?, minute.parse::<u32>().ok()?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let (from, to) = text.split_once('-').ok_or_else(problem)?;
        let (from, to) = minutes(from).zip(minutes(to)).ok_or_else(problem)?;
        if from == to {
            return Err(format!("\"{text}\" is no part of a day: it ends when it begins"));
        }
        Ok(Self { from, to })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02} UTC", from / 60, from % 60, to / 60, to % 60)
    }
}

/// Reads them as text; nothing is no limit.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hours>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn hours_may_pass_midnight() {
        let day = 20_000 * i64::from(MINUTES_A_DAY) * MINUTE;
        for (hours, minute, minutes_left) in [
            ("08:00-18:00", 8 * 60, None),
            ("08:00-18:00", 18 * 60 - 1, None),
            ("08:00-18:00", 18 * 60, Some(14 * 60)),
            ("08:00-18:00", 7 * 60, Some(60)),
            ("22:00-06:00", 23 * 60, None),
            ("22:00-06:00", 0, None),
            ("22:00-06:00", 6 * 60, Some(16 * 60)),
            ("22:00-00:00", 1, Some(22 * 60 - 1)),
        ] {
            let hours: Hours = hours.parse().unwrap();
            let left = hours.begin_in(day + minute * MINUTE).map(|left| left.as_secs() / 60);
            assert_eq!(left, minutes_left, "{hours} at minute {minute}");
        }
    }

    #[test]
    fn what_is_no_part_of_a_day_is_refused() {
        for text in ["", "22-6", "24:00-01:00", "08:00-08:00", "8:60-9:00", "22:00", "a:b-c:d"] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
    }
}
