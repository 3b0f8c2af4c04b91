//! Threads that pack: each takes one file at a time, from source to a durable CAR under its final name.
//!
//! ```text
//! jobs ─► bounded channel ─► N threads: temp file ─► build ─► may it replace? ─► publish ─► outcomes
//! ```

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carferry_car::{BuildError, BuildOptions, BuiltCar, PaddedPieceSize, Profile, build_car, read_car_root};
use carferry_core::error_chain::ErrorChain;
use carferry_core::fsx;
use carferry_core::runtime::{Backoff, BackoffPolicy};
use carferry_core::store::{Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::warn;

use super::plan::Job;
use super::progress::{FileMeter, Meter};

/// What every worker needs.
#[derive(Debug)]
pub struct Workshop {
    /// DAG parameters.
    pub profile: Profile,
    /// The largest piece.
    pub max_piece: PaddedPieceSize,
    /// Threads for one CAR: more than one where there are fewer files than processors.
    pub threads_per_car: NonZeroUsize,
    /// Where deals are looked up before a CAR is replaced; `None`: nobody is asked.
    pub guard: Option<Store>,
    /// Counts bytes, and carries the wish to stop.
    pub meter: Arc<Meter>,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    /// The job.
    pub job: Job,
    /// The CAR under its final name, or why there is none.
    pub result: Result<BuiltCar, PackError>,
}

/// Why a file has no new CAR.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The CAR could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Temporary or final file could not be written.
    #[error("cannot write the CAR")]
    Output(#[source] io::Error),
    /// The CAR that stands is still needed.
    #[error(
        "its content changed, and {deals} deals wait for the CAR that was made of it before ({standing}); \
         --replace gives them up"
    )]
    StillNeeded {
        /// Payload CID of the CAR that stands.
        standing: String,
        /// How many deals wait for it.
        deals: u64,
    },
}

impl PackError {
    /// Whether this file was only interrupted.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Build(BuildError::Cancelled))
    }
}

/// Starts the threads. They end when `jobs` is closed and empty, or the meter is cancelled.
pub fn start(
    workshop: &Arc<Workshop>,
    threads: NonZeroUsize,
    jobs: mpsc::Receiver<Job>,
    outcomes: &mpsc::Sender<Outcome>,
) -> io::Result<()> {
    let jobs = Arc::new(Mutex::new(jobs));
    let runtime = Handle::current();
    for number in 1..=threads.get() {
        let (workshop, jobs, outcomes) = (Arc::clone(workshop), Arc::clone(&jobs), outcomes.clone());
        let runtime = runtime.clone();
        std::thread::Builder::new()
            .name(format!("pack {number}"))
            .spawn(move || workshop.work(&jobs, &outcomes, &runtime))?;
    }
    Ok(())
}

impl Workshop {
    fn work(&self, jobs: &Mutex<mpsc::Receiver<Job>>, outcomes: &mpsc::Sender<Outcome>, runtime: &Handle) {
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(job) = next else { return };
            if self.meter.stop().is_cancelled() {
                return;
            }
            let meter = FileMeter::new(&self.meter);
            let result = self.pack(&job, &meter, runtime);
            meter.done(job.plan.source_bytes);
            if outcomes.blocking_send(Outcome { job, result }).is_err() {
                return;
            }
        }
    }

    fn pack(&self, job: &Job, meter: &FileMeter<'_>, runtime: &Handle) -> Result<BuiltCar, PackError> {
        if let Some(folder) = job.output.parent() {
            fs::create_dir_all(folder)
                .map_err(|error| PackError::Output(fsx::named("cannot make folder", folder, error)))?;
        }
        let (file, temp) = fsx::create_temp_beside(&job.output).map_err(PackError::Output)?;
        let options = BuildOptions {
            params: self.profile.params(),
            max_piece: self.max_piece,
            threads: self.threads_per_car,
        };
        let car = build_car(&job.input, &file, &options, meter)?;
        drop(file);
        if let Some(store) = &self.guard {
            runtime.block_on(self.check_standing(store, job, &car))?;
        }
        temp.publish().map_err(PackError::Output)?;
        Ok(car)
    }

    /// Refuses to take the place of a CAR that deals still wait for.
    async fn check_standing(&self, store: &Store, job: &Job, car: &BuiltCar) -> Result<(), PackError> {
        let new = car.payload_cid.to_string();
        let mut standing: Vec<String> = standing_root(&job.output).into_iter().collect();
        standing.extend(job.recorded_payload_cid.clone());
        standing.sort();
        standing.dedup();
        standing.retain(|root| *root != new);
        for root in standing {
            let deals = self.insist(|| store.waiting_deals_of_payload(&root)).await?;
            if deals > 0 {
                return Err(PackError::StillNeeded { standing: root, deals });
            }
        }
        Ok(())
    }

    /// Asks until there is an answer: without one, nothing may be replaced.
    async fn insist<T, F>(&self, ask: impl Fn() -> F) -> Result<T, PackError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(RETRY);
        loop {
            match self.meter.stop().run_until_cancelled(ask()).await {
                None => return Err(BuildError::Cancelled.into()),
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => {
                    let pause = backoff.next_delay();
                    warn!(error = %ErrorChain(&error), retry_in_ms = pause.as_millis(), "cannot ask for waiting deals");
                    if self.meter.stop().run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Err(BuildError::Cancelled.into());
                    }
                }
            }
        }
    }
}

/// How the database is asked again.
pub(super) const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(200),
    max: Duration::from_secs(30),
    quiet: Duration::from_secs(120),
};

/// Root of the CAR that stands at a path; whatever else stands there is nobody's deal.
fn standing_root(path: &Path) -> Option<String> {
    read_car_root(path).ok().map(|root| root.to_string())
}
