//! What must hold before money or datacap moves: facts asked of the node, judgements that are pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carferry_car::{PaddedPieceSize, PieceSizeError, UnpaddedPieceSize};
use carferry_core::{
    lotus::{
        FullNode, LotusError,
        wire::{MinerInfo, StorageAsk, TipSet},
    },
    model::{AttoFil, ChainEpoch, DealDuration, PublishMethod},
};

use super::{Terms, policy::Target};

/// Which call the configuration wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodChoice {
    /// Stateless where it applies (price 0 and the node has it), else start.
    #[default]
    Auto,
    /// Always this one.
    Only(PublishMethod),
}

/// Why no deal can be made at all.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The node's newest block is old.
    #[error("the node at {endpoint} is {behind_seconds} s behind the chain (head at epoch {height})")]
    NotSynced {
        /// Node.
        endpoint: String,
        /// Head.
        height: ChainEpoch,
        /// Age of the head.
        behind_seconds: u64,
    },
    /// No storage market in this Lotus.
    #[error(
        "the node at {endpoint} (Lotus {version}) cannot publish storage deals: it has neither ClientStartDeal nor ClientStatelessDeal"
    )]
    NoMarket {
        /// Node.
        endpoint: String,
        /// Version as the node says it.
        version: String,
    },
    /// The configured method is missing.
    #[error(
        "setting.publishMethod asks for `{method}`, which the node at {endpoint} (Lotus {version}) does not have"
    )]
    MethodMissing {
        /// Node.
        endpoint: String,
        /// Version as the node says it.
        version: String,
        /// What was asked for.
        method: &'static str,
    },
    /// The wallet's key is elsewhere.
    #[error("the node at {endpoint} does not hold the key of wallet {wallet}")]
    WalletUnknown {
        /// Node.
        endpoint: String,
        /// Wallet.
        wallet: String,
    },
    /// `verified` without datacap.
    #[error("setting.verified is on, but wallet {wallet} has no datacap")]
    NoDatacap {
        /// Wallet.
        wallet: String,
    },
    /// The end of the deal would lie too far away.
    #[error(
        "a start delay of {delay} epochs and a duration of {duration} end later than providers accept \
         ({max} epochs from now)"
    )]
    EndsTooLate {
        /// Epochs from now to the start.
        delay: i64,
        /// Duration.
        duration: DealDuration,
        /// The bound.
        max: i64,
    },
    /// The node failed to answer.
    #[error(transparent)]
    Lotus(#[from] LotusError),
}

impl PreflightError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotSynced { .. } => {
                Some("wait for `lotus sync wait`, or check this machine's clock".into())
            }
            Self::NoMarket { .. } => Some(
                "Lotus removed its storage market in v1.27.1; the last release with it is v1.27.0".into(),
            ),
            Self::MethodMissing { .. } => Some("set setting.publishMethod to auto".into()),
            Self::WalletUnknown { .. } => {
                Some("`lotus wallet list` shows the wallets of this node; see setting.wallet".into())
            }
            Self::NoDatacap { .. } => {
                Some("ask a notary for datacap, or set setting.verified to false".into())
            }
            Self::EndsTooLate { .. } => Some("shorten setting.duration or setting.startDelay".into()),
            Self::Lotus(error) => error.hint(),
        }
    }
}

/// How old the head may be. Lotus' own `sync wait` calls a node synced when the head is younger than
/// a few epochs; ten minutes allow for null rounds and clock skew.
pub(crate) const HEAD_AGE_MAX: Duration = Duration::from_secs(600);
/// Providers refuse deals that end later than 540 days from now
/// (go-fil-markets v1.28.3 `storagemarket/impl/providerstates/provider_states.go:110-119`).
const END_MAX: i64 = 1_555_200;

/// What the node says about itself and our wallet.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Version text.
    pub version: String,
    /// Head of the chain.
    pub head: ChainEpoch,
    /// Whether `ClientStartDeal` exists.
    pub can_start: bool,
    /// Whether `ClientStatelessDeal` exists.
    pub can_stateless: bool,
    /// attoFIL that deals can draw on: wallet plus free escrow.
    pub funds: AttoFil,
    /// Bytes of datacap; `None` where deals do not spend any.
    pub datacap: Option<u128>,
}

