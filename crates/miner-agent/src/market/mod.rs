//! One miner's market node: who it is, and the deals it lists.
//!
//! A market lists all its deals in one call, megabytes on a busy provider, and has no call for one deal. So
//! everybody who wants to know a deal's state shares one listing, and those who need a new one share the
//! call, and its failure too.

pub mod calendar;
pub mod chain_head;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use carferry_core::config::Secret;
use carferry_core::config::sections::LotusSection;
use carferry_core::error_chain::Hint as _;
use carferry_core::lotus::Provider;
use carferry_core::lotus::provider::ImportMethod;
use carferry_core::lotus::wire::MinerDeal;
use carferry_core::model::ProposalCid;
use carferry_core::model::address::{MinerId, Network, WalletAddress};
use carferry_core::rpc::endpoint::{Endpoint, EndpointError};
use carferry_core::rpc::{BootInstant, CallTimeouts, Client, RpcError, endpoint};
use carferry_core::runtime::{Backoff, BackoffPolicy};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

/// How old a listing may be for a look at a deal that no call of ours has gone out for: this long, or
/// [`COSTS`] times what it took to get.
const RECENT: Duration = Duration::from_secs(2);
const COSTS: u32 = 4;
/// How often listings are asked for to confirm calls.
const CONFIRMED_EVERY: Duration = Duration::from_secs(1);
/// From this size on a copy in vain costs more than a list: 10 s or more at what a Lotus v1.23.3 was measured
/// at.
const LARGE_PIECE: u64 = 1 << 30;
/// However long a list took: one that hung tells nothing of the next.
const RECENT_MAX: Duration = Duration::from_secs(120);
const REST_MAX: Duration = Duration::from_secs(30);
/// Pauses between calls for a list that fail.
const FAILED_PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(250),
    max: Duration::from_secs(5),
    quiet: Duration::from_secs(120),
};

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
    /// When the last listing that confirms calls was, or will be, asked for.
    confirming: SyncMutex<Option<Instant>>,
    turn: Mutex<Turn>,
    identified: AtomicBool,
    network: SyncMutex<Option<Network>>,
    /// Import calls in a row whose answer was lost. What became of them is known minutes later.
    unanswered: AtomicU32,
}

