//! The files of CARs at the provider: where they are, whether they are a deal's piece, and when they arrive.

pub mod arrivals;
pub mod folder_guard;
pub mod locate;
pub mod piece_check;
