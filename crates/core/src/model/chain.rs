//! Chain epochs, deal durations and amounts of FIL, with the constants of the Filecoin network.

use std::fmt;
use std::str::FromStr;

/// Seconds per epoch on mainnet. Source: lotus v1.23.3 `build/params_shared_vals.go` (`BlockDelaySecs`).
pub const EPOCH_SECONDS: u64 = 30;
/// Epochs per day. Source: lotus v1.23.3 `build/params_shared_funcs.go`, builtin `EpochsInDay`.
pub const EPOCHS_PER_DAY: i64 = 2880;
/// Epochs from now to the end of a deal, at most: 540 days. Source: go-fil-markets v1.28.3
/// `storagemarket/impl/providerstates/provider_states.go:110-119`.
pub const DEAL_END_MAX: i64 = 540 * EPOCHS_PER_DAY;

/// A chain epoch (30 s each on mainnet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainEpoch(i64);

impl ChainEpoch {
    /// When mainnet's epoch 0 began: 2020-08-24T22:00:00Z, in Unix seconds.
    /// Source: the timestamp of mainnet's genesis block (lotus v1.23.3 `build/genesis/mainnet.car`).
    const MAINNET_GENESIS: i64 = 1_598_306_400;

    /// From a number of epochs since genesis.
    pub const fn new(epoch: i64) -> Self {
        Self(epoch)
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// This epoch plus a number of epochs.
    #[must_use]
    pub const fn plus(self, epochs: i64) -> Self {
        Self(self.0.saturating_add(epochs))
    }

    /// Epochs from `earlier` to this one; negative when this one is first.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Mainnet's epoch at a wall-clock time in Unix seconds, for agents without a full node.
    pub const fn mainnet_at(unix_seconds: i64) -> Self {
        Self((unix_seconds - Self::MAINNET_GENESIS).div_euclid(EPOCH_SECONDS.cast_signed()))
    }
}

impl fmt::Display for ChainEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How long a deal runs, in epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DealDuration(i64);

/// A duration that no provider would accept, or that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// Not a number with an optional unit.
    #[error("`{0}` is not a deal duration: write days (`366` or `366d`) or epochs (`1054080 epochs`)")]
    Unreadable(String),
    /// Outside what the network allows.
    #[error(
        "a deal duration of {epochs} epochs ({days:.1} days) is outside the network's bounds: \
         {min} to {max} epochs ({min_days} to {max_days} days)",
        days = days(*epochs), min = DealDuration::MIN.0, max = DealDuration::MAX.0,
        min_days = DealDuration::MIN.0 / EPOCHS_PER_DAY, max_days = DealDuration::MAX.0 / EPOCHS_PER_DAY
    )]
    OutOfBounds {
        /// What was asked for.
        epochs: i64,
    },
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn days(epochs: i64) -> f64 {
    epochs as f64 / EPOCHS_PER_DAY as f64
}

impl DealDuration {
    /// 180 days. Source: lotus v1.5.0 `build/params_shared_vals.go:122`, `market11.DealDurationBounds`.
    pub const MIN: Self = Self(518_400);
    /// The provider refuses a deal that ends after [`DEAL_END_MAX`], and the node lengthens a deal by up to
    /// 5758 epochs to end it on a proving period (lotus v1.23.3 `node/impl/client/client.go:136-227`).
    pub const MAX: Self = Self(DEAL_END_MAX - Self::ALIGNMENT_MAX);
    /// By how many epochs, at most, a node lengthens a deal.
    pub const ALIGNMENT_MAX: i64 = 5758;
    /// Bare numbers up to this are days (the notes' `duration: 366`), above it epochs; the network's
    /// bounds leave nothing legal in between.
    const LARGEST_DAYS: i64 = 10_000;

    /// A duration in epochs, within the network's bounds.
    pub fn from_epochs(epochs: i64) -> Result<Self, ParseDurationError> {
        if (Self::MIN.0..=Self::MAX.0).contains(&epochs) {
            Ok(Self(epochs))
        } else {
            Err(ParseDurationError::OutOfBounds { epochs })
        }
    }

    /// A stored duration, which is taken as it is: the deal exists already.
    pub fn from_stored(epochs: i64) -> Self {
        Self(epochs)
    }

    /// The number of epochs.
    pub fn get(self) -> i64 {
        self.0
    }

    /// What a deal of this length may cost at most: the node lengthens it by up to [`Self::ALIGNMENT_MAX`]
    /// epochs.
    pub fn cost_max(self, epoch_price: AttoFil) -> AttoFil {
        epoch_price.times(u128::try_from(self.0.saturating_add(Self::ALIGNMENT_MAX)).unwrap_or(0))
    }
}

