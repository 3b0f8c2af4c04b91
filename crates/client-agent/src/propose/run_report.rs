//! Merges the reports of one run: the last state of every proposal counts.

use std::collections::HashSet;

use crate::propose::report::{DealLine, DealState, Report};

/// Proposals that failed, and are listed at the end of a run.
const FAILED_LISTED_MAX: usize = 100;

impl Report {
    /// Adds a later report of the same run and returns its proposals, each with its last state. That state
    /// replaces the one of earlier reports. What is settled is only counted, so that a run of a million
    /// deals keeps no million lines.
    pub fn follow(&mut self, mut later: Self) -> Vec<DealLine> {
        let mut seen = HashSet::new();
        let mut lines = std::mem::take(&mut later.deals);
        lines.reverse();
        lines.retain(|line| seen.insert(line.intent.clone()));
        lines.reverse();
        self.absorb(later);
        if !lines.is_empty() {
            self.deals.retain(|known| !seen.contains(&known.intent));
        }
        for line in &lines {
            let is_listed = match line.state {
                DealState::Planned | DealState::Published | DealState::Settled => false,
                DealState::Refused | DealState::Abandoned => self.deals.len() < FAILED_LISTED_MAX,
                DealState::Unsettled => true,
            };
            if is_listed {
                self.deals.push(line.clone());
            } else {
                *self.told.entry(line.state).or_insert(0) += 1;
            }
        }
        lines
    }

    /// How many proposals it tells of.
    pub fn proposals(&self) -> usize {
        self.told.values().sum::<usize>() + self.deals.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[(&str, DealState)]) -> Report {
        let line = |(intent, state): &(&str, DealState)| DealLine {
            intent: (*intent).to_owned(),
            payload_cid: "p".to_owned(),
            miner: "f01000".to_owned(),
            start_epoch: 1,
            state: *state,
            detail: None,
        };
        Report { deals: lines.iter().map(line).collect(), ..Report::default() }
    }

    #[test]
    fn of_every_proposal_the_last_state_counts_once() {
        use DealState::{Published, Refused, Settled, Unsettled};
        let mut whole = Report::default();
        whole.follow(report(&[("a", Unsettled), ("b", Published), ("c", Unsettled), ("d", Unsettled)]));
        assert!(!whole.is_clean());
        let told =
            whole.follow(report(&[("a", Unsettled), ("c", Settled), ("a", Published), ("d", Refused)]));
        assert_eq!(told.len(), 3, "{told:?}");
        let counts = [Published, Settled, Refused, Unsettled].map(|state| whole.count(state));
        assert_eq!(counts, [2, 1, 1, 0], "{whole:?}");
        assert_eq!((whole.proposals(), whole.deals.len()), (4, 1), "only what failed is kept");

        let mut clean = Report::default();
        clean.follow(report(&[("a", Unsettled)]));
        clean.follow(report(&[("a", Published)]));
        assert!(clean.is_clean(), "a proposal that was published later is no failure: {clean:?}");
    }

    #[test]
    fn a_miners_trouble_of_an_earlier_pass_is_forgotten() {
        let mut whole = Report::default();
        whole.miner_problems.insert("f01000".to_owned(), "does not answer".to_owned());
        whole.forget_scanned();
        assert!(whole.is_clean());
    }
}
