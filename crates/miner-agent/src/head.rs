//! The head of the chain: from a full node, else from the database's clock.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use carferry_core::{error_chain::ErrorChain, lotus::FullNode, model::ChainEpoch, store::Store};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use tracing::{debug, warn};

use crate::{
    calendar::{self, Agreed, NoCalendar},
    market::Market,
};

/// Where the head is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadSource {
    /// The full node if one is configured; without one the database's clock, where the market is one of mainnet.
    #[default]
    Auto,
    /// The full node; no check of start epochs while it does not answer.
    Node,
    /// The database's clock and mainnet's calendar, where the market is one of mainnet.
    Clock,
}

/// A head is used this long: one epoch.
const HEAD_MAX_AGE: Duration = Duration::from_secs(30);

/// Knows the head of the chain.
#[derive(Debug)]
pub struct Head {
    source: HeadSource,
    node: Option<FullNode>,
    /// Whose clock counts: this host's may be days off, and a deal that is taken for missed is given up.
    store: Store,
    known: Mutex<Option<(Instant, Option<ChainEpoch>)>>,
    /// Whether the operator was told that mainnet's calendar does not hold.
    has_told: AtomicBool,
}

impl Head {
    /// From this source.
    pub fn new(source: HeadSource, node: Option<FullNode>, store: Store) -> Self {
        Self { source, node, store, known: Mutex::new(None), has_told: AtomicBool::new(false) }
    }

    /// The full node, where there is one.
    pub fn node(&self) -> Option<&FullNode> {
        self.node.as_ref()
    }

    /// The head of the chain on which this deal of the market was agreed; `None` if nobody knows.
    ///
    /// A full node that does not answer is not replaced by the clock: a test network has another calendar,
    /// and a deal that is taken for missed is given up.
    pub async fn epoch(&self, market: &Market, agreed: Agreed) -> Option<ChainEpoch> {
        match (self.source, &self.node) {
            (HeadSource::Auto | HeadSource::Node, Some(node)) => self.epoch_of(node).await,
            (HeadSource::Auto, None) | (HeadSource::Clock, _) => {
                match calendar::holds(market.network(), agreed) {
                    Ok(()) => self.mainnet_epoch().await,
                    Err(reason) => {
                        self.tell(market.miner(), &reason);
                        None
                    }
                }
            }
            (HeadSource::Node, None) => {
                debug!(miner = market.miner(), "head of the chain unknown, start epochs are not checked");
                None
            }
        }
    }

    fn tell(&self, miner: &str, reason: &NoCalendar) {
        if reason.is_about_the_network() && !self.has_told.swap(true, Ordering::Relaxed) {
            warn!(
                miner,
                %reason,
                hint = "set fullNode.endpoint, so that start epochs are checked",
                "mainnet's calendar does not tell the head of the chain; start epochs are not checked"
            );
        } else {
            debug!(miner, %reason, "head of the chain unknown");
        }
    }

    async fn epoch_of(&self, node: &FullNode) -> Option<ChainEpoch> {
        self.remembered(async {
            let head = node.chain_head().await.inspect_err(|error| {
                warn!(reason = %ErrorChain(error), "the full node does not tell the head of the chain; start epochs are not checked");
            });
            Some(ChainEpoch::new(head.ok()?.height))
        })
        .await
    }

    async fn mainnet_epoch(&self) -> Option<ChainEpoch> {
        self.remembered(async {
            let now = self.store.server_time().await.inspect_err(|error| {
                debug!(reason = %ErrorChain(error), "the database does not tell the time; start epochs are not checked");
            });
            Some(ChainEpoch::mainnet_at(now.ok()?.timestamp_millis() / 1000))
        })
        .await
    }

    /// An answer, or that there was none, holds for a while: a node that hangs must not hold up every deal. The chain
    /// does not go back: while nobody tells, the last known height is where it is at least.
    async fn remembered(&self, ask: impl Future<Output = Option<ChainEpoch>>) -> Option<ChainEpoch> {
        let mut known = self.known.lock().await;
        if let Some((asked, epoch)) = *known
            && asked.elapsed() < HEAD_MAX_AGE
        {
            return epoch;
        }
        let epoch = ask.await.or((*known).and_then(|(_, epoch)| epoch));
        *known = Some((Instant::now(), epoch));
        epoch
    }
}
