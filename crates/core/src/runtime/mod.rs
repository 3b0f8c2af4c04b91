//! Time, waiting, signals and tasks: how an agent stays up and how it ends.
//!
//! `tokio::select!` and `tokio::spawn` live here and in `main` only; what the tasks do is the agents'.

pub mod backoff;
pub mod breaker;
pub mod clock;
mod fail_point;
pub mod shutdown;
pub mod supervisor;

pub use crate::runtime::backoff::{Backoff, BackoffPolicy};
pub use crate::runtime::breaker::{Breaker, Permit};
pub use crate::runtime::fail_point::fail_point;
pub use crate::runtime::shutdown::Shutdown;
pub use crate::runtime::supervisor::{Supervisor, SupervisorError};
