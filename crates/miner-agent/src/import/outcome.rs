//! The outcomes of a try at a deal: what is written into the deal, and when it is tried again.

use std::time::Duration;

use carferry_core::error_chain::{ErrorChain, Hint as _, with_hint};
use carferry_core::model::OfflineDealDoc;
use carferry_core::rpc::RpcError;
use carferry_core::runtime::Backoff;
use carferry_core::store::{ImportOutcome, Settled, Unanswered};

use crate::import::ImportContext;
use crate::import::decide::{self, RetryPauses};
use crate::market::node::Remedy;

/// The outcome of one try at a deal.
#[derive(Debug)]
pub enum Outcome {
    /// To be written into the deal, or written.
    Settled(Settled),
    /// The same, where the node and not the deal is in trouble: no other deal should be tried now.
    NodeTrouble(Settled, Remedy),
    /// The lease was lost: the agent that has it writes the outcome.
    LeaseLost,
    /// The database does not take what should be written into the deal.
    Unrecorded(Unanswered),
}

impl Outcome {
    /// What is written into the deal, if anything is.
    pub fn settled(&self) -> Option<&Settled> {
        match self {
            Self::Settled(settled) | Self::NodeTrouble(settled, _) => Some(settled),
            Self::LeaseLost | Self::Unrecorded(_) => None,
        }
    }
}

impl ImportContext {
    fn pauses(&self) -> RetryPauses {
        RetryPauses { min: self.setting.retry_min, max: self.setting.retry_max }
    }

    pub(super) fn waiting(&self, reason: String) -> ImportOutcome {
        ImportOutcome::Waiting {
            reason,
            after: Backoff::jitter(self.setting.wait_interval),
            files: Vec::new(),
        }
    }

    /// For what may come late or never: looked for less often with time, so that a hundred thousand such
    /// deals do not hold up those that could be imported. A file that arrives makes its deal due before
    /// that.
    pub(super) fn waiting_by_age(
        &self,
        deal: &OfflineDealDoc,
        reason: String,
        files: Vec<String>,
    ) -> ImportOutcome {
        ImportOutcome::Waiting { reason, after: self.pause_by_age(deal), files }
    }

    fn pause_by_age(&self, deal: &OfflineDealDoc) -> Duration {
        let until = deal.claim.as_ref().and_then(|claim| claim.until);
        let age = until.zip(deal.createdtime).map_or(Duration::ZERO, |(until, created)| {
            decide::age_at_claim(created.timestamp_millis(), until.timestamp_millis(), self.setting.lease)
        });
        Backoff::jitter(self.pauses().by_age(age, self.setting.wait_interval))
    }

    /// For a failure that may pass: tried again, up to `setting.maxTries`.
    pub(super) fn retrying(&self, deal: &OfflineDealDoc, reason: String) -> ImportOutcome {
        let failures = failures_of(deal);
        if failures.saturating_add(1) >= i64::from(self.setting.max_tries) {
            let tries = self.setting.max_tries;
            let reason = format!("set aside after {tries} tries (setting.maxTries): {reason}");
            return ImportOutcome::SetAside { reason, files: Vec::new() };
        }
        let after = self.pauses().after(failures, &mut fastrand::Rng::new());
        ImportOutcome::Retrying { reason, after, files: Vec::new() }
    }

    /// For a file that the market refused as another piece, in its words.
    pub(super) fn other_piece(&self, deal: &OfflineDealDoc, node_path: &str, words: &str) -> Settled {
        let reason = decide::not_the_piece(node_path, words);
        let name = node_path.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned);
        let outcome = self.wrong_file(deal, reason, name.into_iter().collect());
        Settled { is_other_piece: true, ..without_view(outcome, true) }
    }

    /// For a file that is another piece: a person has to replace it, and until then a look costs little.
    pub(super) fn wrong_file(
        &self,
        deal: &OfflineDealDoc,
        reason: String,
        files: Vec<String>,
    ) -> ImportOutcome {
        ImportOutcome::Retrying { reason, after: self.pause_by_age(deal), files }
    }
}

pub(super) fn node_trouble(error: &RpcError) -> ImportOutcome {
    let reason = with_hint(ErrorChain(error).to_string(), error.hint());
    // The deal is due again at once: its failure counts against the node, and the worker pauses.
    let reason = format!("the market node cannot be worked with: {reason}");
    ImportOutcome::Waiting { reason, after: Duration::ZERO, files: Vec::new() }
}

fn failures_of(deal: &OfflineDealDoc) -> i64 {
    deal.import.as_ref().and_then(|import| import.attempts).unwrap_or(0)
}

pub(super) fn without_view(outcome: ImportOutcome, is_answered: bool) -> Settled {
    Settled { outcome, view: None, is_answered, is_other_piece: false }
}

pub(super) fn settled(outcome: ImportOutcome) -> Outcome {
    Outcome::Settled(without_view(outcome, false))
}

pub(super) fn trouble(outcome: ImportOutcome, remedy: Remedy, is_answered: bool) -> Outcome {
    Outcome::NodeTrouble(without_view(outcome, is_answered), remedy)
}

/// The market will never take the deal's data.
pub(super) fn failed(reason: String) -> Outcome {
    answered(ImportOutcome::Failed { reason })
}

/// After a call that the market has answered.
pub(super) fn answered(outcome: ImportOutcome) -> Outcome {
    Outcome::Settled(without_view(outcome, true))
}
