//! One deal: read, look, import, see that it moved.
//!
//! ```text
//!  claimed deal ─► state at the provider ─► start epoch ─► CAR ─► state anew ─► note ─► call ─► state moved?
//!                   │ has the data: done     │ missed       │ not here           (database)      │
//!                   │ failed: failed         │ : failed     │ : waiting                          ├ yes: done
//!                   └ not yet: waiting                                                           └ no: retry
//! ```
//!
//! The call's success proves nothing (lotus-contract §3.2), so the state decides before and after it.

use std::{sync::Arc, time::Duration};

use carferry_car::{PaddedPieceSize, PayloadCid, PieceCid, UnpaddedPieceSize};
use carferry_core::{
    error_chain::ErrorChain,
    lotus::{LotusError, wire::MinerDeal},
    model::{ChainEpoch, DealId, DealPhase, DealStatus, OfflineDealDoc, ProposalCid},
    store::{Claim, ImportOutcome, Store, StoreError},
    telemetry::fields,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    config::Setting,
    head::Head,
    locate::{FoundCar, Located, Places, Wanted, locate},
    market::Market,
    patience::patiently,
    piece_check::PieceChecker,
    policy::{self, AfterError, Before, RetryPauses},
};

/// What working on a deal of one miner needs.
#[derive(Clone, Debug)]
pub struct Importer {
    /// The database.
    pub store: Store,
    /// The miner's market.
    pub market: Arc<Market>,
    /// The head of the chain.
    pub head: Arc<Head>,
    /// Where CARs are.
    pub places: Arc<Places>,
    /// Piece commitments, where they are to be checked.
    pub pieces: Arc<PieceChecker>,
    /// Times and limits.
    pub setting: Arc<Setting>,
}

/// What one try came to.
#[derive(Debug)]
pub enum Verdict {
    /// To be written into the deal.
    Outcome(ImportOutcome),
    /// The node, not the deal, is the trouble; the outcome says so, and no other deal should be tried now.
    NodeTrouble(ImportOutcome),
    /// The lease was lost: whoever has it writes the outcome.
    LeaseLost,
}

/// What would be done with a deal now.
#[derive(Debug)]
pub enum Assessment {
    /// The call goes out with this file.
    Import {
        /// The deal.
        proposal_cid: ProposalCid,
        /// The file.
        car: FoundCar,
    },
    /// Nothing is called.
    Settled(ImportOutcome),
    /// The node does not tell.
    NodeTrouble(ImportOutcome),
}

/// First pause between looks at a deal's state after a call; it grows to [`LOOK_PAUSE_MAX`].
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(250);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a deal stands after a while of looking.
enum Seen {
    Moved(Box<MinerDeal>),
    StillWaiting,
    /// The provider does not list it any more.
    Gone,
    /// Nobody could be asked.
    Unseen(LotusError),
}

