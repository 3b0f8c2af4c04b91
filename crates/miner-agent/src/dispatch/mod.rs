//! Which deal is tried when: due deals are claimed under a lease, tried, and their outcome is recorded.

mod claiming;
pub mod due_queue;
mod in_flight;
pub mod lease_renewal;
pub mod one_pass;
pub mod one_try;
pub mod pass;
pub mod pause;
pub mod worker;
