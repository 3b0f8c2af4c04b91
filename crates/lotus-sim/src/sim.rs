//! `Sim`, the handle of a running simulator for tests.
//!
//! What lives here: addresses and tokens, changes of state by tests, counters, shutdown. What does not: the
//! start (`server`), answers to calls (`rpc`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::calls::{Call, ImportCounts, ImportRun, NodeName};
use crate::faults::Fault;
use crate::ids::Address;
use crate::inner::Inner;
use crate::jwt::Permission;
use crate::lost_sight::LostSight;
use crate::states::DealState;
use crate::view::{DealView, deal_view, deal_views};
use crate::world::{World, signed};

/// A running simulator. Dropping the handle stops it.
#[derive(Debug)]
pub struct Sim {
    inner: Arc<Inner>,
    full_node: SocketAddr,
    miners: BTreeMap<String, SocketAddr>,
}

impl Sim {
    pub(crate) fn new(
        inner: Arc<Inner>,
        full_node: SocketAddr,
        miners: BTreeMap<String, SocketAddr>,
    ) -> Self {
        Self { inner, full_node, miners }
    }

    /// `http://127.0.0.1:PORT/rpc/v0` of the full node.
    pub fn full_node_url(&self) -> String {
        format!("http://{}/rpc/v0", self.full_node)
    }

    /// Listen address of the full node.
    pub fn full_node_addr(&self) -> SocketAddr {
        self.full_node
    }

    /// `http://127.0.0.1:PORT/rpc/v0` of a miner.
    ///
    /// # Panics
    ///
    /// If there is no such miner.
    pub fn miner_url(&self, miner: &str) -> String {
        format!("http://{}/rpc/v0", self.miner_addr(miner))
    }

    /// Listen address of a miner.
    ///
    /// # Panics
    ///
    /// If there is no such miner.
    pub fn miner_addr(&self, miner: &str) -> SocketAddr {
        *self.miners.get(&canonical(miner)).expect("the simulator has this miner")
    }

    /// The miners' addresses.
    pub fn miners(&self) -> Vec<String> {
        self.miners.keys().cloned().collect()
    }

    /// A token with this permission and those below it, valid on every node.
    pub fn token(&self, permission: Permission) -> String {
        self.inner.secret.token(permission)
    }

    /// The full node's `FULLNODE_API_INFO`: `<token>:/ip4/127.0.0.1/tcp/PORT/http`.
    pub fn full_node_api_info(&self, permission: Permission) -> String {
        format!("{}:{}", self.token(permission), multiaddr(self.full_node))
    }

    /// A miner's `MINER_API_INFO` or `MARKETS_API_INFO`.
    ///
    /// # Panics
    ///
    /// If there is no such miner.
    pub fn miner_api_info(&self, miner: &str, permission: Permission) -> String {
        format!("{}:{}", self.token(permission), multiaddr(self.miner_addr(miner)))
    }

    /// Every call so far, oldest first (the last 100000).
    pub fn calls(&self) -> Vec<Call> {
        self.inner.with(|world| world.log.since(0))
    }

    /// Number of calls of a method (`Filecoin.ClientStartDeal`) on all nodes.
    pub fn count(&self, method: &str) -> usize {
        self.inner.with(|world| world.log.count(method))
    }

    /// All imports so far, in the order of their start.
    pub fn import_runs(&self) -> Vec<ImportRun> {
        self.inner.with(|world| world.log.import_runs())
    }

    /// Number of import calls of a deal that began their work.
    pub fn imports_for(&self, proposal_cid: &str) -> usize {
        self.import_counts(proposal_cid).started
    }

    /// Numbers of imports of a deal by result.
    pub fn import_counts(&self, proposal_cid: &str) -> ImportCounts {
        self.inner.with(|world| world.log.imports(proposal_cid))
    }

    /// Number of different proposals for a root at a miner. Repeats of the same proposal do not count.
    pub fn proposals_for(&self, payload_cid: &str, miner: &str) -> usize {
        self.inner.with(|world| world.log.proposals(payload_cid, &canonical(miner)))
    }

