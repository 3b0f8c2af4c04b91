//! The state of the simulated network: deals, miners, wallets, the chain's height, and timers.
//!
//! What does not live here: the steps of a deal (`provider`, `client`), the methods (`full_node`,
//! `miner_node`). No function here waits. The clock task calls [`World::run_due`] when the next timer is due,
//! so a waiting deal takes no CPU time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::calls::{CallLog, NodeName};
use crate::config::{MinerConfig, SimConfig, Timings};
use crate::faults::Fault;
use crate::ids::{Address, made_up_cid, uuid};
use crate::lost_sight::{LostAt, LostSight};
use crate::proposal::Proposal;
use crate::states::DealState;

/// Values of a stream that a slow subscriber may lag behind before it loses some.
const STREAM_CAPACITY: usize = 4096;
/// Epochs in a day.
pub(crate) const EPOCHS_PER_DAY: i64 = 2880;

/// The state of the simulated network.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Arc<SimConfig>,
    pub(crate) deals: BTreeMap<String, Deal>,
    pub(crate) miners: BTreeMap<String, Miner>,
    pub(crate) wallets: Vec<Wallet>,
    /// Files that were imported with `ClientImport`.
    pub(crate) client_imports: Vec<ClientImport>,
    /// Deals on chain by their deal ID.
    pub(crate) chain: BTreeMap<u64, ChainDeal>,
    pub(crate) full_node: Node,
    pub(crate) faults: Vec<Fault>,
    /// Failures of watchers for deals that reach a step.
    pub(crate) lost_sight: Vec<LostSight>,
    pub(crate) log: CallLog,
    /// Bytes of white space added to every list answer.
    pub(crate) list_padding: usize,
    /// How far the full node's head lies behind the clock.
    pub(crate) sync_lag: Duration,
    pub(crate) client_updates: broadcast::Sender<Arc<str>>,
    pub(crate) head_updates: broadcast::Sender<Arc<str>>,
    /// Set when a timer was added, for the task that waits for the next one.
    pub(crate) timers_changed: bool,
    /// Deals that the client's next poll includes.
    pub(crate) dirty_clients: BTreeSet<String>,
    /// Deals whose client is polling (state 13), for the per-poll updates of the stream.
    pub(crate) polling_clients: BTreeSet<String>,
    pub(crate) next_deal_id: u64,
    epoch_events: BTreeMap<i64, Vec<(String, EpochEvent)>>,
    epoch_base: i64,
    epoch_base_at: Instant,
    epoch_seen: i64,
    timers: BinaryHeap<Reverse<Timer>>,
    timers_made: u64,
}

/// One deal with the states of both sides.
#[derive(Debug)]
pub(crate) struct Deal {
    pub(crate) cid: String,
    pub(crate) proposal: Proposal,
    pub(crate) created: SystemTime,
    /// `None` for stateless deals and those of other clients.
    pub(crate) client: Option<ClientSide>,
    /// `None` until the proposal has reached the provider.
    pub(crate) provider: Option<ProviderSide>,
}

/// The client node's state of a deal.
#[derive(Debug)]
pub(crate) struct ClientSide {
    pub(crate) state: DealState,
    pub(crate) message: String,
    pub(crate) deal_id: u64,
    pub(crate) stages: Vec<Stage>,
    pub(crate) generation: u32,
    /// When sending the proposal began.
    pub(crate) sending_since: Option<Instant>,
    /// Whether its funds are reserved.
    pub(crate) funds_reserved: bool,
}

/// An entry of `DealStages`.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) state: DealState,
    pub(crate) created: SystemTime,
    pub(crate) updated: SystemTime,
    pub(crate) logs: Vec<(String, SystemTime)>,
}

/// The provider's state of a deal.
#[derive(Debug)]
pub(crate) struct ProviderSide {
    pub(crate) state: DealState,
    pub(crate) message: String,
    pub(crate) generation: u32,
    pub(crate) created: SystemTime,
    pub(crate) piece_path: Option<PathBuf>,
    pub(crate) publish_cid: Option<String>,
    pub(crate) deal_id: u64,
    pub(crate) sector: u64,
    pub(crate) slash_epoch: i64,
    /// The step at which its watcher failed, if it did.
    pub(crate) lost_sight: Option<LostAt>,
    /// Whether its state machine has ended in this run of the process (§3.2).
    pub(crate) machine_ended: bool,
    /// Unpadded size of an imported file that is too large for its piece. It fails when the piece is added
    /// to a sector.
    pub(crate) oversize: Option<u64>,
    /// Stateless callers that wait for the answer to their proposal.
    pub(crate) waiters: Vec<oneshot::Sender<(DealState, String)>>,
}

