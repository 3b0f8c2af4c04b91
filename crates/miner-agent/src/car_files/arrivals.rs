//! File notifications (inotify): deals that wait for a file of the name that arrived are made due at once.
//!
//! The system's notifications only hasten what `setting.waitInterval` does anyway. Where there are none
//! (network file systems tell nothing of what other machines do), that interval is all there is.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::store::Store;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::car_files::locate::Places;

/// Names of files that arrived lately, with their times: a search that was running may have missed them.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<HashMap<String, Instant>>);

/// Capacity for names that the database was not told yet. Beyond it, all deals that wait for files are due.
const CHANNEL: usize = 10_000;

/// Receives the notifications of all folders.
#[derive(Clone, Debug)]
struct Told {
    names: Sender<String>,
    /// Files may have come without their names: a whole folder, or more than the channel holds.
    anything: Arc<AtomicBool>,
}

impl Told {
    fn name(&self, name: &str) {
        if self.names.try_send(name.to_owned()).is_err() {
            self.anything.store(true, Ordering::Relaxed);
        }
    }

    fn anything(&self) {
        self.anything.store(true, Ordering::Relaxed);
        // The reader of a full channel looks at the flag anyway.
        let _full = self.names.try_send(String::new());
    }
}

/// Maximum names that are remembered; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 10_000;

impl Arrivals {
    fn note(&self, names: &BTreeSet<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + names.len() > REMEMBERED_MAX {
            known.clear();
        }
        known.extend(names.iter().map(|name| (name.clone(), Instant::now())));
    }

    /// Whether one of these arrived after that moment.
    pub fn any_since(&self, names: &[String], moment: Instant) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().any(|name| known.get(name).is_some_and(|arrived| *arrived >= moment))
    }
}

/// Files that arrive within this time are one call to the database.
const GATHER: Duration = Duration::from_millis(200);
/// Maximum names in one call.
const NAMES_MAX: usize = 500;
/// Pause before a folder that could not be watched is tried again: it may be mounted by then.
const AGAIN: Duration = Duration::from_secs(60);

/// Watches until the stop; `wake` is called when deals became due.
pub(crate) async fn watch(
    store: &Store,
    places: &Places,
    arrivals: &Arrivals,
    miners: &[String],
    stop: &CancellationToken,
    wake: impl Fn(),
) {
    let folders: Vec<PathBuf> = places.confines().map(Path::to_owned).collect();
    if folders.is_empty() {
        return;
    }
    let (names, mut told_names) = mpsc::channel(CHANNEL);
    let told = Told { names, anything: Arc::default() };
    let anything = Arc::clone(&told.anything);
    let work = async {
        tokio::join!(
            keep_watching(folders, told),
            tell(store, arrivals, miners, (&mut told_names, &anything), &wake)
        )
    };
    stop.run_until_cancelled(work).await;
}

/// Sets up each folder's watch independently, so that a hung folder does not block the others.
async fn keep_watching(folders: Vec<PathBuf>, told: Told) {
    let watches = folders.into_iter().map(|folder| keep_watching_one(folder, told.clone()));
    futures::future::join_all(watches).await;
}

/// Tries again until the folder can be watched, then watches.
async fn keep_watching_one(folder: PathBuf, told: Told) {
    let mut is_told = false;
    let _watcher = loop {
        let (to_watch, told) = (folder.clone(), told.clone());
        // Walks the whole folder, and waits for a network file system that does not answer.
        let mut begins = tokio::task::spawn_blocking(move || begin(&to_watch, told));
        let begun = loop {
            match timeout(AGAIN, &mut begins).await {
                Ok(begun) => break begun,
                Err(_elapsed) => {
                    warn!(folder = %folder.display(), "this folder does not answer yet, or is very large: not watched so far");
                }
            }
        };
        match begun {
            Ok(Ok(watcher)) => {
                info!(folder = %folder.display(), "watching for CARs");
                break watcher;
            }
            // Tried again each minute with a walk through the whole folder, and logged once.
            Ok(Err(error)) if is_told => {
                debug!(folder = %folder.display(), error = %ErrorChain(&error), "still cannot be watched");
            }
            Ok(Err(error)) => {
                is_told = true;
                warn!(
                    folder = %folder.display(), error = %ErrorChain(&error), hint = hint(&error),
                    "this folder cannot be watched: CARs that arrive there are found by setting.waitInterval"
                );
            }
            Err(error) => return warn!(%error, "watching a folder ended by a defect of this program"),
        }
        sleep(AGAIN).await;
    };
    // Its drop would end the notifications.
    std::future::pending::<()>().await;
}

