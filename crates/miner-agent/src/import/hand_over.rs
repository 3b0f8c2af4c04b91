//! The call of one try: the intent before it, the state of the deal before and after it.

use std::sync::Arc;
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::model::ProposalCid;
use carferry_core::rpc::{BootInstant, RpcError};
use carferry_core::store::{CallRecord, Claim, ImportOutcome, Settled};
use carferry_core::telemetry::fields;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::car_files::locate::FoundCar;
use crate::import::outcome::{Outcome, answered, failed, node_trouble, settled, trouble};
use crate::import::{Confirm, ImportContext, confirm, decide, unanswered_calls};
use crate::market::after_error::AfterError;
use crate::market::listed_deal::{DataState, ListedDeal};
use crate::market::node::Remedy;
use crate::market::{Freshness, HandOver};

/// First pause between looks at a deal's state after a call; it grows to [`LOOK_PAUSE_MAX`].
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(250);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What the looks at a deal found.
enum Seen {
    Moved(Box<ListedDeal>),
    StillWaiting,
    /// It has a file, and has not said anything of it.
    Taking(Box<ListedDeal>),
    /// The provider does not list it any more.
    Gone,
    /// The provider cannot read its record.
    Unread,
    /// The market did not answer.
    Unseen(Arc<RpcError>),
}