/// A deal on chain.
#[derive(Debug)]
pub(crate) struct ChainDeal {
    pub(crate) cid: String,
    pub(crate) sector_start: i64,
    pub(crate) slash_epoch: i64,
}

/// A file that was imported with `ClientImport`.
#[derive(Debug)]
pub(crate) struct ClientImport {
    pub(crate) id: u64,
    pub(crate) root: crate::ids::Cid,
    pub(crate) path: String,
    /// The CAR with its blocks: the file itself, or a CAR packed from it.
    pub(crate) car_path: String,
}

/// One process with an API.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) session: String,
    pub(crate) up: bool,
    /// Cancelled when the process stops; every connection and import holds a clone.
    pub(crate) life: CancellationToken,
}

/// A miner while it runs.
#[derive(Debug)]
pub(crate) struct Miner {
    pub(crate) config: MinerConfig,
    pub(crate) address: Address,
    pub(crate) node: Node,
    pub(crate) deals: Vec<String>,
    pub(crate) reject_next: VecDeque<String>,
    pub(crate) publish_queue: Vec<String>,
    pub(crate) publish_since: Option<SystemTime>,
    pub(crate) publish_batch: u64,
    pub(crate) next_sector: u64,
    pub(crate) staging: PathBuf,
    /// Proposal CIDs of running imports.
    pub(crate) importing: Vec<String>,
    pub(crate) imports_running_max: usize,
    pub(crate) temps_leaked: Vec<PathBuf>,
    pub(crate) updates: broadcast::Sender<Arc<str>>,
}

/// A wallet while it runs; all in attoFIL but the `DataCap`, which is bytes.
#[derive(Debug)]
pub(crate) struct Wallet {
    pub(crate) address: Address,
    /// Its ID address.
    pub(crate) id: Address,
    pub(crate) balance: i128,
    pub(crate) escrow: i128,
    pub(crate) locked: i128,
    pub(crate) reserved: i128,
    pub(crate) datacap: Option<i128>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: Instant,
    number: u64,
    event: Event,
}

/// The event of a timer. A timer whose generation differs from the deal's is ignored.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    ClientPoll,
    Epoch,
    Client { cid: String, generation: u32 },
    Provider { cid: String, generation: u32 },
    Imported(Imported),
    ChainSeals { cid: String },
    Publish { miner: String, batch: u64 },
}

/// A finished import whose event has not reached its deal.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Imported {
    pub(crate) cid: String,
    pub(crate) copy: PathBuf,
    /// Unpadded size of a file that is too large for the deal's piece.
    pub(crate) oversize: Option<u64>,
    /// Session of the process that sent the event.
    pub(crate) session: String,
}

/// An event of a deal at a height of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EpochEvent {
    /// The start epoch has passed.
    Started,
    /// Ten further epochs have passed.
    StartedLongAgo,
    /// The deal's term is over.
    Ended,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self { session: uuid(), up: true, life: CancellationToken::new() }
    }

    /// Ends every connection and every running import.
    pub(crate) fn take_down(&mut self) {
        self.up = false;
        self.life.cancel();
    }

    /// A new process in the same place.
    pub(crate) fn bring_up(&mut self) {
        self.take_down();
        *self = Self::new();
    }
}

