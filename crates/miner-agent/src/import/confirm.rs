//! Confirmation of deals that were handed over: the market's own state of each decides, hours after the call
//! if need be.
//!
//! ```text
//!  handed ──► look ─┬─ has the data        done
//!                   ├─ reads it still      handed, looked at later
//!                   ├─ another piece       waits for another file
//!                   ├─ refused otherwise   tried again
//!                   ├─ waits for the data  tried again, `setting.confirmTimeout` after the call
//!                   └─ over                failed
//! ```
//!
//! A handed deal has neither lease nor task. Looks are shared, and their results are written by the hundred,
//! only where the deal is still as it was read.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::rpc::RpcError;
use carferry_core::runtime::Backoff;
use carferry_core::store::{HandedDeal, ImportOutcome, Settled, StoreError, Unanswered};
use carferry_core::telemetry::fields;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, error};

use crate::import::outcome::without_view;
use crate::import::{ImportContext, decide};
use crate::market::listed_deal::{Blame, DataState, ListedDeal};
use crate::market::{Freshness, UNIDENTIFIED};

/// Pause before the first look at a deal that was handed over.
pub const LOOK_PAUSE_MIN: Duration = Duration::from_millis(250);
/// Maximum pause between looks at a handed deal. Chosen: a commitment of 32 GiB takes minutes.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a deal is left alone whose outcome the database does not take.
pub const SHELVED_FOR: Duration = Duration::from_secs(600);
/// Pause after a look that the market or the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);

/// Logs what became of a deal of this miner.
pub type Told = fn(&HandedDeal, &Settled, &str);

/// Why handed deals could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// The market did not answer.
    #[error("the market does not tell of the deals that it was given")]
    Market(#[from] Arc<RpcError>),
    /// The database did not answer.
    #[error("what the market says of its deals cannot be recorded")]
    Store(#[from] StoreError),
}

/// Confirms deals without end; notifies `wake` when one of them is due again, or leaves room for another.
///
/// # Cancel safety
///
/// May be dropped at any point: what is not recorded is looked at again.
pub async fn keep_confirming(context: &ImportContext, wake: &Notify, told: Told) -> Infallible {
    let mut confirmer = Confirmer::default();
    loop {
        // Where deals in hand are limited, one that is decided on leaves room for another.
        let makes_room = context.market.reads_later() || context.setting.has_limits();
        let pause = if context.market.is_identified() {
            match confirmer.confirm_due(context, told).await {
                // Deals whose outcome the database does not take are due all the time.
                Ok(Confirmed::Nothing) if !confirmer.shelved.is_empty() => {
                    next_look(context).await.max(TROUBLE_PAUSE)
                }
                Ok(Confirmed::Nothing) => next_look(context).await,
                Ok(Confirmed::Closed) if !makes_room => Duration::ZERO,
                Ok(Confirmed::Closed | Confirmed::GoesOn) => {
                    wake.notify_one();
                    Duration::ZERO
                }
                Err(error) => {
                    debug!(
                        { fields::MINER } = context.market.miner(),
                        error = %ErrorChain(&error), "handed deals are looked at later"
                    );
                    TROUBLE_PAUSE
                }
            }
        } else {
            UNIDENTIFIED.min(context.setting.scan_interval)
        };
        // Cancel safety: a dropped `notified` has not taken its permit.
        let _handed_or_over = timeout(pause, context.handed.notified()).await;
    }
}

async fn next_look(context: &ImportContext) -> Duration {
    let scan = Backoff::jitter(context.setting.scan_interval);
    match context.store.next_handed(context.market.miner()).await {
        Ok(next) => next.map_or(scan, |next| next.clamp(LOOK_PAUSE_MIN, scan)),
        Err(error) => {
            debug!(error = %ErrorChain(&error), "the next look at handed deals is unknown, the scan decides");
            scan
        }
    }
}

/// What looks at handed deals led to; the later of two counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confirmed {
    /// No deal left the state.
    Nothing,
    /// All that left it are over.
    Closed,
    /// One or more are tried again.
    GoesOn,
}

/// Looks at handed deals, and remembers those whose outcome the database does not take.
#[derive(Debug, Default)]
pub struct Confirmer {
    /// By proposal CID: not looked at before this.
    shelved: HashMap<String, Instant>,
}