/// Asks the node everything that holds for all deals.
///
/// # Errors
///
/// [`PreflightError`], each of which stops all deals.
pub async fn node_facts(
    node: &FullNode,
    terms: &Terms,
    now: SystemTime,
) -> Result<NodeFacts, PreflightError> {
    let endpoint = node.endpoint().to_owned();
    let version = node.version().await?.version;
    let head = node.chain_head().await?;
    let height = ChainEpoch::new(head.height);
    if let Some(age) = head_age(&head, now).filter(|age| *age > HEAD_AGE_MAX) {
        return Err(PreflightError::NotSynced { endpoint, height, behind_seconds: age.as_secs() });
    }
    let can_start = node.has_method(PublishMethod::Start).await?;
    let can_stateless = node.has_method(PublishMethod::Stateless).await?;
    match terms.method {
        _ if !can_start && !can_stateless => return Err(PreflightError::NoMarket { endpoint, version }),
        MethodChoice::Only(method)
            if !(if method == PublishMethod::Start { can_start } else { can_stateless }) =>
        {
            return Err(PreflightError::MethodMissing { endpoint, version, method: method.as_str() });
        }
        _ => {}
    }
    if !node.wallet_has(&terms.wallet).await? {
        return Err(PreflightError::WalletUnknown { endpoint, wallet: terms.wallet.clone() });
    }
    let span = terms.start_delay_epochs + terms.duration.get() + DealDuration::ALIGNMENT_MAX;
    if span > END_MAX {
        return Err(PreflightError::EndsTooLate {
            delay: terms.start_delay_epochs,
            duration: terms.duration,
            max: END_MAX,
        });
    }
    let funds = funds_of(node, &terms.wallet).await?;
    let datacap = if terms.verified {
        let left = node.datacap(&terms.wallet).await?;
        Some(left.ok_or_else(|| PreflightError::NoDatacap { wallet: terms.wallet.clone() })?)
    } else {
        None
    };
    Ok(NodeFacts { version, head: height, can_start, can_stateless, funds, datacap })
}

