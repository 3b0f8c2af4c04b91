//! The locator: CARs of the miners' deals over HTTP, for a Curio that is configured with this agent as its
//! `PieceLocator`.
//!
//! ```text
//! database: deals ─► find the file ─► compute its piece CID (once) ─► catalogue ◄─ Curio: HEAD, GET
//!                                             │ another piece: never offered
//!                                             └─ a new offer ─► Curio: wake-poller
//! ```
//!
//! Curio takes the size of the first file that a locator shows for a deal, and never asks again (curio
//! v1.28.4 `tasks/storage-market/storage_market.go:672-786`): a wrong file makes the deal hang for ever. So a
//! file is offered only after every byte of it was hashed, and withdrawn when it changes.
//!
//! What lives here: which CARs are offered. What does not: the server ([`carferry_core::car_server`]), where
//! files are looked for ([`crate::car_files`]), deals that are watched at Curio.

pub(crate) mod curio_lines;
mod targets;
mod verified;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carferry_car::{PieceCid, open_regular};
use carferry_core::car_server::{
    CarServer, CarServerError, CarServerOptions, Catalogue, Misses, Offer, OfferedCar,
};
use carferry_core::config::ConfigError;
use carferry_core::curio::{Woken, wake_poller};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::CarDoc;
use carferry_core::store::{Store, StoreError};
use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::car_files::folder_guard::{FolderGuard, Heartbeat, Waited};
use crate::car_files::locate::{Located, Places, Search, Wanted, locate};
use crate::car_files::piece_check::{PieceChecker, PieceVerdict};
use crate::config::Config;
use crate::locator::targets::{Target, targets};
use crate::locator::verified::{Verified, offered};

/// Pieces that one pass looks for. Chosen: some seconds of a pass while none is found.
const LOOKS_MAX: usize = 500;
/// Least time between two passes, whatever is asked for.
const PASS_PAUSE: Duration = Duration::from_secs(1);
/// How long Curio's node may take to be woken.
const WAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long remembered files may take to be looked at, before the server listens without them.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// A locator that is ready to listen.
#[derive(Debug)]
pub(crate) struct Locator {
    options: CarServerOptions,
    work: Work,
}

/// What looks for CARs and offers them.
#[derive(Clone, Debug)]
struct Work {
    store: Store,
    miners: Vec<String>,
    places: Arc<Places>,
    pieces: Arc<PieceChecker>,
    folder_guard: Arc<FolderGuard>,
    curio_nodes: Vec<String>,
    state_dir: Option<PathBuf>,
    scan_interval: Duration,
}

/// The parts of a locator that the agent has already.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) miners: Vec<String>,
    pub(crate) places: Arc<Places>,
    pub(crate) pieces: Arc<PieceChecker>,
    pub(crate) folder_guard: Arc<FolderGuard>,
}

impl Locator {
    /// The locator that is configured, if one is.
    ///
    /// # Errors
    ///
    /// When token or TLS files cannot be used.
    pub(crate) fn build(config: &Config, parts: Parts) -> Result<Option<Self>, ConfigError> {
        let setting = &config.setting;
        let Some(options) = CarServerOptions::of(&setting.locator, setting.grace_period)? else {
            return Ok(None);
        };
        let Parts { store, miners, places, pieces, folder_guard } = parts;
        let work = Work {
            store,
            miners,
            places,
            pieces,
            folder_guard,
            curio_nodes: setting.curio_nodes.clone(),
            state_dir: setting.state_dir.clone(),
            scan_interval: setting.scan_interval,
        };
        Ok(Some(Self { options, work }))
    }

    /// Offers what was verified before and is unchanged, listens, and offers what is found until the stop.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub(crate) async fn run(self, stop: &CancellationToken) -> Result<(), CarServerError> {
        let (catalogue, misses) = Catalogue::new();
        let verified = self.work.remembered(&catalogue).await;
        let server = CarServer::bind(self.options, Arc::clone(&catalogue)).await?;
        info!(url = server.url(), pieces = catalogue.pieces(), "the locator listens");
        let working = async {
            let work = self.work.keep_offering(&catalogue, misses, verified);
            stop.run_until_cancelled(work).await;
        };
        tokio::join!(server.run(stop), working);
        Ok(())
    }
}

