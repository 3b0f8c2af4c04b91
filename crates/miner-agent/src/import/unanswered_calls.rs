//! Import calls without an answer: how long a call may take, calls of other processes, and calls that hang.
//!
//! The market goes on with a call when its caller is gone (lotus-contract §3.3): it copies the CAR and
//! computes its commitment. The time for that is derived from the piece size that the provider signed: any
//! user of the database may have written another size, and documents of the prototype have none.

use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::model::{OfflineDealDoc, ProposalCid};
use carferry_core::rpc::RpcError;
use carferry_core::store::{PendingCall, StoreError};
use carferry_core::telemetry::fields;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::config::Setting;
use crate::import::ImportContext;
use crate::import::decide::{age_at_claim, import_takes_at_most};
use crate::market::listed_deal::{DataState, ListedDeal};
use crate::market::listing::Listing;
use crate::market::{Freshness, HandOver};

/// How the wait for a call ended.
#[derive(Debug)]
pub enum CallEnd {
    /// Its answer, or that there is none.
    Answered(Result<HandOver, RpcError>),
    /// The deal has moved on; the answer is of no use any more.
    Moved(Box<ListedDeal>),
}

/// A call that takes this many times what its size explains counts as unanswered. Chosen: the explained time
/// assumes a fifth of the speed that was measured on a busy Lotus v1.23.3.
const UNANSWERED_AFTER: u32 = 4;
/// Maximum time between looks at the deal of a call that hangs, and between log lines about it.
const LOOKS_EVERY: Duration = Duration::from_secs(600);
/// Minimum time between looks at the deal of a call that hangs.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(250);

/// How long a call for a piece of this size may take before the deal is looked at.
pub fn explained(piece_bytes: u64, setting: &Setting) -> Duration {
    import_takes_at_most(piece_bytes).max(setting.confirm_timeout).min(setting.import_timeout)
}

/// A call whose answer is not known, and how long it may still take. By the database's clock, as the lease
/// that was just taken tells it.
pub fn unanswered_call(
    deal: &OfflineDealDoc,
    piece_bytes: u64,
    setting: &Setting,
) -> Option<(String, Duration)> {
    let called = deal.import.as_ref()?.pendingcall?;
    let until = deal.claim.as_ref()?.until?;
    let age = age_at_claim(called.timestamp_millis(), until.timestamp_millis(), setting.lease);
    let remaining = explained(piece_bytes, setting).checked_sub(age)?;
    Some((called.try_to_rfc3339_string().unwrap_or_default(), remaining))
}

