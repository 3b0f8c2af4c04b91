//! Everything that changes while a simulator runs, under one lock.
//!
//! What lives here: the database, the chain, boostd's memory. What does not: the threads of deals
//! (`execution`), the answers to calls (`methods`, `graphql`).

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::address::Address;
use crate::batch::{Batch, OnChain};
use crate::calls::CallLog;
use crate::config::BoostConfig;
use crate::counters::{Counters, DealCounts};
use crate::faults::{DealFaultKind, Faults};
use crate::funds::Funds;
use crate::record::{Record, SectorPlace};
use crate::store::Store;

/// One run of boostd, from its start to its end.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) number: u64,
    /// Cancelled when boostd stops.
    pub(crate) ended: CancellationToken,
    /// Permits of `MaxConcurrentLocalCommp`.
    pub(crate) commp: Arc<Semaphore>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Arc<BoostConfig>,
    pub(crate) miner: Address,
    pub(crate) store: Store,
    pub(crate) funds: Funds,
    pub(crate) faults: Faults,
    pub(crate) log: CallLog,
    pub(crate) counters: Counters,
    pub(crate) batch: Batch,
    pub(crate) chain: HashMap<usize, OnChain>,
    /// The current run; `None` while boostd is stopped.
    life: Option<Life>,
    lives: u64,
    /// Handlers of deals whose thread runs.
    running: HashMap<usize, u64>,
    handlers: u64,
    counts: HashMap<usize, DealCounts>,
    next_deal_id: u64,
    sector: SectorPlace,
    height: i64,
    height_at: Instant,
}

impl World {
    pub(crate) fn new(config: Arc<BoostConfig>) -> Result<Self, &'static str> {
        let miner = Address::parse(&config.miner)?;
        Ok(Self {
            miner,
            store: Store::default(),
            funds: Funds::new(config.escrow, config.publish_wallet, config.publish_message_tag),
            faults: Faults::default(),
            log: CallLog::default(),
            counters: Counters::default(),
            batch: Batch::default(),
            chain: HashMap::new(),
            life: None,
            lives: 0,
            running: HashMap::new(),
            handlers: 0,
            counts: HashMap::new(),
            next_deal_id: 1,
            sector: SectorPlace { sector: 1, offset: 0, length: 0 },
            height: config.start_epoch,
            height_at: Instant::now(),
            config,
        })
    }

    /// Height of the chain.
    pub(crate) fn head(&self) -> i64 {
        let epoch = self.config.epoch.as_nanos();
        let passed = self.height_at.elapsed().as_nanos().checked_div(epoch).unwrap_or(0);
        self.height + i64::try_from(passed).unwrap_or(i64::MAX - self.height)
    }

    pub(crate) fn set_head(&mut self, height: i64) {
        (self.height, self.height_at) = (height, Instant::now());
    }

    pub(crate) fn life(&self) -> Option<Life> {
        self.life.clone()
    }

    /// Starts boostd, unless it runs.
    pub(crate) fn begin_life(&mut self) -> bool {
        if self.life.is_some() {
            return false;
        }
        self.lives += 1;
        self.life = Some(Life {
            number: self.lives,
            ended: CancellationToken::new(),
            commp: Arc::new(Semaphore::new(self.config.commp_at_once.max(1))),
        });
        true
    }

    /// Stops boostd as a kill does: what is in memory is lost, what is in the database stays.
    pub(crate) fn end_life(&mut self) {
        if let Some(life) = self.life.take() {
            life.ended.cancel();
        }
        self.running.clear();
        drop(self.batch.take());
    }

    /// Marks a deal as running; `None` if its thread runs. Returns the number of the deal's handler.
    pub(crate) fn claim(&mut self, deal: usize) -> Option<u64> {
        if self.running.contains_key(&deal) {
            return None;
        }
        self.handlers += 1;
        self.running.insert(deal, self.handlers);
        Some(self.handlers)
    }

    /// Whether the thread of a deal runs, as far as boostd knows.
    pub(crate) fn is_running(&self, deal: usize) -> bool {
        self.running.contains_key(&deal)
    }

    /// A thread ended. The mark of a later handler stays.
    pub(crate) fn release(&mut self, deal: usize, handler: u64) {
        if self.running.get(&deal) == Some(&handler) {
            self.running.remove(&deal);
        }
    }

    /// Closes a deal's handler: its mark is lost while its thread runs on. Source: boost v2.5.2
    /// `storagemarket/provider_loop.go`, the rejection of an offline deal.
    pub(crate) fn close_handler(&mut self, deal: usize) {
        self.running.remove(&deal);
    }

    /// Saves a deal's record, unless the thread's run of boostd has ended.
    pub(crate) fn save(&mut self, life: u64, record: &Record) {
        if self.life.as_ref().is_some_and(|current| current.number == life) {
            self.store.save(record);
        }
    }

    pub(crate) fn counts_mut(&mut self, deal: usize) -> &mut DealCounts {
        self.counts.entry(deal).or_default()
    }

    pub(crate) fn counts(&self, deal: usize) -> DealCounts {
        self.counts.get(&deal).copied().unwrap_or_default()
    }

    /// A new deal ID of the chain.
    pub(crate) fn next_deal_id(&mut self) -> u64 {
        self.next_deal_id += 1;
        self.next_deal_id - 1
    }

    /// The place of a piece in the sector that is filled, aligned to the piece's size.
    pub(crate) fn place(&mut self, length: u64) -> SectorPlace {
        let aligned = self.sector.offset.next_multiple_of(length.max(1));
        let fits = aligned.checked_add(length).is_some_and(|end| end <= self.config.sector_size);
        let mut place = SectorPlace { offset: aligned, length, ..self.sector };
        if !fits && self.sector.offset > 0 {
            place = SectorPlace { sector: self.sector.sector + 1, offset: 0, length };
        }
        self.sector = SectorPlace { offset: place.offset.saturating_add(length), ..place };
        place
    }

    /// Takes a fault of a deal of the one kind that `read` makes a text of.
    pub(crate) fn take_fault(
        &mut self,
        uuid: &str,
        read: fn(&DealFaultKind) -> Option<String>,
    ) -> Option<String> {
        self.faults.take_of_deal(uuid, read)
    }
}
