//! Clocks, backoff, circuit breaker, signals and supervised tasks of an agent.
//!
//! Tasks start through [`Supervisor`], so that a task that fails ends the agent.

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
