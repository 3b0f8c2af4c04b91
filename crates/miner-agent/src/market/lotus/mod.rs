//! Lotus' own storage market: lists all its deals in one call, and copies the CAR before it answers an import
//! (Lotus v1.5.0 to v1.27.0).

pub(super) mod checks;
pub(super) mod errors;
pub(super) mod listed;
