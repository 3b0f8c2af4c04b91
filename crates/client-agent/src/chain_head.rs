//! The head of the chain as the client's Lotus node knows it, and whether it is recent enough to act on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use carferry_core::lotus::FullNode;
use carferry_core::model::ChainEpoch;
use carferry_core::rpc::RpcError;

use crate::config::SyncRule;

/// How old the head may be. Lotus' own `sync wait` calls a node synced when the head is younger than
/// a few epochs; ten minutes allow for null rounds and clock skew.
pub(crate) const HEAD_AGE_MAX: Duration = Duration::from_secs(600);

/// The newest tipset that a node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeHead {
    /// Its epoch.
    pub(crate) height: ChainEpoch,
    /// When it was made, since 1970; `None` where it carries no time.
    pub(crate) time: Option<Duration>,
}

/// The head, judged by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainHead {
    /// Recent, or of a network where an old one is accepted.
    Current(ChainEpoch),
    /// The node is behind the chain.
    Behind {
        /// Epoch of the head.
        height: ChainEpoch,
        /// Its age.
        age: Duration,
    },
}

impl NodeHead {
    /// Asks the node.
    pub(crate) async fn ask(node: &FullNode) -> Result<Self, RpcError> {
        let tipset = node.chain_head().await?;
        let seconds = tipset.blocks.first().and_then(|block| u64::try_from(block.timestamp).ok());
        Ok(Self { height: ChainEpoch::new(tipset.height), time: seconds.map(Duration::from_secs) })
    }

    fn age(&self, now: SystemTime) -> Option<Duration> {
        Some(now.duration_since(UNIX_EPOCH + self.time?).unwrap_or_default())
    }
}

impl ChainHead {
    /// Asks the node for its head, and judges it by the database server's time.
    pub(crate) async fn ask(node: &FullNode, rule: SyncRule, now: SystemTime) -> Result<Self, RpcError> {
        let head = NodeHead::ask(node).await?;
        let height = head.height;
        match head.age(now).filter(|age| *age > HEAD_AGE_MAX) {
            Some(age) if !may_be_behind(node, rule).await? => Ok(Self::Behind { height, age }),
            Some(_) | None => Ok(Self::Current(height)),
        }
    }
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
