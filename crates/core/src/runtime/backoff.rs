//! Exponential backoff with full jitter: how long to wait before the next try.
//!
//! The backoff never sleeps itself. The loop that retries does.

use std::time::Duration;

use tokio::time::Instant;

/// Parameters of a backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The longest wait after the first failure; it doubles with every further one.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// A time without failures, counted from the end of the last wait, after which the earlier failures are
    /// forgotten.
    pub quiet: Duration,
}

impl Default for BackoffPolicy {
    /// 100 ms, 200 ms, … 30 s; forgotten after two quiet minutes.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(30),
            quiet: Duration::from_secs(120),
        }
    }
}

impl BackoffPolicy {
    /// The longest wait after this many failures (from 1).
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// A random wait between nothing and [`Self::ceiling`], so that agents that failed together do not retry
    /// together. For failures that are counted in a document.
    pub fn delay(&self, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        self.ceiling(failures).mul_f64(rng.f64())
    }
}

/// 2^20 times the first wait is beyond every sensible maximum.
const DOUBLINGS_MAX: u32 = 20;

/// Counts the failures of one loop.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
    /// When the last wait ended, as far as is known.
    resumed: Option<Instant>,
    rng: fastrand::Rng,
}

impl Backoff {
    /// A loop that has not failed yet.
    pub fn new(policy: BackoffPolicy) -> Self {
        Self::with_rng(policy, fastrand::Rng::new())
    }

    /// With given randomness, for tests.
    pub fn with_rng(policy: BackoffPolicy, rng: fastrand::Rng) -> Self {
        Self { policy, failures: 0, resumed: None, rng }
    }

    /// The pause, up to a tenth longer or shorter at random, so that agents that pause together do not
    /// continue together.
    pub fn jitter(pause: Duration) -> Duration {
        pause.mul_f64(0.9 + fastrand::f64() / 5.0)
    }

    /// Records a failure at this moment and returns the wait before the next try.
    pub fn next_delay(&mut self) -> Duration {
        self.next_delay_at(Instant::now())
    }

    /// Records a failure at `now` and returns the wait before the next try.
    pub fn next_delay_at(&mut self, now: Instant) -> Duration {
        let was_quiet = |resumed: Instant| now.saturating_duration_since(resumed) > self.policy.quiet;
        if self.resumed.is_some_and(was_quiet) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let delay = self.policy.delay(self.failures, &mut self.rng);
        self.resumed = now.checked_add(delay);
        delay
    }

    /// Forgets all failures, after a success that shows that the server has recovered.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.resumed = None;
    }

    /// Failures in a row so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_the_maximum() {
        let policy = BackoffPolicy::default();
        for (failures, ms) in
            [(0, 100), (1, 100), (2, 200), (3, 400), (9, 25_600), (10, 30_000), (u32::MAX, 30_000)]
        {
            assert_eq!(policy.ceiling(failures), Duration::from_millis(ms), "{failures}");
        }
    }

    #[test]
    fn delays_spread_over_the_whole_range_and_never_beyond() {
        let policy = BackoffPolicy::default();
        let mut rng = fastrand::Rng::with_seed(7);
        let delays: Vec<_> = (0..1000).map(|_| policy.delay(4, &mut rng)).collect();
        let ceiling = policy.ceiling(4);
        assert!(delays.iter().all(|delay| *delay <= ceiling));
        let low = delays.iter().filter(|delay| **delay < ceiling / 2).count();
        assert!((400..600).contains(&low), "{low} of 1000 in the lower half");
    }

    #[test]
    fn jitter_is_a_tenth_at_most() {
        let pauses = (0..1000).map(|_| Backoff::jitter(Duration::from_secs(10)));
        assert!(pauses.into_iter().all(|pause| (9.0..=11.0).contains(&pause.as_secs_f64())));
    }

    #[test]
    fn quiet_time_forgets_failures_and_the_wait_itself_does_not_count() {
        let policy = BackoffPolicy { quiet: Duration::from_secs(10), ..BackoffPolicy::default() };
        let mut backoff = Backoff::with_rng(policy, fastrand::Rng::with_seed(1));
        let mut now = Instant::now();
        for failures in 1..=9 {
            let delay = backoff.next_delay_at(now);
            assert!(delay <= policy.ceiling(failures));
            assert_eq!(backoff.failures(), failures);
            now += delay + Duration::from_secs(9);
        }
        let delay = backoff.next_delay_at(now);
        assert_eq!(backoff.failures(), 10);
        backoff.next_delay_at(now + delay + Duration::from_secs(11));
        assert_eq!(backoff.failures(), 1);
        backoff.reset();
        assert_eq!(backoff.failures(), 0);
    }
}
