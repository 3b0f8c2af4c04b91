//! Real mongods: the binary, replica sets of one's own, and the one the whole run shares.

pub mod binary;
pub(crate) mod daemon;
pub mod database;
pub(crate) mod member;
pub mod replica_set;
pub mod secured;
pub mod shared;
pub mod wire;

pub use binary::binary;
pub use shared::shared;