impl Importer {
    /// Finds out what is to be done with a deal. Writes nothing and calls nothing that has an effect.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn assess(&self, deal: &OfflineDealDoc) -> Result<Assessment, StoreError> {
        let settled = |outcome| Ok(Assessment::Settled(outcome));
        let proposal_cid = match deal.dealcid.as_deref().unwrap_or_default().parse::<ProposalCid>() {
            Ok(proposal_cid) => proposal_cid,
            Err(error) => return settled(failed(format!("`dealcid` cannot be used: {error}"))),
        };
        let mut listed = self.market.recent_listing().await;
        // Recorded after that listing, perhaps. One that stays unknown is not worth a listing at each look.
        let is_first_look = deal.import.is_none();
        if is_first_look && listed.as_ref().is_ok_and(|listing| listing.deal(proposal_cid.as_str()).is_none())
        {
            listed = self.market.fresh_listing().await;
        }
        let listing = match listed {
            Ok(listing) => listing,
            Err(error) => return Ok(Assessment::NodeTrouble(self.node_trouble(&error))),
        };
        let seen = listing.deal(proposal_cid.as_str());
        let at_provider = match (policy::before_import(seen), seen) {
            (Before::Import, Some(at_provider)) => at_provider,
            (Before::HasData, _) => return settled(ImportOutcome::Done { path: None }),
            (Before::Failed(reason), _) => return settled(failed(reason)),
            (Before::NotYet(reason), Some(_)) => return settled(self.waiting(reason)),
            (Before::NotYet(reason), None) => return settled(self.waiting_by_age(deal, reason)),
            (Before::Import, None) => {
                return settled(self.waiting("the provider lists no such deal".to_owned()));
            }
        };
        if let Some(reason) = self.missed_start(at_provider).await {
            return settled(failed(reason));
        }
        let payload_cid = match deal.filecid.as_deref().unwrap_or_default().parse::<PayloadCid>() {
            Ok(payload_cid) => payload_cid,
            Err(error) => return settled(failed(format!("`filecid` cannot be used: {error}"))),
        };
        let cars = match self.store.cars_of_payload(&payload_cid.to_string()).await {
            Ok(cars) => cars,
            Err(error @ StoreError::BadDocument { .. }) => {
                return settled(self.retrying(deal, ErrorChain(&error).to_string()));
            }
            Err(error) => return Err(error),
        };
        let wanted = wanted(payload_cid, deal, at_provider);
        let (places, pieces) = (Arc::clone(&self.places), Arc::clone(&self.pieces));
        let verify = self.setting.verify_piece;
        let searched = tokio::task::spawn_blocking(move || {
            locate(&places, &wanted, &cars, verify.then_some(pieces.as_ref()))
        });
        match searched.await {
            Ok(Located::Found(car)) => Ok(Assessment::Import { proposal_cid, car }),
            Ok(Located::Missing { reason }) => settled(self.waiting(reason)),
            Ok(Located::Wrong { reason }) => settled(self.retrying(deal, reason)),
            Err(error) => settled(self.retrying(deal, format!("looking for the CAR failed: {error}"))),
        }
    }

    /// Brings a claimed deal forward as far as it goes. `lost` is cancelled when the lease is.
    pub async fn reconcile(&self, claim: &Claim, lost: &CancellationToken) -> Verdict {
        let assessment = patiently("assess", || self.assess(&claim.deal)).await;
        let (proposal_cid, car) = match assessment {
            Ok(Assessment::Import { proposal_cid, car }) => (proposal_cid, car),
            Ok(Assessment::Settled(outcome)) => {
                self.note_view(claim.deal.dealcid.as_deref(), &outcome).await;
                return Verdict::Outcome(outcome);
            }
            Ok(Assessment::NodeTrouble(outcome)) => return Verdict::NodeTrouble(outcome),
            Err(error) => {
                return Verdict::Outcome(self.retrying(&claim.deal, ErrorChain(&error).to_string()));
            }
        };
        if let Some(verdict) = self.last_look(claim, &proposal_cid).await {
            return verdict;
        }
        if lost.is_cancelled() {
            return Verdict::LeaseLost;
        }
        let noted =
            patiently("note import call", || self.store.note_import_call(claim, &car.node_path)).await;
        if !matches!(noted, Ok(true)) {
            return Verdict::LeaseLost;
        }
        self.call(claim, &proposal_cid, &car).await
    }

    /// The state right before the call; `None`: it still waits for the data.
    async fn last_look(&self, claim: &Claim, proposal_cid: &ProposalCid) -> Option<Verdict> {
        // A lease that was not given back after its call went out: that call may still be under way.
        let left_behind =
            claim.n() > 1 && claim.deal.import.as_ref().is_some_and(|import| import.calledtime.is_some());
        let wait = if left_behind { self.setting.confirm_timeout } else { Duration::ZERO };
        if left_behind {
            info!(
                path =
                    claim.deal.import.as_ref().and_then(|import| import.path.as_deref()).unwrap_or_default(),
                "an import call of an agent that ended may be under way, looking first"
            );
        }
        match self.look_until_moved(proposal_cid, wait).await {
            Seen::StillWaiting => None,
            Seen::Moved(at_provider) => Some(self.moved(&at_provider, None).await),
            Seen::Gone => {
                Some(Verdict::Outcome(self.waiting("the provider lists the deal no more".to_owned())))
            }
            Seen::Unseen(error) => Some(Verdict::NodeTrouble(self.node_trouble(&error))),
        }
    }

    async fn call(&self, claim: &Claim, proposal_cid: &ProposalCid, car: &FoundCar) -> Verdict {
        let started = Instant::now();
        info!({ fields::PATH } = %car.node_path, { fields::PAYLOAD_SIZE } = car.size.get(), "importing");
        let answer = self.market.import(proposal_cid, &car.node_path).await;
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (trouble, unclear) = match answer {
            Ok(()) => {
                debug!({ fields::ELAPSED_MS } = elapsed_ms, "import call answered");
                ("the import call answered success, but the deal still waits for data".to_owned(), None)
            }
            Err(error) => match policy::after_error(&error, &car.node_path) {
                AfterError::LookAtState(reason) => {
                    warn!(
                        reason,
                        { fields::ELAPSED_MS } = elapsed_ms,
                        "what became of the import call is unknown, looking at the deal"
                    );
                    (format!("the deal still waits for data after: {reason}"), Some(reason))
                }
                AfterError::Retry(reason) => return Verdict::Outcome(self.retrying(&claim.deal, reason)),
                AfterError::NotYet(reason) => return Verdict::Outcome(self.waiting(reason)),
                AfterError::NodeTrouble(reason) => return Verdict::NodeTrouble(self.waiting(reason)),
            },
        };
        match self.look_until_moved(proposal_cid, self.setting.confirm_timeout).await {
            Seen::Moved(at_provider) => self.moved(&at_provider, Some(car)).await,
            Seen::StillWaiting => Verdict::Outcome(self.retrying(&claim.deal, trouble)),
            Seen::Gone => Verdict::Outcome(self.waiting("the provider lists the deal no more".to_owned())),
            Seen::Unseen(error) => {
                let reason =
                    unclear.unwrap_or_else(|| "whether the import took effect is unknown".to_owned());
                let error = ErrorChain(&error);
                Verdict::NodeTrouble(
                    self.waiting(format!("{reason}; and the deal's state cannot be read: {error}")),
                )
            }
        }
    }

    /// The deal has left "waiting for data".
    async fn moved(&self, at_provider: &MinerDeal, car: Option<&FoundCar>) -> Verdict {
        self.record_view(at_provider).await;
        Verdict::Outcome(match policy::before_import(Some(at_provider)) {
            Before::HasData => ImportOutcome::Done { path: car.map(|car| car.node_path.clone()) },
            Before::Failed(reason) => failed(reason),
            Before::NotYet(reason) => self.waiting(reason),
            Before::Import => self.waiting("the deal waits for data again".to_owned()),
        })
    }

    /// Looks at a deal with growing pauses until it does not wait for data any more, at least once, at most
    /// for `patience`.
    async fn look_until_moved(&self, proposal_cid: &ProposalCid, patience: Duration) -> Seen {
        let deadline = Instant::now() + patience;
        let mut pause = LOOK_PAUSE_MIN;
        loop {
            let seen = match self.market.fresh_listing().await {
                Ok(listing) => match listing.deal(proposal_cid.as_str()) {
                    None => Seen::Gone,
                    Some(deal) if DealStatus::from_lotus(deal.state).phase() == DealPhase::AwaitsData => {
                        Seen::StillWaiting
                    }
                    Some(deal) => return Seen::Moved(Box::new(deal.clone())),
                },
                Err(error) => Seen::Unseen(error),
            };
            if Instant::now() + pause > deadline {
                return seen;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_PAUSE_MAX);
        }
    }

    async fn missed_start(&self, at_provider: &MinerDeal) -> Option<String> {
        let head = self.head.epoch(self.market.miner()).await?;
        let start = ChainEpoch::new(at_provider.proposal.start_epoch);
        policy::missed_start(start, head, self.setting.start_epoch_margin)
    }

    /// What the provider said of a deal that is settled without a call; the last listing still has it.
    async fn note_view(&self, proposal_cid: Option<&str>, outcome: &ImportOutcome) {
        if matches!(outcome, ImportOutcome::Waiting { .. } | ImportOutcome::Retrying { .. }) {
            return;
        }
        let Some(proposal_cid) = proposal_cid else { return };
        let Ok(listing) = self.market.recent_listing().await else { return };
        if let Some(deal) = listing.deal(proposal_cid) {
            self.record_view(deal).await;
        }
    }

    /// Records what the provider says. A failure is only logged: the next poll records it.
    async fn record_view(&self, deal: &MinerDeal) {
        if let Err(error) = record_view(&self.store, deal).await {
            warn!(error = %ErrorChain(&error), "the provider's view of a deal could not be recorded");
        }
    }

    fn pauses(&self) -> RetryPauses {
        RetryPauses { min: self.setting.retry_min, max: self.setting.retry_max }
    }

    fn waiting(&self, reason: String) -> ImportOutcome {
        ImportOutcome::Waiting { reason, after: jittered(self.setting.wait_interval) }
    }

    /// For what may never come: looked for less often with time.
    fn waiting_by_age(&self, deal: &OfflineDealDoc, reason: String) -> ImportOutcome {
        let until = deal.claim.as_ref().and_then(|claim| claim.until);
        let age = until.zip(deal.createdtime).map_or(Duration::ZERO, |(until, created)| {
            policy::age_at_claim(created.timestamp_millis(), until.timestamp_millis(), self.setting.lease)
        });
        let after = self.pauses().by_age(age, self.setting.wait_interval);
        ImportOutcome::Waiting { reason, after: jittered(after) }
    }

    fn node_trouble(&self, error: &LotusError) -> ImportOutcome {
        let reason = policy::with_hint(ErrorChain(error).to_string(), error.hint());
        self.waiting(format!("the market node cannot be worked with: {reason}"))
    }

    fn retrying(&self, deal: &OfflineDealDoc, reason: String) -> ImportOutcome {
        let failures = deal.import.as_ref().and_then(|import| import.attempts).unwrap_or(0);
        ImportOutcome::Retrying { reason, after: self.pauses().after(failures, &mut fastrand::Rng::new()) }
    }
}

