//! What the tests and the demo stand on: real mongods, conditions to wait for, faults to inject.
//!
//! Nothing here knows deals or miners. A test takes [`database`] for a database of its own on the
//! run's common mongod, or a [`ReplicaSet`] when it wants to kill members or set fail points.

pub mod eventually;
pub mod faults;
pub mod helper;
pub mod mongod;
pub mod tied;

pub use mongod::database::{TestDb, database};
pub use mongod::replica_set::{Members, Options, ReplicaSet};
