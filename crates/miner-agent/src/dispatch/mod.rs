//! Which deal is worked on when: due deals are claimed under a lease, brought forward, and their outcome is recorded.

pub mod due_queue;
pub mod lease_renewal;
pub mod one_pass;
pub mod pause;
pub mod worker;
