//! What must hold before money or datacap moves: facts asked of the node, judgements that are pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carferry_car::{PaddedPieceSize, PieceSizeError, UnpaddedPieceSize};
use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::lotus::FullNode;
use carferry_core::lotus::wire::{CollateralBounds, MinerInfo, StorageAsk, TipSet};
use carferry_core::model::{AttoFil, ChainEpoch, DealDuration, PublishMethod, chain};
use carferry_core::rpc::RpcError;

use crate::config::SyncRule;
use crate::propose::Terms;
use crate::propose::policy::Target;

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
    Lotus(#[from] RpcError),
}

impl Hint for PreflightError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotSynced { .. } => Some(
                "wait for `lotus sync wait`, or check the clock of the database's server; for a test network whose \
                 clock is off on purpose there is setting.allowUnsyncedNode"
                    .into(),
            ),
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
const DAY_SECONDS: u64 = 86_400;

/// Which calls a node has. A probe is an error in the node's log, so it is made once for each version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMethods {
    version: String,
    start: bool,
    stateless: bool,
    /// Whether the node tells what it has reserved, as far as it was asked.
    pub(in crate::propose) reserved: bool,
}

impl NodeMethods {
    /// What is known of a node of this version; asked where it was another, or nothing is known.
    async fn of(node: &FullNode, version: &str, known: Option<Self>) -> Result<Self, RpcError> {
        if let Some(known) = known.filter(|known| known.version == version) {
            return Ok(known);
        }
        let start = node.has_method(PublishMethod::Start).await?;
        let stateless = node.has_method(PublishMethod::Stateless).await?;
        Ok(Self { version: version.to_owned(), start, stateless, reserved: true })
    }
}

/// What the node says about itself and the wallet.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Version text.
    pub version: String,
    /// Head of the chain.
    pub head: ChainEpoch,
    /// Seconds an epoch takes on the node's network.
    pub epoch_seconds: u64,
    /// Whether `ClientStartDeal` exists.
    pub can_start: bool,
    /// Whether `ClientStatelessDeal` exists.
    pub can_stateless: bool,
    /// Bytes of datacap; `None` where deals do not spend any.
    pub datacap: Option<u128>,
}

impl NodeFacts {
    /// Epochs that a day has on the node's network.
    pub fn epochs_per_day(&self) -> i64 {
        i64::try_from(DAY_SECONDS / self.epoch_seconds.max(1)).unwrap_or(i64::MAX)
    }
}

/// Asks the node everything that holds for all deals. `known` are the calls of the node as probed before; a
/// node that fails is probed again.
///
/// # Errors
///
/// [`PreflightError`], each of which stops all deals.
pub async fn node_facts(
    node: &FullNode,
    terms: &Terms,
    known: &mut Option<NodeMethods>,
    now: SystemTime,
) -> Result<NodeFacts, PreflightError> {
    let endpoint = node.endpoint().to_owned();
    let before = known.take();
    let answer = node.version().await?;
    let (version, epoch_seconds) = (answer.version, Some(answer.block_delay).filter(|&seconds| seconds > 0));
    let epoch_seconds = epoch_seconds.unwrap_or(chain::EPOCH_SECONDS);
    let methods = NodeMethods::of(node, &version, before).await?;
    let (can_start, can_stateless) = (methods.start, methods.stateless);
    *known = Some(methods);
    let head = node.chain_head().await?;
    let height = ChainEpoch::new(head.height);
    if let Some(age) = head_age(&head, now).filter(|age| *age > HEAD_AGE_MAX)
        && !may_be_behind(node, terms.sync).await?
    {
        return Err(PreflightError::NotSynced { endpoint, height, behind_seconds: age.as_secs() });
    }
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
    let delay = terms.start_delay.epochs(epoch_seconds);
    if delay + terms.duration.get() + DealDuration::ALIGNMENT_MAX > chain::DEAL_END_MAX {
        return Err(PreflightError::EndsTooLate {
            delay,
            duration: terms.duration,
            max: chain::DEAL_END_MAX,
        });
    }
    let datacap = if terms.verified {
        let left = node.datacap(&terms.wallet).await?;
        Some(left.ok_or_else(|| PreflightError::NoDatacap { wallet: terms.wallet.clone() })?)
    } else {
        None
    };
    Ok(NodeFacts { version, head: height, epoch_seconds, can_start, can_stateless, datacap })
}

/// Whether deals are made although the head is old.
pub(crate) async fn may_be_behind(node: &FullNode, rule: SyncRule) -> Result<bool, RpcError> {
    match rule {
        SyncRule::Required => Ok(false),
        SyncRule::NotOnTestNetworks => Ok(node.network_name().await? != MAINNET),
    }
}

