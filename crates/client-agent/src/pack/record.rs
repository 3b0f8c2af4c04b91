//! From a CAR on disk to its document in `cars`. Never before the file, and as often as it takes.

use std::path::Path;

use carferry_car::{BuiltCar, Profile};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::CarDoc;
use carferry_core::runtime::Backoff;
use carferry_core::store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::plan::{Job, nanos_since_1970};
use super::worker::RETRY;

/// What a document says of every CAR. `dealsizebytes` is the UNPADDED piece size, as the notes have it.
pub fn of(car: &BuiltCar, path: &Path, profile: Profile, host: &str) -> CarDoc {
    let stored = |bytes: u64| i64::try_from(bytes).ok();
    CarDoc {
        outputpath: Some(path.to_string_lossy().into_owned()),
        piececid: Some(car.piece_cid.to_string()),
        filecid: Some(car.payload_cid.to_string()),
        dealsizebytes: stored(car.padded_piece_size.unpadded().get()),
        carsizebytes: stored(car.payload_size.get()),
        piecesizebytes: stored(car.padded_piece_size.get()),
        profile: Some(profile.name().to_owned()),
        host: Some(host.to_owned()),
        ..CarDoc::default()
    }
}

/// The document of a file's CAR.
pub fn document(job: &Job, car: &BuiltCar, profile: Profile, host: &str) -> CarDoc {
    CarDoc {
        inputpath: Some(job.input.to_string_lossy().into_owned()),
        group: Some(job.group.clone()),
        filesizebytes: i64::try_from(car.source.bytes).ok(),
        sourcemtimenanos: Some(nanos_since_1970(car.source.modified)),
        ..of(car, &job.output, profile, host)
    }
}

/// Why a CAR on disk has no document, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The last try failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run was interrupted while the database was away: no try of its own.
    #[error("interrupted while the database is away")]
    Interrupted,
}

/// Writes documents, and knows when to stop trying.
#[derive(Debug)]
pub struct Recorder<'a> {
    store: &'a Store,
    stop: &'a CancellationToken,
    /// The run is to end and the database is away: what waits has no chance.
    hopeless: CancellationToken,
}

impl<'a> Recorder<'a> {
    /// Tries until `stop` is cancelled.
    pub fn new(store: &'a Store, stop: &'a CancellationToken) -> Self {
        Self { store, stop, hopeless: CancellationToken::new() }
    }

    /// Writes the document; tries again until it is written. Once the run is to end, each document has one
    /// more try, until the first that fails.
    ///
    /// # Errors
    ///
    /// The last try's. The CAR stays; the next run makes the same CAR and records it.
    pub async fn record(&self, car: &CarDoc) -> Result<(), RecordError> {
        let mut backoff = Backoff::new(RETRY);
        loop {
            let last = self.stop.is_cancelled();
            match self.hopeless.run_until_cancelled(self.store.record_car(car)).await {
                None => return Err(RecordError::Interrupted),
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) if last => {
                    self.hopeless.cancel();
                    return Err(error.into());
                }
                Some(Err(error)) => {
                    let pause = backoff.next_delay();
                    warn!(
                        path = car.outputpath.as_deref(),
                        error = %ErrorChain(&error),
                        hint = error.hint().unwrap_or_default(),
                        retry_in_ms = pause.as_millis(),
                        "CAR is on disk but not recorded yet"
                    );
                    // Cancelled or not, the next round tries again.
                    let _ = self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
    }
}
