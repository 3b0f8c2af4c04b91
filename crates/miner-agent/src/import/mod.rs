//! The import of one deal: read its state, find the CAR, record the intent, call, confirm the new state.
//!
//! ```text
//!  claimed deal ─► state at the provider ─► start epoch ─► CAR ─► recheck ─► intent ─► call ─► state moved?
//!                   │ has the data: done     │ missed       │ not here           (database)      │
//!                   │ failed: failed         │ : missed     │ : waiting                          ├ yes: done
//!                   └ not yet: waiting                                                           └ no: retry
//! ```
//!
//! The call's success proves nothing (lotus-contract §3.2), so the deal's state decides before and after it.
//! It is read again before a call only where one went out earlier: every call is preceded by its intent.

pub mod call_slots;
pub mod decide;
pub mod outcome;
pub mod own_ends;
pub mod unanswered_calls;

use std::sync::Arc;
use std::time::Duration;

use carferry_car::{PaddedPieceSize, PayloadCid, UnpaddedPieceSize};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::{CarDoc, ChainEpoch, OfflineDealDoc, ProposalCid};
use carferry_core::rpc::{BootInstant, RpcError};
use carferry_core::runtime::fail_point;
use carferry_core::store::{
    CallRecord, Claim, ImportOutcome, PayloadCars, RetryUntilAnswered, Settled, Store, StoreError,
};
use carferry_core::telemetry::fields;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::car_files::arrivals::Arrivals;
use crate::car_files::folder_guard::{FolderGuard, Heartbeat, Waited};
use crate::car_files::locate::{FoundCar, Located, Places, Search, Wanted, locate};
use crate::car_files::piece_check::PieceChecker;
use crate::config::Setting;
use crate::import::call_slots::CallSlot;
use crate::import::outcome::{Outcome, answered, node_trouble, settled, trouble, without_view};
use crate::import::own_ends::OwnEnds;
use crate::import::unanswered_calls::CallEnd;
use crate::market::Market;
use crate::market::calendar::Agreed;
use crate::market::chain_head::Head;
use crate::market::import_errors::{AfterError, after_error};
use crate::market::listed_deal::{DataState, ListedDeal, SignedTerms};
use crate::market::node::Remedy;
use crate::miner_state::Standing;

/// What working on a deal of one miner needs.
#[derive(Clone, Debug)]
pub struct ImportContext {
    /// The database.
    pub store: Store,
    /// The miner's market.
    pub market: Arc<Market>,
    /// The head of the chain.
    pub head: Arc<Head>,
    /// Where CARs are.
    pub places: Arc<Places>,
    /// Computes piece commitments, where they are checked.
    pub pieces: Arc<PieceChecker>,
    /// Files that arrived lately.
    pub arrivals: Arc<Arrivals>,
    /// Limits the searches of each folder.
    pub folder_guard: Arc<FolderGuard>,
    /// Whether deals are imported now, for `status` in another process.
    pub standing: Arc<Standing>,
    /// The ends that this process wrote.
    pub own_ends: Arc<OwnEnds>,
    /// Repeats database calls that must not be lost.
    pub retry: RetryUntilAnswered,
    /// Times and limits.
    pub setting: Arc<Setting>,
}

/// What to do with a deal now.
#[derive(Debug)]
pub enum Assessment {
    /// The call goes out with this file.
    Import {
        /// The deal.
        proposal_cid: ProposalCid,
        /// The file.
        car: FoundCar,
        /// PADDED piece size that the provider signed.
        piece_bytes: u64,
    },
    /// Nothing is called.
    Settled(Settled),
    /// The market's list of some seconds ago does not have it, and no agent looked for it before.
    Unlisted {
        /// The deal.
        proposal_cid: ProposalCid,
    },
    /// The market did not answer.
    NodeTrouble(ImportOutcome, Remedy),
}

/// First pause between looks at a deal's state after a call; it grows to [`LOOK_PAUSE_MAX`].
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(250);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Searches in one try, each of which may find another hung folder. Chosen: more folders rarely hang at once.
const SEARCH_TRIES: usize = 3;

/// Why a deal is looked at.
#[derive(Clone, Copy)]
enum Look {
    BeforeCall,
    AfterCall,
}

/// What the looks at a deal found.
enum Seen {
    Moved(Box<ListedDeal>),
    StillWaiting,
    /// The provider does not list it any more.
    Gone,
    /// The market did not answer.
    Unseen(Arc<RpcError>),
}