/// How mainnet calls itself. Source: lotus v1.23.3 `build/params_mainnet.go`, `NetworkBundle`;
/// `StateNetworkName`.
const MAINNET: &str = "mainnet";

/// How old a head is; `None` where it carries no time.
pub(crate) fn head_age(head: &TipSet, now: SystemTime) -> Option<Duration> {
    let seconds = u64::try_from(head.blocks.first()?.timestamp).ok()?;
    Some(now.duration_since(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap_or_default())
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
    let told = |error: &RpcError| ErrorChain(error).to_string();
    let info = node.miner_info(miner).await.map_err(|error| told(&error))?;
    let Some(peer_id) = info.peer_id.clone() else {
        // The node would dereference it unchecked and panic (lotus-contract §2.4).
        return Err("the miner has published no peer id, so no proposal can reach it".to_owned());
    };
    let ask = node.query_ask(&peer_id, miner).await.map_err(|error| told(&error))?;
    Ok(MinerFacts { info, ask })
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
    if verified && size < VERIFIED_PIECE_MIN && facts.info.sector_size >= VERIFIED_PIECE_MIN {
        return Err(format!(
            "verified deals need pieces of {VERIFIED_PIECE_MIN} bytes or more: this has {size}"
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

/// Provider collateral within the network's bounds: as set, or 1.2 times the minimum, as Lotus itself does
/// when none is given: the bound moves until the deal is published (lotus v1.23.3
/// `markets/storageadapter/client.go:259-267`).
///
/// # Errors
///
/// A sentence that names the setting's amount and the bound.
pub fn collateral_within(bounds: &CollateralBounds, setting: Option<AttoFil>) -> Result<AttoFil, String> {
    let read = |text: &str| AttoFil::from_lotus(text).map_err(|error| error.to_string());
    let (least, most) = (read(&bounds.min)?, read(&bounds.max)?);
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

    impl MinerFacts {
        /// Of a provider that takes everything.
        pub(in crate::propose) fn of_tests() -> Self {
            facts(256, 32 << 30, "0")
        }
    }

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
            epoch_seconds: 30,
            can_start: true,
            can_stateless: true,
            datacap: None,
        };
        let one = AttoFil::new(1);
        assert_eq!(method_for(&facts, MethodChoice::Auto, AttoFil::ZERO), Ok(PublishMethod::Stateless));
        assert_eq!(method_for(&facts, MethodChoice::Auto, one), Ok(PublishMethod::Start));
        facts.can_stateless = false;
        assert_eq!(method_for(&facts, MethodChoice::Auto, AttoFil::ZERO), Ok(PublishMethod::Start));
        assert!(method_for(&facts, MethodChoice::Only(PublishMethod::Stateless), one).is_err());
    }

    #[test]
    fn verified_deals_have_a_smallest_piece() {
        let free = Target { miner: "f01".into(), price: AttoFil::ZERO };
        let small = PaddedPieceSize::new(1 << 19).unwrap();
        let (any, mib) = (facts(256, 32 << 30, "0"), PaddedPieceSize::new(1 << 20).unwrap());
        assert!(fits(&any, &free, small, true).unwrap_err().contains("1048576 bytes or more"));
        assert_eq!((fits(&any, &free, small, false), fits(&any, &free, mib, true)), (Ok(()), Ok(())));
        let mut of_a_devnet = facts(256, 2048, "0");
        of_a_devnet.info.sector_size = 2048;
        let tiny = PaddedPieceSize::new(1024).unwrap();
        assert_eq!(fits(&of_a_devnet, &free, tiny, true), Ok(()));
    }

    #[test]
    fn a_fixed_collateral_must_be_within_the_networks_bounds() {
        let bounds = CollateralBounds { min: "100".into(), max: "1000".into() };
        assert_eq!(collateral_within(&bounds, None), Ok(AttoFil::new(120)));
        for (amount, words) in [(99, "below"), (100, ""), (1000, ""), (1001, "above")] {
            let chosen = collateral_within(&bounds, Some(AttoFil::new(amount)));
            match words {
                "" => assert_eq!(chosen, Ok(AttoFil::new(amount))),
                _ => assert!(chosen.as_ref().unwrap_err().contains(words), "{chosen:?}"),
            }
        }
        let unreadable = CollateralBounds { min: String::new(), max: "1".into() };
        assert!(collateral_within(&unreadable, None).is_err());
    }
}
