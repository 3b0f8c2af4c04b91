//! `BoostSim`, the handle of a running simulator for tests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use lotus_sim::Permission;
use serde_json::Value;

use crate::acceptance::accept;
use crate::boot::Boostd;
use crate::calls::Call;
use crate::counters::Counters;
use crate::faults::{DealFault, Endpoint, Fault};
use crate::funds::FundsLog;
use crate::inner::{Hold, Inner};
use crate::proposal::{Proposal, Proposed};
use crate::publishing;
use crate::record::{Checkpoint, ClientPeer};
use crate::view::{DealView, deal_view};
use crate::world::World;

/// A running simulator. Dropping the handle stops it.
#[derive(Debug)]
pub struct BoostSim {
    boostd: Arc<Boostd>,
    control: SocketAddr,
}

impl BoostSim {
    pub(crate) fn new(boostd: Arc<Boostd>, control: SocketAddr) -> Self {
        Self { boostd, control }
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.boostd.inner
    }

    fn with<R>(&self, act: impl FnOnce(&mut World) -> R) -> R {
        self.inner().with(act)
    }

    /// `http://127.0.0.1:PORT/rpc/v0`.
    pub fn rpc_url(&self) -> String {
        format!("http://{}/rpc/v0", self.rpc_addr())
    }

    /// Listen address of the JSON-RPC.
    pub fn rpc_addr(&self) -> SocketAddr {
        self.boostd.rpc.address()
    }

    /// `http://127.0.0.1:PORT/graphql/query`.
    pub fn graphql_url(&self) -> String {
        format!("http://{}/graphql/query", self.graphql_addr())
    }

    /// Listen address of GraphQL.
    pub fn graphql_addr(&self) -> SocketAddr {
        self.boostd.graphql.address()
    }

    /// `http://127.0.0.1:PORT/sim/`, which answers also while boostd is stopped.
    pub fn control_url(&self) -> String {
        format!("http://{}/sim/", self.control)
    }

    /// A token with this permission and those below it.
    pub fn token(&self, permission: Permission) -> String {
        self.inner().secret.token(permission)
    }

    /// `BOOST_API_INFO`: `<token>:/ip4/127.0.0.1/tcp/PORT/http`.
    pub fn api_info(&self, permission: Permission) -> String {
        let address = self.rpc_addr();
        let family = if address.is_ipv4() { "ip4" } else { "ip6" };
        format!("{}:/{family}/{}/tcp/{}/http", self.token(permission), address.ip(), address.port())
    }

    /// A client's proposal, as over libp2p. An accepted offline deal waits for its import.
    ///
    /// # Errors
    ///
    /// The reason of the rejection, in Boost's words. Boostd also accepts while it is stopped here.
    pub fn propose(&self, proposal: &Proposal) -> Result<Proposed, String> {
        self.with(|world| accept(world, proposal, ClientPeer::Libp2p))
    }

    /// Every deal, in the order of its proposal.
    pub fn deals(&self) -> Vec<DealView> {
        self.with(|world| world.store.all().iter().map(|deal| deal_view(world, deal)).collect())
    }

    /// One deal.
    pub fn deal(&self, uuid: &str) -> Option<DealView> {
        self.with(|world| world.store.by_uuid(uuid).map(|deal| deal_view(world, deal)))
    }

    /// Number of deals at a checkpoint.
    pub fn count_at(&self, checkpoint: Checkpoint) -> usize {
        self.with(|world| world.store.count_at(checkpoint))
    }

    /// A deal's record as `BoostDeal` shows it, with all columns readable.
    pub fn record(&self, uuid: &str) -> Option<Value> {
        let config = self.inner().config.clone();
        self.with(|world| {
            world.store.by_uuid(uuid).map(|deal| deal.json(config.version, config.network_prefix))
        })
    }

    /// Every call so far, oldest first (the last 200000).
    pub fn calls(&self) -> Vec<Call> {
        self.with(|world| world.log.since(0))
    }

    /// Number of calls of a method: `Filecoin.BoostDeal`, or `deals` for GraphQL.
    pub fn count(&self, method: &str) -> usize {
        self.with(|world| world.log.count(method))
    }

    /// What ran at the same time.
    pub fn counters(&self) -> Counters {
        self.with(|world| world.counters)
    }

    /// The log of funds, oldest first.
    pub fn funds_logs(&self) -> Vec<FundsLog> {
        self.with(|world| world.funds.log().to_vec())
    }

    /// Sets the provider's escrow and the balance of the wallet that publishes, in attoFIL.
    pub fn set_funds(&self, escrow: u128, publish_wallet: u128) {
        self.with(|world| world.funds.set(escrow, publish_wallet));
    }

    /// Injects a fault of calls. Of several faults the first one that concerns a call is used.
    pub fn inject(&self, fault: Fault) {
        self.with(|world| world.faults.push(fault));
    }

    /// Injects a fault of deals.
    pub fn inject_deal(&self, fault: DealFault) {
        self.with(|world| world.faults.push_deal(fault));
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.with(|world| world.faults.clear());
    }

    /// Holds every deal that comes to a step, until [`Self::release`].
    pub fn hold(&self, step: Hold) {
        self.inner().hold(step);
    }

    /// Lets held deals go on.
    pub fn release(&self, step: Hold) {
        self.inner().release(step);
    }

    /// Sends the gathered publish message at once.
    pub fn publish_now(&self) {
        self.with(publishing::send);
    }

    /// The chain's height.
    pub fn height(&self) -> i64 {
        self.with(|world| world.head())
    }

    /// Advances the chain by this number of epochs.
    pub fn advance_epochs(&self, epochs: i64) {
        self.with(|world| {
            let height = world.head() + epochs;
            world.set_head(height);
        });
    }

    /// Sets the height of the chain.
    pub fn set_epoch(&self, height: i64) {
        self.with(|world| world.set_head(height));
    }

    /// Stops boostd as `kill -9` does: threads of deals end where they are, ports refuse connections.
    pub async fn kill_boost(&self) {
        self.boostd.kill().await;
    }

    /// Starts a stopped boostd: deals go on as its database has them.
    ///
    /// # Errors
    ///
    /// If a port cannot be listened on, or if the database has a dummy deal, over which boostd fails to
    /// start.
    pub async fn start_boost(&self) -> io::Result<()> {
        self.boostd.start().await
    }

    /// Kills and starts boostd.
    ///
    /// # Errors
    ///
    /// As [`Self::start_boost`].
    pub async fn restart_boost(&self) -> io::Result<()> {
        self.kill_boost().await;
        self.start_boost().await
    }

    /// Refuses connections at one listener and cuts those that are open. Deals go on.
    pub async fn take_down(&self, endpoint: Endpoint) {
        self.boostd.door(endpoint).close().await;
    }

    /// Listens again.
    ///
    /// # Errors
    ///
    /// If the port cannot be listened on.
    pub fn bring_up(&self, endpoint: Endpoint) -> io::Result<()> {
        self.boostd.door(endpoint).open(self.inner())
    }

    /// Stops the simulator and waits until all tasks have ended.
    pub async fn shutdown(self) {
        self.inner().shutdown.cancel();
        self.inner().tasks.close();
        self.inner().tasks.wait().await;
    }
}

impl Drop for BoostSim {
    fn drop(&mut self) {
        self.inner().shutdown.cancel();
    }
}
