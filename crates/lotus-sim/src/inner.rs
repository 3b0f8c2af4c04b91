//! State that all tasks of a simulator share, and the clock task that runs its timers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::SimConfig;
use crate::jwt::Secret;
use crate::world::World;

/// Longest sleep of the clock task.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Shared by connections, imports and the handle.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Arc<SimConfig>,
    pub(crate) secret: Secret,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    /// Temporary folder, removed with the simulator.
    pub(crate) own_folder: PathBuf,
    world: Mutex<World>,
    wake: Notify,
}

impl Inner {
    pub(crate) fn new(config: Arc<SimConfig>, world: World, own_folder: PathBuf) -> Self {
        Self {
            config,
            secret: Secret::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            own_folder,
            world: Mutex::new(world),
            wake: Notify::new(),
        }
    }

    /// Path of a file in the temporary folder.
    pub(crate) fn own_path(&self, name: &str) -> PathBuf {
        self.own_folder.join(name)
    }

    /// Reads or changes the world under its lock. `act` must not block.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut World) -> R) -> R {
        let (result, changed) = {
            let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut world);
            (result, std::mem::take(&mut world.timers_changed))
        };
        if changed {
            self.wake.notify_one();
        }
        result
    }

    /// Runs the timers until the simulator ends. Cancel safe: nothing is held across a wait.
    pub(crate) async fn keep_time(&self) {
        loop {
            let next = {
                let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
                let next = world.run_due();
                world.timers_changed = false;
                next
            };
            let latest = tokio::time::Instant::now() + SLEEP_MAX;
            tokio::select! {
                () = tokio::time::sleep_until(next.unwrap_or(latest).min(latest)) => {}
                () = self.wake.notified() => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }
}

impl Drop for Inner {
    /// Removes the folder with the last task: an import may still copy after the handle was dropped.
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.own_folder).ok();
    }
}