impl ImportContext {
    /// How many calls of other processes for this miner may be under way: of another agent, or of one that
    /// was killed. Short ones are not counted: they are over before it matters. At a market that reads files
    /// later, the deals whose files it has and has not decided on, of any process.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn calls_of_others(&self, caller: &str, handed: u64) -> Result<usize, StoreError> {
        let longest = self.setting.import_timeout;
        let pending = self.store.pending_calls(self.market.miner(), caller, longest).await?;
        if self.market.reads_later() {
            let handed = usize::try_from(handed).unwrap_or(usize::MAX);
            return Ok(handed.saturating_add(self.taken_unrecorded(&pending).await));
        }
        let listing = self.market.last_listing();
        Ok(pending.iter().filter(|call| may_run(call, listing.as_deref(), longest)).count())
    }

    /// How many of these calls have reached the market and are not recorded as handed over: their callers
    /// were killed in between.
    async fn taken_unrecorded(&self, pending: &[PendingCall]) -> usize {
        let deals: Vec<&str> = pending.iter().map(|call| call.dealcid.as_str()).collect();
        if deals.is_empty() {
            return 0;
        }
        match self.market.listing(&deals, Freshness::Recent).await {
            Ok(listing) => {
                let is_taken =
                    |deal: &&&str| listing.deal(deal).is_some_and(|deal| deal.data == DataState::Taking);
                deals.iter().filter(is_taken).count()
            }
            // No other deal is handed over meanwhile.
            Err(error) => {
                debug!(error = %ErrorChain(&error), "calls of other processes cannot be looked at");
                deals.len()
            }
        }
    }

    /// Waits for the answer of a call, and looks at the deal where it takes longer than its size explains: a
    /// node that hangs, a tunnel or a proxy may keep a connection open that nothing will come through any
    /// more.
    pub(crate) async fn watched(
        &self,
        proposal_cid: &ProposalCid,
        piece_bytes: u64,
        call: impl Future<Output = Result<HandOver, RpcError>>,
    ) -> CallEnd {
        tokio::pin!(call);
        let began = Instant::now();
        let explained = explained(piece_bytes, &self.setting);
        let pause = (explained / 2).clamp(LOOK_PAUSE_MIN, LOOKS_EVERY);
        let mut next_look = began + explained;
        let mut told = None::<Instant>;
        loop {
            // Cancel safety: the call is polled on by the next round; sleep and list may be dropped at any
            // point.
            let listing = tokio::select! {
                answer = &mut call => return CallEnd::Answered(answer),
                listing = async {
                    sleep_until(next_look).await;
                    self.market.listing(&[proposal_cid.as_str()], Freshness::Fresh).await
                } => listing,
            };
            if let Ok(listing) = &listing
                && let Some(deal) = listing.deal(proposal_cid.as_str())
                && !deal.awaits_data()
            {
                warn!("the deal has moved on, though its import call has no answer");
                return CallEnd::Moved(Box::new(deal.clone()));
            }
            let elapsed = began.elapsed();
            if elapsed >= explained * UNANSWERED_AFTER {
                return CallEnd::Answered(Err(self.market.give_up_call(elapsed)));
            }
            if told.is_none_or(|told| told.elapsed() >= LOOKS_EVERY) {
                let minutes = elapsed.as_secs() / 60;
                warn!(
                    { fields::PROPOSAL_CID } = proposal_cid.as_str(),
                    minutes, "the import call takes longer than its size explains; is the market busy?"
                );
                told = Some(Instant::now());
            } else {
                debug!(is_listed = listing.is_ok(), "the import call has no answer yet");
            }
            next_look = Instant::now() + pause;
        }
    }
}

fn may_run(call: &PendingCall, listing: Option<&Listing>, longest: Duration) -> bool {
    let limit = match listing {
        Some(listing) => match listing.deal(&call.dealcid) {
            Some(deal) if deal.awaits_data() => import_takes_at_most(deal.terms.piece_bytes()),
            // It has moved on, or the market does not have it.
            _ => return false,
        },
        None => call.recorded_size.map_or(longest, import_takes_at_most),
    };
    call.age < limit.min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_call_of_another_process_counts_as_long_as_its_signed_size_explains() {
        let listing = Listing::of([
            ("large", ListedDeal::example(18, "", 0, 32 * GIB)),
            ("small", ListedDeal::example(18, "", 0, 1 << 20)),
            ("moved", ListedDeal::example(20, "", 0, 32 * GIB)),
        ]);
        let longest = seconds(12 * 3600);
        for (dealcid, age, recorded_size, unlisted, listed) in [
            ("large", 60, None, true, true),
            ("large", 60, Some(1), false, true),
            ("large", 3275, None, true, true),
            ("large", 3277, None, true, false),
            ("small", 1, Some(32 * GIB), true, false),
            ("moved", 60, None, true, false),
            ("gone", 60, Some(32 * GIB), true, false),
        ] {
            let call = PendingCall { dealcid: dealcid.to_owned(), age: seconds(age), recorded_size };
            assert_eq!(may_run(&call, None, longest), unlisted, "{call:?} before the first list");
            assert_eq!(may_run(&call, Some(&listing), longest), listed, "{call:?}");
            assert!(!may_run(&call, Some(&listing), seconds(1)), "{call:?}: no call takes so long");
        }
    }
}
