//! Packing threads: each builds one CAR at a time into a temporary file; one more thread makes CARs durable
//! under their final names.
//!
//! ```text
//! jobs ─► bounded channel ─► N threads: temp file ─► build ─► may it replace? ─► publisher ─► outcomes
//! ```
//!
//! The publisher takes all that is finished when it comes to it: a single large CAR at once, small ones by
//! the hundred, because making a file durable costs waiting, and a hundred wait as long as one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use carferry_car::{
    BuildError, BuildOptions, BuiltCar, PaddedPieceSize, Profile, ThreadBudget, build_car, read_car_root,
};
use carferry_core::fsx;
use carferry_core::fsx::TempGuard;
use carferry_core::runtime::fail_point;
use carferry_core::store::{RetryUntilAnswered, Store};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::makecars::per_file::plan::Job;
use crate::makecars::per_file::standing;
use crate::makecars::per_file::standing::Standing;
use crate::makecars::read_back::{ReadBackError, read_back};
use crate::progress::{FileMeter, Meter};

/// What every worker needs.
#[derive(Debug)]
pub(crate) struct PackContext {
    /// DAG parameters.
    pub profile: Profile,
    /// The largest piece.
    pub max_piece: PaddedPieceSize,
    /// Whether what was written is read again.
    pub verify: bool,
    /// Threads for all CARs together: a large one uses those that the others leave.
    pub budget: ThreadBudget,
    /// Folders that are known to be there.
    pub folders: Mutex<BTreeSet<PathBuf>>,
    /// Looks up deals before a CAR is replaced; `None`: CARs are replaced without.
    pub guard: Option<Guard>,
    /// Counts bytes, and carries the wish to stop.
    pub meter: Arc<Meter>,
}

/// Asks the database for waiting deals before a CAR is replaced.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// The database.
    pub store: Store,
    /// How it is asked.
    pub retry: Arc<RetryUntilAnswered>,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The job.
    pub job: Job,
    /// The CAR under its final name, or why there is none.
    pub result: Result<BuiltCar, PackError>,
}