impl World {
    pub(crate) fn new(config: Arc<SimConfig>, staging: &std::path::Path) -> Result<Self, String> {
        let mut miners = BTreeMap::new();
        for miner in &config.miners {
            let address =
                Address::parse(&miner.id).map_err(|error| format!("miner {}: {error}", miner.id))?;
            let state = Miner {
                config: miner.clone(),
                staging: staging.join(address.as_str()).join("deal-staging"),
                address: address.clone(),
                node: Node::new(),
                deals: Vec::new(),
                reject_next: VecDeque::new(),
                publish_queue: Vec::new(),
                publish_since: None,
                publish_batch: 0,
                next_sector: 1,
                importing: Vec::new(),
                imports_running_max: 0,
                temps_leaked: Vec::new(),
                updates: broadcast::Sender::new(STREAM_CAPACITY),
            };
            if miners.insert(address.as_str().to_owned(), state).is_some() {
                return Err(format!("miner {} is given twice", miner.id));
            }
        }
        let mut wallets = Vec::new();
        for (number, wallet) in config.wallets.iter().enumerate() {
            wallets.push(Wallet {
                address: Address::parse(&wallet.address)
                    .map_err(|error| format!("wallet {}: {error}", wallet.address))?,
                id: Address::parse(&format!("f0{}", 900_100 + number))?,
                balance: signed(wallet.balance),
                escrow: signed(wallet.escrow),
                locked: 0,
                reserved: 0,
                datacap: wallet.datacap.map(signed),
            });
        }
        let mut world = Self {
            epoch_base: config.start_epoch,
            epoch_seen: config.start_epoch,
            config,
            deals: BTreeMap::new(),
            miners,
            wallets,
            client_imports: Vec::new(),
            chain: BTreeMap::new(),
            full_node: Node::new(),
            faults: Vec::new(),
            lost_sight: Vec::new(),
            log: CallLog::default(),
            list_padding: 0,
            sync_lag: Duration::ZERO,
            client_updates: broadcast::Sender::new(STREAM_CAPACITY),
            head_updates: broadcast::Sender::new(STREAM_CAPACITY),
            timers_changed: false,
            dirty_clients: BTreeSet::new(),
            polling_clients: BTreeSet::new(),
            next_deal_id: 5001,
            epoch_events: BTreeMap::new(),
            epoch_base_at: Instant::now(),
            timers: BinaryHeap::new(),
            timers_made: 0,
        };
        world.schedule(world.config.timings.client_poll, Event::ClientPoll);
        world.schedule_epoch();
        Ok(world)
    }

    /// The chain's height by the clock.
    pub(crate) fn head(&self) -> i64 {
        let epoch = self.config.time.epoch.as_nanos();
        if epoch == 0 {
            return self.epoch_base;
        }
        let passed = self.epoch_base_at.elapsed().as_nanos() / epoch;
        self.epoch_base + i64::try_from(passed).expect("epochs since the start fit in i64")
    }

    /// Sets the height of the chain and runs the events up to it.
    pub(crate) fn set_head(&mut self, height: i64) {
        self.epoch_base = height;
        self.epoch_base_at = Instant::now();
        self.epochs_passed();
        self.schedule_epoch();
    }

    pub(crate) fn at_epoch(&mut self, epoch: i64, cid: &str, event: EpochEvent) {
        self.epoch_events.entry(epoch).or_default().push((cid.to_owned(), event));
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        self.timers_made += 1;
        let timer = Timer { at: Instant::now() + after, number: self.timers_made, event };
        self.timers.push(Reverse(timer));
        self.timers_changed = true;
    }

