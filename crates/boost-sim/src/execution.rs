//! A deal's thread: from the imported file to the indexed piece.
//!
//! ```text
//! stat ─► commP ─► Transferred ─► publish ─► Published ─► confirm ─► PublishConfirmed ─► AddPiece
//!  │        │                        │                       │                              │
//!  dead     dead, or Accepted+manual Transferred+manual      Published+auto        dead, or auto
//! ```
//!
//! Source: boost v2.5.2 `storagemarket/deal_execution.go`. A thread works on its own copy of the record and
//! writes all of it at each step, as Boost does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::commp;
use crate::counters::Work;
use crate::faults::DealFaultKind;
use crate::inner::{Hold, Inner};
use crate::publishing::publish;
use crate::record::{Checkpoint, Record, Retry};
use crate::world::{Life, World};

/// Why a deal's thread stops.
#[derive(Debug)]
struct Stop {
    retry: Retry,
    text: String,
}

impl Stop {
    fn fatal(text: impl Into<String>) -> Self {
        Self { retry: Retry::Fatal, text: text.into() }
    }

    fn manual(text: impl Into<String>) -> Self {
        Self { retry: Retry::Manual, text: text.into() }
    }

    fn auto(text: impl Into<String>) -> Self {
        Self { retry: Retry::Auto, text: text.into() }
    }

    fn within(self, step: &str) -> Self {
        Self { text: format!("{step}: {}", self.text), ..self }
    }
}

/// Starts the thread of a deal, unless it runs. Returns whether it started.
pub(crate) fn start_thread(inner: &Arc<Inner>, world: &mut World, mut deal: Record) -> bool {
    let Some(life) = world.life() else { return false };
    let Some(handler) = world.claim(deal.index) else { return false };
    let threads = &mut world.counts_mut(deal.index).threads;
    threads.enter();
    let most = threads.most;
    world.counters.threads_of_a_deal_most = world.counters.threads_of_a_deal_most.max(most);
    // An error of an earlier thread goes.
    if !deal.err.is_empty() || deal.retry == Retry::Auto {
        deal.err.clear();
        deal.retry = Retry::Auto;
        world.save(life.number, &deal);
    }
    let thread = Thread { inner: inner.clone(), life: life.clone(), deal, handler };
    inner.tasks.spawn(async move {
        let shutdown = thread.inner.shutdown.clone();
        tokio::select! {
            biased;
            () = life.ended.cancelled() => {}
            () = shutdown.cancelled() => {}
            () = thread.run() => {}
        }
    });
    true
}

/// Fails a deal for ever, and frees its funds.
pub(crate) fn fail(world: &mut World, life: u64, deal: &mut Record, text: String) {
    deal.checkpoint = Checkpoint::Complete;
    deal.retry = Retry::Fatal;
    deal.err = text;
    world.save(life, deal);
    world.close_handler(deal.index);
    let uuid = deal.uuid().to_owned();
    world.funds.untag(deal.index, &uuid);
}

/// The text of a deal whose start epoch has passed.
pub(crate) fn start_passed(world: &World, deal: &Record) -> Option<String> {
    let (height, start) = (world.head(), deal.terms.start_epoch);
    (height > start).then(|| {
        format!(
            "deal proposal must be proven on chain by deal proposal start epoch {start}, but it has expired: current \
             chain height: {height}"
        )
    })
}

#[derive(Debug)]
struct Thread {
    inner: Arc<Inner>,
    life: Life,
    deal: Record,
    handler: u64,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.inner.with(|world| {
            world.counts_mut(self.deal.index).threads.leave();
            world.release(self.deal.index, self.handler);
        });
    }
}

impl Thread {
    async fn run(mut self) {
        if let Err(stop) = Box::pin(self.execute()).await {
            let life = self.life.number;
            let deal = &mut self.deal;
            self.inner.with(|world| {
                if stop.retry == Retry::Fatal {
                    fail(world, life, deal, stop.text);
                } else {
                    deal.retry = stop.retry;
                    deal.err = stop.text;
                    world.save(life, deal);
                }
            });
        }
    }

    async fn execute(&mut self) -> Result<(), Stop> {
        if self.deal.checkpoint < Checkpoint::AddedPiece {
            let path = self.deal.inbound_file_path.clone();
            let kind = if self.deal.is_offline { "imported offline deal file" } else { "downloaded file" };
            let stat = path.clone();
            self.blocking(move || commp::file_size(&stat))
                .await?
                .map_err(|text| Stop::fatal(format!("failed to get size of {kind} '{path}': {text}")))?;
        }
        if self.deal.checkpoint < Checkpoint::Transferred {
            self.verify_commp().await.map_err(|stop| {
                stop.within("error when matching commP for imported data for offline deal")
            })?;
            self.reach(Checkpoint::Transferred);
        }
        if self.deal.checkpoint <= Checkpoint::Published {
            self.publish().await?;
        }
        self.untag();
        if self.deal.checkpoint < Checkpoint::AddedPiece {
            self.add_piece().await.map_err(|stop| stop.within("failed to add piece"))?;
        }
        if self.deal.cleanup_data {
            let path = self.deal.inbound_file_path.clone();
            // Boost ignores the error.
            self.blocking(move || std::fs::remove_file(path)).await?.ok();
        }
        if self.deal.checkpoint < Checkpoint::IndexedAndAnnounced {
            self.index().await.map_err(|stop| stop.within("failed to add index and announce deal"))?;
        }
        self.untag();
        Ok(())
    }

