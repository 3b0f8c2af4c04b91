//! What the agents speak of: addresses, CIDs, epochs, records.

pub mod address;