    /// Runs the due timers; returns when the next one is due.
    pub(crate) fn run_due(&mut self) -> Option<Instant> {
        // Steps with zero duration can follow each other; the limit bounds how long the lock is held.
        const STEPS_MAX: usize = 10_000;
        for _ in 0..STEPS_MAX {
            let next = self.timers.peek().map(|Reverse(timer)| timer.at)?;
            if next > Instant::now() {
                return Some(next);
            }
            if let Some(Reverse(timer)) = self.timers.pop() {
                self.run(timer.event);
            }
        }
        Some(Instant::now())
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::ClientPoll => {
                self.poll_providers();
                self.schedule(self.config.timings.client_poll, Event::ClientPoll);
            }
            Event::Epoch => {
                self.epochs_passed();
                self.schedule_epoch();
            }
            Event::Client { cid, generation } => self.client_timer(&cid, generation),
            Event::Provider { cid, generation } => self.provider_timer(&cid, generation),
            Event::Imported(imported) => self.import_arrives(imported),
            Event::ChainSeals { cid } => self.chain_seals(&cid),
            Event::Publish { miner, batch } => {
                if self.miners.get(&miner).is_some_and(|miner| miner.publish_batch == batch) {
                    self.publish_now(&miner);
                }
            }
        }
    }

    fn schedule_epoch(&mut self) {
        let epoch = self.config.time.epoch;
        if epoch.is_zero() {
            return;
        }
        let into = self.epoch_base_at.elapsed().as_nanos() % epoch.as_nanos();
        let into = Duration::from_nanos(u64::try_from(into).unwrap_or(0));
        self.schedule(epoch.saturating_sub(into), Event::Epoch);
    }

    fn epochs_passed(&mut self) {
        let head = self.head();
        if head != self.epoch_seen {
            self.epoch_seen = head;
            if self.head_updates.receiver_count() > 0 {
                let change = serde_json::json!([{ "Type": "apply", "Val": self.tipset() }]);
                self.head_updates.send(change.to_string().into()).ok();
            }
        }
        while let Some(entry) = self.epoch_events.first_entry() {
            if *entry.key() > head {
                break;
            }
            for (cid, event) in entry.remove() {
                self.provider_epoch(&cid, event);
                self.client_epoch(&cid, event);
            }
        }
    }

    /// The head as a tipset.
    pub(crate) fn tipset(&self) -> Value {
        let head = self.head();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.saturating_sub(self.sync_lag).as_secs();
        serde_json::json!({
            "Cids": [{ "/": made_up_cid(&format!("block {head}")) }],
            "Blocks": [{
                "Miner": self.print_address("f01000"),
                "Parents": [{ "/": made_up_cid(&format!("block {}", head - 1)) }],
                "ParentWeight": "0",
                "Height": head,
                "Timestamp": timestamp,
                "ForkSignaling": 0,
                "ParentBaseFee": "100",
            }],
            "Height": head,
        })
    }

    /// Restarts a miner's process: running imports and connections are lost.
    pub(crate) fn restart_miner(&mut self, id: &str) {
        let Some(miner) = self.miners.get_mut(id) else { return };
        miner.node.bring_up();
        miner.importing.clear();
        self.restart_provider_machines(id);
        self.miner_reachability_changed(id);
    }

    /// The process of a node.
    pub(crate) fn node(&mut self, name: &NodeName) -> Option<&mut Node> {
        match name {
            NodeName::Full => Some(&mut self.full_node),
            NodeName::Miner(id) => self.miners.get_mut(id).map(|miner| &mut miner.node),
        }
    }

    /// Prints an address with the prefix of this network.
    pub(crate) fn print_address(&self, address: &str) -> String {
        Address::parse(address)
            .map_or_else(|_unparsed| address.to_owned(), |address| address.print(self.config.network_prefix))
    }

    /// The wallet of a key or ID address.
    pub(crate) fn wallet(&self, address: &Address) -> Option<&Wallet> {
        self.wallets.iter().find(|wallet| wallet.address == *address || wallet.id == *address)
    }

    pub(crate) fn wallet_mut(&mut self, address: &Address) -> Option<&mut Wallet> {
        self.wallets.iter_mut().find(|wallet| wallet.address == *address || wallet.id == *address)
    }

    /// The timing of a miner.
    pub(crate) fn timings(&self, miner: &str) -> Timings {
        let own = self.miners.get(miner).and_then(|miner| miner.config.timings.clone());
        own.unwrap_or_else(|| self.config.timings.clone())
    }

    /// Whether other nodes can reach a miner.
    pub(crate) fn is_reachable(&self, miner: &str) -> bool {
        self.miners.get(miner).is_some_and(|miner| miner.config.reachable && miner.node.up)
    }

    /// Minimum collateral of a provider for a padded piece.
    pub(crate) fn collateral_min(&self, padded_piece_size: u64) -> i128 {
        signed(self.config.collateral_per_gib) * i128::from(padded_piece_size) / (1 << 30)
    }

    /// Number of deals per state at the provider, for one miner.
    pub(crate) fn provider_states(&self, miner: &str) -> HashMap<DealState, usize> {
        let mut states = HashMap::new();
        for cid in self.miners.get(miner).map(|miner| miner.deals.as_slice()).unwrap_or_default() {
            if let Some(side) = self.deals.get(cid).and_then(|deal| deal.provider.as_ref()) {
                *states.entry(side.state).or_default() += 1;
            }
        }
        states
    }
}

/// An amount of attoFIL as the signed type of calculations.
pub(crate) fn signed(amount: u128) -> i128 {
    i128::try_from(amount).unwrap_or(i128::MAX)
}
