//! Works on one piece of a plan under its lease: makes the CAR, publishes it, records it, closes the piece.
//!
//! ```text
//! claim ─► make (temporary files) ─► lease renewed? ─► publish ─► cars ─► piece done
//!   └─ the lease is renewed meanwhile; after a lost lease nothing is published
//! ```
//!
//! Each step can be repeated: a piece that was cut short is open, and made again with the same bytes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carferry_car::{BuiltCar, PaddedPieceSize, Profile, Progress, ThreadBudget};
use carferry_core::error_chain::ErrorChain;
use carferry_core::fsx::TempGuard;
use carferry_core::model::{CarDoc, PlanDoc};
use carferry_core::runtime::{Shutdown, fail_point};
use carferry_core::store::{LeaseState, PieceClaim, Unanswered};
use tokio::sync::SemaphorePermit;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::car_line::CarLine;
use crate::makecars::car_record;
use crate::makecars::dataset::build_piece::{Consequence, Made, MakeError, PieceJob, SourceTimes, make};
use crate::makecars::dataset::disk_space::Disk;
use crate::makecars::dataset::manifest;
use crate::makecars::dataset::plan_store::{LEASE, SharedPlans, Task};
use crate::makecars::dataset::report::{PieceOutcome, PieceReport};
use crate::makecars::dataset::rules::PlanRules;
use crate::progress::Meter;

/// What making the pieces of a plan needs.
#[derive(Debug)]
pub(super) struct PieceWorker<'a> {
    /// Hashing threads, shared by all pieces.
    pub budget: Arc<ThreadBudget>,
    /// Where plans are shared and CARs recorded; `None`: nowhere.
    pub shared: Option<&'a SharedPlans<'a>>,
    /// The plan.
    pub plan: &'a PlanDoc,
    /// The folder that all is below.
    pub input: PathBuf,
    /// Where the CARs go.
    pub output: PathBuf,
    /// DAG parameters.
    pub profile: Profile,
    /// The largest piece.
    pub piece_size: PaddedPieceSize,
    /// Whether what was written is read again.
    pub verify: bool,
    /// Under which name CARs are recorded.
    pub host: String,
    /// Disk space of the output.
    pub disk: Disk,
    /// Counts bytes, and carries the wish to stop.
    pub meter: Arc<Meter>,
    /// The process's end.
    pub shutdown: &'a Shutdown,
}

/// How a piece ended.
#[derive(Debug)]
pub(super) enum PieceEnd {
    /// With this report; other pieces follow.
    Reported(Box<PieceReport>),
    /// The output cannot be written: every other piece would fail alike.
    OutputFailed {
        /// The piece that was to be written.
        piece: i64,
        /// Bytes that it takes, at most.
        bytes: u64,
        /// What it is.
        error: MakeError,
    },
    /// Another box has it now.
    Lost,
    /// The run is to end.
    Stopped,
}

/// A claimed piece without its list of files, which ends with the making.
struct ClaimedPiece {
    index: i64,
    source_bytes: u64,
    /// What CAR and manifest take, at most.
    bytes_max: u64,
    claim: Option<PieceClaim>,
    /// Where its CAR goes.
    car: PathBuf,
    /// Its report, as far as it is known before.
    report: PieceReport,
}

/// Counts for the whole run, and stops with the piece.
struct PieceMeter {
    all: Arc<Meter>,
    stop: CancellationToken,
}

impl Progress for PieceMeter {
    fn advance(&self, source_bytes: u64) {
        self.all.advance(source_bytes);
    }

    fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl PieceWorker<'_> {
    /// Makes a piece; the permit is released once only waiting is left to do.
    pub(super) async fn piece(&self, task: Task, permit: SemaphorePermit<'_>) -> PieceEnd {
        let stop = self.meter.stop().child_token();
        let (job, piece) = self.job_of(task);
        let work = self.make_and_record(job, &piece, permit, &stop);
        let Some((shared, claim)) = self.shared.zip(piece.claim.as_ref()) else { return work.await };
        tokio::pin!(work);
        // Cancel safety: `work` is polled to its end in either branch; a renewal may be dropped at any point.
        tokio::select! {
            ended = &mut work => ended,
            () = keep_lease(shared, claim) => {
                warn!(piece = piece.index, "the lease of this piece was lost: another box makes it");
                stop.cancel();
                match work.await {
                    PieceEnd::Stopped => PieceEnd::Lost,
                    ended => ended,
                }
            }
        }
    }

    fn job_of(&self, task: Task) -> (PieceJob, ClaimedPiece) {
        let Task { index, entries, source_bytes, car_bytes_max, claim } = task;
        let car = self.output.join(PlanRules::of(self.plan).car_name(self.plan, index));
        let count = entries.len();
        let piece = ClaimedPiece {
            index,
            source_bytes,
            bytes_max: car_bytes_max.saturating_add(manifest::bytes_about(&entries)),
            claim,
            car: car.clone(),
            report: PieceReport::new(&self.plan.id, index, PieceOutcome::Failed, count, source_bytes),
        };
        let job = PieceJob {
            plan: self.plan.clone(),
            index,
            entries,
            input: self.input.clone(),
            car,
            profile: self.profile,
            piece_size: self.piece_size,
            verify: self.verify,
            times: SourceTimes::AsPlanned,
            changed_nanos: self
                .plan
                .seen
                .as_ref()
                .filter(|seen| seen.host == self.host)
                .map(|seen| seen.changednanos),
        };
        (job, piece)
    }

