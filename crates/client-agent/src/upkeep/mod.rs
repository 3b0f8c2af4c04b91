//! CARs that stand, years later: are they still what the records say, can a lost one be made again, and how files
//! are had back.

pub mod extract;
mod placements;
pub mod regenerate;
pub mod verify;
