//! What must hold before money or datacap moves, judged from what node and provider say. Pure.

use carferry_car::{PaddedPieceSize, PieceSizeError, UnpaddedPieceSize};
use carferry_core::model::{AttoFil, ChainEpoch, PublishMethod};

use crate::propose::terms::{MethodChoice, Target};

const DAY_SECONDS: u64 = 86_400;

/// Which of the calls that make deals a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublishCalls {
    /// `ClientStartDeal`.
    pub start: bool,
    /// `ClientStatelessDeal`.
    pub stateless: bool,
}

impl PublishCalls {
    /// Whether the node has the call of this method.
    pub(crate) fn has(self, method: PublishMethod) -> bool {
        match method {
            PublishMethod::Start => self.start,
            PublishMethod::Stateless => self.stateless,
        }
    }
}

/// What a node says about itself and the wallet.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    /// Version text.
    pub version: String,
    /// Head of the chain.
    pub head: ChainEpoch,
    /// Seconds an epoch takes on the node's network.
    pub epoch_seconds: u64,
    /// Which calls make deals.
    pub calls: PublishCalls,
    /// Bytes of datacap; `None` where deals do not spend any.
    pub datacap: Option<u128>,
}

impl NodeFacts {
    /// Epochs that a day has on the node's network.
    pub(crate) fn epochs_per_day(&self) -> i64 {
        i64::try_from(DAY_SECONDS / self.epoch_seconds.max(1)).unwrap_or(i64::MAX)
    }
}

/// What a provider takes, and for how much.
#[derive(Clone, Debug)]
pub(crate) struct MinerFacts {
    /// Bytes of its sectors.
    pub sector_size: u64,
    /// Asked per GiB and epoch.
    pub price: AttoFil,
    /// Asked per GiB and epoch of deals that spend datacap.
    pub verified_price: AttoFil,
    /// PADDED bytes.
    pub min_piece_size: u64,
    /// PADDED bytes.
    pub max_piece_size: u64,
}

/// The bounds that the network sets for provider collateral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CollateralRange {
    /// The least.
    pub least: AttoFil,
    /// The most.
    pub most: AttoFil,
}

/// The smallest piece that may spend datacap on mainnet. Source: builtin-actors v11.0.0
/// `runtime/src/runtime/policy.rs`, `MINIMUM_VERIFIED_ALLOCATION_SIZE`; a smaller one fails the provider's
/// whole publish message. Networks with sectors smaller than this have no such bound.
const VERIFIED_PIECE_MIN: u64 = 1 << 20;

/// Whether this provider takes a piece of this size at this price.
///
/// # Errors
///
/// A sentence that names both numbers.
pub(crate) fn fits(
    facts: &MinerFacts,
    target: &Target,
    piece: PaddedPieceSize,
    verified: bool,
) -> Result<(), String> {
    let size = piece.get();
    if size > facts.sector_size {
        return Err(format!(
            "piece of {size} bytes is larger than the sector of {} bytes",
            facts.sector_size
        ));
    }
    if verified && size < VERIFIED_PIECE_MIN && facts.sector_size >= VERIFIED_PIECE_MIN {
        return Err(format!(
            "verified deals need pieces of {VERIFIED_PIECE_MIN} bytes or more: this has {size}"
        ));
    }
    if size < facts.min_piece_size {
        return Err(format!("piece size less than minimum required size: {size} < {}", facts.min_piece_size));
    }
    if size > facts.max_piece_size {
        return Err(format!("piece size more than maximum allowed size: {size} > {}", facts.max_piece_size));
    }
    let per_gib = if verified { facts.verified_price } else { facts.price };
    // Integer division, as the provider does it (lotus-contract §4.3).
    let least = AttoFil::new(per_gib.times(u128::from(size)).get() / (1 << 30));
    if target.price < least {
        return Err(format!("storage price per epoch less than asking price: {} < {least}", target.price));
    }
    Ok(())
}

/// Provider collateral within the network's bounds: as set, or 1.2 times the minimum, as Lotus itself does
/// when none is given: the bound moves until the deal is published (lotus v1.23.3
/// `markets/storageadapter/client.go:259-267`).
///
/// # Errors
///
/// A sentence that names the setting's amount and the bound.
pub(crate) fn collateral_within(range: CollateralRange, setting: Option<AttoFil>) -> Result<AttoFil, String> {
    let CollateralRange { least, most } = range;
    match setting {
        None => Ok(AttoFil::new(least.times(12).get() / 10)),
        Some(amount) if amount < least => Err(format!(
            "setting.providerCollateral ({amount}) is below what the network demands for this piece ({least})"
        )),
        Some(amount) if amount > most => Err(format!(
            "setting.providerCollateral ({amount}) is above what the network allows for this piece ({most})"
        )),
        Some(amount) => Ok(amount),
    }
}

