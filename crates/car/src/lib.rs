//! Packs files into CARs with their piece commitment, verifies CARs, and extracts files from CARs.
//!
//! ```text
//! files ──► leaves ──► DAG (UnixFS, dag-pb) ──► CARv1 ──► Fr32 ──► binary tree
//!             │                  │                 │                    │
//!         1 MiB each        payload CID       payload size          piece CID
//! ```
//!
//! What lives here: sizes and CIDs as types; packing a file or folder into a CAR and its commitment in one
//! pass ([`build_car`], and [`build_tree`] for a planned tree); verifying a CAR ([`verify_car`]); extracting
//! files ([`extract()`]); the piece commitment of any bytes ([`piece_of`]). What does not: networks,
//! databases, asynchronous code, and names of CARs on disk. The caller opens the output, syncs and renames
//! it.

mod assemble;
mod build_error;
mod carv1;
mod cids;
mod dag_cbor;
pub(crate) mod dag_pb;
mod extract;
pub(crate) mod fr32;
mod kernels;
mod limits;
mod piece;
mod profile;
mod progress;
mod readahead;
mod regular;
mod sequencer;
mod source_tree;
mod sparse;
mod temporary_name;
mod thread_budget;
mod units;
mod unixfs;
mod verify;

pub use crate::assemble::{BuildOptions, BuiltCar, CarPlan, SourceIdentity, build_car, build_tree, plan_car};
pub use crate::build_error::{BuildError, SourceChange, Unsupported};
pub use crate::carv1::header::HeaderError;
pub use crate::cids::{CidError, PayloadCid, PieceCid, PieceCidV2};
pub use crate::extract::{
    BadName, BadParts, Existing, ExtractError, ExtractOptions, ExtractPlan, Extracted, Extraction,
    OtherState, Outcome, Placement, Restored, RestoredKind, Symlinks, Unfinished, extract,
};
#[cfg(feature = "bench")]
pub use crate::kernels::bench;
pub use crate::kernels::{KernelUnavailable, check_kernel_choice, kernel_name};
pub use crate::piece::file::piece_of_file;
pub use crate::piece::{Commitment, PieceError, PieceInfo, piece_of};
pub use crate::profile::{BlockHash, CarOrder, DagParams, FolderRoot, Profile, ShardRule, UnknownProfile};
pub use crate::progress::{NoProgress, Progress};
pub use crate::regular::open_regular;
pub use crate::source_tree::{FilePart, SourceStamp, SourceTree, TreeError, sorted_names};
pub use crate::sparse::is_sparse;
pub use crate::temporary_name::is_reserved_name;
pub use crate::thread_budget::ThreadBudget;
pub use crate::units::{PaddedPieceSize, PayloadSize, PieceSizeError, UnpaddedPieceSize};
pub use crate::unixfs::decode::NotUnixfs;
#[doc(hidden)]
pub use crate::verify::fuzz;
pub use crate::verify::{VerifiedCar, VerifyError, read_car_root, verify_car};
