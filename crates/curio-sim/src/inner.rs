//! What all tasks of a simulator share: its deals, what it asked of whom, and what wakes and holds its tasks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::CurioConfig;
use crate::deal::{Deal, State};

/// A deal that is proposed and accepted.
#[derive(Clone, Debug, Deserialize)]
pub struct Proposal {
    /// The miner's address.
    pub miner: String,
    /// Piece CID, version 1.
    pub piece_cid: String,
    /// PADDED bytes.
    pub piece_size: u64,
    /// Epoch at which it starts.
    pub start_epoch: i64,
}

/// One request that the simulator made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Call {
    /// The node that made it.
    pub node: usize,
    /// `HEAD`, `GET`, or `GET bytes=0-9`.
    pub what: String,
    /// Where.
    pub url: String,
    /// The HTTP status.
    pub status: Option<u16>,
    /// Why there is none.
    pub error: Option<String>,
}

/// Everything that changes.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) deals: BTreeMap<String, Deal>,
    pub(crate) calls: Vec<Call>,
    sectors: i64,
}

impl World {
    pub(crate) fn deal(&self, uuid: &str) -> Option<&Deal> {
        self.deals.get(uuid)
    }

    pub(crate) fn deal_mut(&mut self, uuid: &str) -> Option<&mut Deal> {
        self.deals.get_mut(uuid)
    }

    pub(crate) fn next_sector(&mut self) -> i64 {
        self.sectors += 1;
        self.sectors
    }
}

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: CurioConfig,
    world: Mutex<World>,
    /// One for each node's poller.
    pub(crate) wakes: Vec<Notify>,
    pub(crate) tasks: Tasks,
    /// Whether a read for sealing is held, and whether all may go on.
    pub(crate) is_held: AtomicBool,
    pub(crate) released: AtomicBool,
    pub(crate) release: Notify,
}

/// Tasks that end with the simulator.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Ends all of them.
    pub(crate) end: CancellationToken,
}

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.tracker.spawn(async move {
            end.run_until_cancelled(task).await;
        });
    }
}

impl Inner {
    pub(crate) fn new(config: CurioConfig) -> Self {
        let wakes = (0..config.nodes).map(|_| Notify::new()).collect();
        Self {
            config,
            world: Mutex::default(),
            wakes,
            tasks: Tasks { tracker: TaskTracker::new(), end: CancellationToken::new() },
            is_held: AtomicBool::new(false),
            released: AtomicBool::new(false),
            release: Notify::new(),
        }
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn uuids(&self, is_wanted: impl Fn(&Deal) -> bool) -> Vec<String> {
        self.with(|world| {
            world.deals.values().filter(|deal| is_wanted(deal)).map(|deal| deal.uuid.clone()).collect()
        })
    }

    /// Keeps a record of a request.
    pub(crate) fn note(&self, node: usize, what: &str, url: &str, answered: Result<u16, String>) {
        let (status, error) = match answered {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error)),
        };
        let call = Call { node, what: what.to_owned(), url: url.to_owned(), status, error };
        tracing::debug!(?call, "asked");
        self.with(|world| world.calls.push(call));
    }

    pub(crate) fn propose(&self, proposal: Proposal) -> String {
        let bits = fastrand::u128(..);
        let hex = format!("{bits:032x}");
        let part = |from, to| hex.get(from..to).unwrap_or_default();
        let uuid =
            format!("{}-{}-4{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32));
        let Proposal { miner, piece_cid, piece_size, start_epoch } = proposal;
        let deal = Deal {
            uuid: uuid.clone(),
            miner,
            piece_cid,
            piece_size,
            start_epoch,
            state: State::Waiting,
            url: None,
            headers: Vec::new(),
            raw_size: None,
            failures: 0,
            history: Vec::new(),
            sector: None,
        };
        self.with(|world| world.deals.insert(uuid.clone(), deal));
        uuid
    }

    pub(crate) fn wake(&self) {
        self.wakes.iter().for_each(Notify::notify_one);
    }

    pub(crate) fn let_go(&self) {
        self.released.store(true, Ordering::Release);
        // One for a reader that waits, or the next that would.
        self.release.notify_one();
        self.release.notify_waiters();
    }
}