/// How old a head is by our clock; `None` where it carries no time.
pub(crate) fn head_age(head: &TipSet, now: SystemTime) -> Option<Duration> {
    let seconds = u64::try_from(head.blocks.first()?.timestamp).ok()?;
    Some(now.duration_since(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap_or_default())
}

async fn funds_of(node: &FullNode, wallet: &str) -> Result<AttoFil, LotusError> {
    let read = |text: &str| AttoFil::from_lotus(text).unwrap_or_default();
    let wallet_balance = read(&node.wallet_balance(wallet).await?);
    let market = node.market_balance(wallet).await?;
    Ok(wallet_balance.plus(read(&market.escrow).minus(read(&market.locked))))
}

/// What the node and the provider say about one provider.
#[derive(Clone, Debug)]
pub struct MinerFacts {
    info: MinerInfo,
    ask: StorageAsk,
}

/// Asks for one provider's terms.
///
/// # Errors
///
/// A sentence for the report: this provider gets no deals now, the others do.
pub async fn miner_facts(node: &FullNode, miner: &str) -> Result<MinerFacts, String> {
    let told = |error: &LotusError| carferry_core::error_chain::ErrorChain(error).to_string();
    let info = node.miner_info(miner).await.map_err(|error| told(&error))?;
    let Some(peer_id) = info.peer_id.clone() else {
        // The node would dereference it unchecked and panic (lotus-contract §2.4).
        return Err("the miner has published no peer id, so no proposal can reach it".to_owned());
    };
    let ask = node.query_ask(&peer_id, miner).await.map_err(|error| told(&error))?;
    Ok(MinerFacts { info, ask })
}

/// Whether this provider takes a piece of this size at this price.
///
/// # Errors
///
/// A sentence that names both numbers.
pub fn fits(
    facts: &MinerFacts,
    target: &Target,
    piece: PaddedPieceSize,
    verified: bool,
) -> Result<(), String> {
    let size = piece.get();
    if size > facts.info.sector_size {
        return Err(format!(
            "piece of {size} bytes is larger than the sector of {} bytes",
            facts.info.sector_size
        ));
    }
    if size < facts.ask.min_piece_size {
        return Err(format!(
            "piece size less than minimum required size: {size} < {}",
            facts.ask.min_piece_size
        ));
    }
    if size > facts.ask.max_piece_size {
        return Err(format!(
            "piece size more than maximum allowed size: {size} > {}",
            facts.ask.max_piece_size
        ));
    }
    let ask = if verified { &facts.ask.verified_price } else { &facts.ask.price };
    let per_gib = AttoFil::from_lotus(ask).map_err(|error| error.to_string())?;
    // Integer division, as the provider does it (lotus-contract §4.3).
    let least = AttoFil::new(per_gib.times(u128::from(size)).get() / (1 << 30));
    if target.price < least {
        return Err(format!("storage price per epoch less than asking price: {} < {least}", target.price));
    }
    Ok(())
}

/// Which call makes a deal at this price.
pub fn method_for(facts: &NodeFacts, choice: MethodChoice, price: AttoFil) -> Result<PublishMethod, String> {
    match choice {
        MethodChoice::Only(PublishMethod::Stateless) if !price.is_zero() => {
            Err("stateless deals have price 0".to_owned())
        }
        MethodChoice::Only(method) => Ok(method),
        MethodChoice::Auto if price.is_zero() && facts.can_stateless => Ok(PublishMethod::Stateless),
        MethodChoice::Auto if facts.can_start => Ok(PublishMethod::Start),
        MethodChoice::Auto => Err("the node has only ClientStatelessDeal, which needs price 0".to_owned()),
    }
}

/// The padded size of a stored unpadded one.
pub fn padded(unpadded_bytes: i64) -> Result<PaddedPieceSize, String> {
    let bytes = u64::try_from(unpadded_bytes).map_err(|_| format!("{unpadded_bytes} is no piece size"))?;
    UnpaddedPieceSize::new(bytes)
        .map(UnpaddedPieceSize::padded)
        .map_err(|error: PieceSizeError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(min: u64, max: u64, price: &str) -> MinerFacts {
        MinerFacts {
            info: MinerInfo { peer_id: Some("12D3".into()), sector_size: 32 << 30 },
            ask: StorageAsk {
                price: price.into(),
                verified_price: "0".into(),
                min_piece_size: min,
                max_piece_size: max,
            },
        }
    }

    #[test]
    fn a_piece_must_fit_sector_ask_and_price() {
        let free = Target { miner: "f01".into(), price: AttoFil::ZERO };
        let gib = PaddedPieceSize::new(1 << 30).unwrap();
        let big = PaddedPieceSize::new(64 << 30).unwrap();
        assert_eq!(fits(&facts(256, 32 << 30, "0"), &free, gib, false), Ok(()));
        for (facts, piece, words) in [
            (facts(256, 64 << 30, "0"), big, "larger than the sector"),
            (facts(2 << 30, 32 << 30, "0"), gib, "minimum required size: 1073741824 < 2147483648"),
            (facts(256, 1 << 20, "0"), gib, "maximum allowed size"),
            (facts(256, 32 << 30, "500000000"), gib, "less than asking price: 0 FIL < 0.0000000005 FIL"),
        ] {
            let error = fits(&facts, &free, piece, false).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(fits(&facts(256, 32 << 30, "500000000"), &free, gib, true), Ok(()), "verified price is 0");
    }

    #[test]
    fn price_zero_goes_stateless_where_the_node_can() {
        let mut facts = NodeFacts {
            version: "1.23.3".into(),
            head: ChainEpoch::new(1),
            can_start: true,
            can_stateless: true,
            funds: AttoFil::ZERO,
            datacap: None,
        };
        let one = AttoFil::new(1);
        assert_eq!(method_for(&facts, MethodChoice::Auto, AttoFil::ZERO), Ok(PublishMethod::Stateless));
        assert_eq!(method_for(&facts, MethodChoice::Auto, one), Ok(PublishMethod::Start));
        facts.can_stateless = false;
        assert_eq!(method_for(&facts, MethodChoice::Auto, AttoFil::ZERO), Ok(PublishMethod::Start));
        assert!(method_for(&facts, MethodChoice::Only(PublishMethod::Stateless), one).is_err());
    }
}
