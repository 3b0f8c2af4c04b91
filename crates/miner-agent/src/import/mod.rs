//! The import of one deal: read its state, find the CAR, record the intent, call, confirm the new state.
//!
//! ```text
//!  claimed deal ─► state at the provider ─► start epoch ─► CAR ─► recheck ─► intent ─► call ─► handed
//!                   │ has the data: done     │ missed       │ not here           (database)      │
//!                   │ failed: failed         │ : missed     │ : waiting                     `confirm`
//!                   │ reads a file: handed                                       ├ has the data: done
//!                   └ not yet: waiting                                           └ refused: tried again
//! ```
//!
//! The call's success proves nothing (lotus-contract §3.2), so the deal's state decides before and after it.
//! It is read again before a call only where one went out earlier: every call is preceded by its intent.

pub mod adopt;
pub mod call_slots;
pub mod confirm;
pub mod decide;
mod hand_over;
pub mod limits;
pub mod outcome;
pub mod own_ends;
pub mod unanswered_calls;

use std::sync::Arc;
use std::time::Duration;

use carferry_car::{PaddedPieceSize, PayloadCid, UnpaddedPieceSize};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::{CarDoc, ChainEpoch, OfflineDealDoc, ProposalCid};
use carferry_core::rpc::RpcError;
use carferry_core::runtime::fail_point;
use carferry_core::store::{
    Claim, ImportOutcome, PayloadCars, RetryUntilAnswered, Settled, Store, StoreError,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::car_files::arrivals::Arrivals;
use crate::car_files::folder_guard::{FolderGuard, Heartbeat, Waited};
use crate::car_files::locate::{FoundCar, Located, Places, Search, Wanted, locate};
use crate::car_files::piece_check::PieceChecker;
use crate::config::Setting;
use crate::import::call_slots::CallSlot;
use crate::import::outcome::{Outcome, answered, node_trouble, settled, trouble};
use crate::import::own_ends::OwnEnds;
use crate::import::unanswered_calls::CallEnd;
use crate::market::calendar::Agreed;
use crate::market::chain_head::Head;
use crate::market::listed_deal::{Blame, DataState, ListedDeal, SignedTerms};
use crate::market::node::Remedy;
use crate::market::{Freshness, HandOver, Market};
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
    /// Who waits for the market's word after a call.
    pub confirm: Confirm,
    /// Notified when a deal was handed over.
    pub handed: Arc<Notify>,
    /// Repeats database calls that must not be lost.
    pub retry: RetryUntilAnswered,
    /// Times and limits.
    pub setting: Arc<Setting>,
}

/// Who waits for the market's word after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// The deal is recorded as handed over, and [`confirm`] looks at it with the others.
    #[default]
    Later,
    /// The try itself, until it knows.
    InTheTry,
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

/// Searches in one try, each of which may find another hung folder. Chosen: more folders rarely hang at once.
const SEARCH_TRIES: usize = 3;