/// Which call makes a deal at this price.
pub(crate) fn method_for(
    facts: &NodeFacts,
    choice: MethodChoice,
    price: AttoFil,
) -> Result<PublishMethod, String> {
    match choice {
        MethodChoice::Only(PublishMethod::Stateless) if !price.is_zero() => {
            Err("stateless deals have price 0".to_owned())
        }
        MethodChoice::Only(method) => Ok(method),
        MethodChoice::Auto if price.is_zero() && facts.calls.stateless => Ok(PublishMethod::Stateless),
        MethodChoice::Auto if facts.calls.start => Ok(PublishMethod::Start),
        MethodChoice::Auto => Err("the node has only ClientStatelessDeal, which needs price 0".to_owned()),
    }
}

/// The padded size of a stored unpadded one.
pub(crate) fn padded(unpadded_bytes: i64) -> Result<PaddedPieceSize, String> {
    let bytes = u64::try_from(unpadded_bytes).map_err(|_| format!("{unpadded_bytes} is no piece size"))?;
    UnpaddedPieceSize::new(bytes)
        .map(UnpaddedPieceSize::padded)
        .map_err(|error: PieceSizeError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl MinerFacts {
        /// Of a provider that takes everything.
        pub(in crate::propose) fn of_tests() -> Self {
            facts(256, 32 << 30, 0)
        }
    }

    fn facts(min: u64, max: u64, price: u128) -> MinerFacts {
        MinerFacts {
            sector_size: 32 << 30,
            price: AttoFil::new(price),
            verified_price: AttoFil::ZERO,
            min_piece_size: min,
            max_piece_size: max,
        }
    }

    #[test]
    fn a_piece_must_fit_sector_ask_and_price() {
        let free = Target { miner: "f01".into(), price: AttoFil::ZERO };
        let gib = PaddedPieceSize::new(1 << 30).unwrap();
        let big = PaddedPieceSize::new(64 << 30).unwrap();
        assert_eq!(fits(&facts(256, 32 << 30, 0), &free, gib, false), Ok(()));
        for (facts, piece, words) in [
            (facts(256, 64 << 30, 0), big, "larger than the sector"),
            (facts(2 << 30, 32 << 30, 0), gib, "minimum required size: 1073741824 < 2147483648"),
            (facts(256, 1 << 20, 0), gib, "maximum allowed size"),
            (facts(256, 32 << 30, 500_000_000), gib, "less than asking price: 0 FIL < 0.0000000005 FIL"),
        ] {
            let error = fits(&facts, &free, piece, false).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(fits(&facts(256, 32 << 30, 500_000_000), &free, gib, true), Ok(()), "verified price is 0");
    }

    #[test]
    fn price_zero_goes_stateless_where_the_node_can() {
        let mut facts = NodeFacts {
            version: "1.23.3".into(),
            head: ChainEpoch::new(1),
            epoch_seconds: 30,
            calls: PublishCalls { start: true, stateless: true },
            datacap: None,
        };
        let one = AttoFil::new(1);
        assert_eq!(method_for(&facts, MethodChoice::Auto, AttoFil::ZERO), Ok(PublishMethod::Stateless));
        assert_eq!(method_for(&facts, MethodChoice::Auto, one), Ok(PublishMethod::Start));
        facts.calls.stateless = false;
        assert_eq!(method_for(&facts, MethodChoice::Auto, AttoFil::ZERO), Ok(PublishMethod::Start));
        assert!(method_for(&facts, MethodChoice::Only(PublishMethod::Stateless), one).is_err());
    }

    #[test]
    fn verified_deals_have_a_smallest_piece() {
        let free = Target { miner: "f01".into(), price: AttoFil::ZERO };
        let small = PaddedPieceSize::new(1 << 19).unwrap();
        let (any, mib) = (facts(256, 32 << 30, 0), PaddedPieceSize::new(1 << 20).unwrap());
        assert!(fits(&any, &free, small, true).unwrap_err().contains("1048576 bytes or more"));
        assert_eq!((fits(&any, &free, small, false), fits(&any, &free, mib, true)), (Ok(()), Ok(())));
        let mut of_a_devnet = facts(256, 2048, 0);
        of_a_devnet.sector_size = 2048;
        let tiny = PaddedPieceSize::new(1024).unwrap();
        assert_eq!(fits(&of_a_devnet, &free, tiny, true), Ok(()));
    }

    #[test]
    fn a_fixed_collateral_must_be_within_the_networks_bounds() {
        let range = CollateralRange { least: AttoFil::new(100), most: AttoFil::new(1000) };
        assert_eq!(collateral_within(range, None), Ok(AttoFil::new(120)));
        for (amount, words) in [(99, "below"), (100, ""), (1000, ""), (1001, "above")] {
            let chosen = collateral_within(range, Some(AttoFil::new(amount)));
            match words {
                "" => assert_eq!(chosen, Ok(AttoFil::new(amount))),
                _ => assert!(chosen.as_ref().unwrap_err().contains(words), "{chosen:?}"),
            }
        }
    }
}
