//! Provider views: polls the market's list of deals, and records each deal's state, message and number on
//! chain in `offlinedeals.provider`.

use std::sync::Arc;
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::model::{DealId, DealPhase, DealStatus, ImportState, OfflineDealDoc, ProviderViewDoc};
use carferry_core::rpc::RpcError;
use carferry_core::runtime::Backoff;
use carferry_core::store::{NewView, PollScope, StoreError};
use carferry_core::telemetry::fields;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::import::ImportContext;
use crate::import::own_ends::OwnEnds;
use crate::market::listed_deal::{DataState, ListedDeal};
use crate::market::listing::Listing;
use crate::market::{Freshness, UNIDENTIFIED};

/// Why a poll ended early.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The market did not list its deals.
    #[error("the market does not list its deals")]
    Market(#[from] Arc<RpcError>),
    /// The database did not answer.
    #[error("the provider's view cannot be recorded")]
    Store(#[from] StoreError),
}

/// What becomes of an end that this process did not write, while the market waits for the deal's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownEnds {
    /// The deal is made due once: another user of the database may have ended it.
    LookAgain,
    /// The end stays: a process that ends soon knows no ends of its own.
    Keep,
}

/// Polls until the stop; notifies `wake` when deals became due.
pub async fn follow(context: &ImportContext, wake: &Notify, stop: &CancellationToken) {
    let interval = context.setting.provider_poll_interval;
    let mut identified = false;
    let mut schedule = FullPollSchedule::default();
    while !stop.is_cancelled() {
        // The worker makes the node identify itself.
        identified = context.market.is_identified();
        let pause = if identified { Backoff::jitter(interval) } else { interval.min(UNIDENTIFIED) };
        let poll = async {
            if identified {
                let scope = schedule.next();
                match poll_once(context, scope, UnknownEnds::LookAgain, wake).await {
                    Ok(_) => schedule.polled(scope),
                    Err(error) => {
                        let miner = context.market.miner();
                        warn!({ fields::MINER } = miner, error = %ErrorChain(&error), "poll failed");
                    }
                }
            }
            sleep(pause).await;
        };
        stop.run_until_cancelled(poll).await;
    }
    debug!(identified, "provider view ends");
}

/// When a poll also reads deals that are closed and active. They change once in a year, and reading a million
/// of them takes longer than the time between two polls.
#[derive(Debug, Default)]
struct FullPollSchedule {
    last: Option<Instant>,
    polls_since: u32,
}

/// Polls between two full polls, at most; see [`FULL_POLL_INTERVAL`].
const FULL_POLL_EVERY: u32 = 10;
/// Time between two full polls, at most. Chosen: what another user of the database writes is believed after
/// ten minutes at the earliest.
const FULL_POLL_INTERVAL: Duration = Duration::from_secs(570);

impl FullPollSchedule {
    fn next(&self) -> PollScope {
        let is_due = self.last.is_none_or(|last| {
            self.polls_since + 1 >= FULL_POLL_EVERY || last.elapsed() >= FULL_POLL_INTERVAL
        });
        if is_due { PollScope::All } else { PollScope::Changing }
    }

    fn polled(&mut self, which: PollScope) {
        match which {
            PollScope::All => *self = Self { last: Some(Instant::now()), polls_since: 0 },
            PollScope::Changing | PollScope::Publishing => self.polls_since += 1,
        }
    }
}

