//! The state of one pass over everything that is due: what was tried, and why the pass ended early.

use std::collections::HashMap;

use bson::{Bson, DateTime};
use carferry_core::error_chain::{ErrorChain, Hint as _, with_hint};
use carferry_core::store::StoreError;

use crate::dispatch::one_try::{Finished, NextTry};
use crate::import::outcome::Outcome;
use crate::market::node::{IdentityError, Remedy};

/// One pass over everything that is due when it begins.
#[derive(Debug)]
pub(super) struct Pass {
    /// Deals that are due later are left to the next pass.
    begun: DateTime,
    /// Tries by document.
    tries: HashMap<String, u32>,
    /// Tries that are not reported yet.
    finished: Vec<Finished>,
    state: PassState,
}

/// What a pass goes on with.
#[derive(Debug)]
enum PassState {
    /// Deals may be claimed.
    Claims,
    /// Everything that was due has been claimed.
    NothingDue,
    /// Nothing is claimed any more, for this reason.
    Ended(PassError),
}

/// Why a pass ended before everything due was tried.
#[derive(Debug)]
pub(super) enum PassError {
    /// The market node cannot be worked with.
    Node(Trouble),
    /// The database did not answer.
    Store(StoreError),
}

/// Why a market node cannot be worked with, and what ends that.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// In words.
    pub reason: String,
    /// What ends it.
    pub remedy: Remedy,
}

/// Maximum tries of one deal in a pass: a look at a new list, a call, and one to spare.
const TRIES_MAX: u32 = 3;

impl Trouble {
    pub(super) fn of_identity(error: &IdentityError) -> Self {
        let reason = with_hint(ErrorChain(error).to_string(), error.hint());
        Self { reason, remedy: error.remedy() }
    }
}

impl Pass {
    pub(super) fn new(begun: DateTime) -> Self {
        Self { begun, tries: HashMap::new(), finished: Vec::new(), state: PassState::Claims }
    }

    /// When the pass began, by the database's clock.
    pub(super) fn begun(&self) -> DateTime {
        self.begun
    }

    /// Whether deals may be claimed, and there may be some.
    pub(super) fn claims(&self) -> bool {
        matches!(self.state, PassState::Claims)
    }

    /// Whether the pass ended early.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, PassState::Ended(_))
    }

    /// Everything that was due has been claimed.
    pub(super) fn record_nothing_due(&mut self) {
        if self.claims() {
            self.state = PassState::NothingDue;
        }
    }

    /// Counts a try. Returns whether the deal has one left.
    pub(super) fn count_try(&mut self, id: &Bson) -> bool {
        let tries = self.tries.entry(id.to_string()).or_insert(0);
        *tries += 1;
        *tries <= TRIES_MAX
    }

    /// Ends the pass; the first reason counts.
    pub(super) fn end(&mut self, error: PassError) {
        if !self.has_ended() {
            self.state = PassState::Ended(error);
        }
    }

    /// A try has ended: its deal may be due again, or the node's trouble may end the pass.
    pub(super) fn on_finished(&mut self, finished: Finished) {
        if let Outcome::NodeTrouble(settled, remedy) = &finished.outcome {
            let reason = settled.outcome.reason().unwrap_or_default().to_owned();
            self.end(PassError::Node(Trouble { reason, remedy: *remedy }));
        }
        if finished.next == NextTry::Now && matches!(self.state, PassState::NothingDue) {
            self.state = PassState::Claims;
        }
        self.finished.push(finished);
    }

    /// The tries that ended since the last call.
    pub(super) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Why the pass ended early, if it did.
    pub(super) fn into_result(self) -> Result<(), PassError> {
        match self.state {
            PassState::Ended(error) => Err(error),
            PassState::Claims | PassState::NothingDue => Ok(()),
        }
    }
}
