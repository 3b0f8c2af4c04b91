//! Why `makecars` packs nothing, and what it leaves out.

use std::path::PathBuf;

use carferry_core::error_chain::Hint;
use indicatif::BinaryBytes;

/// Why nothing was packed at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakecarsError {
    /// The input cannot be walked.
    #[error("cannot use --input {}", path.display())]
    Input {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The output cannot be written.
    #[error("cannot use --output {}", path.display())]
    Output {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// CARs would become input of the next run.
    #[error("--input and --output are the same folder {}", path.display())]
    SameFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest's name is taken.
    #[error("{} is not a manifest of makecars, and is left alone", path.display())]
    ForeignManifest {
        /// What has its name.
        path: PathBuf,
        /// Why it is none.
        source: std::io::Error,
    },
    /// Another run works here.
    #[error("another makecars writes into {}", path.display())]
    Locked {
        /// The output.
        path: PathBuf,
    },
    /// The file system is too full for a single CAR.
    #[error(
        "the CAR of {} takes up to {needed} ({bytes} bytes), but only {free} are free at {}",
        input.display(), output.display(), needed = BinaryBytes(*bytes), free = BinaryBytes(*free)
    )]
    NoSpace {
        /// The source.
        input: PathBuf,
        /// The output.
        output: PathBuf,
        /// Bytes of its CAR, at most.
        bytes: u64,
        /// Bytes free.
        free: u64,
    },
    /// Packing threads could not be started, or ended by a bug.
    #[error("{missing} files were not dealt with: packing threads ended early")]
    ThreadsGone {
        /// How many files.
        missing: u64,
    },
}

impl Hint for MakecarsError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::SameFolder { .. } => "CARs go to a folder of their own; it may lie inside the input",
            Self::ForeignManifest { .. } => "move it away, or write to another --output",
            Self::Locked { .. } => "wait for it, or give this one its own output folder",
            Self::NoSpace { .. } => "free some space, or write to another file system",
            Self::Input { .. } | Self::Output { .. } | Self::ThreadsGone { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// Something that is not packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedEntry {
    /// What.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}