impl ImportContext {
    /// Records the intent to call, and returns until when the call may be sent; else the outcome without a
    /// call.
    pub(super) async fn record_call_intent(
        &self,
        claim: &Claim,
        car: &FoundCar,
    ) -> Result<BootInstant, Box<Outcome>> {
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
    pub(super) async fn recheck_before_call(
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
        // A market that reads files later has recorded the call when it arrives, so the look below tells.
        if !self.market.reads_later()
            && let Some((since, remaining)) =
                unanswered_calls::unanswered_call(&claim.deal, piece_bytes, &self.setting)
        {
            let reason = format!("an import call of {since} may still be under way");
            info!(reason, "looking again before another one");
            let after = remaining.min(self.setting.confirm_timeout).max(LOOK_PAUSE_MIN);
            return Some(settled(ImportOutcome::Waiting { reason, after, files: Vec::new() }));
        }
        let seen = self.look_until_moved(proposal_cid, Freshness::Fresh, Duration::ZERO).await;
        match seen {
            Seen::StillWaiting => None,
            Seen::Taking(listed) | Seen::Moved(listed) => Some(self.moved(&listed, None)),
            Seen::Gone => Some(settled(self.waiting("the provider lists the deal no more".to_owned()))),
            Seen::Unread => Some(settled(self.waiting(decide::UNREAD.to_owned()))),
            Seen::Unseen(error) => Some(trouble(node_trouble(&error), Remedy::of_call(&error), false)),
        }
    }

    pub(super) async fn call(
        &self,
        proposal_cid: &ProposalCid,
        car: &FoundCar,
        send_before: BootInstant,
    ) -> Result<HandOver, RpcError> {
        let started = Instant::now();
        info!({ fields::PATH } = %car.node_path, { fields::PAYLOAD_SIZE } = car.size.get(), "importing");
        let answer = self.market.hand_over(proposal_cid, &car.node_path, send_before).await;
        debug!(
            { fields::ELAPSED_MS } = fields::millis(started.elapsed()),
            is_ok = answer.is_ok(),
            "import call answered"
        );
        answer
    }

    /// The outcome of a call, by the deal's state.
    pub(super) async fn confirm(
        &self,
        claim: &Claim,
        proposal_cid: &ProposalCid,
        car: &FoundCar,
        piece_bytes: u64,
        answer: Result<HandOver, RpcError>,
    ) -> Outcome {
        let handed = || {
            let after = confirm::LOOK_PAUSE_MIN;
            answered(ImportOutcome::Handed { path: Some(car.node_path.clone()), piece_bytes, after })
        };
        let (timeout, unclear) = match answer {
            Ok(_) if self.confirm == Confirm::Later => return handed(),
            Ok(HandOver::Answered) => (self.setting.confirm_timeout, None),
            Ok(HandOver::Scheduled) => (unanswered_calls::explained(piece_bytes, &self.setting), None),
            Err(error) => match self.market.after_error(&error) {
                AfterError::LookAtState(reason) => {
                    warn!(reason, "what became of the import call is unknown, looking at the deal");
                    (self.setting.confirm_timeout, Some(reason))
                }
                AfterError::Retry(reason) => return answered(self.retrying(&claim.deal, reason)),
                AfterError::WrongFile(words) => {
                    return Outcome::Settled(self.other_piece(&claim.deal, &car.node_path, &words));
                }
                AfterError::NotYet(reason) => return answered(self.waiting(reason)),
                AfterError::Never(reason) => return failed(reason),
                AfterError::NodeTrouble(reason, remedy) => {
                    return trouble(self.waiting(reason), remedy, true);
                }
            },
        };
        let without_effect = match &unclear {
            None => decide::WITHOUT_EFFECT.to_owned(),
            Some(reason) => format!("the deal still waits for data after: {reason}"),
        };
        match self.look_until_moved(proposal_cid, Freshness::Confirming, timeout).await {
            Seen::Moved(listed) => self.moved(&listed, Some(car)),
            Seen::Taking(_) => handed(),
            Seen::StillWaiting if unclear.is_none() => answered(self.retrying(&claim.deal, without_effect)),
            Seen::StillWaiting => settled(self.retrying(&claim.deal, without_effect)),
            Seen::Gone => settled(self.waiting("the provider lists the deal no more".to_owned())),
            Seen::Unread => settled(self.waiting(decide::UNREAD.to_owned())),
            Seen::Unseen(error) => {
                let reason =
                    unclear.unwrap_or_else(|| "whether the import took effect is unknown".to_owned());
                let reason = format!("{reason}; and the deal's state cannot be read: {}", ErrorChain(&error));
                trouble(self.waiting(reason), Remedy::of_call(&error), false)
            }
        }
    }

    /// The deal has left "waiting for data", or was given a file by another caller.
    pub(super) fn moved(&self, listed: &ListedDeal, car: Option<&FoundCar>) -> Outcome {
        let outcome = match &listed.data {
            DataState::Received => ImportOutcome::Done { path: car.map(|car| car.node_path.clone()) },
            DataState::Failed(reason) => {
                if car.is_some() {
                    self.market.ended_over_a_file(reason);
                }
                ImportOutcome::Failed { reason: reason.clone() }
            }
            DataState::NotYet(reason) => self.waiting(reason.clone()),
            DataState::Taking => ImportOutcome::Handed {
                path: None,
                piece_bytes: listed.terms.piece_bytes(),
                after: confirm::LOOK_PAUSE_MIN,
            },
            DataState::Awaited | DataState::Refused { .. } => {
                self.waiting("the deal waits for data again".to_owned())
            }
        };
        let view = Some(listed.view.clone());
        Outcome::Settled(Settled { outcome, view, is_answered: true, is_other_piece: false })
    }

    /// Looks at a deal with growing pauses until it does not wait for data any more, at least once, at most
    /// for `timeout`.
    async fn look_until_moved(
        &self,
        proposal_cid: &ProposalCid,
        freshness: Freshness,
        timeout: Duration,
    ) -> Seen {
        let deadline = Instant::now() + timeout;
        let mut pause = LOOK_PAUSE_MIN;
        loop {
            let seen = match self.market.listing(&[proposal_cid.as_str()], freshness).await {
                Ok(listing) => match listing.deal(proposal_cid.as_str()) {
                    None if listing.is_unread(proposal_cid.as_str()) => Seen::Unread,
                    None => Seen::Gone,
                    Some(deal) if deal.data == DataState::Awaited => Seen::StillWaiting,
                    // Where no call is confirmed, an earlier file was refused.
                    Some(deal) if deal.awaits_data() && freshness != Freshness::Confirming => {
                        Seen::StillWaiting
                    }
                    Some(deal) if deal.data == DataState::Taking => Seen::Taking(Box::new(deal.clone())),
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
}
