//! Which deals this agent has given up, and how.
//!
//! Another user of the database may mark a deal as failed, missed or set aside, and nobody would try it again. So an
//! end that this agent did not write is no end: the deal is looked at once more, and ends again if it must. The same
//! holds after a restart, which forgets everything: one more try each.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use carferry_core::model::{ImportDoc, ImportState};

/// Ends by proposal CID.
#[derive(Debug, Default)]
pub struct Endings(Mutex<HashMap<String, Ending>>);

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Ours; how it reads in the database is seen with the next poll.
    Written,
    /// As it was last read, ours or not.
    Read(ImportState, Option<String>),
}

impl Endings {
    /// This agent ended the deal.
    pub fn written(&self, proposal_cid: &str) {
        self.lock().insert(proposal_cid.to_owned(), Ending::Written);
    }

    /// This agent looked at the deal, and it goes on.
    pub fn goes_on(&self, proposal_cid: &str) {
        self.lock().remove(proposal_cid);
    }

    /// Whether this end is neither ours nor one that was looked into already. From now on it is.
    pub fn is_news(&self, proposal_cid: &str, import: &ImportDoc) -> bool {
        let read = Ending::Read(import.state, import.reason.clone());
        match self.lock().insert(proposal_cid.to_owned(), read) {
            Some(Ending::Written) => false,
            Some(Ending::Read(state, reason)) => state != import.state || reason != import.reason,
            None => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(state: ImportState, reason: &str) -> ImportDoc {
        ImportDoc { state, reason: Some(reason.to_owned()), ..ImportDoc::default() }
    }

    #[test]
    fn an_end_of_ours_stands_and_one_of_anybody_else_is_looked_into_once() {
        let endings = Endings::default();
        endings.written("ours");
        assert!(!endings.is_news("ours", &ended(ImportState::Missed, "cut short by the store")));
        assert!(!endings.is_news("ours", &ended(ImportState::Missed, "cut short by the store")));
        assert!(endings.is_news("ours", &ended(ImportState::Failed, "somebody else's")));

        let other = ended(ImportState::SetAside, "by an agent before us");
        assert!(endings.is_news("other", &other));
        assert!(!endings.is_news("other", &other), "two agents do not wake each other's for ever");
        // Looked at, and not over: whoever says so again is wrong again.
        endings.goes_on("other");
        assert!(endings.is_news("other", &other));
    }
}
