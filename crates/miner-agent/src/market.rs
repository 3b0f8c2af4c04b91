//! One miner's market node: who it is, and the deals it lists.
//!
//! A market lists all its deals in one call, megabytes on a busy provider, and has no call for one deal. So
//! everybody who wants to know a deal's state shares one listing, and those who need a new one share the call.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as SyncMutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carferry_core::{
    config::{Secret, sections::LotusSection},
    error_chain::Hint as _,
    lotus::{
        CallTimeouts, Client, LotusError, Moment, Provider,
        endpoint::{self, EndpointError},
        provider::ImportMethod,
        wire::MinerDeal,
    },
    model::{ProposalCid, address::MinerId},
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};
use tracing::debug;

/// How old a listing may be for a look at a deal that no call of ours has gone out for: this long, or
/// [`COSTS`] times what it took to get.
const RECENT: Duration = Duration::from_secs(2);
const COSTS: u32 = 4;

/// How a variable of the environment is read.
pub type Environment = fn(&str) -> Option<String>;

/// Where a market node is said to be. Looked up anew whenever the node has to identify itself: the address in
/// a repository folder is there only while the node runs, and may be another one after a restart.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// The configuration.
    pub section: LotusSection,
    /// What stands in for what the configuration leaves out.
    pub env: Environment,
    /// Limits of calls to it.
    pub timeouts: CallTimeouts,
}

/// A node that can be called.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its calls.
    pub provider: Provider,
    /// The token they carry.
    pub token: Option<Secret>,
}

impl NodeAddress {
    /// The node at this address; nothing is called yet.
    ///
    /// # Errors
    ///
    /// [`NodeError`].
    pub fn node(&self) -> Result<Node, NodeError> {
        let found = endpoint::resolve_miner(&self.section, &self.env)?;
        debug!(endpoint = %found, "market node");
        let client =
            Client::new(found.url.as_str(), found.token.as_ref().map(Secret::expose), self.timeouts)?;
        Ok(Node { provider: Provider::new(client), token: found.token })
    }
}

/// The market node of one miner.
#[derive(Debug)]
pub struct Market {
    miner: String,
    address: NodeAddress,
    node: SyncMutex<Option<Node>>,
    method: ImportMethod,
    known: SyncMutex<Option<Arc<Listing>>>,
    listing: Mutex<()>,
    identified: AtomicBool,
}

/// All deals of a market at one moment.
#[derive(Debug)]
pub struct Listing {
    asked: Instant,
    answered: Instant,
    deals: HashMap<String, MinerDeal>,
}

/// Why there is no node to call.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Nobody says where it is.
    #[error(transparent)]
    Address(#[from] EndpointError),
    /// Its URL or token cannot be sent at all.
    #[error(transparent)]
    Lotus(#[from] LotusError),
}

/// Why a node cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It works for someone else.
    #[error("the node at {endpoint} works for miner {found}, not for {expected}")]
    OtherMiner {
        /// Where it is.
        endpoint: String,
        /// Whom it works for.
        found: String,
        /// Whom it should work for.
        expected: String,
    },
    /// There is none to call.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// It cannot be asked.
    #[error(transparent)]
    Lotus(#[from] LotusError),
}

impl IdentityError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherMiner { .. } => Some("give every entry of `miners` its own node".to_owned()),
            Self::Node(NodeError::Address(error)) => error.hint(),
            Self::Node(NodeError::Lotus(error)) | Self::Lotus(error) => error.hint(),
        }
    }
}

impl Listing {
    /// The deal as the provider sees it.
    pub fn deal(&self, proposal_cid: &str) -> Option<&MinerDeal> {
        self.deals.get(proposal_cid)
    }

    fn took(&self) -> Duration {
        self.answered.duration_since(self.asked)
    }

    /// How many deals the market has.
    pub fn count(&self) -> usize {
        self.deals.len()
    }
}