impl FromStr for DealDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unreadable = || ParseDurationError::Unreadable(text.to_owned());
        let trimmed = text.trim();
        let digits_end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(digits_end);
        let number: i64 = digits.parse().map_err(|_| unreadable())?;
        let epochs = match unit.trim() {
            "" if number <= Self::LARGEST_DAYS => number * EPOCHS_PER_DAY,
            "" | "epoch" | "epochs" => number,
            "d" | "day" | "days" => number.checked_mul(EPOCHS_PER_DAY).ok_or_else(unreadable)?,
            _ => return Err(unreadable()),
        };
        Self::from_epochs(epochs)
    }
}

impl fmt::Display for DealDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} epochs ({:.1} days)", self.0, days(self.0))
    }
}

/// An amount of money in attoFIL (10⁻¹⁸ FIL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttoFil(u128);

/// A text that is no amount of FIL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount of FIL: write `0.0000001`, `0.0000001 FIL` or `100000000000 attofil`")]
pub struct ParseFilError(String);

impl AttoFil {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    const PER_FIL: u128 = 1_000_000_000_000_000_000;
    const DECIMALS: usize = 18;

    /// From a number of attoFIL.
    pub const fn new(atto: u128) -> Self {
        Self(atto)
    }

    /// The number of attoFIL.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, stopping at the largest amount.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left after taking `other`, at least zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This amount `n` times.
    #[must_use]
    pub const fn times(self, n: u128) -> Self {
        Self(self.0.saturating_mul(n))
    }

    /// From a decimal string of attoFIL, as in Lotus' JSON.
    pub fn from_lotus(text: &str) -> Result<Self, ParseFilError> {
        text.parse().map(Self).map_err(|_| ParseFilError(text.to_owned()))
    }

    /// A decimal string of attoFIL, as in Lotus' JSON.
    pub fn to_lotus(self) -> String {
        self.0.to_string()
    }
}

/// Reads what `lotus client deal` reads as a price: FIL by default, or with a unit.
/// Source: lotus v1.23.3 `chain/types/fil.go:86-123`.
impl FromStr for AttoFil {
    type Err = ParseFilError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseFilError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let (number, in_atto) = if let Some(n) = lower.strip_suffix("attofil").or(lower.strip_suffix("afil"))
        {
            (n.trim(), true)
        } else {
            (lower.strip_suffix("fil").unwrap_or(&lower).trim(), false)
        };
        if in_atto {
            return number.parse().map(Self).map_err(|_| error());
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty())
            || !digits(whole)
            || !digits(fraction)
            || fraction.len() > Self::DECIMALS
        {
            return Err(error());
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| error())? };
        let fraction: u128 = format!("{fraction:0<18}").parse().map_err(|_| error())?;
        let atto =
            whole.checked_mul(Self::PER_FIL).and_then(|w| w.checked_add(fraction)).ok_or_else(error)?;
        Ok(Self(atto))
    }
}

impl fmt::Display for AttoFil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / Self::PER_FIL, self.0 % Self::PER_FIL);
        if fraction == 0 {
            return write!(f, "{whole} FIL");
        }
        let digits = format!("{fraction:018}");
        write!(f, "{whole}.{} FIL", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_days_and_units_are_explicit() {
        for (text, epochs) in [
            ("366", 1_054_080),
            ("366d", 1_054_080),
            ("366 days", 1_054_080),
            ("1054080", 1_054_080),
            ("518400 epochs", 518_400),
        ] {
            assert_eq!(text.parse::<DealDuration>().unwrap().get(), epochs, "{text}");
        }
    }

    #[test]
    fn durations_outside_the_bounds_name_the_bounds() {
        for text in ["179", "111111", "366 epochs", "539"] {
            let error = text.parse::<DealDuration>().unwrap_err().to_string();
            assert!(error.contains("518400 to 1549442 epochs"), "{text}: {error}");
        }
        assert!("one year".parse::<DealDuration>().unwrap_err().to_string().contains("one year"));
    }

    #[test]
    fn fil_reads_what_lotus_reads() {
        for (text, atto) in [
            ("0", 0),
            ("1", 1_000_000_000_000_000_000),
            ("0.0000001", 100_000_000_000),
            (".5 FIL", 500_000_000_000_000_000),
            ("7 attofil", 7),
            ("7aFIL", 7),
        ] {
            assert_eq!(text.parse::<AttoFil>().unwrap().get(), atto, "{text}");
        }
        for bad in ["", "x", "1.2.3", "-1", "0.0000000000000000001", "1 BTC"] {
            assert!(bad.parse::<AttoFil>().is_err(), "{bad}");
        }
        assert_eq!(AttoFil::new(1_500_000_000_000_000_000).to_string(), "1.5 FIL");
        assert_eq!(AttoFil::ZERO.to_string(), "0 FIL");
    }

    #[test]
    fn mainnet_epoch_follows_the_clock() {
        assert_eq!(ChainEpoch::mainnet_at(1_598_306_400), ChainEpoch::new(0));
        assert_eq!(ChainEpoch::mainnet_at(1_598_306_400 + 86_400), ChainEpoch::new(2880));
    }
}