    /// Injects a fault. Of several faults the first one that concerns a call is used.
    pub fn inject(&self, fault: Fault) {
        self.inner.with(|world| world.faults.push(fault));
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.inner.with(|world| world.faults.clear());
    }

    /// Fails watchers of deals that reach a step from now on. The chain continues.
    pub fn lose_sight(&self, lost: LostSight) {
        self.inner.with(|world| world.lost_sight.push(lost));
    }

    /// Watchers work again for deals that reach a step from now on.
    pub fn regain_sight(&self) {
        self.inner.with(|world| world.lost_sight.clear());
    }

    /// Every deal, in the order of its proposal CID.
    pub fn deals(&self) -> Vec<DealView> {
        deal_views(&self.inner)
    }

    /// One deal.
    pub fn deal(&self, proposal_cid: &str) -> Option<DealView> {
        self.inner.with(|world| deal_view(world, proposal_cid))
    }

    /// Sets a deal's state at its provider, from which its state machine continues. Returns `false` if no
    /// provider has the deal.
    pub fn set_provider_state(&self, proposal_cid: &str, state: DealState, message: &str) -> bool {
        set_provider_state(&self.inner, proposal_cid, state, message)
    }

    /// Adds `count` deals with a deal's terms and later starts, which wait for their data at the provider;
    /// returns their proposal CIDs. No proposal is sent and nothing is validated.
    pub fn copy_deal(&self, proposal_cid: &str, count: i64) -> Vec<String> {
        self.inner.with(|world| {
            let Some(proposal) = world.deals.get(proposal_cid).map(|deal| deal.proposal.clone()) else {
                return Vec::new();
            };
            (1..=count)
                .map(|later| {
                    let mut proposal = proposal.clone();
                    proposal.start_epoch += later;
                    proposal.end_epoch += later;
                    world.add_waiting(proposal)
                })
                .collect()
        })
    }

    /// The miner's filter rejects the next proposal with this reason.
    pub fn reject_next(&self, miner: &str, reason: &str) {
        reject_next(&self.inner, miner, reason);
    }

    /// Sets whether other nodes reach a miner. Its API stays reachable.
    pub fn set_reachable(&self, miner: &str, reachable: bool) {
        let miner = canonical(miner);
        self.inner.with(|world| {
            if let Some(state) = world.miners.get_mut(&miner) {
                state.config.reachable = reachable;
            }
            world.miner_reachability_changed(&miner);
        });
    }

    /// Sets whether a miner can pay for publish messages.
    pub fn set_can_pay_publish(&self, miner: &str, can_pay: bool) {
        self.inner.with(|world| {
            if let Some(state) = world.miners.get_mut(&canonical(miner)) {
                state.config.can_pay_publish = can_pay;
            }
        });
    }

    /// Holds a miner's deals in a state when they reach it; `None` releases held deals.
    pub fn hold_at(&self, miner: &str, state: Option<DealState>) {
        let miner = canonical(miner);
        self.inner.with(|world| {
            let Some(found) = world.miners.get_mut(&miner) else { return };
            let before = std::mem::replace(&mut found.config.hold_at, state);
            for cid in found.deals.clone() {
                if before.is_some() && world.provider_mut(&cid).map(|side| side.state) == before {
                    world.provider_arm(&cid);
                }
                world.arm_chain(&cid);
            }
        });
    }

    /// Sets the balance of a wallet in attoFIL, and its `DataCap` in bytes.
    pub fn set_wallet(&self, address: &str, balance: u128, datacap: Option<u128>) {
        self.inner.with(|world| {
            let address = Address::parse(address).ok();
            if let Some(wallet) = address.and_then(|address| world.wallet_mut(&address)) {
                wallet.balance = signed(balance);
                wallet.datacap = datacap.map(signed);
            }
        });
    }

    /// The chain's height.
    pub fn height(&self) -> i64 {
        self.inner.with(|world| world.head())
    }

    /// Advances the chain by this number of epochs.
    pub fn advance_epochs(&self, epochs: i64) {
        self.inner.with(|world| {
            let height = world.head() + epochs;
            world.set_head(height);
        });
    }

