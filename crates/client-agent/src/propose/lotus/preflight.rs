//! Asks a Lotus node and, through it, providers for what must be known before deals are proposed.

use std::time::SystemTime;

use carferry_car::PaddedPieceSize;
use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::lotus::FullNode;
use carferry_core::model::{AttoFil, ChainEpoch, DealDuration, PublishMethod, chain};
use carferry_core::rpc::RpcError;

use crate::chain_head::ChainHead;
use crate::propose::conditions::{CollateralRange, MinerFacts, NodeFacts, PublishCalls};
use crate::propose::terms::{MethodChoice, Terms};

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

/// Which calls a node has. A probe is an error in the node's log, so it is made once for each version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeMethods {
    version: String,
    calls: PublishCalls,
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
        let calls = PublishCalls { start, stateless };
        Ok(Self { version: version.to_owned(), calls, reserved: true })
    }
}

/// Asks the node everything that holds for all deals. `known` are the calls of the node as probed before; a
/// node that fails is probed again.
///
/// # Errors
///
/// [`PreflightError`], each of which stops all deals.
pub(crate) async fn node_facts(
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
    let calls = methods.calls;
    *known = Some(methods);
    let head = match ChainHead::ask(node, terms.sync, now).await? {
        ChainHead::Current(height) => height,
        ChainHead::Behind { height, age } => {
            return Err(PreflightError::NotSynced { endpoint, height, behind_seconds: age.as_secs() });
        }
    };
    match terms.method {
        _ if !calls.start && !calls.stateless => {
            return Err(PreflightError::NoMarket { endpoint, version });
        }
        MethodChoice::Only(method) if !calls.has(method) => {
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
    Ok(NodeFacts { version, head, epoch_seconds, calls, datacap })
}

/// Asks for one provider's terms.
///
/// # Errors
///
/// A sentence for the report: this provider gets no deals now, the others do.
pub(crate) async fn miner_facts(node: &FullNode, miner: &str) -> Result<MinerFacts, String> {
    let told = |error: &RpcError| ErrorChain(error).to_string();
    let info = node.miner_info(miner).await.map_err(|error| told(&error))?;
    let Some(peer_id) = info.peer_id.clone() else {
        // The node would dereference it unchecked and panic (lotus-contract §2.4).
        return Err("the miner has published no peer id, so no proposal can reach it".to_owned());
    };
    let ask = node.query_ask(&peer_id, miner).await.map_err(|error| told(&error))?;
    let price = |text: &str| AttoFil::from_lotus(text).map_err(|error| error.to_string());
    Ok(MinerFacts {
        sector_size: info.sector_size,
        price: price(&ask.price)?,
        verified_price: price(&ask.verified_price)?,
        min_piece_size: ask.min_piece_size,
        max_piece_size: ask.max_piece_size,
    })
}

/// The network's bounds of provider collateral for a piece of this size, or a sentence where they cannot be
/// read.
///
/// # Errors
///
/// When the node does not tell them.
pub(in crate::propose) async fn collateral_range(
    node: &FullNode,
    piece: PaddedPieceSize,
    verified: bool,
) -> Result<Result<CollateralRange, String>, RpcError> {
    let bounds = node.collateral_bounds(piece.get(), verified).await?;
    let read = |text: &str| AttoFil::from_lotus(text).map_err(|error| error.to_string());
    Ok(read(&bounds.min).and_then(|least| read(&bounds.max).map(|most| CollateralRange { least, most })))
}
