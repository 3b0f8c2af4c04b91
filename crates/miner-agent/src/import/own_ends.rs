//! The ends (failed, missed, set aside) that this process wrote, to tell them from those of others.
//!
//! Another user of the database may mark a deal as failed, missed or set aside, and no agent would try it
//! again. So an end that this process did not write is unknown: the deal is looked at once more, and ends
//! again if it must. A restart forgets all ends, so each deal gets one more try.
//!
//! An agent runs for years: two hashes are kept of each deal, and only while polls find it at its end.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use carferry_core::model::OfflineDealDoc;

/// Ends by proposal CID.
#[derive(Debug, Default)]
pub struct OwnEnds {
    /// Random for each process: no user of the database can make up a reason with a known hash.
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the proposal CID's hash.
    ends: HashMap<u64, Ending>,
    /// Polls that read all deals.
    polls: u64,
}

#[derive(Debug)]
struct Ending {
    /// State and reason as they were last read; `None` for an end of this process that no poll has read yet.
    read: Option<u64>,
    /// The fields from which the end may have followed, as they were then: another user of the database may
    /// have written them.
    inputs: u64,
    /// The last poll that found it.
    poll: u64,
}

impl OwnEnds {
    /// This process ends the deal, whose record was like this.
    pub fn written(&self, deal: &OfflineDealDoc) {
        let key = self.key(deal.dealcid.as_deref().unwrap_or_default());
        let inputs = self.inputs(deal);
        let mut known = self.lock();
        let poll = known.polls;
        known.ends.insert(key, Ending { read: None, inputs, poll });
    }

    /// This agent looked at the deal, and it goes on.
    pub fn goes_on(&self, proposal_cid: &str) {
        let key = self.key(proposal_cid);
        self.lock().ends.remove(&key);
    }

    /// Marks the deal as seen at an end by this poll.
    pub fn seen(&self, proposal_cid: &str) {
        let key = self.key(proposal_cid);
        let mut known = self.lock();
        let poll = known.polls;
        if let Some(ending) = known.ends.get_mut(&key) {
            ending.poll = poll;
        }
    }

    /// Whether this end was neither written by this process nor looked into already, or follows from fields
    /// that have changed. From then on the end is known.
    pub fn is_unknown(&self, deal: &OfflineDealDoc) -> bool {
        let import = deal.import.as_ref().map(|import| (import.state, &import.reason));
        let (read, inputs) = (self.hasher.hash_one(import), self.inputs(deal));
        let key = self.key(deal.dealcid.as_deref().unwrap_or_default());
        let mut known = self.lock();
        let poll = known.polls;
        match known.ends.insert(key, Ending { read: Some(read), inputs, poll }) {
            Some(before) => before.inputs != inputs || before.read.is_some_and(|before| before != read),
            None => true,
        }
    }

    fn inputs(&self, deal: &OfflineDealDoc) -> u64 {
        self.hasher.hash_one((&deal.filecid, &deal.dealcid, deal.startepoch))
    }

    /// A poll has seen all deals: those that it did not find at an end are forgotten.
    pub fn polled(&self) {
        let mut known = self.lock();
        let poll = known.polls;
        known.ends.retain(|_, ending| ending.poll == poll);
        known.polls += 1;
    }

    fn key(&self, proposal_cid: &str) -> u64 {
        self.hasher.hash_one(proposal_cid)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use carferry_core::model::{ImportDoc, ImportState};

    use super::*;

    fn ended(deal: &str, state: ImportState, reason: &str) -> OfflineDealDoc {
        OfflineDealDoc {
            dealcid: Some(deal.to_owned()),
            startepoch: Some(9),
            import: Some(ImportDoc { state, reason: Some(reason.to_owned()), ..ImportDoc::default() }),
            ..OfflineDealDoc::default()
        }
    }

    fn before(deal: &str) -> OfflineDealDoc {
        OfflineDealDoc { import: None, ..ended(deal, ImportState::Waiting, "") }
    }

    #[test]
    fn an_end_of_ours_stands_and_one_of_anybody_else_is_looked_into_once() {
        let own_ends = OwnEnds::default();
        own_ends.written(&before("ours"));
        assert!(!own_ends.is_unknown(&ended("ours", ImportState::Missed, "cut short by the store")));
        assert!(!own_ends.is_unknown(&ended("ours", ImportState::Missed, "cut short by the store")));
        assert!(own_ends.is_unknown(&ended("ours", ImportState::Failed, "somebody else's")));

        let other = ended("other", ImportState::SetAside, "by an agent before us");
        assert!(own_ends.is_unknown(&other));
        assert!(!own_ends.is_unknown(&other), "two agents do not wake each other's for ever");
        // Looked at, and not over: the same end would be wrong again.
        own_ends.goes_on("other");
        assert!(own_ends.is_unknown(&other));
    }

    #[test]
    fn an_end_does_not_outlive_what_it_followed_from() {
        let own_ends = OwnEnds::default();
        let spoiled = OfflineDealDoc { startepoch: Some(1), ..before("spoiled") };
        own_ends.written(&spoiled);
        let end = ended("spoiled", ImportState::Missed, "start epoch 1 has passed");
        assert!(!own_ends.is_unknown(&OfflineDealDoc { startepoch: Some(1), ..end.clone() }));
        assert!(own_ends.is_unknown(&end), "the start epoch was put right");
        assert!(!own_ends.is_unknown(&end));
    }

    #[test]
    fn what_polls_find_no_more_is_forgotten() {
        let own_ends = OwnEnds::default();
        for deal in ["followed", "over"] {
            own_ends.written(&before(deal));
        }
        // Written while the poll was under way: the next one is to see it.
        own_ends.polled();
        own_ends.seen("followed");
        own_ends.polled();
        assert!(!own_ends.is_unknown(&ended("followed", ImportState::Failed, "x")), "ours");
        assert!(own_ends.is_unknown(&ended("over", ImportState::Failed, "x")));
        assert_eq!(own_ends.lock().ends.len(), 2);
        own_ends.polled();
        own_ends.polled();
        assert_eq!(own_ends.lock().ends.len(), 0);
    }
}