    async fn verify_commp(&mut self) -> Result<(), Stop> {
        let _importing = self.inner.count(Work::Import);
        let failure = self.fault(|kind| match kind {
            DealFaultKind::RemoteCommpFails(text) => Some(text.clone()),
            _ => None,
        });
        if let Some(text) = failure {
            return Err(Stop::manual(format!(
                "failed to generate CommP: performing remote commp: making remote API call to calculate commp: {text}"
            )));
        }
        let remote = self.inner.config.remote_commp;
        // The semaphore is never closed. A remote sealer has a queue of its own.
        let _permit = if remote { None } else { self.life.commp.clone().acquire_owned().await.ok() };
        let _computing = self.inner.count(Work::Commp);
        self.inner.pass(Hold::Commp).await;
        let began = Instant::now();
        let version = self.inner.config.version;
        let path = self.deal.inbound_file_path.clone();
        let piece = self
            .blocking(move || commp::commitment(&path, version, remote))
            .await?
            .map_err(|text| Stop::fatal(format!("failed to generate CommP: {text}")))?;
        if let Some(speed) = self.inner.config.commp_bytes_per_second {
            let nanos = u128::from(piece.payload_size.get()) * 1_000_000_000 / u128::from(speed.max(1));
            let lasts = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            tokio::time::sleep_until(began + lasts).await;
        }
        let (expected, actual) = (self.deal.terms.piece_cid, piece.piece_cid_in(self.deal.terms.piece_size));
        if expected == actual {
            Ok(())
        } else if version.retries_wrong_piece() {
            Err(Stop::manual(format!("commP expected={expected}, actual={actual}: commp mismatch")))
        } else {
            Err(Stop::fatal(format!("commP mismatch, expected={expected}, actual={actual}")))
        }
    }

    async fn publish(&mut self) -> Result<(), Stop> {
        self.check_start()?;
        let uuid = self.deal.uuid().to_owned();
        if self.deal.checkpoint < Checkpoint::Published {
            self.inner.pass(Hold::Publish).await;
            let published = publish(&self.inner, &self.life, &self.deal).await;
            let publish_cid = published.map_err(|text| match self.check_start() {
                Err(passed) => passed,
                Ok(()) => Stop::manual(format!("recoverable error to publish deal {uuid}: {text}")),
            })?;
            tokio::time::sleep(self.inner.config.timings.publish).await;
            self.deal.publish_cid = Some(publish_cid);
            self.reach(Checkpoint::Published);
        }
        self.inner.pass(Hold::Confirm).await;
        tokio::time::sleep(self.inner.config.timings.confirm).await;
        let failure = self.fault(|kind| match kind {
            DealFaultKind::ConfirmFails(text) => Some(text.clone()),
            _ => None,
        });
        if let Some(text) = failure {
            let cid = self.deal.publish_cid.as_deref().unwrap_or_default();
            return Err(Stop::auto(format!("wait for confirmation of publish message {cid} failed: {text}")));
        }
        let on_chain = self.inner.with(|world| world.chain.get(&self.deal.index).cloned());
        self.deal.chain_deal_id = on_chain.map_or(0, |on_chain| on_chain.deal_id);
        self.reach(Checkpoint::PublishConfirmed);
        Ok(())
    }

    async fn add_piece(&mut self) -> Result<(), Stop> {
        self.inner.pass(Hold::AddPiece).await;
        self.check_start()?;
        let path = self.deal.inbound_file_path.clone();
        let version = self.inner.config.version;
        self.blocking(move || commp::open_for_sector(&path, version)).await?.map_err(Stop::fatal)?;
        tokio::time::sleep(self.inner.config.timings.add_piece).await;
        let failure = self.fault(|kind| match kind {
            DealFaultKind::AddPieceFails(text) => Some(text.clone()),
            _ => None,
        });
        if let Some(text) = failure {
            let piece_cid = self.deal.terms.piece_cid;
            return Err(Stop::auto(format!("packing piece {piece_cid}: AddPiece failed: {text}")));
        }
        self.deal.place = self.inner.with(|world| world.place(self.deal.terms.piece_size.get()));
        self.reach(Checkpoint::AddedPiece);
        Ok(())
    }

    async fn index(&mut self) -> Result<(), Stop> {
        self.inner.pass(Hold::Index).await;
        tokio::time::sleep(self.inner.config.timings.index).await;
        let failure = self.fault(|kind| match kind {
            DealFaultKind::IndexFails(text) => Some(text.clone()),
            _ => None,
        });
        if let Some(text) = failure {
            return Err(Stop::auto(text));
        }
        self.reach(Checkpoint::IndexedAndAnnounced);
        Ok(())
    }

    fn check_start(&self) -> Result<(), Stop> {
        self.inner.with(|world| start_passed(world, &self.deal)).map_or(Ok(()), |text| Err(Stop::fatal(text)))
    }

    fn reach(&mut self, checkpoint: Checkpoint) {
        self.deal.checkpoint = checkpoint;
        self.deal.checkpoint_at = SystemTime::now();
        self.inner.with(|world| world.save(self.life.number, &self.deal));
    }

    fn untag(&self) {
        self.inner.with(|world| world.funds.untag(self.deal.index, self.deal.uuid()));
    }

    fn fault(&self, read: fn(&DealFaultKind) -> Option<String>) -> Option<String> {
        self.inner.with(|world| world.take_fault(self.deal.uuid(), read))
    }

    /// Runs work with files on a thread of its own.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Stop> {
        let work = self.inner.tasks.spawn_blocking(work);
        work.await.map_err(|error| Stop::manual(format!("caught panic in deal execution: {error}")))
    }
}