    /// Sets the height of the chain.
    pub fn set_epoch(&self, height: i64) {
        self.inner.with(|world| world.set_head(height));
    }

    /// Sets the reported age of the full node's head; with zero the node is synced.
    pub fn set_sync_lag(&self, lag: Duration) {
        self.inner.with(|world| world.sync_lag = lag);
    }

    /// Adds this number of bytes of white space to every list answer.
    pub fn pad_lists(&self, bytes: usize) {
        self.inner.with(|world| world.list_padding = bytes);
    }

    /// Restarts everything, as one process would.
    pub fn restart_node(&self) {
        restart_all(&self.inner);
    }

    /// Restarts the full node alone: connections drop, the session changes.
    pub fn restart_full_node(&self) {
        restart(&self.inner, &NodeName::Full);
    }

    /// Restarts a miner: connections drop, deals under decision fail, running imports are lost.
    pub fn restart_miner(&self, miner: &str) {
        restart(&self.inner, &NodeName::Miner(canonical(miner)));
    }

    /// Stops a node: its connections drop, new ones close at once.
    pub fn take_down(&self, node: &NodeName) {
        self.inner.with(|world| {
            if let Some(process) = world.node(node) {
                process.take_down();
            }
            if let NodeName::Miner(id) = node {
                world.miner_reachability_changed(id);
            }
        });
    }

    /// Starts a stopped node again.
    pub fn bring_up(&self, node: &NodeName) {
        restart(&self.inner, node);
    }

    /// Number of leaked copies of imported files, on all miners.
    pub fn temp_files_leaked(&self) -> usize {
        self.inner.with(|world| world.miners.values().map(|miner| miner.temps_leaked.len()).sum())
    }

    /// The largest number of imports that ran at the same time at a miner.
    pub fn max_concurrent_imports_seen(&self, miner: &str) -> usize {
        self.inner
            .with(|world| world.miners.get(&canonical(miner)).map_or(0, |miner| miner.imports_running_max))
    }

    /// Folder of a miner's copies of imported files.
    pub fn staging_dir(&self, miner: &str) -> PathBuf {
        let staging =
            |world: &mut World| world.miners.get(&canonical(miner)).map(|miner| miner.staging.clone());
        self.inner.with(staging).unwrap_or_default()
    }

    fn stop(&self) {
        self.inner.shutdown.cancel();
        self.inner.with(|world| {
            world.full_node.take_down();
            for miner in world.miners.values_mut() {
                miner.node.take_down();
            }
        });
    }

    /// Stops the simulator and waits until all tasks have ended.
    pub async fn shutdown(self) {
        self.stop();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `f01000` for `t01000`.
fn canonical(miner: &str) -> String {
    Address::parse(miner).map_or_else(|_unparsed| miner.to_owned(), |address| address.as_str().to_owned())
}

fn multiaddr(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{family}/{}/tcp/{}/http", address.ip(), address.port())
}

pub(crate) fn set_provider_state(inner: &Inner, cid: &str, state: DealState, message: &str) -> bool {
    inner.with(|world| {
        let Some(side) = world.provider_mut(cid) else { return false };
        message.clone_into(&mut side.message);
        world.put_on_chain(cid, state);
        world.provider_enter(cid, state);
        true
    })
}

pub(crate) fn reject_next(inner: &Inner, miner: &str, reason: &str) {
    inner.with(|world| {
        if let Some(state) = world.miners.get_mut(&canonical(miner)) {
            state.reject_next.push_back(reason.to_owned());
        }
    });
}

pub(crate) fn restart(inner: &Inner, node: &NodeName) {
    inner.with(|world| match node {
        NodeName::Full => world.full_node.bring_up(),
        NodeName::Miner(id) => world.restart_miner(id),
    });
}

pub(crate) fn restart_all(inner: &Inner) {
    inner.with(|world| {
        world.full_node.bring_up();
        let miners: Vec<String> = world.miners.keys().cloned().collect();
        for miner in miners {
            world.restart_miner(&miner);
        }
    });
}
