//! Runs a plan until none of its pieces is open: pieces are claimed, made and reported, and the run waits for
//! disk space or for other boxes.

use std::collections::VecDeque;
use std::sync::Arc;

use carferry_core::model::stored::unsigned;
use carferry_core::model::{PieceState, PlanDoc};
use carferry_core::words::counted;
use futures::StreamExt;
use tracing::{info, warn};

use crate::exit::CommandError;
use crate::makecars::dataset::build_piece::MakeError;
use crate::makecars::dataset::disk_space::{Disk, Needed, SpaceWait};
use crate::makecars::dataset::error::DatasetError;
use crate::makecars::dataset::piece_worker::{LOOK_EVERY, PieceEnd, PieceWorker};
use crate::makecars::dataset::pipeline::{PieceStream, Pieces, builds_at_once};
use crate::makecars::dataset::plan::Plan;
use crate::makecars::dataset::plan_store::SharedPlans;
use crate::makecars::dataset::report::{PieceOutcome, PieceReport};
use crate::makecars::dataset::{Run, plan_store};
use crate::progress::{Amount, Meter};

/// The first piece that could not be written.
struct OutputFailure {
    piece: i64,
    bytes: u64,
    error: MakeError,
}

impl Run<'_> {
    /// Works on a plan in the database until none of its pieces is open.
    pub(super) async fn follow(
        &mut self,
        shared: &SharedPlans<'_>,
        plan: &PlanDoc,
        locked: bool,
    ) -> Result<(), CommandError> {
        if self.args.dry_run {
            let counts = shared.store.piece_counts(&plan.id).await?;
            let pieces = counted(plan.pieces, "piece");
            let words = format!("plan {}: {} of {pieces} done", plan.id, counts.done);
            return Ok(self.console.result(&counts, words)?);
        }
        if locked {
            shared.take_back(&plan.id).await?;
        }
        let counts = shared.store.piece_counts(&plan.id).await?;
        let mut done = Amount::default();
        if counts.done > 0 {
            info!(plan = plan.id, done = counts.done, open = counts.open, "going on with a plan");
            let pieces = shared.store.pack_pieces(&plan.id).await?;
            for piece in pieces.iter().filter(|piece| piece.state == PieceState::Done) {
                done.items += 1;
                done.bytes += unsigned(piece.sourcebytes);
            }
        }
        let all = Amount { bytes: unsigned(plan.sourcebytes), items: unsigned(plan.pieces) };
        self.carry_out(&Pieces::SharedPlans(shared, plan), all, done).await
    }

    /// Works on a plan that no database has.
    pub(super) async fn alone(&mut self, plan: &Plan) -> Result<(), CommandError> {
        let undone: VecDeque<usize> = plan_store::undone(plan, &self.output);
        let left = undone.iter().map(|piece| unsigned(plan.piece(*piece).sourcebytes)).sum();
        let (bytes, items) = (unsigned(plan.document.sourcebytes), unsigned(plan.document.pieces));
        let all = Amount { bytes, items };
        let undone_pieces = u64::try_from(undone.len()).unwrap_or(u64::MAX);
        let done = Amount { bytes: bytes.saturating_sub(left), items: items.saturating_sub(undone_pieces) };
        self.carry_out(&Pieces::alone(plan, undone), all, done).await
    }

    /// Makes pieces until none is left, the run is to end, or nothing more can be written.
    async fn carry_out(
        &mut self,
        pieces: &Pieces<'_>,
        all: Amount,
        done: Amount,
    ) -> Result<(), CommandError> {
        let stop = pieces.stop().unwrap_or_else(|| self.console.shutdown.token());
        let meter = Meter::of_items("piece", all, done, stop.clone());
        let shown = self.console.screen.show(&meter, self.args.work.no_progress);
        let builds = builds_at_once(self.budget.permits(), self.rules.piece_size);
        let worker = self.worker(pieces, builds, Arc::clone(&meter));
        let (mut is_waiting, mut space_wait) = (false, SpaceWait::default());
        while !stop.is_cancelled() {
            let stream = PieceStream::new(&worker, pieces, builds);
            let mut all_ended = stream.ended();
            let mut failure = None;
            while let Some(ended) = all_ended.next().await {
                match ended {
                    PieceEnd::Reported(report) => {
                        if report.state == PieceOutcome::Made {
                            (is_waiting, space_wait) = (false, SpaceWait::default());
                            meter.item_done();
                        }
                        self.report(&report)?;
                    }
                    // Pieces in flight are brought to their end first.
                    PieceEnd::OutputFailed { piece, bytes, error } => {
                        failure.get_or_insert(OutputFailure { piece, bytes, error });
                    }
                    PieceEnd::Lost | PieceEnd::Stopped => {}
                }
            }
            if let Some(OutputFailure { piece, bytes, error }) = failure {
                if !self.args.wait_for_space || !error.is_no_space() {
                    let (left, output) = (pieces.left().await, self.output.clone());
                    drop(shown);
                    return Err(CommandError::user(&DatasetError::Output {
                        left,
                        piece,
                        output,
                        source: error,
                    }));
                }
                let needed = Needed { folder: &self.output, piece, bytes };
                meter.wait_for(Some("room"));
                space_wait.wait(needed, stop, async || pieces.left().await > 0).await;
                meter.wait_for(None);
            } else if stop.is_cancelled() {
                break;
            } else if let Pieces::SharedPlans(shared, plan) = pieces {
                // Other boxes may make the last pieces of a plan in the database, and release them.
                match shared.retry.call("a plan cannot be ended", || shared.end(&plan.id)).await {
                    Ok(Some(counts)) => {
                        if !std::mem::replace(&mut is_waiting, true) {
                            info!(pieces = counts.open, "waiting for pieces that others make");
                        }
                        meter.wait_for(Some("pieces that others make"));
                        stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
                        meter.wait_for(None);
                    }
                    Ok(None) | Err(_) => break,
                }
            } else {
                break;
            }
        }
        drop(shown);
        if stop.is_cancelled() {
            self.summary.left += pieces.left().await;
        }
        Ok(())
    }

    fn worker<'s>(&self, pieces: &Pieces<'s>, builds: usize, meter: Arc<Meter>) -> PieceWorker<'s>
    where
        Self: 's,
    {
        let together = u64::try_from(builds).unwrap_or(u64::MAX).saturating_mul(self.rules.piece_size.get());
        PieceWorker {
            budget: Arc::clone(&self.budget),
            shared: if let Pieces::SharedPlans(shared, _) = pieces { Some(*shared) } else { None },
            plan: pieces.plan(),
            input: self.input.clone(),
            output: self.output.clone(),
            profile: self.profile,
            piece_size: self.rules.piece_size,
            verify: self.args.verify,
            host: self.host.clone(),
            disk: Disk::new(&self.output, together),
            meter,
            shutdown: self.console.shutdown,
        }
    }

    fn report(&mut self, report: &PieceReport) -> Result<(), CommandError> {
        if report.state == PieceOutcome::Made {
            self.summary.made += 1;
            self.summary.made_bytes += report.car.carsizebytes.unwrap_or(0);
            self.summary.source_bytes += report.sourcebytes;
            self.summary.entries += u64::try_from(report.entries).unwrap_or(0);
        } else {
            self.summary.failed += 1;
            warn!(
                piece = report.piece,
                reason = report.reason,
                "piece not made; its files are planned anew once this plan has ended"
            );
        }
        Ok(self.console.result(report, report.line())?)
    }
}
