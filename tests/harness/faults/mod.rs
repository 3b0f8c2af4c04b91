//! Faults on the way to MongoDB and inside it.

mod fail_point;
mod proxy;

pub use fail_point::{FailPoint, FailWith, Times};
pub use proxy::{Link, Proxy};
