//! What the tests and the demo stand on: real mongods, conditions to wait for, faults to inject.
//!
//! A test takes [`database`] for a database of its own on the run's common mongod, a [`ReplicaSet`] when
//! it wants to kill members or set fail points, and a [`test_env::TestEnv`] when it is about deals.

#![expect(clippy::disallowed_methods, reason = "tests measure real time")]

pub mod child_guard;
pub mod eventually;
pub mod faults;
pub mod helper;
pub mod machine;
pub mod mongod;
pub mod test_env;

pub use mongod::database::{TestDb, database};
pub use mongod::replica_set::{Members, Options, ReplicaSet};
pub use mongod::secured::{SecuredMongod, ServerTls};
