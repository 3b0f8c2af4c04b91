//! Pauses of a worker: when it claims nothing for its miner, and which deals it may claim during a pause.
//!
//! Trouble with node or database pauses everything. Failures of some deals say less: after [`BREAKER`] of
//! them without a success between them, those that failed pause, and one deal that has not failed yet may be
//! tried meanwhile. So some hopeless deals hold up no good one, and a node that takes nothing gets few
//! calls.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// Deals that fail without a success between them before those that failed pause.
pub const BREAKER: usize = 5;

/// The pause of a worker, and the failures that may begin one.
#[derive(Debug, Default)]
pub struct Pause {
    until: Option<Instant>,
    /// During a pause because of failures: the state of the one deal that may be tried.
    probe: Option<Probe>,
    /// Deals that failed since the last success.
    failed: HashSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Probe {
    Free,
    Out(String),
    Failed,
}

/// What may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// Every deal that is due.
    All,
    /// One deal that has not failed.
    Fresh,
    /// Nothing before this time.
    NothingBefore(Instant),
}

impl Pause {
    /// What may be claimed now.
    pub fn claims(&mut self) -> Claims {
        match (self.until, &self.probe) {
            (Some(until), Some(Probe::Free)) if until > Instant::now() => Claims::Fresh,
            (Some(until), _) if until > Instant::now() => Claims::NothingBefore(until),
            _ => {
                (self.until, self.probe) = (None, None);
                Claims::All
            }
        }
    }

    /// Whether a deal that comes due now may be claimed now.
    pub fn is_open(&self) -> bool {
        self.until.is_none() || self.probe == Some(Probe::Free)
    }

    /// When the pause ends, if there is one.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Begins a pause of everything.
    pub fn begin(&mut self, pause: Duration) -> Instant {
        let until = Instant::now() + pause;
        (self.until, self.probe) = (Some(until), None);
        until
    }

    /// The deal that may be tried is claimed.
    pub fn probes(&mut self, deal: &str) {
        if self.probe == Some(Probe::Free) {
            self.probe = Some(Probe::Out(deal.to_owned()));
        }
    }

    /// A deal was imported: the node takes deals.
    pub fn succeeded(&mut self) {
        self.failed.clear();
        if self.probe.take().is_some() {
            self.until = None;
        }
    }

    /// Counts a failed deal. Returns whether a pause must begin; see [`Self::begin_for_failures`].
    pub fn failed(&mut self, deal: &str) -> bool {
        if self.probe.as_ref().is_some_and(|probe| *probe == Probe::Out(deal.to_owned())) {
            self.probe = Some(Probe::Failed);
            return false;
        }
        self.failed.insert(deal.to_owned());
        let is_enough = self.failed.len() >= BREAKER;
        if is_enough {
            self.failed.clear();
        }
        is_enough
    }

    /// Begins a pause of the deals that failed.
    pub fn begin_for_failures(&mut self, pause: Duration) {
        self.begin(pause);
        self.probe = Some(Probe::Free);
    }

    /// A try ended without telling anything of the node.
    pub fn told_nothing(&mut self, deal: &str) {
        if self.probe.as_ref().is_some_and(|probe| *probe == Probe::Out(deal.to_owned())) {
            self.probe = Some(Probe::Free);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn one_deal_that_fails_again_and_again_pauses_nothing() {
        let mut pause = Pause::default();
        for _ in 0..100 {
            assert!(!pause.failed("hopeless"));
        }
        for deal in ["b", "c", "d"] {
            assert!(!pause.failed(deal));
        }
        pause.succeeded();
        for deal in ["b", "c", "d", "e"] {
            assert!(!pause.failed(deal));
        }
        assert!(pause.failed("f"), "the fifth since the last success");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_deal_tries_while_those_that_failed_pause() {
        let mut pause = Pause::default();
        pause.begin_for_failures(LONG);
        assert_eq!(pause.claims(), Claims::Fresh);
        pause.probes("waits for its file");
        assert!(matches!(pause.claims(), Claims::NothingBefore(_)), "one at a time");
        pause.told_nothing("waits for its file");
        assert_eq!(pause.claims(), Claims::Fresh);
        pause.probes("good");
        assert!(!pause.is_open());
        pause.succeeded();
        assert_eq!(pause.claims(), Claims::All);

        pause.begin_for_failures(LONG);
        pause.probes("bad");
        assert!(!pause.failed("bad"));
        assert!(matches!(pause.claims(), Claims::NothingBefore(_)), "the node takes nothing");
        tokio::time::advance(LONG).await;
        assert_eq!(pause.claims(), Claims::All);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_with_the_node_pauses_everything() {
        let mut pause = Pause::default();
        pause.begin_for_failures(LONG);
        pause.begin(LONG * 2);
        tokio::time::advance(LONG).await;
        assert!(matches!(pause.claims(), Claims::NothingBefore(_)) && !pause.is_open());
    }
}
