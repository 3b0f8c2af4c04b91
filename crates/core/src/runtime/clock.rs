//! The wall clock of this host, for messages and ages of files. Waits use `tokio::time`, so that tests can
//! pause it, and deadlines between agents use the database server's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of this host's clock.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

/// Time since 1970 by this host's clock; zero on a clock set before that.
pub fn since_unix_epoch() -> Duration {
    wall_now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
