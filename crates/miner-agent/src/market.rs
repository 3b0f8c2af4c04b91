//! One miner's market node: who it is, and the deals it lists.
//!
//! A market lists all its deals in one call, megabytes on a busy provider, and has no call for one deal. So
//! everybody who wants to know a deal's state shares one listing, and those who need a new one share the call.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carferry_core::{
    lotus::{LotusError, Provider, provider::ImportMethod, wire::MinerDeal},
    model::{ProposalCid, address::MinerId},
};
use tokio::{sync::Mutex, time::Instant};
use tracing::debug;

/// How old a listing may be for a first look at a deal. Whatever has an effect looks again.
const RECENT: Duration = Duration::from_secs(2);

/// The market node of one miner.
#[derive(Debug)]
pub struct Market {
    miner: String,
    provider: Provider,
    method: ImportMethod,
    listing: Mutex<Option<Arc<Listing>>>,
    identified: AtomicBool,
}

/// All deals of a market at one moment.
#[derive(Debug)]
pub struct Listing {
    asked: Instant,
    deals: HashMap<String, MinerDeal>,
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
    /// It cannot be asked.
    #[error(transparent)]
    Lotus(#[from] LotusError),
}

impl IdentityError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherMiner { .. } => Some("give every entry of `miners` its own node".to_owned()),
            Self::Lotus(error) => error.hint(),
        }
    }
}

impl Listing {
    /// The deal as the provider sees it.
    pub fn deal(&self, proposal_cid: &str) -> Option<&MinerDeal> {
        self.deals.get(proposal_cid)
    }

    /// How many deals the market has.
    pub fn count(&self) -> usize {
        self.deals.len()
    }
}

impl Market {
    /// The market of this miner; nothing is called yet.
    pub fn new(miner: String, provider: Provider, method: ImportMethod) -> Self {
        Self { miner, provider, method, listing: Mutex::new(None), identified: AtomicBool::new(false) }
    }

    /// The miner, as deals name it.
    pub fn miner(&self) -> &str {
        &self.miner
    }

    /// The node.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Asks the node whom it works for.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; nothing may be imported there then.
    pub async fn identify(&self) -> Result<(), IdentityError> {
        let found = self.provider.actor_address().await?;
        if same_actor(&found, &self.miner) {
            self.identified.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.identified.store(false, Ordering::Relaxed);
        let endpoint = self.provider.endpoint().to_owned();
        Err(IdentityError::OtherMiner { endpoint, found, expected: self.miner.clone() })
    }

    /// Whether the node was last found to work for this miner.
    pub fn is_identified(&self) -> bool {
        self.identified.load(Ordering::Relaxed)
    }

    /// The node may be another one, or gone: ask again before the next use.
    pub fn forget_identity(&self) {
        self.identified.store(false, Ordering::Relaxed);
    }

    /// A listing of the last two seconds.
    pub async fn recent_listing(&self) -> Result<Arc<Listing>, LotusError> {
        let oldest = Instant::now().checked_sub(RECENT);
        self.listing_asked_after(oldest).await
    }

    /// A listing that the node was asked for after this call began.
    pub async fn fresh_listing(&self) -> Result<Arc<Listing>, LotusError> {
        self.listing_asked_after(Some(Instant::now())).await
    }

    async fn listing_asked_after(&self, oldest: Option<Instant>) -> Result<Arc<Listing>, LotusError> {
        // Held over the call: whoever waits here finds the listing that the one before has fetched.
        let mut listing = self.listing.lock().await;
        if let Some(known) = listing.as_ref()
            && oldest.is_none_or(|oldest| known.asked >= oldest)
        {
            return Ok(Arc::clone(known));
        }
        let asked = Instant::now();
        let deals = self.provider.list_deals().await?;
        debug!(miner = %self.miner, deals = deals.len(), millis = asked.elapsed().as_millis(), "listed deals");
        let deals = deals.into_iter().map(|deal| (deal.proposal_cid.cid.clone(), deal)).collect();
        let fetched = Arc::new(Listing { asked, deals });
        *listing = Some(Arc::clone(&fetched));
        Ok(fetched)
    }

    /// Hands a file to the market. Read the deal's state before and after.
    pub async fn import(&self, deal: &ProposalCid, node_path: &str) -> Result<(), LotusError> {
        self.provider.import(self.method, deal, node_path).await
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