/// Whose turn it is to ask for a list.
#[derive(Debug)]
struct Turn {
    /// Not before this.
    rest: Option<Instant>,
    /// When the last call was made, if it failed.
    failed: Option<(Instant, Arc<RpcError>)>,
    pauses: Backoff,
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
    Lotus(#[from] RpcError),
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
    Lotus(#[from] RpcError),
}

impl IdentityError {
    /// Whether something must be configured otherwise before the node can be worked with.
    pub fn is_permanent(&self) -> bool {
        match self {
            // The address of a node that is down is not in its repository.
            Self::Node(NodeError::Address(EndpointError::Repo { .. })) => false,
            Self::OtherMiner { .. } | Self::Node(_) => true,
            Self::Lotus(error) => error.is_permanent(),
        }
    }

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
    #[cfg(test)]
    pub(crate) fn of(deals: impl IntoIterator<Item = MinerDeal>) -> Self {
        let deals = deals.into_iter().map(|deal| (deal.proposal_cid.cid.clone(), deal)).collect();
        Self { asked: Instant::now(), answered: Instant::now(), deals }
    }

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
    /// Where the node is, and with which token it is called; `None` where nothing says so now.
    pub fn endpoint(&self) -> Option<Endpoint> {
        endpoint::resolve_miner(&self.address.section, &self.address.env).ok()
    }

    /// The market of this miner; nothing is looked up or called yet.
    pub fn new(miner: String, address: NodeAddress, method: ImportMethod) -> Self {
        Self {
            miner,
            address,
            node: SyncMutex::default(),
            method,
            known: SyncMutex::default(),
            confirming: SyncMutex::default(),
            turn: Mutex::new(Turn { rest: None, failed: None, pauses: Backoff::new(FAILED_PAUSES) }),
            identified: AtomicBool::new(false),
            network: SyncMutex::default(),
            unanswered: AtomicU32::new(0),
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

    fn provider(&self) -> Result<Provider, RpcError> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(|node| node.provider.clone()).ok_or_else(|| RpcError::Transport {
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
    pub async fn recent_listing(&self) -> Result<Arc<Listing>, Arc<RpcError>> {
        self.listing(|known, now| {
            now.duration_since(known.asked) <= RECENT.max((known.took() * COSTS).min(RECENT_MAX))
        })
        .await
    }

    /// A listing that the node was asked for after this call began.
    pub async fn fresh_listing(&self) -> Result<Arc<Listing>, Arc<RpcError>> {
        let begun = Instant::now();
        self.listing(|known, _now| known.asked >= begun).await
    }

    /// A listing that the node was asked for after this call began, shared with all that are to be confirmed
    /// within `CONFIRMED_EVERY`: closing a deal is not urgent, and a list is the most that a market is
    /// asked for.
    pub async fn confirming_listing(&self) -> Result<Arc<Listing>, Arc<RpcError>> {
        let now = Instant::now();
        let time = {
            let mut last = self.confirming.lock().unwrap_or_else(PoisonError::into_inner);
            let time = match *last {
                Some(planned) if planned >= now => planned,
                Some(last) => now.max(last + CONFIRMED_EVERY),
                None => now,
            };
            *last = Some(time);
            time
        };
        sleep_until(time).await;
        self.fresh_listing().await
    }

    /// Whether the last listing is recent enough for a first call with a piece of this size: a person may
    /// have imported the deal since. Copying a small piece in vain costs less than another list.
    pub fn is_recent_for(&self, piece_bytes: u64) -> bool {
        piece_bytes < LARGE_PIECE
            || self.last_listing().is_some_and(|last| last.asked.elapsed() <= RECENT.max(last.took() * 2))
    }

    async fn listing(
        &self,
        suffices: impl Fn(&Listing, Instant) -> bool,
    ) -> Result<Arc<Listing>, Arc<RpcError>> {
        let begun = Instant::now();
        let known = || self.last_listing();
        // A look that needs no new listing does not wait for one that is on its way.
        if let Some(known) = known().filter(|known| suffices(known, Instant::now())) {
            return Ok(known);
        }
        // Held over the call: whoever waits here finds the listing that the one before has fetched.
        let mut turn = self.turn.lock().await;
        if let Some(known) = known().filter(|known| suffices(known, Instant::now())) {
            return Ok(known);
        }
        if let Some((asked, error)) = &turn.failed
            && *asked >= begun
        {
            return Err(Arc::clone(error));
        }
        // Whoever comes meanwhile shares the call after it.
        if let Some(rest) = turn.rest {
            sleep_until(rest).await;
        }
        let asked = Instant::now();
        let listed = match self.provider() {
            Ok(provider) => provider.list_deals().await,
            Err(error) => Err(error),
        };
        let answered = Instant::now();
        let deals = match listed {
            Ok(deals) => {
                turn.failed = None;
                turn.pauses.reset();
                // A market with many deals takes seconds to list them: it gets as long a rest before the next
                // time.
                turn.rest = Some(answered + answered.duration_since(asked).min(REST_MAX));
                deals
            }
            Err(error) => {
                self.forget_identity();
                let error = Arc::new(error);
                turn.failed = Some((asked, Arc::clone(&error)));
                turn.rest = Some(answered + turn.pauses.next_delay());
                return Err(error);
            }
        };
        debug!(miner = %self.miner, deals = deals.len(), millis = asked.elapsed().as_millis(), "listed deals");
        let by_cid = move || deals.into_iter().map(|deal| (deal.proposal_cid.cid.clone(), deal)).collect();
        // As long as others wait for this thread, it does nothing that takes a while.
        let deals = tokio::task::spawn_blocking(by_cid).await.unwrap_or_default();
        let fetched = Arc::new(Listing { asked, answered, deals });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&fetched));
        Ok(fetched)
    }

    /// The last listing, however old; `None` before the first.
    pub fn last_listing(&self) -> Option<Arc<Listing>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a call as unanswered for whose answer the importer no longer waits, as if its time limit had
    /// ended it.
    pub fn give_up_call(&self, elapsed: Duration) -> RpcError {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.forget_identity();
        let endpoint = self.provider().map_or_else(
            |_| format!("the market node of {}", self.miner),
            |provider| provider.endpoint().to_owned(),
        );
        RpcError::Timeout { method: self.method.name(), endpoint, seconds: elapsed.as_secs() }
    }

    /// Whether so many import calls in a row were not answered; counts anew from then on.
    pub fn take_unanswered(&self, in_a_row: u32) -> bool {
        self.unanswered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count >= in_a_row).then_some(0))
            .is_ok()
    }

    /// Hands a file to the market; nothing is sent after `send_before`. Read the deal's state before and
    /// after.
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
    use std::collections::HashSet;

    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_fails_has_failed_for_all_who_waited_for_it() {
        let timeouts = CallTimeouts::default();
        let address = NodeAddress { section: LotusSection::default(), env: |_| None, timeouts };
        // It has not identified itself, so every list fails.
        let market = Market::new("f01000".to_owned(), address, ImportMethod::Deals);
        let answers = join_all((0..1000).map(|_| market.fresh_listing())).await;
        let failures: HashSet<_> =
            answers.iter().map(|answer| Arc::as_ptr(answer.as_ref().unwrap_err())).collect();
        assert_eq!(failures.len(), 1);
        assert_eq!(answers.len(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_confirmed_by_a_list_a_second() {
        let timeouts = CallTimeouts::default();
        let address = NodeAddress { section: LotusSection::default(), env: |_| None, timeouts };
        let market = Market::new("f01000".to_owned(), address, ImportMethod::Deals);
        let began = Instant::now();
        // A hundred calls that are answered within three seconds; every list fails at once.
        for _ in 0..100 {
            market.confirming_listing().await.unwrap_err();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(began.elapsed() >= Duration::from_secs(99), "one after the other they wait for their second");
        let began = Instant::now();
        join_all((0..1000).map(|_| market.confirming_listing())).await;
        assert!(began.elapsed() <= CONFIRMED_EVERY + FAILED_PAUSES.max, "side by side they share one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_list_decides_no_first_call_of_a_large_piece() {
        let timeouts = CallTimeouts::default();
        let address = NodeAddress { section: LotusSection::default(), env: |_| None, timeouts };
        let market = Market::new("f01000".to_owned(), address, ImportMethod::Deals);
        assert!(market.is_recent_for(1 << 20) && !market.is_recent_for(32 << 30));
        *market.known.lock().unwrap() = Some(Arc::new(Listing::of([])));
        assert!(market.is_recent_for(32 << 30));
        tokio::time::advance(RECENT * 2).await;
        assert!(market.is_recent_for(1 << 20) && !market.is_recent_for(32 << 30));
    }

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
