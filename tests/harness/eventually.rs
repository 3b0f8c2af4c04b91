//! Waiting for a condition instead of for a duration.

use std::fmt::Debug;
use std::time::Duration;

/// How long a condition may take where nothing else is said: generous, since only a failing test
/// ever waits for it.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Seconds beyond which no condition is waited for, whatever its own limit: for runs that are meant to fail.
pub const PATIENCE_VARIABLE: &str = "TESTS_PATIENCE_SECONDS";
/// How long to wait between two looks.
pub const POLL: Duration = Duration::from_millis(20);

/// Evaluates an expression, which may `.await`, every 20 ms until it holds, and returns its value.
///
/// The expression is a `bool`, an `Option<T>` (holds as `Some`) or a `Result<T, E>` (holds as
/// `Ok`; the last `Err` is shown). An expression that hangs is cut off at the deadline too.
///
/// ```no_run
/// # async fn example(deals: mongodb::Collection<bson::Document>) {
/// use std::time::Duration;
/// use bson::doc;
/// use harness::eventually;
///
/// eventually!(deals.count_documents(doc! {}).await.unwrap() == 3, "three deals appear");
/// let deal = eventually!(
///     within Duration::from_secs(5),
///     deals.find_one(doc! { "isdeal": 1 }).await.unwrap(),
///     "a deal is imported by {}", "f01000"
/// );
/// # }
/// ```
///
/// # Panics
///
/// When the deadline (30 s, or what `within` says) passes, naming what never came true.
#[macro_export]
macro_rules! eventually {
    (within $deadline:expr, $condition:expr, $($what:tt)+) => {{
        let mut attempt = $crate::eventually::Attempts::new($deadline);
        loop {
            let outcome = attempt.bounded(async { $condition }).await;
            if let Some(value) = attempt.settle(outcome, || ::std::format!($($what)+)).await {
                break value;
            }
        }
    }};
    ($condition:expr, $($what:tt)+) => {
        $crate::eventually!(within $crate::eventually::DEADLINE, $condition, $($what)+)
    };
}

/// Waits until an expression equals a value; a failure shows the last value that did not.
///
/// # Panics
///
/// When that takes longer than 30 s, or what `within` says.
#[macro_export]
macro_rules! eventually_eq {
    (within $deadline:expr, $actual:expr, $expected:expr, $($what:tt)+) => {
        $crate::eventually!(
            within $deadline,
            match $actual {
                actual if actual == $expected => ::std::result::Result::Ok(actual),
                actual => ::std::result::Result::Err(actual),
            },
            $($what)+
        )
    };
    ($actual:expr, $expected:expr, $($what:tt)+) => {
        $crate::eventually_eq!(within $crate::eventually::DEADLINE, $actual, $expected, $($what)+)
    };
}

/// What a look at a condition can give.
pub trait Condition {
    /// What the condition's coming true yields.
    type Value;

    /// The value, or what stands in its place so far.
    fn look(self) -> Result<Self::Value, String>;
}

impl Condition for bool {
    type Value = ();

    fn look(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "false".to_owned())
    }
}

impl<T> Condition for Option<T> {
    type Value = T;

    fn look(self) -> Result<T, String> {
        self.ok_or_else(|| "None".to_owned())
    }
}

impl<T, E: Debug> Condition for Result<T, E> {
    type Value = T;

    fn look(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

fn patience() -> Option<Duration> {
    let seconds = std::env::var(PATIENCE_VARIABLE).ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The state of one [`eventually!`]; use the macro.
#[derive(Debug)]
pub struct Attempts {
    allowed: Duration,
    until: tokio::time::Instant,
    looks: u32,
    last: Option<String>,
}

impl Attempts {
    /// Starts the clock.
    pub fn new(allowed: Duration) -> Self {
        let allowed = patience().map_or(allowed, |most| allowed.min(most));
        Self { allowed, until: tokio::time::Instant::now() + allowed, looks: 0, last: None }
    }

    /// Looks once; `None` when the look itself did not end in time.
    pub async fn bounded<T>(&self, look: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.until, look).await.ok()
    }

    /// The value of a look that held; otherwise waits a little, or gives up.
    ///
    /// # Panics
    ///
    /// When the deadline has passed.
    pub async fn settle<C: Condition>(
        &mut self,
        outcome: Option<C>,
        what: impl FnOnce() -> String,
    ) -> Option<C::Value> {
        self.looks += 1;
        match outcome.map(Condition::look) {
            Some(Ok(value)) => return Some(value),
            Some(Err(last)) => self.last = Some(last),
            None => {}
        }
        assert!(
            tokio::time::Instant::now() < self.until,
            "never came true within {:?}: {} (looked {} times, last value: {})",
            self.allowed,
            what(),
            self.looks,
            self.last.as_deref().unwrap_or("none, the look did not end")
        );
        tokio::time::sleep(POLL).await;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn value_of_the_condition_is_returned() {
        let mut looks = 0;
        let third = eventually!(
            {
                looks += 1;
                (looks == 3).then_some(looks)
            },
            "a third look"
        );
        assert_eq!(third, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "never came true within 1s: 3 deals of f01000 appear")]
    async fn what_never_came_true_is_named() {
        let miner = "f01000";
        eventually!(within Duration::from_secs(1), false, "{} deals of {miner} appear", 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "last value: 2)")]
    async fn last_value_is_shown() {
        eventually_eq!(1 + 1, 3, "arithmetic fails");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "last value: none, the look did not end)")]
    async fn look_that_hangs_is_cut_off() {
        eventually!(std::future::pending::<bool>().await, "the look ends");
    }
}
