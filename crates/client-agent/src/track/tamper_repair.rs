//! Repairs what other users of the database changed in deals: restores records from `dealintents`, and
//! reopens deals whose import is not confirmed.
//!
//! Roles of MongoDB know collections, not rows: a user that may close one deal may write to all of them. So
//! nothing in `offlinedeals` is believed that could cost a deal: what was agreed, and the last state, stand
//! in `dealintents` too, where providers cannot write; a provider's word alone of a deal's end must have
//! stood for ten minutes; and `isdeal` 1 counts while nothing speaks against it.
//! Both repairs may be made needlessly without harm: miner-agent closes a deal again that its market has the
//! data of, and calls nothing for it.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use carferry_core::error_chain::ErrorChain;
use carferry_core::store::{Store, StoreError};
use tokio::time::Instant;
use tracing::warn;

/// How often every record is compared.
const RESTORE_EVERY: Duration = Duration::from_secs(600);
/// Records compared at a time.
const PAGE: i64 = 1000;
/// How long a provider's word of a deal's end must stand: its agent looks each minute.
const ENDS_AFTER: Duration = Duration::from_secs(600);
/// How long a contradiction must stand: what speaks and what is recorded are not read in one moment.
const SUSPECT_FOR: Duration = Duration::from_secs(60);
/// How long a deal that was reopened is left alone: its provider may be slow to say why it closed it.
const REST: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(super) struct TamperRepair {
    /// When every record had been compared.
    restored: Option<Instant>,
    /// The intent after which the comparing goes on: a page that failed does not begin it anew.
    compared: Option<String>,
    /// Since when a deal is suspected, and when it was last reopened.
    suspicions: HashMap<String, (Instant, Option<Instant>)>,
}

/// How long a provider alone has said that a deal is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProvidersEnd {
    /// It was not heard before.
    New,
    /// It may still be put right by the provider's own agent, if another user wrote it.
    Young,
    /// It has stood for as long as it must.
    Stands,
}

impl ProvidersEnd {
    /// By the server's clock, so that it holds over restarts and for commands that end after one pass.
    pub(super) fn at(seen: Option<SystemTime>, now: SystemTime) -> Self {
        match seen {
            None => Self::New,
            Some(seen) if now.duration_since(seen).is_ok_and(|age| age >= ENDS_AFTER) => Self::Stands,
            Some(_) => Self::Young,
        }
    }
}

impl TamperRepair {
    /// Restores records that other users changed, unless that was done lately. Returns how many. An error is
    /// logged, and the next call tries again: deals can be tracked without it.
    pub(super) async fn restore(&mut self, store: &Store) -> u64 {
        let mut count = 0;
        if self.restored.is_some_and(|last| last.elapsed() < RESTORE_EVERY) {
            return count;
        }
        loop {
            let (restored, next) = match store.restore_page(self.compared.as_deref(), PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    warn!(reason = %ErrorChain(&error), "records are not compared with what was agreed now");
                    return count;
                }
            };
            for deal in restored {
                count += 1;
                let fields =
                    if deal.fields.is_empty() { "everything".to_owned() } else { deal.fields.join(",") };
                warn!(
                    deal.proposal_cid = deal.proposal_cid,
                    miner = deal.miner,
                    fields,
                    "somebody changed the record of this deal; restored from dealintents"
                );
            }
            self.compared = next;
            if self.compared.is_none() {
                break;
            }
        }
        self.restored = Some(Instant::now());
        count
    }

    /// Reopens deals that have been suspected for a while, by their proposal CIDs and with their miners.
    /// Returns how many.
    pub(super) async fn reopen(
        &mut self,
        store: &Store,
        suspected: HashMap<String, String>,
    ) -> Result<u64, StoreError> {
        let now = Instant::now();
        self.suspicions.retain(|cid, (_, reopened)| {
            suspected.contains_key(cid) || reopened.is_some_and(|last| now.duration_since(last) < REST)
        });
        let mut count = 0;
        for (proposal_cid, miner) in suspected {
            let (since, reopened) = self.suspicions.entry(proposal_cid.clone()).or_insert((now, None));
            let rests = reopened.is_some_and(|last| now.duration_since(last) < REST);
            if rests || now.duration_since(*since) < SUSPECT_FOR {
                continue;
            }
            let reason = "`isdeal` was 1, but nobody saw the provider take the data: put back to 0";
            *reopened = Some(now);
            match store.reopen(&miner, &proposal_cid, reason).await {
                Ok(true) => {
                    warn!(deal.proposal_cid = proposal_cid, miner, "{reason}");
                    count += 1;
                }
                Ok(false) => {}
                Err(error @ (StoreError::Unreachable { .. } | StoreError::Timeout { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    warn!(deal.proposal_cid = proposal_cid, error = %ErrorChain(&error), "deal not put back");
                }
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_providers_word_of_an_end_must_stand_for_ten_minutes_by_the_servers_clock() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (seen, now, expected) in [
            (None, 5000, ProvidersEnd::New),
            (Some(1000), 1000, ProvidersEnd::Young),
            (Some(1000), 1599, ProvidersEnd::Young),
            (Some(1000), 1600, ProvidersEnd::Stands),
            (Some(1000), 900, ProvidersEnd::Young),
        ] {
            assert_eq!(ProvidersEnd::at(seen.map(at), at(now)), expected, "{seen:?} {now}");
        }
    }
}
