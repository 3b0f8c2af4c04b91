//! Values of this agent's keys, from text or numbers. Errors raised here get file and key from the loader.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use carferry_car::PaddedPieceSize;
use carferry_core::config::human;
use carferry_core::model::address::{MinerId, WalletAddress};
use carferry_core::model::chain::DEAL_END_MAX;
use carferry_core::model::{AttoFil, DealDuration};
use serde::de::{Deserialize, Deserializer, Error};

use crate::config::{Collateral, MinerTerms, StartDelay};

/// The list of miners, each at most once.
pub(super) fn miners<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MinerTerms>, D::Error> {
    let miners = Vec::<MinerTerms>::deserialize(deserializer)?;
    let mut seen = BTreeSet::new();
    for terms in &miners {
        if !seen.insert(terms.miner) {
            return Err(D::Error::custom(format!("miner {} stands in the list twice", terms.miner)));
        }
    }
    Ok(miners)
}

impl<'de> Deserialize<'de> for MinerTerms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields, rename = "MinerTerms")]
        struct Written {
            #[serde(deserialize_with = "human::text::deserialize")]
            miner: String,
            #[serde(default = "free", deserialize_with = "human::text::deserialize")]
            price: String,
        }
        fn free() -> String {
            "0".to_owned()
        }
        let written = human::map_or_text(deserializer, |miner| Written { miner, price: free() })?;
        let miner: MinerId = written.miner.trim().parse().map_err(D::Error::custom)?;
        let price =
            written.price.parse().map_err(|error| D::Error::custom(format!("price of {miner}: {error}")))?;
        Ok(Self { miner, price })
    }
}

/// A pause or limit that is not zero.
pub(super) fn pause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = human::duration::deserialize(deserializer)?;
    if duration.is_zero() { Err(D::Error::custom("must be longer than nothing")) } else { Ok(duration) }
}

/// A limit of at least one.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("must be at least 1")),
        count => Ok(count),
    }
}

/// A limit of at least one, where there is one.
pub(super) fn optional_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    count(deserializer).map(Some)
}

/// A list of names; a number among them stays as it is written.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Text(#[serde(deserialize_with = "human::text::deserialize")] String);
    Ok(Vec::<Text>::deserialize(deserializer)?.into_iter().map(|text| text.0).collect())
}

/// A wallet address.
pub(super) fn wallet<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WalletAddress>, D::Error> {
    parsed(deserializer, str::parse::<WalletAddress>).map(Some)
}

/// The length of deals.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DealDuration>, D::Error> {
    parsed(deserializer, str::parse::<DealDuration>).map(Some)
}

/// The time to the start of a deal.
pub(super) fn start_delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StartDelay, D::Error> {
    parsed(deserializer, parse_start_delay)
}

/// The provider's collateral.
pub(super) fn collateral<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Collateral, D::Error> {
    parsed(deserializer, parse_collateral)
}

/// The highest price.
pub(super) fn max_price<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AttoFil, D::Error> {
    parsed(deserializer, str::parse::<AttoFil>)
}

/// The largest piece.
pub(super) fn max_piece<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PaddedPieceSize, D::Error> {
    parsed(deserializer, parse_max_piece)
}

/// The size of full pieces.
pub(super) fn optional_piece<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PaddedPieceSize>, D::Error> {
    max_piece(deserializer).map(Some)
}

fn parsed<'de, D: Deserializer<'de>, T, E: Display>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = human::text::deserialize(deserializer)?;
    parse(text.trim()).map_err(D::Error::custom)
}

/// A piece size that sectors take: 32 or 64 GiB, or smaller ones of test networks.
pub(crate) fn parse_max_piece(text: &str) -> Result<PaddedPieceSize, String> {
    let wanted = "write 32GiB or 64GiB (test networks: any power of two from 128)";
    let bytes = human::parse_bytes(text).map_err(|error| error.to_string())?;
    match PaddedPieceSize::new(bytes) {
        Ok(size) if size <= PaddedPieceSize::GIB_64 => Ok(size),
        _ => Err(format!("\"{text}\" is not a piece size: {wanted}")),
    }
}

fn parse_start_delay(text: &str) -> Result<StartDelay, String> {
    let wanted = "write a duration (7d, 36h) or a number of epochs (20160 epochs)";
    let delay = if let Some(number) = text.strip_suffix("epochs").or(text.strip_suffix("epoch")) {
        let epochs = number.trim().parse::<i64>();
        StartDelay::Epochs(epochs.map_err(|_| format!("\"{text}\" is not a start delay: {wanted}"))?)
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Seconds as elsewhere, days as in `duration`, or epochs as on chain: too dear to guess.
        return Err(format!("\"{text}\" has no unit: {wanted}"));
    } else {
        let time = human::parse_duration(text);
        StartDelay::Time(time.map_err(|_| format!("\"{text}\" is not a start delay: {wanted}"))?)
    };
    let epochs = delay.on_mainnet();
    if (1..=DEAL_END_MAX).contains(&epochs) {
        Ok(delay)
    } else {
        Err(format!("a start delay of {epochs} epochs is outside 1 to {DEAL_END_MAX} epochs (540 days)"))
    }
}

fn parse_collateral(text: &str) -> Result<Collateral, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(Collateral::Auto);
    }
    // The command line of Lotus counts collateral in attoFIL and prices in FIL: a bare number is either.
    if !text.to_ascii_lowercase().ends_with("fil") {
        return Err(format!(
            "\"{text}\" has no unit: write auto, an amount of FIL (0.1 FIL) or of attoFIL (5 attofil)"
        ));
    }
    text.parse::<AttoFil>().map(Collateral::Amount).map_err(|error| error.to_string())
}
