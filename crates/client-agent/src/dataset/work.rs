//! Piece after piece of a plan: claim, make, give it its name, record it, close it.
//!
//! ```text
//! claim ─► make (temporary files) ─► still ours? ─► publish ─► cars ─► piece done
//!   └─ lease held all the while; lost: nothing gets a name
//! ```
//!
//! Each step can be repeated: a piece that was cut short is open, and made again with the same bytes.

use std::sync::Arc;
use std::time::Duration;

use carferry_car::{BuiltCar, Crew, Progress};
use carferry_core::error_chain::ErrorChain;
use carferry_core::fsx::TempGuard;
use carferry_core::model::CarDoc;
use carferry_core::runtime::{Shutdown, fail_point};
use carferry_core::store::PieceClaim;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::book::{LEASE, Shared, Stopped, Task};
use super::make::{Consequence, Made, MakeError, PieceJob, make};
use super::report::{PieceOutcome, PieceReport};
use crate::pack::progress::Meter;

/// What making pieces needs.
#[derive(Debug)]
pub(super) struct Works<'a> {
    /// Threads for all of it.
    pub crew: Arc<Crew>,
    /// Where plans are shared and CARs recorded; `None`: nowhere.
    pub shared: Option<&'a Shared<'a>>,
    /// Under which name CARs are recorded.
    pub host: String,
    /// Counts bytes, and carries the wish to stop.
    pub meter: Arc<Meter>,
    /// The process's end.
    pub shutdown: &'a Shutdown,
}

/// How a piece ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// With this line; others follow.
    Told(Box<PieceReport>),
    /// The disk, or something else about the output, is in the way of all pieces.
    NoMore {
        /// What it is.
        error: MakeError,
    },
    /// Another box has it now.
    Lost,
    /// The run is to end.
    Stopped,
}

/// Counts for all, and stops with the piece.
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