impl Market {
    /// The market of this miner; nothing is looked up or called yet.
    pub fn new(miner: String, address: NodeAddress, method: ImportMethod) -> Self {
        Self {
            miner,
            address,
            node: SyncMutex::default(),
            method,
            known: SyncMutex::default(),
            listing: Mutex::default(),
            identified: AtomicBool::new(false),
        }
    }

    /// The miner, as deals name it.
    pub fn miner(&self) -> &str {
        &self.miner
    }

    /// Finds the node and asks it whom it works for.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; nothing may be imported there then.
    pub async fn identify(&self) -> Result<Node, IdentityError> {
        self.forget_identity();
        let node = self.address.node()?;
        let found = node.provider.actor_address().await?;
        if !same_actor(&found, &self.miner) {
            let endpoint = node.provider.endpoint().to_owned();
            return Err(IdentityError::OtherMiner { endpoint, found, expected: self.miner.clone() });
        }
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.clone());
        self.identified.store(true, Ordering::Relaxed);
        Ok(node)
    }

    fn provider(&self) -> Result<Provider, LotusError> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(|node| node.provider.clone()).ok_or_else(|| LotusError::Transport {
            method: "connecting",
            endpoint: format!("the market node of {}", self.miner),
            source: "it has not identified itself".into(),
        })
    }

    /// Whether the node was last found to work for this miner.
    pub fn is_identified(&self) -> bool {
        self.identified.load(Ordering::Relaxed)
    }

    /// The node may be another one, or gone: ask again before the next use.
    pub fn forget_identity(&self) {
        self.identified.store(false, Ordering::Relaxed);
    }

    /// A listing of the last two seconds, or somewhat older where listing is slow.
    pub async fn recent_listing(&self) -> Result<Arc<Listing>, LotusError> {
        self.listing(|known, now| now.duration_since(known.asked) <= RECENT.max(known.took() * COSTS)).await
    }

    /// A listing that the node was asked for after this call began.
    pub async fn fresh_listing(&self) -> Result<Arc<Listing>, LotusError> {
        let begun = Instant::now();
        self.listing(|known, _now| known.asked >= begun).await
    }

    async fn listing(
        &self,
        suffices: impl Fn(&Listing, Instant) -> bool,
    ) -> Result<Arc<Listing>, LotusError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A look that needs no new listing does not wait for one that is on its way.
        if let Some(known) = known().filter(|known| suffices(known, Instant::now())) {
            return Ok(known);
        }
        // Held over the call: whoever waits here finds the listing that the one before has fetched.
        let _one_at_a_time = self.listing.lock().await;
        if let Some(known) = known() {
            if suffices(&known, Instant::now()) {
                return Ok(known);
            }
            // A market with many deals takes seconds to list them: it gets as long a rest before the next
            // time. Whoever comes meanwhile shares that one.
            sleep_until(known.answered + known.took()).await;
        }
        let asked = Instant::now();
        let deals = self.provider()?.list_deals().await?;
        let answered = Instant::now();
        debug!(miner = %self.miner, deals = deals.len(), millis = asked.elapsed().as_millis(), "listed deals");
        let deals = deals.into_iter().map(|deal| (deal.proposal_cid.cid.clone(), deal)).collect();
        let fetched = Arc::new(Listing { asked, answered, deals });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&fetched));
        Ok(fetched)
    }

    /// Hands a file to the market; nothing is sent after `send_before`. Read the deal's state before and after.
    pub async fn import(
        &self,
        deal: &ProposalCid,
        node_path: &str,
        send_before: Moment,
    ) -> Result<(), LotusError> {
        self.provider()?.import(self.method, deal, node_path, send_before).await
    }
}

/// The same actor, whichever network prefix the node prints.
fn same_actor(one: &str, other: &str) -> bool {
    match (one.parse::<MinerId>(), other.parse::<MinerId>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_prefix_does_not_make_another_miner() {
        for (one, other, same) in [
            ("f01000", "f01000", true),
            ("t01000", "f01000", true),
            ("f01000", "f01001", false),
            ("", "", false),
        ] {
            assert_eq!(same_actor(one, other), same, "{one} {other}");
        }
    }
}
