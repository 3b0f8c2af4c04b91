//! The list of a market's deals, fetched by one call for all who ask at the same time, and kept while it is
//! recent.
//!
//! A market lists all its deals in one call, megabytes on a busy provider, and has no call for one deal. So
//! all looks at deals share one listing. Those that need a new one share the call, and its failure too.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use carferry_core::lotus::wire::MinerDeal;
use carferry_core::rpc::RpcError;
use carferry_core::runtime::{Backoff, BackoffPolicy};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::market::listed_deal::ListedDeal;

/// Maximum age of a listing for a deal without an import call of its own: this time, or [`RECENT_COSTS`]
/// times what the listing took.
const RECENT: Duration = Duration::from_secs(2);
/// See [`RECENT`].
const RECENT_COSTS: u32 = 4;
/// Maximum age of a recent listing, however long it took: one that hung says nothing of the next.
const RECENT_MAX: Duration = Duration::from_secs(120);
/// Minimum time between listings that confirm import calls.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
/// From this size on, a copy in vain costs more than a list: 10 s or more on a measured Lotus v1.23.3.
const LARGE_PIECE: u64 = 1 << 30;
/// Maximum pause after a listing that took long.
const REST_MAX: Duration = Duration::from_secs(30);
/// Pauses between calls for a list that fail.
const FAILED_PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(250),
    max: Duration::from_secs(5),
    quiet: Duration::from_secs(120),
};

/// All deals of a market at one moment.
#[derive(Debug)]
pub struct Listing {
    asked: Instant,
    answered: Instant,
    deals: HashMap<String, ListedDeal>,
    /// Deals that the market has or had, and cannot read its records of now.
    unread: HashSet<String>,
}

/// What a market answered that was asked for one deal.
#[derive(Debug)]
pub(super) enum Looked {
    /// The deal.
    Found(Box<ListedDeal>),
    /// It cannot read its record of the deal.
    Unread,
}

/// The last listing of a market, and the right to fetch the next.
#[derive(Debug)]
pub(super) struct ListingCache {
    last: SyncMutex<Option<Arc<Listing>>>,
    /// When the last listing that confirms calls was, or will be, asked for.
    confirming: SyncMutex<Option<Instant>>,
    fetching: Mutex<FetchState>,
}

/// What decides when the next list is asked for. Locked during the call.
#[derive(Debug)]
struct FetchState {
    /// No call before this.
    not_before: Option<Instant>,
    /// When the last call was made, if it failed.
    failed: Option<(Instant, Arc<RpcError>)>,
    pauses: Backoff,
}

impl Listing {
    /// A listing of these deals, by proposal CID.
    #[cfg(test)]
    pub(crate) fn of(deals: impl IntoIterator<Item = (&'static str, ListedDeal)>) -> Self {
        let deals = deals.into_iter().map(|(proposal_cid, deal)| (proposal_cid.to_owned(), deal)).collect();
        Self { asked: Instant::now(), answered: Instant::now(), deals, unread: HashSet::new() }
    }

    /// What looks at single deals found, at a market that has no list.
    pub(super) fn of_looks(asked: Instant, looks: Vec<(String, Looked)>) -> Self {
        let mut listing =
            Self { asked, answered: Instant::now(), deals: HashMap::new(), unread: HashSet::new() };
        for (proposal_cid, looked) in looks {
            match looked {
                Looked::Found(deal) => {
                    listing.deals.insert(proposal_cid, *deal);
                }
                Looked::Unread => {
                    listing.unread.insert(proposal_cid);
                }
            }
        }
        listing
    }

    /// Whether the market cannot read its record of this deal: it tells nothing, and may do so again.
    pub fn is_unread(&self, proposal_cid: &str) -> bool {
        self.unread.contains(proposal_cid)
    }

    /// The deal with this proposal CID; `None` if the market does not have it, or cannot read its record.
    pub fn deal(&self, proposal_cid: &str) -> Option<&ListedDeal> {
        self.deals.get(proposal_cid)
    }

    /// All deals, with their proposal CIDs.
    pub(super) fn deals(&self) -> impl Iterator<Item = (&str, &ListedDeal)> {
        self.deals.iter().map(|(proposal_cid, deal)| (proposal_cid.as_str(), deal))
    }

    fn took(&self) -> Duration {
        self.answered.duration_since(self.asked)
    }
}

impl ListingCache {
    pub(super) fn new() -> Self {
        let fetching = FetchState { not_before: None, failed: None, pauses: Backoff::new(FAILED_PAUSES) };
        Self { last: SyncMutex::default(), confirming: SyncMutex::default(), fetching: Mutex::new(fetching) }
    }

    /// The last listing, however old; `None` before the first.
    pub(super) fn last(&self) -> Option<Arc<Listing>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A listing of the last two seconds, or somewhat older where listing is slow.
    pub(super) async fn recent<F: Future<Output = Result<Vec<MinerDeal>, RpcError>>>(
        &self,
        list: impl FnOnce() -> F,
    ) -> Result<Arc<Listing>, Arc<RpcError>> {
        let is_recent = |last: &Listing, now: Instant| {
            now.duration_since(last.asked) <= RECENT.max((last.took() * RECENT_COSTS).min(RECENT_MAX))
        };
        self.get(is_recent, list).await
    }

