//! Says each step of the demo, and measures it.

use std::time::Duration;

use tokio::time::Instant;

use crate::summary::Stage;

/// The steps so far.
#[derive(Debug)]
pub(crate) struct StepLog {
    began: Instant,
    step: Instant,
    number: u32,
    stages: Vec<Stage>,
}

const STEPS: u32 = 6;

impl StepLog {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), step: Instant::now(), number: 0, stages: Vec::new() }
    }

    /// Says what comes next.
    pub(crate) fn begin(&mut self, what: &str) {
        self.number += 1;
        self.step = Instant::now();
        say!("[{}/{STEPS}] {what}", self.number);
    }

    /// Says what the step has done, and how long it took.
    pub(crate) fn end(&mut self, name: &'static str, what: &str) {
        let seconds = self.step_time().as_secs_f64();
        say!("      {what}{}{seconds:.1} s", if what.is_empty() { "" } else { ": " });
        self.stages.push(Stage { name, seconds });
    }

    /// The time since the step began.
    pub(crate) fn step_time(&self) -> Duration {
        self.step.elapsed()
    }

    /// Puts its parts in place of the last step.
    pub(crate) fn divide_last(&mut self, parts: &[(&'static str, Duration)]) {
        self.stages.pop();
        self.stages.extend(parts.iter().map(|(name, time)| Stage { name, seconds: time.as_secs_f64() }));
    }

    /// All steps, and the time since the first began.
    pub(crate) fn so_far(&self) -> (Vec<Stage>, Duration) {
        (self.stages.clone(), self.began.elapsed())
    }
}
