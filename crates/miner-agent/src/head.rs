//! The head of the chain: from a full node, else from the clock.

use std::time::Duration;

use carferry_core::{error_chain::ErrorChain, lotus::FullNode, model::ChainEpoch, runtime::clock};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use tracing::{debug, warn};

/// Where the head is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadSource {
    /// The full node if one is configured; without one this host's clock, for miners of mainnet (`f…`).
    #[default]
    Auto,
    /// The full node; no check of start epochs while it does not answer.
    Node,
    /// This host's clock and mainnet's calendar.
    Clock,
}

/// A head is used this long: one epoch.
const HEAD_MAX_AGE: Duration = Duration::from_secs(30);

/// Knows the head of the chain.
#[derive(Debug)]
pub struct Head {
    source: HeadSource,
    node: Option<FullNode>,
    known: Mutex<Option<(Instant, Option<ChainEpoch>)>>,
}

impl Head {
    /// From this source.
    pub fn new(source: HeadSource, node: Option<FullNode>) -> Self {
        Self { source, node, known: Mutex::new(None) }
    }

    /// The full node, where there is one.
    pub fn node(&self) -> Option<&FullNode> {
        self.node.as_ref()
    }

    /// The head, for deals of this miner; `None` if nobody knows.
    ///
    /// A full node that does not answer is not replaced by the clock: a test network has another calendar,
    /// and a deal that is taken for missed is given up.
    pub async fn epoch(&self, miner: &str) -> Option<ChainEpoch> {
        match (self.source, &self.node) {
            (HeadSource::Auto | HeadSource::Node, Some(node)) => self.epoch_of(node).await,
            (HeadSource::Clock, _) => mainnet_epoch(),
            (HeadSource::Auto, None) if miner.starts_with('f') => mainnet_epoch(),
            (HeadSource::Auto | HeadSource::Node, None) => {
                debug!(miner, "head of the chain unknown, start epochs are not checked");
                None
            }
        }
    }

    /// An answer, or that there was none, holds for a while: a node that hangs must not hold up every deal.
    async fn epoch_of(&self, node: &FullNode) -> Option<ChainEpoch> {
        let mut known = self.known.lock().await;
        if let Some((asked, epoch)) = *known
            && asked.elapsed() < HEAD_MAX_AGE
        {
            return epoch;
        }
        let epoch = match node.chain_head().await {
            Ok(head) => Some(ChainEpoch::new(head.height)),
            Err(error) => {
                warn!(reason = %ErrorChain(&error), "the full node does not tell the head of the chain; start epochs are not checked");
                None
            }
        };
        *known = Some((Instant::now(), epoch));
        epoch
    }
}

fn mainnet_epoch() -> Option<ChainEpoch> {
    let unix_seconds = i64::try_from(clock::since_unix_epoch().as_secs()).ok()?;
    Some(ChainEpoch::mainnet_at(unix_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_node_the_clock_speaks_for_mainnet_only() {
        for (source, miner, known) in [
            (HeadSource::Auto, "f01000", true),
            (HeadSource::Auto, "t01000", false),
            (HeadSource::Node, "f01000", false),
            (HeadSource::Clock, "t01000", true),
        ] {
            let epoch = Head::new(source, None).epoch(miner).await;
            assert_eq!(epoch.is_some(), known, "{source:?} {miner}");
            if let Some(epoch) = epoch {
                // Mainnet's height on 2024-01-01 was about 3.5 million.
                assert!(epoch > ChainEpoch::new(3_500_000), "{epoch}");
            }
        }
    }
}