impl Work {
    /// Offers the files that an earlier process verified: they are asked for within seconds of a restart.
    async fn remembered(&self, catalogue: &Arc<Catalogue>) -> Arc<Mutex<Verified>> {
        let (folder, to_fill) = (self.state_dir.clone(), Arc::clone(catalogue));
        if folder.is_none() {
            warn!(
                "setting.stateDir is not set: after a restart every CAR is hashed again before it is offered"
            );
        }
        let shared = Arc::<Mutex<Verified>>::default();
        let filling = Arc::clone(&shared);
        let looking = spawn_blocking(move || {
            let verified = Verified::load(folder)?;
            let there = verified.still_there();
            *filling.lock().unwrap_or_else(PoisonError::into_inner) = verified;
            for car in there {
                to_fill.offer(car);
            }
            Ok::<(), std::io::Error>(())
        });
        match tokio::time::timeout(FIRST_LOOK_TIMEOUT, looking).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!(error = %ErrorChain(&error), "setting.stateDir cannot be used"),
            Ok(Err(error)) => warn!(error = %ErrorChain(&error), "looking at verified files failed"),
            Err(_elapsed) => warn!("looking at verified files takes long: does a file system hang?"),
        }
        shared
    }

    /// One pass after the other: every `scanInterval`, and soon after a piece was asked for in vain.
    async fn keep_offering(
        &self,
        catalogue: &Arc<Catalogue>,
        mut misses: Misses,
        verified: Arc<Mutex<Verified>>,
    ) {
        let mut looked_at = HashMap::new();
        loop {
            let mut asked_for = HashSet::new();
            let next = Instant::now() + self.scan_interval;
            if let Err(error) =
                self.pass(catalogue, &verified, &mut looked_at, &mut misses, &mut asked_for).await
            {
                warn!(error = %ErrorChain(&error), "what is offered stays as it was");
            }
            sleep(PASS_PAUSE).await;
            if asked_for.is_empty() {
                // Cancel safety: a piece that is received is put among those asked for.
                tokio::select! {
                    () = sleep_until(next) => {}
                    Some(piece_cid) = misses.next() => {
                        looked_at.remove(&piece_cid);
                    }
                }
            }
        }
    }

    /// Withdraws what no deal needs any more, and looks for what is not offered: what was not looked for
    /// longest first, then by start epoch. What is asked for meanwhile goes in front of the next pass.
    async fn pass(
        &self,
        catalogue: &Arc<Catalogue>,
        verified: &Arc<Mutex<Verified>>,
        looked_at: &mut HashMap<PieceCid, Instant>,
        misses: &mut Misses,
        asked_for: &mut HashSet<PieceCid>,
    ) -> Result<(), StoreError> {
        let targets = targets(&self.store, &self.miners).await?;
        let mut is_offered = HashSet::new();
        for car in catalogue.all() {
            if targets.contains_key(&car.piece_cid) {
                is_offered.insert(car.piece_cid);
            } else {
                debug!(piece = %car.piece_cid, "no deal needs it any more");
                catalogue.withdraw(&car);
            }
        }
        looked_at.retain(|piece_cid, _| targets.contains_key(piece_cid));
        let needed = |piece_cid: &PieceCid| targets.contains_key(piece_cid);
        verified.lock().unwrap_or_else(PoisonError::into_inner).retain(needed);
        let mut open: Vec<(&PieceCid, &Target)> =
            targets.iter().filter(|(piece_cid, _)| !is_offered.contains(*piece_cid)).collect();
        open.sort_by_key(|(piece_cid, target)| {
            (looked_at.get(*piece_cid).copied(), target.start_epoch.unwrap_or(i64::MAX))
        });
        for (piece_cid, target) in open.into_iter().take(LOOKS_MAX) {
            looked_at.insert(*piece_cid, Instant::now());
            let cars = match &target.wanted.payload_cid {
                Some(payload_cid) => self.store.cars_of_payload(&payload_cid.to_string()).await?,
                None => Vec::new(),
            };
            let Some(car) = self.find(*piece_cid, target, cars, verified).await else { continue };
            let path = car.path.display().to_string();
            if catalogue.offer(car) == Offer::New {
                info!(piece = %piece_cid, path, "offered");
                self.wake().await;
            }
        }
        while let Some(piece_cid) = misses.try_next() {
            if targets.contains_key(&piece_cid) && looked_at.remove(&piece_cid).is_some() {
                asked_for.insert(piece_cid);
            }
        }
        Ok(())
    }

    /// Looks for the file of a piece, and hashes it unless that was done before.
    async fn find(
        &self,
        piece_cid: PieceCid,
        target: &Target,
        cars: Vec<CarDoc>,
        verified: &Arc<Mutex<Verified>>,
    ) -> Option<OfferedCar> {
        let heartbeat = Arc::<Heartbeat>::default();
        let finder = Finder {
            places: Arc::clone(&self.places),
            pieces: Arc::clone(&self.pieces),
            folder_guard: Arc::clone(&self.folder_guard),
            heartbeat: Arc::clone(&heartbeat),
            verified: Arc::clone(verified),
        };
        let wanted = target.wanted.clone();
        let search = spawn_blocking(move || finder.find(piece_cid, &wanted, &cars));
        match heartbeat.watch(search, self.folder_guard.stall_timeout()).await {
            Waited::Ended(Ok(found)) => found,
            Waited::Ended(Err(error)) => {
                warn!(piece = %piece_cid, error = %ErrorChain(&error), "looking for a CAR failed");
                None
            }
            Waited::Stalled => {
                warn!(piece = %piece_cid, "looking for a CAR stands still: does a file system hang?");
                None
            }
        }
    }

    /// Tells Curio's nodes that there is something new. They look by themselves every half minute.
    async fn wake(&self) {
        let calls = self.curio_nodes.iter().map(|node| async move {
            match wake_poller(node, WAKE_TIMEOUT).await {
                Ok(Woken::Yes) => debug!(node, "woken"),
                Ok(Woken::NotKnown) => debug!(node, "a Curio before v1.28.3 looks by itself"),
                Err(error) => debug!(node, error = %ErrorChain(&error), "not woken; it looks by itself"),
            }
        });
        join_all(calls).await;
    }
}