/// Records the views that changed since the last poll, makes deals due that their provider has accepted
/// since, and reopens those whose `isdeal` is wrongly 1. Returns how many deals were changed.
///
/// # Errors
///
/// [`PollError`]; the next poll repeats what is missing.
pub async fn poll_once(
    context: &ImportContext,
    scope: PollScope,
    unknown_ends: UnknownEnds,
    wake: &Notify,
) -> Result<usize, PollError> {
    let (store, miner) = (&context.store, context.market.miner());
    // Such a market is asked for each deal alone. Deals that wait are looked at in their turn, handed ones by
    // `import::confirm`, and of a deal in a sector it has nothing more to tell.
    let scope = if context.market.reads_later() { PollScope::Publishing } else { scope };
    let (mut changed, mut followed, mut looked_again) = (0, 0, 0_u32);
    let mut deals = store.provider_followed(miner, scope).await?;
    while let Some(page) = deals.page().await? {
        followed += page.len();
        let listing = context.market.listing(&proposal_cids(&page), Freshness::Recent).await?;
        let mut found = Findings::default();
        for deal in &page {
            found.add(deal, &listing, &context.own_ends, unknown_ends);
        }
        // Before the view is recorded: afterwards the acceptance is no change any more.
        if !found.accepted.is_empty() && store.make_due_accepted(miner, &found.accepted).await? > 0 {
            wake.notify_one();
        }
        if !found.backward.is_empty() {
            // Another agent of this miner may have recorded a later list.
            let deals: Vec<&str> = found.backward.iter().map(|(deal, _)| *deal).collect();
            let listing = context.market.listing(&deals, Freshness::Fresh).await?;
            for (deal, was) in found.backward {
                let view = listing.deal(deal).map(|listed| listed.view.clone());
                found.views.extend(view.map(|view| NewView { deal, was, view }));
            }
        }
        store.record_provider_views(miner, &found.views).await?;
        changed += found.views.len();
        if !found.to_look_again.is_empty() {
            let count = u32::try_from(found.to_look_again.len()).unwrap_or(u32::MAX);
            looked_again = looked_again.saturating_add(count);
            let spread = LOOK_AGAIN_EACH.saturating_mul(looked_again).min(LOOK_AGAIN_SPREAD_MAX);
            let deals = store.make_due_final(miner, &found.to_look_again, spread).await?;
            info!({ fields::MINER } = miner, deals, "deals that had ended are looked at once more");
            // The worker may wait for its next scan.
            wake.notify_one();
            changed += found.to_look_again.len();
        }
        if !found.suspected.is_empty() {
            changed += reopen(context, &found.suspected).await?;
        }
    }
    context.own_ends.polled();
    debug!({ fields::MINER } = miner, ?scope, followed, changed, "provider view recorded");
    Ok(changed)
}

fn proposal_cids(page: &[OfflineDealDoc]) -> Vec<&str> {
    page.iter().filter_map(|deal| deal.dealcid.as_deref()).collect()
}

/// What follows from a page of recorded deals beside the market's list; deals by their proposal CIDs.
#[derive(Debug, Default)]
struct Findings<'a> {
    /// Views to record.
    views: Vec<NewView<'a>>,
    /// Deals whose listed state comes before the recorded one, which is kept here.
    backward: Vec<(&'a str, Option<i64>)>,
    /// Deals that the provider has accepted since the last poll.
    accepted: Vec<&'a str>,
    /// Ended deals that are looked at once more.
    to_look_again: Vec<&'a str>,
    /// Closed deals whose data the market still waits for.
    suspected: Vec<&'a str>,
}

impl<'a> Findings<'a> {
    fn add(
        &mut self,
        deal: &'a OfflineDealDoc,
        listing: &Listing,
        own_ends: &OwnEnds,
        unknown_ends: UnknownEnds,
    ) {
        let Some(proposal_cid) = deal.dealcid.as_deref() else { return };
        let state = deal.import.as_ref().map(|import| import.state);
        let is_final =
            matches!(state, Some(ImportState::SetAside | ImportState::Missed | ImportState::Failed));
        if is_final {
            own_ends.seen(proposal_cid);
        }
        let Some(listed) = listing.deal(proposal_cid) else {
            if is_final && deal.isdeal != Some(1) && deal.is_on_chain() {
                self.to_look_again.push(proposal_cid);
            }
            return;
        };
        // Closed deals of the prototype have no intent, and stay closed.
        if deal.isdeal == Some(1) && deal.intent.is_some() && listed.awaits_data() {
            self.suspected.push(proposal_cid);
        }
        let may_be_imported = is_final
            && match &listed.data {
                DataState::Received => true,
                // Ended by this agent, by another agent of the miner, or by another user of the database.
                DataState::Awaited | DataState::Refused { .. } => {
                    unknown_ends == UnknownEnds::LookAgain && own_ends.is_unknown(deal)
                }
                DataState::Failed(_) => deal.is_on_chain(),
                DataState::NotYet(_) | DataState::Taking => false,
            };
        if deal.isdeal != Some(1) && may_be_imported {
            self.to_look_again.push(proposal_cid);
        }
        let recorded = deal.provider.as_ref();
        if state == Some(ImportState::Waiting) && is_accepted(recorded, listed) {
            self.accepted.push(proposal_cid);
        }
        if differs(recorded, listed) {
            let was = recorded.and_then(|view| view.status);
            if goes_back(recorded.and_then(ProviderViewDoc::deal_status), listed) {
                self.backward.push((proposal_cid, was));
            } else {
                self.views.push(NewView { deal: proposal_cid, was, view: listed.view.clone() });
            }
        }
    }
}

/// Time for each ended deal that is made due: after a restart all of them are looked at once more, and not in
/// one moment. Chosen: a look takes some hundredths of a second, and other deals wait as well.
const LOOK_AGAIN_EACH: Duration = Duration::from_millis(30);
/// Maximum time over which the looks at ended deals are spread.
const LOOK_AGAIN_SPREAD_MAX: Duration = Duration::from_secs(600);

