//! Which CARs `serve` offers: those that stand in `cars` for this host and whose files are as they were
//! recorded.
//!
//! A CAR got its record after it was complete and on disk, so its bytes are not hashed again. It is offered
//! where the file has the recorded size and root. A file that changes while it is offered is offered again
//! once a record or `client-agent verify` says something new about it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use carferry_car::{PayloadCid, PayloadSize, PieceCid, open_regular, read_car_root};
use carferry_core::car_server::{Catalogue, FileStamp, Misses, Offer, OfferedCar};
use carferry_core::error_chain::ErrorChain;
use carferry_core::store::{StandingCar, Store, StoreError};
use serde::Serialize;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Records that are read at a time.
const PAGE: i64 = 500;
/// Between two readings of all records. Chosen: what is recorded in between is found when it is asked for.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// After each look for a piece that was asked for: at most so many database calls, whatever is asked.
const MISS_PAUSE: Duration = Duration::from_millis(250);

/// What a reading of all records found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    /// CARs that are offered.
    pub(crate) cars: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// CARs that are recorded, and whose files are not there.
    pub(crate) missing: u64,
    /// Files that are not what their records say, or records that say too little.
    pub(crate) unfit: u64,
}

/// Why the catalogue could not be filled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("looking at the files failed")]
    Looking(#[from] JoinError),
}

/// What was last said about a file, and how it was then.
type Stated = HashMap<(PieceCid, PathBuf), (Option<DateTime>, FileStamp)>;

/// Fills a catalogue from the database.
#[derive(Debug)]
pub(crate) struct ServedCars {
    store: Store,
    host: String,
    catalogue: Arc<Catalogue>,
    stated: Stated,
}

impl ServedCars {
    pub(crate) fn new(store: Store, host: String, catalogue: Arc<Catalogue>) -> Self {
        Self { store, host, catalogue, stated: HashMap::new() }
    }

    /// Reads all records of this host and looks at their files; withdraws what stands in no record any more.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; what was offered stays.
    pub(crate) async fn refresh(&mut self) -> Result<Found, ServeError> {
        let (mut found, mut offered, mut changed) = (Found::default(), HashSet::new(), HashSet::new());
        let mut after = None;
        loop {
            let page = self.store.standing_cars_page(&self.host, after, PAGE).await?;
            for looked in self.look(page.cars).await? {
                match looked {
                    Looked::Fit(car) => {
                        found.cars += 1;
                        found.bytes += car.size.get();
                        offered.insert((car.piece_cid, car.path));
                    }
                    Looked::Missing => found.missing += 1,
                    Looked::Unfit => found.unfit += 1,
                    Looked::Changed(file) => {
                        found.unfit += 1;
                        changed.insert(file);
                    }
                }
            }
            let Some(last) = page.last else { break };
            after = Some(last);
        }
        for car in self.catalogue.all() {
            if !offered.contains(&(car.piece_cid, car.path.clone())) {
                debug!(piece = %car.piece_cid, path = %car.path.display(), "no longer offered");
                self.catalogue.withdraw(&car);
            }
        }
        self.stated.retain(|file, _| offered.contains(file) || changed.contains(file));
        Ok(found)
    }

    /// Keeps the catalogue true until the stop: all records now and then, a piece when it is asked for in
    /// vain.
    pub(crate) async fn keep(mut self, mut misses: Misses, stop: &CancellationToken) {
        let mut refresh_at = Instant::now() + REFRESH_EVERY;
        loop {
            // Cancel safety: no branch loses a piece or a time.
            let missed = tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(refresh_at) => None,
                missed = misses.next() => missed,
            };
            let work = async {
                if let Some(piece_cid) = missed {
                    return self.look_for(piece_cid).await;
                }
                refresh_at = Instant::now() + REFRESH_EVERY;
                self.refresh().await.map(|found| debug!(?found, "catalogue"))
            };
            let worked = stop.run_until_cancelled(work).await;
            if let Some(Err(error)) = worked {
                warn!(error = %ErrorChain(&error), "what is offered stays as it was");
            }
            if stop.run_until_cancelled(sleep(MISS_PAUSE)).await.is_none() {
                return;
            }
        }
    }

    async fn look_for(&mut self, piece_cid: PieceCid) -> Result<(), ServeError> {
        let cars = self.store.standing_cars_of_piece(&self.host, &piece_cid.to_string()).await?;
        self.look(cars).await?;
        Ok(())
    }

    /// Looks at the files of some records, and offers those that fit.
    async fn look(&mut self, cars: Vec<StandingCar>) -> Result<Vec<Looked>, ServeError> {
        let looked = spawn_blocking(move || {
            let look = |standing: StandingCar| (look_at(&standing), standing.stated);
            cars.into_iter().map(look).collect::<Vec<_>>()
        });
        let mut all = Vec::new();
        for (looked, stated) in looked.await? {
            all.push(match looked {
                Looked::Fit(car) if !self.is_as_stated(&car, stated) => {
                    let path = car.path.display();
                    warn!(%path, "not offered: the file changed; `client-agent verify --all` checks it");
                    Looked::Changed((car.piece_cid, car.path))
                }
                Looked::Fit(car) => {
                    if self.catalogue.offer(car.clone()) == Offer::New {
                        debug!(piece = %car.piece_cid, path = %car.path.display(), "offered");
                    }
                    Looked::Fit(car)
                }
                other => other,
            });
        }
        Ok(all)
    }

    /// Whether a file is as it was when the last thing was said about it.
    fn is_as_stated(&mut self, car: &OfferedCar, stated: Option<DateTime>) -> bool {
        let known = self.stated.entry((car.piece_cid, car.path.clone())).or_insert((stated, car.stamp));
        if known.0 != stated {
            *known = (stated, car.stamp);
        }
        known.1 == car.stamp
    }
}

/// What a look at a record's file found.
enum Looked {
    Fit(OfferedCar),
    Missing,
    /// It is not what its record says, or the record says too little.
    Unfit,
    /// It is not what it was when the last thing was said about it.
    Changed((PieceCid, PathBuf)),
}

/// Compares a file with its record: size and root. Reads the header of the CAR alone.
fn look_at(standing: &StandingCar) -> Looked {
    let car = &standing.car;
    let path = Path::new(car.outputpath.as_deref().unwrap_or_default());
    let recorded = (
        car.piececid.as_deref().and_then(|cid| cid.parse::<PieceCid>().ok()),
        car.filecid.as_deref().and_then(|cid| cid.parse::<PayloadCid>().ok()),
        car.carsizebytes.and_then(|bytes| u64::try_from(bytes).ok()),
    );
    let (Some(piece_cid), Some(payload_cid), Some(size)) = recorded else {
        debug!(path = %path.display(), "not offered: its record lacks piece CID, payload CID or size");
        return Looked::Unfit;
    };
    let metadata = match open_regular(path).and_then(|file| file.metadata()) {
        Ok(metadata) => metadata,
        Err(error) => {
            debug!(path = %path.display(), %error, "not offered");
            return Looked::Missing;
        }
    };
    let problem = match read_car_root(path) {
        _ if metadata.len() != size => format!("it has {} bytes, its record says {size}", metadata.len()),
        Ok(root) if root == payload_cid => {
            let stamp = FileStamp::of(&metadata);
            return Looked::Fit(OfferedCar {
                piece_cid,
                path: path.to_owned(),
                size: PayloadSize::new(size),
                stamp,
            });
        }
        Ok(root) => format!("its root is {root}, its record says {payload_cid}"),
        Err(error) => ErrorChain(&error).to_string(),
    };
    info!(path = %path.display(), problem, "not offered");
    Looked::Unfit
}