impl Works<'_> {
    /// Makes a piece.
    pub(super) async fn piece(&self, job: PieceJob, task: &Task) -> Ended {
        let stop = self.meter.stop().child_token();
        let work = self.bring_forward(job, task, &stop);
        let Some((shared, claim)) = self.shared.zip(task.claim.as_ref()) else { return work.await };
        tokio::pin!(work);
        // Cancel safety: `work` is polled to its end in either branch; a renewal may be dropped at any point.
        tokio::select! {
            ended = &mut work => ended,
            () = hold(shared, claim) => {
                warn!(piece = task.index, "the lease of this piece was lost: another box makes it");
                stop.cancel();
                match work.await {
                    Ended::Stopped => Ended::Lost,
                    ended => ended,
                }
            }
        }
    }

    async fn bring_forward(&self, job: PieceJob, task: &Task, stop: &CancellationToken) -> Ended {
        let meter = PieceMeter { all: Arc::clone(&self.meter), stop: stop.clone() };
        let crew = Arc::clone(&self.crew);
        let job = Arc::new(job);
        let to_make = Arc::clone(&job);
        let making = spawn_blocking(move || make(&to_make, &crew, &meter));
        let made = match self.shutdown.forced().run_until_cancelled(making).await {
            None => return Ended::Stopped,
            Some(Ok(made)) => made,
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let report =
            |state| PieceReport::new(&job.plan.id, task.index, state, task.entries.len(), task.source_bytes);
        let Made { car, files } = match made {
            Ok(made) => made,
            Err(error) => {
                return self
                    .not_made(&error, task, report(PieceOutcome::Failed))
                    .await
                    .unwrap_or(Ended::NoMore { error });
            }
        };
        fail_point("piece.made");
        if let Some((shared, claim)) = self.shared.zip(task.claim.as_ref()) {
            let renewed = shared.insist("a piece is finished, its lease cannot be renewed", || {
                shared.store.renew_piece(claim, LEASE)
            });
            match renewed.await {
                Ok(true) => {}
                Ok(false) => return Ended::Lost,
                Err(Stopped) => return Ended::Stopped,
            }
        }
        // One after the other: no CAR without its manifest.
        let publish = move || files.into_iter().try_for_each(TempGuard::publish);
        let published = spawn_blocking(publish).await;
        let published = published.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        if let Err(error) = published {
            self.release(task).await;
            return Ended::NoMore { error: MakeError::Output(error) };
        }
        fail_point("piece.published");
        let report = PieceReport {
            carpath: Some(job.car.to_string_lossy().into_owned()),
            payloadcid: Some(car.payload_cid.to_string()),
            piececid: Some(car.piece_cid.to_string()),
            ..report(PieceOutcome::Made).sized(car.payload_size, Some(car.padded_piece_size))
        };
        match self.record(&job, task, &car).await {
            Ok(true) => Ended::Told(Box::new(report)),
            // The same bytes lie at the other box as well, and both are recorded.
            Ok(false) => Ended::Lost,
            Err(Stopped) => Ended::Stopped,
        }
    }

    /// What an error means for the piece, where the others can go on.
    async fn not_made(&self, error: &MakeError, task: &Task, report: PieceReport) -> Option<Ended> {
        match error.consequence() {
            Consequence::Stopped => {
                self.release(task).await;
                Some(Ended::Stopped)
            }
            Consequence::StopWriting => {
                self.release(task).await;
                None
            }
            Consequence::PlanAnew => {
                let reason = ErrorChain(error).to_string();
                if let Some((shared, claim)) = self.shared.zip(task.claim.as_ref()) {
                    let failed = shared.insist("a piece that failed cannot be marked", || {
                        shared.store.fail_piece(claim, &reason)
                    });
                    if failed.await.is_err() {
                        return Some(Ended::Stopped);
                    }
                }
                Some(Ended::Told(Box::new(PieceReport { reason: Some(reason), ..report })))
            }
        }
    }

    /// Records the CAR and closes the piece. `false`: another box was faster.
    async fn record(&self, job: &PieceJob, task: &Task, car: &BuiltCar) -> Result<bool, Stopped> {
        let Some((shared, claim)) = self.shared.zip(task.claim.as_ref()) else { return Ok(true) };
        let document = document(job, task, car, &self.host);
        shared.insist("a CAR is on disk but not recorded yet", || shared.store.record_car(&document)).await?;
        fail_point("piece.recorded");
        let (payload_cid, piece_cid) = (car.payload_cid.to_string(), car.piece_cid.to_string());
        let path = job.car.to_string_lossy();
        shared
            .insist("a piece is done but not closed yet", || {
                shared.store.finish_piece(claim, &payload_cid, &piece_cid, &path, &self.host)
            })
            .await
    }

    /// Gives the piece back; where that fails, its lease runs out.
    async fn release(&self, task: &Task) {
        if let Some((shared, claim)) = self.shared.zip(task.claim.as_ref())
            && let Err(error) = shared.store.release_piece(claim).await
        {
            debug!(error = %ErrorChain(&error), "a piece stays ours until its lease runs out");
        }
    }
}

/// Renews the lease every third of its time; returns when it is lost.
async fn hold(shared: &Shared<'_>, claim: &PieceClaim) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        match shared.store.renew_piece(claim, LEASE).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => debug!(error = %ErrorChain(&error), "lease not renewed, trying again"),
        }
    }
}

/// How often a run looks whether others have finished their pieces.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

fn document(job: &PieceJob, task: &Task, car: &BuiltCar, host: &str) -> CarDoc {
    let stored = |bytes: u64| i64::try_from(bytes).ok();
    CarDoc {
        inputpath: Some(job.input.to_string_lossy().into_owned()),
        outputpath: Some(job.car.to_string_lossy().into_owned()),
        piececid: Some(car.piece_cid.to_string()),
        filecid: Some(car.payload_cid.to_string()),
        group: Some(job.plan.key.group.clone()),
        filesizebytes: stored(task.source_bytes),
        dealsizebytes: stored(car.padded_piece_size.unpadded().get()),
        carsizebytes: stored(car.payload_size.get()),
        piecesizebytes: stored(car.padded_piece_size.get()),
        profile: Some(job.profile.name().to_owned()),
        host: Some(host.to_owned()),
        plan: Some(job.plan.id.clone()),
        planpiece: Some(task.index),
        ..CarDoc::default()
    }
}
