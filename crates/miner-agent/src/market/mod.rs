//! One miner's market: which node it is, the deals it lists, and the import call.
//!
//! What is Lotus' own ends in this folder: wire types, state numbers, texts of errors, permissions. The rest
//! of the agent sees [`ListedDeal`](listed_deal::ListedDeal), [`DataState`](listed_deal::DataState) and
//! [`AfterError`](import_errors::AfterError).

pub mod calendar;
pub mod chain_head;
pub mod checks;
pub mod import_errors;
pub mod listed_deal;
pub mod listing;
pub mod node;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carferry_core::lotus::Provider;
pub use carferry_core::lotus::provider::ImportMethod;
use carferry_core::lotus::wire::MinerDeal;
use carferry_core::model::ProposalCid;
use carferry_core::model::address::{Network, WalletAddress};
use carferry_core::rpc::endpoint::Endpoint;
use carferry_core::rpc::{BootInstant, RpcError, endpoint};
use tokio::time::Instant;
use tracing::debug;

use crate::market::listing::{Listing, ListingCache};
use crate::market::node::{IdentityError, Node, NodeAddress, same_actor};

/// The market of one miner.
#[derive(Debug)]
pub struct Market {
    miner: String,
    address: NodeAddress,
    node: Mutex<Option<Node>>,
    method: ImportMethod,
    listings: ListingCache,
    identified: AtomicBool,
    network: Mutex<Option<Network>>,
    /// Import calls in a row whose answer was lost. Their effect is known minutes later.
    unanswered: AtomicU32,
}

impl Market {
    /// The market of this miner; nothing is looked up or called yet.
    pub fn new(miner: String, address: NodeAddress, method: ImportMethod) -> Self {
        Self {
            miner,
            address,
            node: Mutex::default(),
            method,
            listings: ListingCache::new(),
            identified: AtomicBool::new(false),
            network: Mutex::default(),
            unanswered: AtomicU32::new(0),
        }
    }

    /// The miner, as deals name it.
    pub fn miner(&self) -> &str {
        &self.miner
    }

    /// The method of import calls.
    pub fn method(&self) -> ImportMethod {
        self.method
    }

    /// URL and token of the node; `None` where neither configuration nor repository tells them now.
    pub fn endpoint(&self) -> Option<Endpoint> {
        endpoint::resolve_miner(&self.address.section, &self.address.env).ok()
    }

    /// Finds the node and asks it which miner it works for.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; nothing may be imported there then.
    pub async fn identify(&self) -> Result<Node, IdentityError> {
        self.forget_identity();
        let node = self.address.node()?;
        let found = node.provider.actor_address().await?;
        if !same_actor(&found, &self.miner) {
            let endpoint = node.endpoint().to_owned();
            return Err(IdentityError::OtherMiner { endpoint, found, expected: self.miner.clone() });
        }
        let network = found.parse().ok().map(|address: WalletAddress| address.network());
        *self.network.lock().unwrap_or_else(PoisonError::into_inner) = network;
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.clone());
        self.identified.store(true, Ordering::Relaxed);
        Ok(node)
    }

    /// The network, by the letter with which the node itself prints addresses; `None` before it has
    /// identified itself.
    pub fn network(&self) -> Option<Network> {
        *self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node was last found to work for this miner.
    pub fn is_identified(&self) -> bool {
        self.identified.load(Ordering::Relaxed)
    }

    /// The node may be another one, or gone: it must identify itself again before the next use.
    pub fn forget_identity(&self) {
        self.identified.store(false, Ordering::Relaxed);
    }

    fn provider(&self) -> Result<Provider, RpcError> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(|node| node.provider.clone()).ok_or_else(|| RpcError::Transport {
            method: "connecting",
            endpoint: format!("the market node of {}", self.miner),
            source: "it has not identified itself".into(),
        })
    }

    /// A listing of the last two seconds, or somewhat older where listing is slow.
    ///
    /// # Errors
    ///
    /// The error of the call, shared by all that waited for it.
    pub async fn recent_listing(&self) -> Result<Arc<Listing>, Arc<RpcError>> {
        self.listings.recent(|| self.list()).await
    }

    /// A listing that the market was asked for after this call began.
    ///
    /// # Errors
    ///
    /// The error of the call, shared by all that waited for it.
    pub async fn fresh_listing(&self) -> Result<Arc<Listing>, Arc<RpcError>> {
        self.listings.fresh(|| self.list()).await
    }

    /// A listing that the market was asked for after this call began, shared by all import calls that are
    /// confirmed within a second.
    ///
    /// # Errors
    ///
    /// The error of the call, shared by all that waited for it.
    pub async fn confirming_listing(&self) -> Result<Arc<Listing>, Arc<RpcError>> {
        self.listings.confirming(|| self.list()).await
    }

    /// The last listing, however old; `None` before the first.
    pub fn last_listing(&self) -> Option<Arc<Listing>> {
        self.listings.last()
    }

    /// Whether the last listing is recent enough for a first call with a piece of this size.
    pub fn is_recent_for(&self, piece_bytes: u64) -> bool {
        self.listings.is_recent_for(piece_bytes)
    }

    async fn list(&self) -> Result<Vec<MinerDeal>, RpcError> {
        let asked = Instant::now();
        let listed = match self.provider() {
            Ok(provider) => provider.list_deals().await,
            Err(error) => Err(error),
        };
        match &listed {
            Ok(deals) => {
                debug!(miner = %self.miner, deals = deals.len(), millis = asked.elapsed().as_millis(), "listed deals");
            }
            Err(_) => self.forget_identity(),
        }
        listed
    }

    /// Calls the import method for a file; nothing is sent after `send_before`. The deal's state before and
    /// after tells whether the call had an effect.
    ///
    /// # Errors
    ///
    /// What the node answered, or why there is no answer; see [`import_errors::after_error`].
    pub async fn import(
        &self,
        deal: &ProposalCid,
        node_path: &str,
        send_before: BootInstant,
    ) -> Result<(), RpcError> {
        let answer = self.provider()?.import(self.method, deal, node_path, send_before).await;
        let is_lost = answer.as_ref().is_err_and(RpcError::effect_is_unknown);
        if is_lost {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        } else {
            self.unanswered.store(0, Ordering::Relaxed);
        }
        if is_lost || answer.as_ref().is_err_and(RpcError::is_about_the_node) {
            self.forget_identity();
        }
        answer
    }

    /// Counts a call as unanswered for which the importer no longer waits, as if its time limit had ended it.
    pub fn give_up_call(&self, elapsed: Duration) -> RpcError {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.forget_identity();
        let endpoint = self.provider().map_or_else(
            |_| format!("the market node of {}", self.miner),
            |provider| provider.endpoint().to_owned(),
        );
        RpcError::Timeout { method: self.method.name(), endpoint, seconds: elapsed.as_secs() }
    }

    /// Whether at least this many import calls in a row were not answered; then the count begins again at 0.
    pub fn take_unanswered(&self, in_a_row: u32) -> bool {
        self.unanswered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count >= in_a_row).then_some(0))
            .is_ok()
    }
}
