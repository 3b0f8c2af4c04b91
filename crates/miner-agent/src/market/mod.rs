//! One miner's market: which node it is, the deals it tells of, and the call that hands a CAR over.
//!
//! What is a market's own ends in this folder, in `lotus` and `boost`: wire types, state numbers, texts of
//! errors, permissions. The rest of the agent sees [`ListedDeal`],
//! [`DataState`](listed_deal::DataState), [`HandOver`] and [`AfterError`].

pub mod after_error;
mod boost;
pub mod calendar;
pub mod chain_head;
pub mod checks;
pub mod listed_deal;
pub mod listing;
mod lotus;
pub mod node;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carferry_core::boost::WaitingDeal;
pub use carferry_core::lotus::provider::ImportMethod;
use carferry_core::lotus::wire::MinerDeal;
use carferry_core::model::ProposalCid;
use carferry_core::model::address::{Network, WalletAddress};
use carferry_core::rpc::endpoint::Endpoint;
use carferry_core::rpc::{BootInstant, RpcError};
use carferry_core::store::AdoptedDeal;
use tokio::time::Instant;
use tracing::debug;

use crate::market::after_error::AfterError;
use crate::market::listed_deal::ListedDeal;
use crate::market::listing::{Listing, ListingCache};
use crate::market::node::{Api, IdentityError, Node, NodeAddress, same_actor};

/// What a market that took a call did with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// It has read the file, and it is the deal's piece (Lotus).
    Answered,
    /// It has not looked at the file yet (Boost).
    Scheduled,
}

/// Pause of all others before they look again whether the node has identified itself, which the worker makes
/// it do.
pub const UNIDENTIFIED: Duration = Duration::from_secs(1);

/// How new a look at deals must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Some seconds old at most, or somewhat older where looking is slow.
    Recent,
    /// Begun after it was asked for.
    Fresh,
    /// The same, shared by all hand-overs that are confirmed within a second.
    Confirming,
}

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
    /// What the market said of a file that it was given and could not find.
    unopened: Mutex<Option<String>>,
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
            unopened: Mutex::default(),
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
        self.address.resolve().ok()
    }

    /// Finds the node and asks it which market it runs, and for which miner.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; nothing may be imported there then.
    pub async fn identify(&self) -> Result<Node, IdentityError> {
        self.forget_identity();
        let node = self.address.node()?.identify().await?;
        if !same_actor(&node.miner, &self.miner) {
            let (endpoint, found) = (node.endpoint().to_owned(), node.miner);
            return Err(IdentityError::OtherMiner { endpoint, found, expected: self.miner.clone() });
        }
        let network = node.miner.parse().ok().map(|address: WalletAddress| address.network());
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

    fn api(&self) -> Result<Api, RpcError> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(|node| node.api.clone()).ok_or_else(|| RpcError::Transport {
            method: "connecting",
            endpoint: format!("the market node of {}", self.miner),
            source: "it has not identified itself".into(),
        })
    }

    /// Whether a file that was handed over is read later: the deals that the market has in hand then count as
    /// imports, and the answer to a call says nothing.
    pub fn reads_later(&self) -> bool {
        matches!(self.api(), Ok(Api::Boost(_)))
    }

    /// What the market says of these deals, and perhaps of others.
    ///
    /// # Errors
    ///
    /// The error of the call, shared by all that waited for it.
    pub async fn listing(&self, deals: &[&str], freshness: Freshness) -> Result<Arc<Listing>, Arc<RpcError>> {
        match self.api()? {
            Api::Lotus(_) => match freshness {
                Freshness::Recent => self.listings.recent(|| self.list()).await,
                Freshness::Fresh => self.listings.fresh(|| self.list()).await,
                Freshness::Confirming => self.listings.confirming(|| self.list()).await,
            },
            Api::Boost(boost) => {
                let asked = Instant::now();
                match boost::look(&boost, deals).await {
                    Ok(found) => Ok(Arc::new(Listing::of_looks(asked, found))),
                    Err(error) => {
                        self.forget_identity();
                        Err(Arc::new(error))
                    }
                }
            }
        }
    }

    /// Every deal that waits for its data, whether or not it is recorded.
    ///
    /// # Errors
    ///
    /// The error of the call. Boost lists such deals over GraphQL only.
    pub async fn waiting(&self) -> Result<Vec<AdoptedDeal>, Arc<RpcError>> {
        match self.api()? {
            Api::Lotus(_) => {
                let listing = self.listing(&[], Freshness::Recent).await?;
                Ok(listing
                    .deals()
                    .filter_map(|(proposal_cid, deal)| deal.adopted(proposal_cid, None))
                    .collect())
            }
            Api::Boost(boost) => {
                let graphql = self.address.graphql(boost.endpoint())?;
                let adopted = |waiting: WaitingDeal| {
                    let root = waiting.deal.deal_data_root.as_ref().map(|root| root.cid.clone());
                    ListedDeal::from(waiting.deal).adopted(&waiting.proposal_cid, root)
                };
                Ok(graphql.waiting().await?.into_iter().filter_map(adopted).collect())
            }
        }
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
        let listed = match self.api() {
            Ok(Api::Lotus(provider)) => provider.list_deals().await,
            // The node was replaced by a Boost meanwhile.
            Ok(Api::Boost(_)) => Ok(Vec::new()),
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

    /// Hands a file over; nothing is sent after `send_before`. The deal's state before and after tells
    /// whether that had an effect.
    ///
    /// # Errors
    ///
    /// What the node answered, or why there is no answer; see [`Self::after_error`].
    pub async fn hand_over(
        &self,
        deal: &ProposalCid,
        node_path: &str,
        send_before: BootInstant,
    ) -> Result<HandOver, RpcError> {
        let answer = match self.api()? {
            Api::Lotus(provider) => {
                provider.import(self.method, deal, node_path, send_before).await.map(|()| HandOver::Answered)
            }
            Api::Boost(boost) => boost::hand_over(&boost, deal, node_path, send_before).await,
        };
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

    /// What follows from a hand-over that failed, by this market's texts.
    pub fn after_error(&self, error: &RpcError) -> AfterError {
        match self.api() {
            Ok(Api::Boost(_)) => boost::errors::after_error(error),
            Ok(Api::Lotus(_)) | Err(_) => lotus::errors::after_error(error),
        }
    }

    /// Takes note of a deal that has just ended over its file: a market that does not find one file finds no
    /// other, and each one costs a deal.
    pub fn ended_over_a_file(&self, words: &str) {
        if self.reads_later() && boost::errors::could_not_open(words) {
            *self.unopened.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.to_owned());
        }
    }

    /// Why no file is handed over any more; `None` if files may be.
    pub fn why_no_file_is_given(&self) -> Option<String> {
        let words = self.unopened.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(format!(
            "the market process did not find the last file that it was given, and ended its deal ({words}); no other \
             is handed over before this agent starts again; hint: let `nodePaths` name the folders as the market \
             process sees them"
        ))
    }

    /// Counts a call as unanswered for which the importer no longer waits, as if its time limit had ended it.
    pub fn give_up_call(&self, elapsed: Duration) -> RpcError {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.forget_identity();
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let endpoint = node
            .map_or_else(|| format!("the market node of {}", self.miner), |node| node.endpoint().to_owned());
        RpcError::Timeout { method: self.method.name(), endpoint, seconds: elapsed.as_secs() }
    }

    /// Whether at least this many import calls in a row were not answered; then the count begins again at 0.
    pub fn take_unanswered(&self, in_a_row: u32) -> bool {
        self.unanswered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count >= in_a_row).then_some(0))
            .is_ok()
    }
}