    /// A listing that the market was asked for after this call began.
    pub(super) async fn fresh<F: Future<Output = Result<Vec<MinerDeal>, RpcError>>>(
        &self,
        list: impl FnOnce() -> F,
    ) -> Result<Arc<Listing>, Arc<RpcError>> {
        let begun = Instant::now();
        self.get(|last, _now| last.asked >= begun, list).await
    }

    /// A listing that the market was asked for after this call began, at most one each [`CONFIRM_INTERVAL`].
    /// Closing a deal is not urgent, and a list is the most expensive call that a market gets.
    pub(super) async fn confirming<F: Future<Output = Result<Vec<MinerDeal>, RpcError>>>(
        &self,
        list: impl FnOnce() -> F,
    ) -> Result<Arc<Listing>, Arc<RpcError>> {
        let now = Instant::now();
        let time = {
            let mut last = self.confirming.lock().unwrap_or_else(PoisonError::into_inner);
            let time = match *last {
                Some(planned) if planned >= now => planned,
                Some(last) => now.max(last + CONFIRM_INTERVAL),
                None => now,
            };
            *last = Some(time);
            time
        };
        sleep_until(time).await;
        self.fresh(list).await
    }

    /// Whether the last listing is recent enough for a first call with a piece of this size: a person may
    /// have imported the deal since. Copying a small piece in vain costs less than another list.
    pub(super) fn is_recent_for(&self, piece_bytes: u64) -> bool {
        piece_bytes < LARGE_PIECE
            || self.last().is_some_and(|last| last.asked.elapsed() <= RECENT.max(last.took() * 2))
    }

    async fn get<F: Future<Output = Result<Vec<MinerDeal>, RpcError>>>(
        &self,
        suffices: impl Fn(&Listing, Instant) -> bool,
        list: impl FnOnce() -> F,
    ) -> Result<Arc<Listing>, Arc<RpcError>> {
        let begun = Instant::now();
        let known = || self.last().filter(|last| suffices(last, Instant::now()));
        // A look that needs no new listing does not wait for the call for one.
        if let Some(known) = known() {
            return Ok(known);
        }
        // Held during the call: those that wait for the lock find the listing that the call has fetched.
        let mut state = self.fetching.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        if let Some((asked, error)) = &state.failed
            && *asked >= begun
        {
            return Err(Arc::clone(error));
        }
        // Those that ask during this pause share the call after it.
        if let Some(time) = state.not_before {
            sleep_until(time).await;
        }
        let asked = Instant::now();
        let listed = list().await;
        let answered = Instant::now();
        let deals = match listed {
            Ok(deals) => {
                state.failed = None;
                state.pauses.reset();
                // A market with many deals takes seconds to list them, and gets a pause of the same length.
                state.not_before = Some(answered + answered.duration_since(asked).min(REST_MAX));
                deals
            }
            Err(error) => {
                let error = Arc::new(error);
                state.failed = Some((asked, Arc::clone(&error)));
                state.not_before = Some(answered + state.pauses.next_delay());
                return Err(error);
            }
        };
        // A hundred thousand deals take a while to convert, and other tasks wait for this thread.
        let convert =
            move || deals.into_iter().map(|deal| (deal.proposal_cid.cid.clone(), deal.into())).collect();
        let deals = tokio::task::spawn_blocking(convert).await.unwrap_or_default();
        let fetched = Arc::new(Listing { asked, answered, deals, unread: HashSet::new() });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&fetched));
        Ok(fetched)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures::future::join_all;

    use super::*;

    async fn no_list() -> Result<Vec<MinerDeal>, RpcError> {
        Err(RpcError::Timeout { method: "list", endpoint: "http://127.0.0.1:1".to_owned(), seconds: 0 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_fails_has_failed_for_all_who_waited_for_it() {
        let cache = ListingCache::new();
        let answers = join_all((0..1000).map(|_| cache.fresh(no_list))).await;
        let failures: HashSet<_> =
            answers.iter().map(|answer| Arc::as_ptr(answer.as_ref().unwrap_err())).collect();
        assert_eq!(failures.len(), 1);
        assert_eq!(answers.len(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_confirmed_by_a_list_a_second() {
        let cache = ListingCache::new();
        let began = Instant::now();
        // A hundred calls that are answered within three seconds; every list fails at once.
        for _ in 0..100 {
            cache.confirming(no_list).await.unwrap_err();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(began.elapsed() >= Duration::from_secs(99), "one after the other they wait for their second");
        let began = Instant::now();
        join_all((0..1000).map(|_| cache.confirming(no_list))).await;
        assert!(began.elapsed() <= CONFIRM_INTERVAL + FAILED_PAUSES.max, "side by side they share one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_list_decides_no_first_call_of_a_large_piece() {
        let cache = ListingCache::new();
        assert!(cache.is_recent_for(1 << 20) && !cache.is_recent_for(32 << 30));
        *cache.last.lock().unwrap() = Some(Arc::new(Listing::of([])));
        assert!(cache.is_recent_for(32 << 30));
        tokio::time::advance(RECENT * 2).await;
        assert!(cache.is_recent_for(1 << 20) && !cache.is_recent_for(32 << 30));
    }
}