/// One search on a thread that may block.
struct Finder {
    places: Arc<Places>,
    pieces: Arc<PieceChecker>,
    folder_guard: Arc<FolderGuard>,
    heartbeat: Arc<Heartbeat>,
    verified: Arc<Mutex<Verified>>,
}

impl Finder {
    fn find(&self, piece_cid: PieceCid, wanted: &Wanted, cars: &[CarDoc]) -> Option<OfferedCar> {
        // What was hashed before is looked at first, so that a restart hashes nothing again.
        self.find_with(None, piece_cid, wanted, cars)
            .or_else(|| self.find_with(Some(&self.pieces), piece_cid, wanted, cars))
    }

    /// Without a checker only a file that is remembered counts.
    fn find_with(
        &self,
        checker: Option<&PieceChecker>,
        piece_cid: PieceCid,
        wanted: &Wanted,
        cars: &[CarDoc],
    ) -> Option<OfferedCar> {
        let (places, folder_guard) = (&self.places, &self.folder_guard);
        let search = Search { places, folder_guard, heartbeat: &self.heartbeat, checker };
        let path = match locate(&search, wanted, cars) {
            Located::Found(found) => found.local_path,
            Located::Wrong { reason, .. } if checker.is_some() => {
                warn!(piece = %piece_cid, reason, "not offered");
                return None;
            }
            Located::Missing { reason, .. } if checker.is_some() => {
                debug!(piece = %piece_cid, reason, "not here");
                return None;
            }
            Located::Wrong { .. } | Located::Missing { .. } => return None,
        };
        let metadata = open_regular(&path).and_then(|file| file.metadata()).ok()?;
        let verified = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified().knows(&path, &metadata, piece_cid) {
            return Some(offered(&path, piece_cid, &metadata));
        }
        // Of the very state of the file that is offered; the checker remembers what it has just read.
        let verdict = checker?.check(&path, &metadata, wanted.piece_size, &self.heartbeat);
        if !matches!(verdict, Ok(PieceVerdict::Piece(computed)) if computed == piece_cid) {
            return None;
        }
        let mut verified = verified();
        verified.remember(&path, &metadata, piece_cid);
        if let Err(error) = verified.save() {
            warn!(error = %ErrorChain(&error), "setting.stateDir cannot be written");
        }
        Some(offered(&path, piece_cid, &metadata))
    }
}
