//! Why a data set is not packed, or not to its end.

use std::path::PathBuf;

use carferry_car::PaddedPieceSize;
use carferry_core::error_chain::Hint;

use crate::makecars::dataset::bin_packing::PieceTooSmall;
use crate::makecars::dataset::build_piece::MakeError;

/// Why a data set was not packed at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatasetError {
    /// A single file is no data set.
    #[error("--layout {layout} packs a folder, and {} is none", path.display())]
    NotAFolder {
        /// The layout.
        layout: &'static str,
        /// The input.
        path: PathBuf,
    },
    /// That profile has no folders.
    #[error("--profile singularity makes no folders, so it cannot keep a data set together")]
    NoFolders,
    /// One tree needs one piece.
    #[error(
        "{} makes a CAR of up to {bytes} bytes, which does not fit into a piece of {piece_size} bytes",
        path.display()
    )]
    TreeTooLarge {
        /// The input.
        path: PathBuf,
        /// Bytes of its CAR.
        bytes: u64,
        /// The largest piece.
        piece_size: PaddedPieceSize,
    },
    /// The pieces are far too small for the profile.
    #[error(transparent)]
    PieceTooSmall(#[from] PieceTooSmall),
    /// Nothing more can be written.
    #[error(
        "{} left: piece {piece} could not be made in {}",
        if *left == 1 { "1 piece is".to_owned() } else { format!("{left} pieces are") }, output.display()
    )]
    Output {
        /// Pieces that are open.
        left: u64,
        /// The one that could not be written.
        piece: i64,
        /// The output.
        output: PathBuf,
        /// Why.
        source: MakeError,
    },
}

impl Hint for DatasetError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAFolder { .. } => "leave --layout out: a file becomes a CAR",
            Self::NoFolders => {
                "leave --layout out, or use the profile unixfs-v1-2025: its files have the same CIDs"
            }
            Self::TreeTooLarge { .. } => "--layout pack divides it into pieces",
            Self::PieceTooSmall(_) => "name a larger --piece-size",
            Self::Output { source, .. } if source.is_no_space() => {
                "nothing of that piece was left behind; make room, or move finished CARs away, and run the same \
                 command again; with --wait-for-space it waits for that"
            }
            Self::Output { source: MakeError::NoInput { .. }, .. } => {
                "is its file system mounted? Run the same command again when it is"
            }
            Self::Output { source: MakeError::Foreign { .. }, .. } => {
                "move it away, or write to another --output"
            }
            Self::Output { .. } => {
                "nothing of that piece was left behind; mend it and run the same command again"
            }
        };
        Some(hint.to_owned())
    }
}