impl Confirmer {
    /// Looks at the handed deals that are due, and records what the market says of them.
    ///
    /// # Errors
    ///
    /// [`ConfirmError`]; the deals stay as they are, and the next look repeats what is missing.
    pub async fn confirm_due(
        &mut self,
        context: &ImportContext,
        told: Told,
    ) -> Result<Confirmed, ConfirmError> {
        self.shelved.retain(|_, until| *until > Instant::now());
        let mut due = context.store.handed_due(context.market.miner()).await?;
        due.retain(|handed| !self.shelved.contains_key(proposal_cid(handed)));
        if due.is_empty() {
            return Ok(Confirmed::Nothing);
        }
        let deals: Vec<&str> = due.iter().map(proposal_cid).collect();
        let listing = context.market.listing(&deals, Freshness::Confirming).await?;
        let settled: Vec<(&HandedDeal, Settled)> = due
            .iter()
            .map(|handed| {
                let proposal_cid = proposal_cid(handed);
                let looked = match listing.deal(proposal_cid) {
                    Some(deal) => Looked::Found(deal),
                    None if listing.is_unread(proposal_cid) => Looked::Unread,
                    None => Looked::Gone,
                };
                (handed, context.after_look(handed, looked))
            })
            .collect();
        for (handed, settled) in &settled {
            // Before it is written: a poll of the provider's views may read it in the same moment.
            if settled.outcome.is_end() {
                context.own_ends.written(&handed.deal);
            }
        }
        let record = || context.store.settle_handed(&settled);
        let unwritten = match context.retry.call("handed deals settled", record).await {
            Ok(unwritten) => unwritten,
            // None of them: of no rights, for one.
            Err(error) => {
                self.shelve(settled.iter().map(|(handed, _)| *handed), &error);
                return Ok(Confirmed::Nothing);
            }
        };
        for place in unwritten {
            let Some((handed, settled)) = settled.get(place) else { continue };
            let record = || context.store.settle_handed_deal(handed, settled);
            if let Err(error) = context.retry.call("handed deal settled", record).await {
                self.shelve([*handed], &error);
            }
        }
        let left = settled.iter().filter(|(handed, settled)| {
            !matches!(settled.outcome, ImportOutcome::Handed { .. })
                && !self.shelved.contains_key(proposal_cid(handed))
        });
        let mut confirmed = Confirmed::Nothing;
        for (handed, settled) in left {
            told(handed, settled, context.market.miner());
            let is_over = settled.outcome.is_end() || matches!(settled.outcome, ImportOutcome::Done { .. });
            confirmed = confirmed.max(if is_over { Confirmed::Closed } else { Confirmed::GoesOn });
        }
        Ok(confirmed)
    }

    /// Leaves deals alone for a while, and says why.
    fn shelve<'a>(&mut self, deals: impl IntoIterator<Item = &'a HandedDeal>, error: &Unanswered) {
        let until = Instant::now() + SHELVED_FOR;
        let deals: Vec<String> = deals.into_iter().map(|deal| proposal_cid(deal).to_owned()).collect();
        error!(
            { fields::PROPOSAL_CID } = deals.first(), deals = deals.len(), reason = %ErrorChain(error),
            hint = error.hint().unwrap_or_default(), { fields::RETRY_IN_MS } = fields::millis(SHELVED_FOR),
            "what became of handed deals cannot be recorded; they are left alone for a while"
        );
        self.shelved.extend(deals.into_iter().map(|deal| (deal, until)));
    }
}

fn proposal_cid(handed: &HandedDeal) -> &str {
    handed.deal.dealcid.as_deref().unwrap_or_default()
}

/// What a look found of a handed deal.
#[derive(Clone, Copy, Debug)]
enum Looked<'a> {
    Found(&'a ListedDeal),
    /// The market does not have it.
    Gone,
    /// The market cannot read its record.
    Unread,
}

impl ImportContext {
    /// What follows from a look at a handed deal.
    fn after_look(&self, handed: &HandedDeal, looked: Looked<'_>) -> Settled {
        let deal = &handed.deal;
        let import = deal.import.as_ref();
        let path = import.and_then(|import| import.path.clone());
        let age = handed.age.unwrap_or_default();
        let still = || {
            let bytes = import.and_then(|import| import.handedbytes);
            let recorded = bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
            ImportOutcome::Handed {
                path: None,
                piece_bytes: match looked {
                    Looked::Found(listed) => listed.terms.piece_bytes(),
                    Looked::Gone | Looked::Unread => recorded,
                },
                after: Backoff::jitter((age / 4).clamp(LOOK_PAUSE_MIN, LOOK_PAUSE_MAX)),
            }
        };
        // A look that runs beside the hand-over, or a market that moves its deals a moment later.
        let is_early = handed.age.is_some_and(|age| age < self.setting.confirm_timeout);
        let listed = match looked {
            Looked::Found(listed) => listed,
            Looked::Unread => return without_view(still(), false),
            Looked::Gone if deal.is_on_chain() => {
                return without_view(ImportOutcome::Done { path }, true);
            }
            Looked::Gone => {
                let gone = "the provider lists the deal no more".to_owned();
                return without_view(if is_early { still() } else { self.waiting(gone) }, true);
            }
        };
        let outcome = match &listed.data {
            DataState::Received => ImportOutcome::Done { path },
            DataState::Failed(_) if deal.is_on_chain() => ImportOutcome::Done { path },
            DataState::Failed(reason) => {
                // Later it may be a file that was removed before a restart of the market.
                if is_early {
                    self.market.ended_over_a_file(reason);
                }
                ImportOutcome::Failed { reason: reason.clone() }
            }
            DataState::Taking => still(),
            // This agent has computed the piece CID of the file since one was refused.
            DataState::Refused { reason, blame: Blame::File } if decide::is_other_piece(import) => {
                self.retrying(deal, format!("{reason}; {}", decide::SEEN_OTHERWISE))
            }
            DataState::Refused { reason, blame: Blame::File } => {
                let settled = self.other_piece(deal, path.as_deref().unwrap_or_default(), reason);
                return Settled { view: Some(listed.view.clone()), ..settled };
            }
            DataState::Refused { reason, blame: Blame::Market } => self.retrying(deal, reason.clone()),
            DataState::Awaited if is_early => still(),
            DataState::Awaited => self.retrying(deal, decide::WITHOUT_EFFECT.to_owned()),
            DataState::NotYet(reason) => self.waiting(reason.clone()),
        };
        let view = (!matches!(outcome, ImportOutcome::Handed { .. })).then(|| listed.view.clone());
        Settled { outcome, view, is_answered: true, is_other_piece: false }
    }
}
