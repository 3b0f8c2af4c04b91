//! The wall clock. Waiting is `tokio::time`'s, so that tests can pause it; deadlines between agents
//! are judged by the database's clock, never by this one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of this host's clock.
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

/// Time since 1970 by this host's clock; zero on a clock set before that.
pub fn since_unix_epoch() -> Duration {
    wall_now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