/// How far a try has come.
enum Tried {
    /// It is over.
    Over(Outcome),
    /// No look has found the deal yet.
    Unlisted(ProposalCid),
    /// The call has gone out.
    Called { proposal_cid: ProposalCid, car: FoundCar, piece_bytes: u64, answer: Result<HandOver, RpcError> },
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
        let listing = match self.market.listing(&[proposal_cid.as_str()], Freshness::Recent).await {
            Ok(listing) => listing,
            Err(error) => return Ok(Assessment::NodeTrouble(node_trouble(&error), Remedy::of_call(&error))),
        };
        if listing.is_unread(proposal_cid.as_str()) {
            return settled(self.waiting_by_age(deal, decide::UNREAD.to_owned(), Vec::new()));
        }
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
        // Whether the market refused a file of this deal as another piece.
        let is_refused = matches!(&listed.data, DataState::Refused { blame: Blame::File, .. });
        match &listed.data {
            DataState::Awaited | DataState::Refused { .. } => {}
            DataState::Taking => {
                let (piece_bytes, after) = (listed.terms.piece_bytes(), confirm::LOOK_PAUSE_MIN);
                return with_view(ImportOutcome::Handed { path: None, piece_bytes, after });
            }
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
        // The label of another client's deal may be anything, and so may be the root that it names.
        let is_adopted = deal.adopted == Some(true);
        let payload_cid = match deal.filecid.as_deref().unwrap_or_default().parse::<PayloadCid>() {
            _ if is_adopted => None,
            Ok(payload_cid) => Some(payload_cid),
            Err(error) => return unusable("filecid", &error),
        };
        let wanted = wanted(payload_cid, deal, &listed.terms);
        let PayloadCars { cars, unreadable } = match (&wanted.payload_cid, &wanted.piece_cid) {
            (Some(payload_cid), _) => self.store.payload_cars(&payload_cid.to_string()).await?,
            (None, Some(piece_cid)) => self.store.piece_cars(&piece_cid.to_string()).await?,
            (None, None) => {
                let reason = "neither payload CID nor piece CID is known".to_owned();
                return settled(self.waiting_by_age(deal, reason, Vec::new()));
            }
        };
        // After a file that was another piece, no other file is handed over on trust.
        let verify = self.setting.verify_piece || is_adopted || is_other_piece || is_refused;
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
    /// is given back when no call is running, or will be. At a market that reads files later it is kept until
    /// the hand-over is recorded, because the deal counts as an import from then on.
    pub async fn reconcile(
        &self,
        claim: &Claim,
        lost: &CancellationToken,
        mut slot: CallSlot,
    ) -> (Outcome, Option<CallSlot>) {
        let outcome = self.try_to_import(claim, lost, &mut slot).await;
        match outcome {
            Tried::Over(outcome) => (outcome, Some(slot)),
            Tried::Unlisted(proposal_cid) => {
                // Many new deals share one list, and keep no other from being imported meanwhile.
                drop(slot);
                (self.look_again(&claim.deal, &proposal_cid).await, None)
            }
            Tried::Called { proposal_cid, car, piece_bytes, answer } => {
                let reads_later = matches!(answer, Ok(HandOver::Scheduled));
                let slot = reads_later.then_some(slot);
                (self.confirm(claim, &proposal_cid, &car, piece_bytes, answer).await, slot)
            }
        }
    }

    async fn try_to_import(&self, claim: &Claim, lost: &CancellationToken, slot: &mut CallSlot) -> Tried {
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
            Ok(Assessment::Settled(settled)) => return Tried::Over(Outcome::Settled(settled)),
            Ok(Assessment::Unlisted { proposal_cid }) => return Tried::Unlisted(proposal_cid),
            Ok(Assessment::NodeTrouble(outcome, remedy)) => {
                return Tried::Over(trouble(outcome, remedy, false));
            }
            // The database's trouble, and no failure of the deal.
            Err(error) => return Tried::Over(settled(self.waiting(ErrorChain(&error).to_string()))),
        };
        if let Some(outcome) = self.recheck_before_call(claim, &proposal_cid, piece_bytes).await {
            return Tried::Over(outcome);
        }
        let later = |reason: &str| ImportOutcome::Waiting {
            reason: format!("it could be imported, and waits for {reason}"),
            after: Duration::ZERO,
            files: Vec::new(),
        };
        let (imports, node) = ("the imports before it", "the market node to answer again");
        if !slot.may_record_intent().await {
            return Tried::Over(settled(later(imports)));
        }
        if !self.market.is_identified() {
            // Another call has just failed: this one waits until the node answers.
            return Tried::Over(settled(later(node)));
        }
        if let Some(reason) = self.market.why_no_file_is_given() {
            return Tried::Over(trouble(self.waiting(reason), Remedy::Operator, false));
        }
        if lost.is_cancelled() {
            return Tried::Over(Outcome::LeaseLost);
        }
        fail_point("import.assessed");
        let mut send_before = match self.record_call_intent(claim, &car).await {
            Ok(send_before) => send_before,
            Err(outcome) => return Tried::Over(*outcome),
        };
        if !slot.may_call().await {
            return Tried::Over(answered(later(imports)));
        }
        if !self.market.is_identified() {
            return Tried::Over(answered(later(node)));
        }
        if send_before.has_passed() {
            send_before = match self.record_call_intent(claim, &car).await {
                Ok(send_before) => send_before,
                Err(outcome) => return Tried::Over(*outcome),
            };
        }
        fail_point("import.noted");
        let call = self.call(&proposal_cid, &car, send_before);
        let ended = self.watched(&proposal_cid, piece_bytes, call).await;
        fail_point("import.called");
        match ended {
            CallEnd::Moved(listed) => Tried::Over(self.moved(&listed, Some(&car))),
            CallEnd::Answered(answer) => Tried::Called { proposal_cid, car, piece_bytes, answer },
        }
    }

    /// Looks for a deal that no agent has looked at, in a list that is asked for now.
    async fn look_again(&self, deal: &OfflineDealDoc, proposal_cid: &ProposalCid) -> Outcome {
        match self.market.listing(&[proposal_cid.as_str()], Freshness::Fresh).await {
            Ok(listing) if listing.deal(proposal_cid.as_str()).is_some() => {
                let reason = "the provider has just listed the deal".to_owned();
                settled(ImportOutcome::Waiting { reason, after: Duration::ZERO, files: Vec::new() })
            }
            Ok(listing) if listing.is_unread(proposal_cid.as_str()) => {
                settled(self.waiting_by_age(deal, decide::UNREAD.to_owned(), Vec::new()))
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

    async fn missed_start(&self, listed: &ListedDeal) -> Option<String> {
        let (at, start) = (listed.received, listed.terms.start);
        let head = self.head.epoch(&self.market, Agreed { at, start }).await?;
        decide::missed_start(start, head, self.setting.start_epoch_margin)
    }
}

/// What the provider signed decides; the document fills in.
fn wanted(payload_cid: Option<PayloadCid>, deal: &OfflineDealDoc, signed: &SignedTerms) -> Wanted {
    let recorded_size = || UnpaddedPieceSize::new(u64::try_from(deal.dealsizebytes?).ok()?).ok();
    Wanted {
        payload_cid,
        piece_cid: signed.piece_cid.or_else(|| deal.piececid.as_deref()?.parse().ok()),
        piece_size: signed.piece_size.map(PaddedPieceSize::unpadded).or_else(recorded_size),
    }
}