    async fn make_and_record(
        &self,
        job: PieceJob,
        piece: &ClaimedPiece,
        permit: SemaphorePermit<'_>,
        stop: &CancellationToken,
    ) -> PieceEnd {
        let made = {
            let (_permit, _write_permit) = (permit, self.disk.write_permit().await);
            let meter = PieceMeter { all: Arc::clone(&self.meter), stop: stop.clone() };
            let budget = Arc::clone(&self.budget);
            // The list of a million files ends with the making of their piece.
            let making = spawn_blocking(move || make(&job, &budget, &meter));
            match self.shutdown.forced().run_until_cancelled(making).await {
                None => return PieceEnd::Stopped,
                Some(Ok(made)) => made,
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            }
        };
        let Made { car, files } = match made {
            Ok(made) => made,
            Err(error) => return self.not_made(error, piece).await,
        };
        fail_point("piece.made");
        if let Some((shared, claim)) = self.claim_of(piece) {
            let renewed = shared.retry.call("a piece is finished, its lease cannot be renewed", || {
                shared.store.renew_piece(claim, LEASE)
            });
            match renewed.await {
                Ok(LeaseState::Held) => {}
                Ok(LeaseState::Lost) => return PieceEnd::Lost,
                Err(_stopped) => return PieceEnd::Stopped,
            }
        }
        // One after the other: no CAR without its manifest.
        let publish = move || files.into_iter().try_for_each(TempGuard::publish);
        let published = spawn_blocking(publish).await;
        let published = published.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        if let Err(error) = published {
            return self.not_made(MakeError::Output(error), piece).await;
        }
        fail_point("piece.published");
        let report = PieceReport {
            state: PieceOutcome::Made,
            car: CarLine::built(&car).at(&piece.car),
            ..piece.report.clone()
        };
        match self.record(piece, &car).await {
            Ok(LeaseState::Held) => PieceEnd::Reported(Box::new(report)),
            // The same bytes lie at the other box as well, and both are recorded.
            Ok(LeaseState::Lost) => PieceEnd::Lost,
            Err(_stopped) => PieceEnd::Stopped,
        }
    }

    /// What an error means for the piece, and for the others.
    async fn not_made(&self, error: MakeError, piece: &ClaimedPiece) -> PieceEnd {
        match error.consequence() {
            Consequence::Stopped => {
                self.release(piece).await;
                PieceEnd::Stopped
            }
            Consequence::StopWriting => {
                self.release(piece).await;
                PieceEnd::OutputFailed { piece: piece.index, bytes: piece.bytes_max, error }
            }
            Consequence::PlanAnew => {
                let reason = ErrorChain(&error).to_string();
                if let Some((shared, claim)) = self.claim_of(piece) {
                    let failed = shared.retry.call("a piece that failed cannot be marked", || {
                        shared.store.fail_piece(claim, &reason)
                    });
                    if failed.await.is_err() {
                        return PieceEnd::Stopped;
                    }
                }
                PieceEnd::Reported(Box::new(PieceReport { reason: Some(reason), ..piece.report.clone() }))
            }
        }
    }

    /// Records the CAR and closes the piece, unless another box was faster.
    async fn record(&self, piece: &ClaimedPiece, car: &BuiltCar) -> Result<LeaseState, Unanswered> {
        let Some((shared, claim)) = self.claim_of(piece) else { return Ok(LeaseState::Held) };
        let document = self.document(piece, car);
        shared
            .retry
            .call("a CAR is on disk but not recorded yet", || shared.store.record_car(&document))
            .await?;
        fail_point("piece.recorded");
        let (payload_cid, piece_cid) = (car.payload_cid.to_string(), car.piece_cid.to_string());
        let path = piece.car.to_string_lossy();
        shared
            .retry
            .call("a piece is done but not closed yet", || {
                shared.store.finish_piece(claim, &payload_cid, &piece_cid, &path, &self.host)
            })
            .await
    }

    /// Gives the piece back; where that fails, its lease runs out.
    async fn release(&self, piece: &ClaimedPiece) {
        if let Some((shared, claim)) = self.claim_of(piece)
            && let Err(error) = shared.store.release_piece(claim).await
        {
            debug!(error = %ErrorChain(&error), "a piece stays claimed until its lease runs out");
        }
    }

    fn claim_of<'p>(&self, piece: &'p ClaimedPiece) -> Option<(&SharedPlans<'_>, &'p PieceClaim)> {
        self.shared.zip(piece.claim.as_ref())
    }

    fn document(&self, piece: &ClaimedPiece, car: &BuiltCar) -> CarDoc {
        CarDoc {
            inputpath: Some(self.input.to_string_lossy().into_owned()),
            group: Some(self.plan.key.group.clone()),
            filesizebytes: i64::try_from(piece.source_bytes).ok(),
            plan: Some(self.plan.id.clone()),
            planpiece: Some(piece.index),
            ..car_record::of(car, &piece.car, self.profile, &self.host)
        }
    }
}

/// Renews the lease every third of its time; returns when it is lost.
async fn keep_lease(shared: &SharedPlans<'_>, claim: &PieceClaim) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        match shared.store.renew_piece(claim, LEASE).await {
            Ok(LeaseState::Held) => {}
            Ok(LeaseState::Lost) => return,
            Err(error) => debug!(error = %ErrorChain(&error), "lease not renewed, trying again"),
        }
    }
}

/// How often a run looks whether others have finished their pieces.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