impl ImportContext {
    /// Decides what to do with a deal. Writes nothing and calls nothing that has an effect.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn assess(&self, deal: &OfflineDealDoc) -> Result<Assessment, StoreError> {
        let is_other_piece = decide::is_other_piece(deal.import.as_ref());
        let settled_now = |outcome| Settled { outcome, view: None, is_answered: false, is_other_piece };
        let settled = |outcome| Ok(Assessment::Settled(settled_now(outcome)));
        // Another user of the database may have written it, and client-agent restores it: no end.
        let unusable = |field: &str, error: &dyn std::error::Error| {
            settled(self.waiting_by_age(deal, format!("`{field}` cannot be used: {error}"), Vec::new()))
        };
        let proposal_cid = match deal.dealcid.as_deref().unwrap_or_default().parse::<ProposalCid>() {
            Ok(proposal_cid) => proposal_cid,
            Err(error) => return unusable("dealcid", &error),
        };
        let listing = match self.market.recent_listing().await {
            Ok(listing) => listing,
            Err(error) => return Ok(Assessment::NodeTrouble(node_trouble(&error), Remedy::of_call(&error))),
        };
        let Some(listed) = listing.deal(proposal_cid.as_str()) else {
            // Its market's records can be lost, while the chain goes on with the deal.
            if deal.is_on_chain() {
                let outcome = ImportOutcome::Done { path: None };
                return Ok(Assessment::Settled(Settled { is_answered: true, ..settled_now(outcome) }));
            }
            // Recorded after that listing, perhaps. One that stays unknown is not worth a listing at each
            // look.
            if deal.import.is_none() {
                return Ok(Assessment::Unlisted { proposal_cid });
            }
            return settled(match self.never_came(deal).await {
                Some(reason) => ImportOutcome::Missed { reason },
                None => self.waiting_by_age(deal, decide::UNLISTED.to_owned(), Vec::new()),
            });
        };
        let with_view = |outcome| {
            let view = Some(listed.view.clone());
            Ok(Assessment::Settled(Settled { outcome, view, is_answered: true, is_other_piece }))
        };
        match &listed.data {
            DataState::Awaited => {}
            DataState::Received => return with_view(ImportOutcome::Done { path: None }),
            // The market's watchers can fail on a deal that the chain goes on with.
            DataState::Failed(_) if deal.is_on_chain() => {
                return with_view(ImportOutcome::Done { path: None });
            }
            DataState::Failed(reason) => return with_view(ImportOutcome::Failed { reason: reason.clone() }),
            DataState::NotYet(reason) => {
                // With this view, even if a poll has recorded a newer one: the next poll then makes the deal
                // due.
                let view = Some(listed.view.clone());
                let outcome = self.waiting(reason.clone());
                return Ok(Assessment::Settled(Settled {
                    outcome,
                    view,
                    is_answered: false,
                    is_other_piece,
                }));
            }
        }
        if deal.import.as_ref().is_none_or(|import| import.pendingcall.is_none())
            && let Some(reason) = self.missed_start(listed).await
        {
            return with_view(ImportOutcome::Missed { reason });
        }
        let payload_cid = match deal.filecid.as_deref().unwrap_or_default().parse::<PayloadCid>() {
            Ok(payload_cid) => payload_cid,
            Err(error) => return unusable("filecid", &error),
        };
        let PayloadCars { cars, unreadable } = self.store.payload_cars(&payload_cid.to_string()).await?;
        let wanted = wanted(payload_cid, deal, &listed.terms);
        // The market refused a file of this deal as another piece: no other file is copied on trust.
        let verify = self.setting.verify_piece || is_other_piece;
        match self.search(wanted, cars, verify).await {
            Ok(Located::Found(car)) => {
                let piece_bytes = listed.terms.piece_bytes();
                Ok(Assessment::Import { proposal_cid, car, piece_bytes })
            }
            Ok(Located::Missing { reason, names }) => {
                let reason = match unreadable.first() {
                    Some(problem) => {
                        format!("{reason}; {} documents passed over: {problem}", unreadable.len())
                    }
                    None => reason,
                };
                settled(self.waiting_by_age(deal, reason, names))
            }
            Ok(Located::Wrong { reason, names }) => settled(self.wrong_file(deal, reason, names)),
            // A disk's trouble, not the node's: other deals go on.
            Err(reason) => settled(self.waiting_by_age(deal, reason, Vec::new())),
        }
    }

    /// Looks for the CAR on a thread that may block. A folder that does not answer holds the first search
    /// that goes in; the next one passes it over.
    async fn search(&self, wanted: Wanted, cars: Vec<CarDoc>, verify: bool) -> Result<Located, String> {
        let stall_timeout = self.folder_guard.stall_timeout();
        for _ in 0..SEARCH_TRIES {
            let heartbeat = Arc::<Heartbeat>::default();
            let (places, folder_guard, pieces) =
                (Arc::clone(&self.places), Arc::clone(&self.folder_guard), Arc::clone(&self.pieces));
            let (beating, wanted, cars) = (Arc::clone(&heartbeat), wanted.clone(), cars.clone());
            let search = tokio::task::spawn_blocking(move || {
                let checker = verify.then_some(pieces.as_ref());
                let search =
                    Search { places: &places, folder_guard: &folder_guard, heartbeat: &beating, checker };
                locate(&search, &wanted, &cars)
            });
            match heartbeat.watch(search, stall_timeout).await {
                Waited::Ended(Ok(located)) => return Ok(located),
                Waited::Ended(Err(error)) => return Err(format!("looking for the CAR failed: {error}")),
                Waited::Stalled => warn!(
                    seconds = stall_timeout.as_secs(),
                    "looking for a CAR stands still: does a file system of `roots` or `paths` hang?"
                ),
            }
        }
        Err("looking for the CAR stood still; does a file system of `roots` or `paths` hang?".to_owned())
    }

    /// Brings a claimed deal forward as far as it goes. `lost` is cancelled when the lease is lost; the slot
    /// is freed when no call is running, or will be.
    pub async fn reconcile(&self, claim: &Claim, lost: &CancellationToken, mut slot: CallSlot) -> Outcome {
        fail_point("import.claimed");
        let assessment = loop {
            match self.assess(&claim.deal).await {
                // All of it again afterwards: the list and the head of the chain were read before.
                Err(error) if self.retry.is_away(&error).await => self.retry.until_back().await,
                assessment => break assessment,
            }
        };
        let (proposal_cid, car, piece_bytes) = match assessment {
            Ok(Assessment::Import { proposal_cid, car, piece_bytes }) => (proposal_cid, car, piece_bytes),
            Ok(Assessment::Settled(settled)) => return Outcome::Settled(settled),
            Ok(Assessment::Unlisted { proposal_cid }) => {
                // Many new deals share one list, and keep no other from being imported meanwhile.
                drop(slot);
                return self.look_again(&claim.deal, &proposal_cid).await;
            }
            Ok(Assessment::NodeTrouble(outcome, remedy)) => return trouble(outcome, remedy, false),
            // The database's trouble, and no failure of the deal.
            Err(error) => return settled(self.waiting(ErrorChain(&error).to_string())),
        };
        if let Some(outcome) = self.recheck_before_call(claim, &proposal_cid, piece_bytes).await {
            return outcome;
        }
        let later = |reason: &str| ImportOutcome::Waiting {
            reason: format!("it could be imported, and waits for {reason}"),
            after: Duration::ZERO,
            files: Vec::new(),
        };
        let (imports, node) = ("the imports before it", "the market node to answer again");
        if !slot.may_record_intent().await {
            return settled(later(imports));
        }
        if !self.market.is_identified() {
            // Another call has just failed: this one waits until the node answers.
            return settled(later(node));
        }
        if lost.is_cancelled() {
            return Outcome::LeaseLost;
        }
        fail_point("import.assessed");
        let mut send_before = match self.record_call_intent(claim, &car).await {
            Ok(send_before) => send_before,
            Err(outcome) => return *outcome,
        };
        if !slot.may_call().await {
            return answered(later(imports));
        }
        if !self.market.is_identified() {
            return answered(later(node));
        }
        if send_before.has_passed() {
            send_before = match self.record_call_intent(claim, &car).await {
                Ok(send_before) => send_before,
                Err(outcome) => return *outcome,
            };
        }
        fail_point("import.noted");
        let call = self.call(&proposal_cid, &car, send_before);
        let ended = self.watched(&proposal_cid, piece_bytes, call).await;
        fail_point("import.called");
        drop(slot);
        match ended {
            CallEnd::Moved(listed) => self.moved(&listed, Some(&car)),
            CallEnd::Answered(answer) => self.confirm(claim, &proposal_cid, &car, answer).await,
        }
    }

    /// Records the intent to call, and returns until when the call may be sent; else the outcome without a
    /// call.
    async fn record_call_intent(&self, claim: &Claim, car: &FoundCar) -> Result<BootInstant, Box<Outcome>> {
        let lease = self.setting.lease;
        loop {
            // Recording the intent lengthens the lease, by the database's clock: from now at the earliest.
            let send_before = BootInstant::now().plus(lease / 2);
            let record = || self.store.record_import_call(claim, &car.node_path, lease);
            match self.retry.call("note import call", record).await {
                Ok(CallRecord::Written) => {}
                Ok(CallRecord::GivenUp) => {
                    let reason = "the client has given the deal up".to_owned();
                    return Err(Box::new(answered(self.waiting(reason))));
                }
                Ok(CallRecord::LeaseLost) => return Err(Box::new(Outcome::LeaseLost)),
                Err(error) => return Err(Box::new(Outcome::Unrecorded(error))),
            }
            if !send_before.has_passed() {
                return Ok(send_before);
            }
        }
    }

    /// Reads the state again before the call, where one went out earlier; `None` if the deal still waits for
    /// the data. No other deal waits for this one's permit meanwhile: a list takes a while.
    async fn recheck_before_call(
        &self,
        claim: &Claim,
        proposal_cid: &ProposalCid,
        piece_bytes: u64,
    ) -> Option<Outcome> {
        let import = claim.deal.import.as_ref();
        if import.is_none_or(|import| import.calledtime.is_none()) && self.market.is_recent_for(piece_bytes) {
            // No call went out for this deal, of no agent: each notes its own before. What was just assessed
            // holds, but where a person may have imported it since, and finding that out costs
            // less than copying it once more.
            return None;
        }
        if let Some((since, remaining)) =
            unanswered_calls::unanswered_call(&claim.deal, piece_bytes, &self.setting)
        {
            let reason = format!("an import call of {since} may still be under way");
            info!(reason, "looking again before another one");
            let after = remaining.min(self.setting.confirm_timeout).max(LOOK_PAUSE_MIN);
            return Some(settled(ImportOutcome::Waiting { reason, after, files: Vec::new() }));
        }
        let seen = self.look_until_moved(proposal_cid, Look::BeforeCall, Duration::ZERO).await;
        match seen {
            Seen::StillWaiting => None,
            Seen::Moved(listed) => Some(self.moved(&listed, None)),
            Seen::Gone => Some(settled(self.waiting("the provider lists the deal no more".to_owned()))),
            Seen::Unseen(error) => Some(trouble(node_trouble(&error), Remedy::of_call(&error), false)),
        }
    }

    /// Looks for a deal that no agent has looked at, in a list that is asked for now.
    async fn look_again(&self, deal: &OfflineDealDoc, proposal_cid: &ProposalCid) -> Outcome {
        match self.market.fresh_listing().await {
            Ok(listing) if listing.deal(proposal_cid.as_str()).is_some() => {
                let reason = "the provider has just listed the deal".to_owned();
                settled(ImportOutcome::Waiting { reason, after: Duration::ZERO, files: Vec::new() })
            }
            Ok(_) => {
                let reason = "the provider does not know the proposal yet".to_owned();
                settled(self.waiting_by_age(deal, reason, Vec::new()))
            }
            Err(error) => trouble(node_trouble(&error), Remedy::of_call(&error), false),
        }
    }

    /// Why a deal that the provider does not list is missed; `None` if it may still be listed.
    async fn never_came(&self, deal: &OfflineDealDoc) -> Option<String> {
        let start = ChainEpoch::new(deal.startepoch?);
        let head = self.head.epoch(&self.market, Agreed { at: deal.createdtime, start }).await?;
        (head > start).then(|| {
            format!(
                "start epoch {start} has passed (head {head}), and the provider never listed the proposal"
            )
        })
    }

    async fn call(
        &self,
        proposal_cid: &ProposalCid,
        car: &FoundCar,
        send_before: BootInstant,
    ) -> Result<(), RpcError> {
        let started = Instant::now();
        info!({ fields::PATH } = %car.node_path, { fields::PAYLOAD_SIZE } = car.size.get(), "importing");
        let answer = self.market.import(proposal_cid, &car.node_path, send_before).await;
        debug!(
            { fields::ELAPSED_MS } = fields::millis(started.elapsed()),
            is_ok = answer.is_ok(),
            "import call answered"
        );
        answer
    }

    /// The outcome of a call, by the deal's state.
    async fn confirm(
        &self,
        claim: &Claim,
        proposal_cid: &ProposalCid,
        car: &FoundCar,
        answer: Result<(), RpcError>,
    ) -> Outcome {
        let (without_effect, unclear) = match answer {
            Ok(()) => {
                ("the import call answered success, but the deal still waits for data".to_owned(), None)
            }
            Err(error) => match after_error(&error) {
                AfterError::LookAtState(reason) => {
                    warn!(reason, "what became of the import call is unknown, looking at the deal");
                    (format!("the deal still waits for data after: {reason}"), Some(reason))
                }
                AfterError::Retry(reason) => return answered(self.retrying(&claim.deal, reason)),
                AfterError::WrongFile(words) => {
                    let reason = decide::not_the_piece(&car.node_path, &words);
                    let name = car.local_path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
                    let outcome = self.wrong_file(&claim.deal, reason, name.into_iter().collect());
                    return Outcome::Settled(Settled { is_other_piece: true, ..without_view(outcome, true) });
                }
                AfterError::NotYet(reason) => return answered(self.waiting(reason)),
                AfterError::NodeTrouble(reason, remedy) => {
                    return trouble(self.waiting(reason), remedy, true);
                }
            },
        };
        let timeout = self.setting.confirm_timeout;
        match self.look_until_moved(proposal_cid, Look::AfterCall, timeout).await {
            Seen::Moved(listed) => self.moved(&listed, Some(car)),
            Seen::StillWaiting if unclear.is_none() => answered(self.retrying(&claim.deal, without_effect)),
            Seen::StillWaiting => settled(self.retrying(&claim.deal, without_effect)),
            Seen::Gone => settled(self.waiting("the provider lists the deal no more".to_owned())),
            Seen::Unseen(error) => {
                let reason =
                    unclear.unwrap_or_else(|| "whether the import took effect is unknown".to_owned());
                let reason = format!("{reason}; and the deal's state cannot be read: {}", ErrorChain(&error));
                trouble(self.waiting(reason), Remedy::of_call(&error), false)
            }
        }
    }

    /// The deal has left "waiting for data".
    fn moved(&self, listed: &ListedDeal, car: Option<&FoundCar>) -> Outcome {
        let outcome = match &listed.data {
            DataState::Received => ImportOutcome::Done { path: car.map(|car| car.node_path.clone()) },
            DataState::Failed(reason) => ImportOutcome::Failed { reason: reason.clone() },
            DataState::NotYet(reason) => self.waiting(reason.clone()),
            DataState::Awaited => self.waiting("the deal waits for data again".to_owned()),
        };
        let view = Some(listed.view.clone());
        Outcome::Settled(Settled { outcome, view, is_answered: true, is_other_piece: false })
    }

    /// Looks at a deal with growing pauses until it does not wait for data any more, at least once, at most
    /// for `timeout`.
    async fn look_until_moved(&self, proposal_cid: &ProposalCid, kind: Look, timeout: Duration) -> Seen {
        let deadline = Instant::now() + timeout;
        let mut pause = LOOK_PAUSE_MIN;
        loop {
            let listing = match kind {
                Look::BeforeCall => self.market.fresh_listing().await,
                Look::AfterCall => self.market.confirming_listing().await,
            };
            let seen = match listing {
                Ok(listing) => match listing.deal(proposal_cid.as_str()) {
                    None => Seen::Gone,
                    Some(deal) if deal.awaits_data() => Seen::StillWaiting,
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

    async fn missed_start(&self, listed: &ListedDeal) -> Option<String> {
        let (at, start) = (listed.received, listed.terms.start);
        let head = self.head.epoch(&self.market, Agreed { at, start }).await?;
        decide::missed_start(start, head, self.setting.start_epoch_margin)
    }
}

/// What the provider signed decides; the document fills in.
fn wanted(payload_cid: PayloadCid, deal: &OfflineDealDoc, signed: &SignedTerms) -> Wanted {
    let recorded_size = || UnpaddedPieceSize::new(u64::try_from(deal.dealsizebytes?).ok()?).ok();
    Wanted {
        payload_cid,
        piece_cid: signed.piece_cid.or_else(|| deal.piececid.as_deref()?.parse().ok()),
        piece_size: signed.piece_size.map(PaddedPieceSize::unpadded).or_else(recorded_size),
    }
}
