//! State that all tasks of a simulator share.

use std::sync::{Arc, Mutex, PoisonError};

use lotus_sim::Secret;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::BoostConfig;
use crate::counters::Work;
use crate::world::World;

/// A step at which a test holds all deals; see [`BoostSim::hold`](crate::BoostSim::hold).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Before the commitment, while the deal holds its permit: other deals wait for it.
    Commp,
    /// Before the deal joins a publish message.
    Publish,
    /// Before the publish message is confirmed.
    Confirm,
    /// Before the file is opened for the sector.
    AddPiece,
    /// Before the piece is indexed.
    Index,
}

impl Hold {
    /// All steps, in their order.
    pub const ALL: [Self; 5] = [Self::Commp, Self::Publish, Self::Confirm, Self::AddPiece, Self::Index];

    fn bit(self) -> u8 {
        match self {
            Self::Commp => 1,
            Self::Publish => 2,
            Self::Confirm => 4,
            Self::AddPiece => 8,
            Self::Index => 16,
        }
    }
}

/// Shared by connections, threads of deals and the handle.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Arc<BoostConfig>,
    pub(crate) secret: Secret,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    world: Mutex<World>,
    held: watch::Sender<u8>,
}

impl Inner {
    pub(crate) fn new(config: Arc<BoostConfig>, world: World) -> Self {
        Self {
            config,
            secret: Secret::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            world: Mutex::new(world),
            held: watch::Sender::new(0),
        }
    }

    /// Reads or changes the world under its lock. `act` must not block.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut World) -> R) -> R {
        act(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn hold(&self, step: Hold) {
        self.held.send_modify(|held| *held |= step.bit());
    }

    pub(crate) fn release(&self, step: Hold) {
        self.held.send_modify(|held| *held &= !step.bit());
    }

    /// Waits until a step is not held. Cancel safe.
    pub(crate) async fn pass(&self, step: Hold) {
        let mut held = self.held.subscribe();
        // The sender lives as long as this value.
        held.wait_for(|held| held & step.bit() == 0).await.ok();
    }

    /// Counts work until the guard is dropped.
    pub(crate) fn count(self: &Arc<Self>, work: Work) -> Counted {
        self.with(|world| world.counters.of(work).enter());
        Counted { inner: self.clone(), work }
    }
}

/// Work that is counted while this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    inner: Arc<Inner>,
    work: Work,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.inner.with(|world| world.counters.of(self.work).leave());
    }
}