/// Why a file has no new CAR.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// The CAR could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Temporary or final file could not be written.
    #[error("cannot write the CAR")]
    Output(#[source] io::Error),
    /// What was read again is not what was written.
    #[error(transparent)]
    ReadBack(#[from] ReadBackError),
    /// What stands in its place is another's.
    #[error("{reason}")]
    Foreign {
        /// What it is, and what can be done.
        reason: String,
    },
    /// The CAR that stands is still needed.
    #[error(
        "its content changed, and {} for the CAR that was made of it before ({standing}); --replace gives up on that",
        if *deals == 1 { "1 deal waits".to_owned() } else { format!("{deals} deals wait") }
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
    pub(crate) fn is_cancelled(&self) -> bool {
        match self {
            Self::Build(error) => matches!(error, BuildError::Cancelled),
            Self::ReadBack(error) => error.is_cancelled(),
            Self::Output(_) | Self::Foreign { .. } | Self::StillNeeded { .. } => false,
        }
    }
}

/// Finished CARs that wait to be published. Each holds a descriptor, of which a process usually has 1024.
const FINISHED_MAX: usize = 128;
/// CARs that are published together at most.
const PUBLISHED_AT_ONCE: usize = 256;

/// A CAR that is complete under a temporary name.
struct Finished {
    job: Job,
    car: BuiltCar,
    temp: TempGuard,
}

/// Starts the threads. They end when `jobs` is closed and empty, or the meter is cancelled.
pub(crate) fn start(
    context: &Arc<PackContext>,
    jobs: mpsc::Receiver<Job>,
    outcomes: &mpsc::Sender<Outcome>,
) -> io::Result<()> {
    let jobs = Arc::new(Mutex::new(jobs));
    let runtime = Handle::current();
    let (finished, to_publish) = sync_channel(FINISHED_MAX);
    for number in 1..=context.budget.permits().get() {
        let (context, jobs, outcomes) = (Arc::clone(context), Arc::clone(&jobs), outcomes.clone());
        let (runtime, finished) = (runtime.clone(), finished.clone());
        thread::Builder::new()
            .name(format!("pack {number}"))
            .spawn(move || context.work(&jobs, &finished, &outcomes, &runtime))?;
    }
    let outcomes = outcomes.clone();
    thread::Builder::new().name("publish".to_owned()).spawn(move || publish(&to_publish, &outcomes))?;
    Ok(())
}

/// Gives finished CARs their names, until no thread packs any more.
fn publish(finished: &Receiver<Finished>, outcomes: &mpsc::Sender<Outcome>) {
    while let Ok(first) = finished.recv() {
        let batch = [first].into_iter().chain(finished.try_iter()).take(PUBLISHED_AT_ONCE);
        let (cars, temps): (Vec<_>, Vec<_>) =
            batch.map(|Finished { job, car, temp }| ((job, car), temp)).unzip();
        fail_point("pack.built");
        let all_published = fsx::publish_all(temps);
        fail_point("pack.published");
        for ((job, car), published) in cars.into_iter().zip(all_published) {
            let result = published.map(|()| car).map_err(PackError::Output);
            if outcomes.blocking_send(Outcome { job, result }).is_err() {
                return;
            }
        }
    }
}

impl PackContext {
    fn work(
        &self,
        jobs: &Mutex<mpsc::Receiver<Job>>,
        finished: &SyncSender<Finished>,
        outcomes: &mpsc::Sender<Outcome>,
        runtime: &Handle,
    ) {
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(job) = next else { return };
            if self.meter.stop().is_cancelled() {
                return;
            }
            let meter = FileMeter::new(&self.meter);
            let packed = self.pack(&job, &meter, runtime);
            meter.done(job.plan.source_bytes);
            let handed_on = match packed {
                Ok((car, temp)) => finished.send(Finished { job, car, temp }).is_ok(),
                Err(error) => outcomes.blocking_send(Outcome { job, result: Err(error) }).is_ok(),
            };
            if !handed_on {
                return;
            }
        }
    }

    fn pack(
        &self,
        job: &Job,
        meter: &FileMeter<'_>,
        runtime: &Handle,
    ) -> Result<(BuiltCar, TempGuard), PackError> {
        if let Some(folder) = job.output.parent() {
            self.make_folder(folder).map_err(PackError::Output)?;
        }
        let (file, mut temp) = fsx::create_temp_beside(&job.output).map_err(PackError::Output)?;
        let options = BuildOptions { params: self.profile.params(), max_piece: self.max_piece };
        let car = build_car(&self.budget, &job.input, &file, &options, meter)?;
        if self.verify {
            read_back(&self.budget, &file, temp.path(), &car, meter)?;
        }
        drop(file);
        match &job.standing {
            Standing::Nothing => temp.refuse_existing(),
            Standing::Unknown { reason } if !standing::is_same(&job.output, &car) => {
                return Err(PackError::Foreign { reason: reason.clone() });
            }
            Standing::Own | Standing::Unknown { .. } => {}
        }
        if let Some(guard) = &self.guard {
            runtime.block_on(self.check_standing(guard, job, &car))?;
        }
        Ok((car, temp))
    }

    /// Makes a folder for CARs, once a run.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let known = || self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if !known().contains(folder) {
            fsx::create_folders(folder)?;
            known().insert(folder.to_owned());
        }
        Ok(())
    }

    /// Refuses to take the place of a CAR that deals still wait for.
    async fn check_standing(&self, guard: &Guard, job: &Job, car: &BuiltCar) -> Result<(), PackError> {
        let store = &guard.store;
        let new = car.payload_cid.to_string();
        let mut standing: Vec<String> = standing_root(&job.output).into_iter().collect();
        standing.extend(job.recorded_payload_cid.clone());
        standing.sort();
        standing.dedup();
        standing.retain(|root| *root != new);
        for root in standing {
            // Without an answer nothing may be replaced.
            let ask = || store.waiting_deals_of_payload(&root);
            let answer = guard.retry.call("cannot ask for waiting deals", ask).await;
            let deals = answer.map_err(|_stopped| BuildError::Cancelled)?;
            if deals > 0 {
                return Err(PackError::StillNeeded { standing: root, deals });
            }
        }
        Ok(())
    }
}

/// Root of the CAR that stands at a path; `None` for any other file, which no deal waits for.
fn standing_root(path: &Path) -> Option<String> {
    read_car_root(path).ok().map(|root| root.to_string())
}