/// Whether the provider waits for the data now, and did not when it was recorded last.
fn is_accepted(recorded: Option<&ProviderViewDoc>, seen: &ListedDeal) -> bool {
    let status = recorded.and_then(ProviderViewDoc::deal_status);
    seen.awaits_data() && status.is_none_or(|status| status.phase() == DealPhase::Proposed)
}

/// Reopens deals that are closed in the database while the market waits for their data: another user of the
/// database closed them, or the market lost the data. The listing that raised the suspicion may be older than
/// the closing, so another one decides.
async fn reopen(context: &ImportContext, suspected: &[&str]) -> Result<usize, PollError> {
    let (store, miner) = (&context.store, context.market.miner());
    let listing = context.market.listing(suspected, Freshness::Fresh).await?;
    let mut reopened = 0;
    for proposal_cid in suspected {
        let is_false = listing.deal(proposal_cid).is_some_and(ListedDeal::awaits_data);
        let reason = "`isdeal` was 1, but the market still waits for the data: put back to 0";
        if is_false && store.reopen(miner, proposal_cid, reason).await? {
            warn!({ fields::MINER } = miner, { fields::PROPOSAL_CID } = proposal_cid, "{reason}");
            reopened += 1;
        }
    }
    Ok(reopened)
}

/// Whether the provider says a state again that an earlier state has followed.
fn goes_back(recorded: Option<DealStatus>, seen: &ListedDeal) -> bool {
    let rank = |status: DealStatus| match status.phase() {
        DealPhase::Proposed => 0,
        DealPhase::AwaitsData => 1,
        DealPhase::Progressing => 2,
        DealPhase::Active => 3,
        DealPhase::Expired | DealPhase::Failed => 4,
    };
    recorded.is_some_and(|status| rank(status) > rank(seen.view.status))
}

/// Whether the provider says something else than what is recorded.
fn differs(recorded: Option<&ProviderViewDoc>, seen: &ListedDeal) -> bool {
    let view = &seen.view;
    recorded.is_none_or(|recorded| {
        recorded.deal_status() != Some(view.status)
            || recorded.message.as_deref().unwrap_or_default() != view.message
            || recorded.dealid.and_then(|id| DealId::from_lotus(u64::try_from(id).ok()?)) != view.deal_id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: u64, message: &str, deal_id: u64) -> ListedDeal {
        ListedDeal::example(state, message, deal_id, 128)
    }

    #[tokio::test(start_paused = true)]
    async fn every_tenth_poll_sees_all_deals() {
        let mut schedule = FullPollSchedule::default();
        for poll in 0..25 {
            let expected = if poll % 10 == 0 { PollScope::All } else { PollScope::Changing };
            assert_eq!(schedule.next(), expected, "poll {poll}");
            schedule.polled(schedule.next());
        }
        assert_eq!(schedule.next(), PollScope::Changing);
        tokio::time::advance(FULL_POLL_INTERVAL).await;
        assert_eq!(schedule.next(), PollScope::All, "polls are rare");
    }

    #[test]
    fn acceptance_is_news_once() {
        let recorded = |status| ProviderViewDoc { status, ..ProviderViewDoc::default() };
        for (before, now, is_news) in [
            (Some(recorded(Some(14))), 18, true),
            (Some(recorded(None)), 18, true),
            (None, 18, true),
            (Some(recorded(Some(18))), 18, false),
            (Some(recorded(Some(14))), 15, false),
            (Some(recorded(Some(14))), 26, false),
        ] {
            assert_eq!(is_accepted(before.as_ref(), &seen(now, "", 0)), is_news, "{before:?} to {now}");
        }
    }

    #[test]
    fn a_state_that_goes_back_is_looked_at_again() {
        for (was, now, back) in [
            (None, 18, false),
            (Some(18), 24, false),
            (Some(24), 18, true),
            (Some(7), 6, true),
            (Some(26), 18, true),
        ] {
            assert_eq!(
                goes_back(was.map(DealStatus::from_lotus), &seen(now, "", 0)),
                back,
                "{was:?} to {now}"
            );
        }
    }

    #[test]
    fn only_changes_are_recorded() {
        let recorded = ProviderViewDoc {
            status: Some(18),
            message: Some(String::new()),
            dealid: None,
            ..ProviderViewDoc::default()
        };
        for (deal, changed) in [
            (seen(18, "", 0), false),
            (seen(20, "", 0), true),
            (seen(18, "x", 0), true),
            (seen(18, "", 7), true),
        ] {
            assert_eq!(differs(Some(&recorded), &deal), changed, "{deal:?}");
        }
        assert!(differs(None, &seen(18, "", 0)));
        assert!(differs(Some(&ProviderViewDoc::default()), &seen(0, "", 0)), "an empty view is no view");
    }
}
