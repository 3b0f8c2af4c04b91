//! Pipeline of pieces: while one piece is read and hashed, those before it are made durable and recorded.
//!
//! ```text
//! in flight 1  claim ─► make ─► publish ─► record │ claim ─► …
//! in flight 2            claim ─► make ─► publish ─► record │ …
//!              └── permit ──┘
//! ```
//!
//! Building takes processors and memory, and needs a permit: there is one for large pieces, and there are
//! more where one piece cannot keep all hashing threads busy. Everything after building waits for the disk
//! and the database.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use carferry_car::PaddedPieceSize;
use carferry_core::model::PlanDoc;
use carferry_core::model::stored::unsigned;
use futures::{Stream, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::makecars::dataset::piece_worker::{PieceEnd, PieceWorker};
use crate::makecars::dataset::plan::Plan;
use crate::makecars::dataset::plan_store::{SharedPlans, Task};

/// Pieces that are made or finished at a time: most of them wait for the disk or the database. Each has two
/// open files.
const PIECES_IN_FLIGHT_MAX: usize = 32;
/// What one thread of the crew worker on at a time: a group of the builder.
const BYTES_A_THREAD: u64 = 16 << 20;

/// Pieces that are built at a time: as many as keep all hashing threads busy. The number depends on the size
/// of full pieces alone, because the size of a piece is not known before it is claimed.
pub(super) fn builds_at_once(budget: NonZeroUsize, piece_size: PaddedPieceSize) -> usize {
    let budget = u64::try_from(budget.get()).unwrap_or(u64::MAX);
    let enough = budget.saturating_mul(BYTES_A_THREAD) / piece_size.get();
    // A piece of less than a group has one thread; one more is looked up meanwhile.
    let most = (2 * budget).min(PIECES_IN_FLIGHT_MAX as u64);
    usize::try_from(enough.clamp(1, most)).unwrap_or(1)
}

/// Where pieces come from.
#[derive(Debug)]
pub(super) enum Pieces<'a> {
    /// The database: others take pieces too.
    SharedPlans(&'a SharedPlans<'a>, &'a PlanDoc),
    /// A plan that no database has, and which of its pieces are undone.
    Alone(&'a Plan, Mutex<VecDeque<usize>>),
}

impl<'a> Pieces<'a> {
    pub(super) fn alone(plan: &'a Plan, undone: VecDeque<usize>) -> Self {
        Self::Alone(plan, Mutex::new(undone))
    }

    pub(super) fn plan(&self) -> &'a PlanDoc {
        match self {
            Self::SharedPlans(_, plan) => plan,
            Self::Alone(plan, _) => &plan.document,
        }
    }

    /// Ends the work on pieces in a database, when that refuses as well.
    pub(super) fn stop(&self) -> Option<&'a CancellationToken> {
        match self {
            Self::SharedPlans(shared, _) => Some(shared.retry.stop()),
            Self::Alone(..) => None,
        }
    }

    /// Claims the next piece.
    async fn next(&self) -> Option<Task> {
        match self {
            Self::SharedPlans(shared, plan) => {
                let claimed = shared.retry.call("no piece can be claimed", || shared.claim(&plan.id)).await;
                claimed.unwrap_or(None)
            }
            Self::Alone(plan, undone) => {
                let piece = lock(undone).pop_front()?;
                let document = plan.piece(piece);
                Some(Task {
                    index: document.index,
                    entries: plan.entries(piece).collect(),
                    source_bytes: unsigned(document.sourcebytes),
                    car_bytes_max: unsigned(document.carsizemaxbytes),
                    claim: None,
                })
            }
        }
    }

    /// Opens a piece again. A piece in the database was released by its worker.
    fn give_back(&self, piece: i64) {
        if let (Self::Alone(_, undone), Ok(piece)) = (self, usize::try_from(piece)) {
            lock(undone).push_front(piece);
        }
    }

    /// How many pieces are open; at least one where the database does not say.
    pub(super) async fn left(&self) -> u64 {
        match self {
            Self::SharedPlans(shared, plan) => {
                shared.store.piece_counts(&plan.id).await.map_or(1, |counts| counts.open)
            }
            Self::Alone(_, undone) => u64::try_from(lock(undone).len()).unwrap_or(u64::MAX),
        }
    }
}

fn lock(undone: &Mutex<VecDeque<usize>>) -> MutexGuard<'_, VecDeque<usize>> {
    undone.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pieces that are begun until there is none, or something is in the way of all.
#[derive(Debug)]
pub(super) struct PieceStream<'a> {
    worker: &'a PieceWorker<'a>,
    pieces: &'a Pieces<'a>,
    build_permits: Semaphore,
    /// No further piece is begun.
    is_closed: AtomicBool,
}

impl<'a> PieceStream<'a> {
    pub(super) fn new(worker: &'a PieceWorker<'a>, pieces: &'a Pieces<'a>, builds: usize) -> Self {
        Self { worker, pieces, build_permits: Semaphore::new(builds), is_closed: AtomicBool::new(false) }
    }

    /// Every piece as it ends; all that were begun have ended when this ends.
    ///
    /// Cancel safety: pieces that are dropped under way stay claimed until their leases run out.
    pub(super) fn ended(&self) -> impl Stream<Item = PieceEnd> {
        let in_order = || Box::pin(stream::unfold((), |()| async { Some((self.next().await?, ())) }));
        stream::select_all((0..PIECES_IN_FLIGHT_MAX).map(|_| in_order()))
    }

    async fn next(&self) -> Option<PieceEnd> {
        let permit = self.build_permits.acquire().await.ok()?;
        if self.is_closed.load(Ordering::Relaxed) || self.worker.meter.stop().is_cancelled() {
            return None;
        }
        let Some(task) = self.pieces.next().await else {
            self.is_closed.store(true, Ordering::Relaxed);
            return None;
        };
        let piece = task.index;
        let ended = self.worker.piece(task, permit).await;
        if let PieceEnd::OutputFailed { .. } | PieceEnd::Stopped = ended {
            self.is_closed.store(true, Ordering::Relaxed);
            self.pieces.give_back(piece);
        }
        Some(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_made_one_after_the_other_and_small_ones_as_many_as_keep_all_threads_busy() {
        for (budget, piece_size, wanted) in [
            (2, 32 << 30, 1),
            (2, 64 << 20, 1),
            (2, 32 << 20, 1),
            (2, 16 << 20, 2),
            (2, 1 << 20, 4),
            (1, 2 << 20, 2),
            (64, 32 << 30, 1),
            (64, 256 << 20, 4),
            (64, 1 << 20, PIECES_IN_FLIGHT_MAX),
        ] {
            let size = PaddedPieceSize::new(piece_size).unwrap();
            assert_eq!(
                builds_at_once(NonZeroUsize::new(budget).unwrap(), size),
                wanted,
                "{budget} {piece_size}"
            );
        }
    }
}
