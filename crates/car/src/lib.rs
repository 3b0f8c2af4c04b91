//! From bytes to CARs and piece commitments.
//!
//! ```text
//! files ──► leaves ──► DAG (UnixFS, dag-pb) ──► CARv1 ──► Fr32 ──► binary tree
//!             │                  │                 │                    │
//!         1 MiB each        payload CID       payload size          piece CID
//! ```
//!
//! What lives here: sizes and CIDs as types, the packing of a file or folder into a CAR with its commitment in
//! one pass ([`build_car`], and [`build_tree`] for what a planner put together), the check of a CAR
//! ([`verify_car`]), its way back to files ([`extract()`]), the commitment of any bytes ([`piece_of`]). What does not:
//! networks, databases, asynchronous code, and names of CARs on disk: the caller opens the output, makes it durable
//! and gives it its name.

mod assemble;
mod carv1;
mod cids;
mod crew;
mod dag_cbor;
mod extract;
mod holes;
mod kernels;
mod limits;
mod piece;
mod profile;
mod progress;
mod readahead;
mod regular;
mod tree;
mod turns;
mod units;
mod unixfs;
mod verify;

pub use assemble::{
    BuildError, BuildOptions, BuiltCar, CarPlan, SourceChange, SourceIdentity, Unsupported, build_car,
    build_tree, plan_car,
};
pub use carv1::header::HeaderError;
pub use cids::{CidError, PayloadCid, PieceCid, PieceCidV2};
pub use crew::Crew;
pub use extract::{
    BadName, BadParts, Existing, ExtractError, ExtractOptions, ExtractPlan, Extracted, Extraction,
    OtherState, Outcome, Placement, Restored, RestoredKind, Symlinks, Unfinished, extract, is_reserved_name,
};
#[doc(hidden)]
pub use kernels::bench;
pub use kernels::{KernelUnavailable, check_kernel_choice, kernel_name};
pub use piece::file::piece_of_file;
pub use piece::{Commitment, PieceError, PieceInfo, piece_of};
pub use profile::{BlockHash, CarOrder, DagParams, FolderRoot, Profile, ShardRule, UnknownProfile};
pub use progress::{NoProgress, Progress};
pub use regular::open_regular;
pub use tree::{FilePart, SourceStamp, SourceTree, TreeError};
pub use units::{PaddedPieceSize, PayloadSize, PieceSizeError, UnpaddedPieceSize};
pub use unixfs::decode::NotUnixfs;
#[doc(hidden)]
pub use verify::fuzz;
pub use verify::{VerifiedCar, VerifyError, read_car_root, verify_car};
