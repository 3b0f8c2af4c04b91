//! `makecars`: from folders of files to CARs on disk, and their documents in `cars`.
//!
//! [`per_file`] makes a CAR of each file, [`dataset`] divides whole folders into pieces; beside them stands what both
//! use.

pub mod car_record;
pub mod dataset;
pub mod per_file;
pub mod read_back;
pub mod standing;
pub(crate) mod workspace;
