//! How often a fault is repeated, and the seed of its random choices.

use std::env;
use std::time::Instant;

/// The random numbers of one test.
pub(crate) struct SeededRng {
    name: &'static str,
    seed: u64,
    pub(crate) rng: fastrand::Rng,
    started: Instant,
}

impl SeededRng {
    /// Of the run's seed (`FAULTS_SEED`, else a new one, which is printed) and the test's name.
    pub(crate) fn of(name: &'static str) -> Self {
        let seed = env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
        eprintln!("{name}: seed {seed}; again with FAULTS_SEED={seed}");
        let of_name = name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let rng = fastrand::Rng::with_seed(seed.wrapping_add(of_name));
        Self { name, seed, rng, started: Instant::now() }
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.rng.usize(0..from.len())]
    }

    /// A line of the long form's table.
    pub(crate) fn tell(&self, iterations: usize, what: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!(
            "FAULTS {} | seed {} | iterations {iterations} | {what} | {seconds:.0} s",
            self.name, self.seed
        );
    }
}

/// Rounds of the short form, or of the long one (`FAULTS_LONG`).
pub(crate) fn iterations(short: usize, long: usize) -> usize {
    if env::var_os("FAULTS_LONG").is_some() { long } else { short }
}