fn hint(error: &notify::Error) -> &'static str {
    match error.kind {
        notify::ErrorKind::MaxFilesWatch => "raise fs.inotify.max_user_watches (sysctl)",
        _ => "is it mounted, and may this user read it?",
    }
}

fn begin(folder: &Path, told: Told) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let Ok(event) = event else { return };
        if event.need_rescan() {
            told.anything();
        }
        if is_arrival(event.kind) {
            for path in &event.paths {
                match path.file_name().and_then(|name| name.to_str()) {
                    Some(name) if !path.is_dir() => told.name(name),
                    _ => told.anything(),
                }
            }
        }
    })?;
    watcher.watch(folder, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Written to its end, moved here, or readable now. Each single write of a copy is not.
fn is_arrival(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Create(_)
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_))
            | EventKind::Access(AccessKind::Close(AccessMode::Write))
    )
}

async fn tell(
    store: &Store,
    arrivals: &Arrivals,
    miners: &[String],
    (names, anything): (&mut Receiver<String>, &AtomicBool),
    wake: &impl Fn(),
) {
    while let Some(first) = names.recv().await {
        let mut arrived = BTreeSet::from([first]);
        let until = Instant::now() + GATHER;
        // Cancel safety: `recv` loses nothing when dropped.
        while arrived.len() < NAMES_MAX {
            tokio::select! {
                () = sleep_until(until) => break,
                name = names.recv() => match name {
                    Some(name) => { arrived.insert(name); }
                    None => break,
                },
            }
        }
        arrivals.note(&arrived);
        let arrived: Vec<String> = arrived.into_iter().collect();
        let files = (!anything.swap(false, Ordering::Relaxed)).then_some(arrived.as_slice());
        match store.make_due_awaiting(miners, files).await {
            Ok(0) => {}
            Ok(deals) => {
                debug!(files = arrived.len(), deals, "files arrived that deals wait for");
                wake();
            }
            Err(error) => debug!(error = %ErrorChain(&error), "arrivals not told, the interval decides"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a file as others move it")]
    #[tokio::test]
    async fn files_that_are_written_or_moved_into_any_depth_are_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("deep/er")).unwrap();
        fs::write(folder.path().join("old.car"), b"x").unwrap();
        let (names, mut told_names) = mpsc::channel(CHANNEL);
        let told = Told { names, anything: Arc::default() };
        let _watcher = begin(folder.path(), told.clone()).unwrap();
        fs::write(folder.path().join("deep/er/written.car"), b"x").unwrap();
        fs::rename(folder.path().join("old.car"), folder.path().join("moved.car")).unwrap();
        let mut missing = HashSet::from(["written.car", "moved.car"]);
        while !missing.is_empty() {
            let name = timeout(Duration::from_secs(10), told_names.recv());
            let name = name.await.unwrap().unwrap();
            missing.remove(name.as_str());
        }
        assert!(!told.anything.load(Ordering::Relaxed));

        // The system does not tell the files of a folder that is moved here.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir(elsewhere.path().join("full")).unwrap();
        fs::write(elsewhere.path().join("full/inside.car"), b"x").unwrap();
        fs::rename(elsewhere.path().join("full"), folder.path().join("full")).unwrap();
        let moved = async {
            while !told.anything.load(Ordering::Relaxed) {
                sleep(GATHER / 20).await;
            }
        };
        timeout(Duration::from_secs(10), moved).await.unwrap();
    }
}