/// Records what a provider says of a deal.
pub async fn record_view(store: &Store, deal: &MinerDeal) -> Result<(), StoreError> {
    let status = DealStatus::from_lotus(deal.state);
    store
        .record_provider_view(&deal.proposal_cid.cid, status, &deal.message, DealId::from_lotus(deal.deal_id))
        .await
}

fn failed(reason: String) -> ImportOutcome {
    ImportOutcome::Failed { reason }
}

/// A tenth more or less, so that deals that wait for the same thing do not come back in one moment.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.9 + fastrand::f64() / 5.0)
}

/// What the provider signed decides; the document fills in.
fn wanted(payload_cid: PayloadCid, deal: &OfflineDealDoc, at_provider: &MinerDeal) -> Wanted {
    let signed = &at_provider.proposal;
    let signed_piece = signed.piece_cid.as_ref().and_then(|link| link.cid.parse::<PieceCid>().ok());
    let signed_size = PaddedPieceSize::new(signed.piece_size).ok().map(PaddedPieceSize::unpadded);
    let recorded_size = || UnpaddedPieceSize::new(u64::try_from(deal.dealsizebytes?).ok()?).ok();
    Wanted {
        payload_cid,
        piece_cid: signed_piece.or_else(|| deal.piececid.as_deref()?.parse().ok()),
        piece_size: signed_size.or_else(recorded_size),
    }
}
