//! The height of the chain: from a full node, else from the database's clock and mainnet's calendar.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use carferry_core::config::sections::LotusSection;
use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::FullNode;
use carferry_core::model::ChainEpoch;
use carferry_core::rpc::endpoint::EndpointError;
use carferry_core::rpc::{CallTimeouts, Client, endpoint};
use carferry_core::store::Store;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::market::calendar::{Agreed, NoCalendar};
use crate::market::node::{Environment, NodeError};
use crate::market::{Market, calendar};

/// Where the head is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadSource {
    /// The full node if one is configured; without one the database's clock, where the market is one of
    /// mainnet.
    #[default]
    Auto,
    /// The full node; no check of start epochs while it does not answer.
    Node,
    /// The database's clock and mainnet's calendar, where the market is one of mainnet.
    Clock,
}

/// How long a height is used: one epoch.
const HEAD_MAX_AGE: Duration = Duration::from_secs(30);

/// The height of the chain, asked for once an epoch at most.
#[derive(Debug)]
pub struct Head {
    source: HeadSource,
    node: Option<FullNode>,
    /// The database, by whose clock the calendar counts: this host's clock may be days off, and a deal that
    /// is taken for missed is given up.
    store: Store,
    known: SyncMutex<Option<Answer>>,
    /// Locked during a call whose answer other deals wait for.
    turn: Mutex<()>,
    /// Whether the full node is asked in the background.
    is_kept_fresh: AtomicBool,
    /// Whether it was logged that the full node does not answer.
    is_failure_told: AtomicBool,
    /// Whether it was logged that mainnet's calendar does not hold.
    has_told: AtomicBool,
}

/// The last answer.
#[derive(Clone, Copy, Debug)]
struct Answer {
    asked: Instant,
    /// `None`: the height was not known.
    epoch: Option<ChainEpoch>,
}

impl Head {
    /// The head of the chain by this source.
    pub fn new(source: HeadSource, node: Option<FullNode>, store: Store) -> Self {
        Self {
            source,
            node,
            store,
            known: SyncMutex::default(),
            turn: Mutex::default(),
            is_kept_fresh: AtomicBool::default(),
            is_failure_told: AtomicBool::default(),
            has_told: AtomicBool::default(),
        }
    }

    /// Asks the full node once an epoch, without end: deals wait for its first answer only.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point.
    pub async fn keep_fresh(&self) {
        let (HeadSource::Auto | HeadSource::Node, Some(node)) = (self.source, &self.node) else {
            return std::future::pending().await;
        };
        let mut turn = Some(self.turn.lock().await);
        self.is_kept_fresh.store(true, Ordering::Relaxed);
        loop {
            self.answered(self.ask_node(node).await);
            turn.take();
            sleep(HEAD_MAX_AGE).await;
        }
    }

    /// The full node, where there is one.
    pub fn node(&self) -> Option<&FullNode> {
        self.node.as_ref()
    }

    /// The head of the chain on which this deal of the market was agreed; `None` if it is not known.
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
        self.remembered(self.ask_node(node)).await
    }

    async fn ask_node(&self, node: &FullNode) -> Option<ChainEpoch> {
        match node.chain_head().await {
            Ok(head) => {
                self.is_failure_told.store(false, Ordering::Relaxed);
                Some(ChainEpoch::new(head.height))
            }
            Err(error) => {
                let reason = ErrorChain(&error);
                if self.is_failure_told.swap(true, Ordering::Relaxed) {
                    debug!(%reason, "the full node still does not tell the head of the chain");
                } else {
                    warn!(%reason, "the full node does not tell the head of the chain; start epochs are not checked");
                }
                None
            }
        }
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

    /// The last answer, or that there was none, is used for an epoch, and without limit while the node is
    /// asked in the background: a node that hangs must not hold up every deal.
    async fn remembered(&self, ask: impl Future<Output = Option<ChainEpoch>>) -> Option<ChainEpoch> {
        if let Some(answer) = self.last_answer() {
            return answer.epoch;
        }
        let _turn = self.turn.lock().await;
        match self.last_answer() {
            Some(answer) => answer.epoch,
            None => self.answered(ask.await),
        }
    }

    fn last_answer(&self) -> Option<Answer> {
        let is_kept_fresh = self.is_kept_fresh.load(Ordering::Relaxed);
        (*self.known()).filter(|answer| is_kept_fresh || answer.asked.elapsed() < HEAD_MAX_AGE)
    }

    /// The chain does not go back: without an answer, the last known height is a lower bound.
    fn answered(&self, answer: Option<ChainEpoch>) -> Option<ChainEpoch> {
        let mut known = self.known();
        let epoch = answer.or((*known).and_then(|last| last.epoch));
        *known = Some(Answer { asked: Instant::now(), epoch });
        epoch
    }

    fn known(&self) -> MutexGuard<'_, Option<Answer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The full node, where one is configured, or found as Lotus finds it; nothing is called yet.
///
/// # Errors
///
/// [`NodeError`] for a configured address or token that cannot be used.
pub fn full_node(section: &LotusSection, env: Environment) -> Result<Option<FullNode>, NodeError> {
    let is_configured = section.endpoint.is_some() || section.api_info.is_some() || section.repo.is_some();
    match endpoint::resolve_full_node(section, &env) {
        Ok(found) => {
            debug!(endpoint = %found, "full node");
            let timeouts = CallTimeouts { quick: section.request_timeout, ..CallTimeouts::default() };
            Ok(Some(FullNode::new(Client::of(&found, timeouts)?)))
        }
        Err(EndpointError::NotFound { .. }) => Ok(None),
        Err(error) if is_configured => Err(error.into()),
        Err(error) => {
            debug!(error = %ErrorChain(&error), "no full node");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use carferry_core::config::MongoTarget;
    use carferry_core::store::StoreOptions;

    use super::*;

    async fn head() -> Head {
        let options = StoreOptions {
            target: MongoTarget::parse("mongodb://127.0.0.1:1", "x").unwrap(),
            app_name: "x".to_owned(),
            call_timeout: Duration::from_secs(5),
        };
        Head::new(HeadSource::Auto, None, Store::open(&options).await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_holds_up_no_deal_after_its_first_answer() {
        let head = head().await;
        let answer = async |height: Option<i64>| head.remembered(async { height.map(ChainEpoch::new) }).await;
        assert_eq!(answer(Some(7)).await, Some(ChainEpoch::new(7)));
        assert_eq!(answer(Some(8)).await, Some(ChainEpoch::new(7)), "of this epoch");
        tokio::time::advance(HEAD_MAX_AGE).await;
        assert_eq!(answer(None).await, Some(ChainEpoch::new(7)), "the chain does not go back");
        head.is_kept_fresh.store(true, Ordering::Relaxed);
        tokio::time::advance(HEAD_MAX_AGE * 10).await;
        let hangs = head.remembered(std::future::pending());
        let served = tokio::time::timeout(Duration::from_secs(1), hangs).await;
        assert_eq!(served, Ok(Some(ChainEpoch::new(7))), "the background asks, nobody waits");
    }
}
