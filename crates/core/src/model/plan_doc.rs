//! The collections `packplans`, `packpieces` and `packfiles`: how a data set is divided into pieces, and
//! which pieces are done.
//!
//! ```text
//! packplans    one a plan           what is packed, how, and whether the plan is complete
//! packpieces   one a piece          its lease while it is worked on, its CIDs once it is done
//! packfiles    some a piece         what is in it: a few thousand entries a document
//! ```
//!
//! A plan's id is a hash of everything in it, so two boxes that plan the same write the same documents. No
//! document grows with the data set (MongoDB refuses those above 16 MiB).

use bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::model::stored;

/// The key by which a plan is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanKey {
    /// The folder that is packed, absolute; the same on all boxes that share the plan.
    pub input: String,
    /// Name of the data set.
    pub group: String,
    /// `tree` or `pack`.
    pub layout: String,
    /// Name of the DAG profile.
    pub profile: String,
    /// PADDED size of a full piece in bytes.
    pub piecesizebytes: i64,
}

/// The state of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanState {
    /// Its documents are being written.
    Writing,
    /// Its pieces can be claimed.
    Ready,
    /// No piece of it is open any more.
    Ended,
}

impl PlanState {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Ready => "ready",
            Self::Ended => "ended",
        }
    }
}

/// One document of `packplans`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDoc {
    /// Hex digits of a hash over everything that was planned.
    #[serde(rename = "_id")]
    pub id: String,
    /// Its key.
    #[serde(flatten)]
    pub key: PlanKey,
    /// Its state.
    pub state: PlanState,
    /// Number of its pieces.
    pub pieces: i64,
    /// Number of its documents in `packfiles`.
    pub chunks: i64,
    /// Bytes of all sources.
    pub sourcebytes: i64,
    /// Files, folders and links; a split file counts once a part.
    pub entries: i64,
    /// The agent that wrote it.
    pub host: String,
    /// When its files had last been changed; plans of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<PlanSeen>,
    /// The rules by which its CARs are rooted and named; plans of the first rules have none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "stored::opt_integer")]
    pub rules: Option<i64>,
}

/// The files of a plan as its agent saw them, beside what the entries record. It is not part of the plan's
/// id: machines with their own copies see other times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSeen {
    /// The agent.
    pub host: String,
    /// The latest status change (ctime) of any file, nanoseconds since 1970 by the clock of the file system.
    pub changednanos: i64,
}

/// The state of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PieceState {
    /// To be made, or under a lease.
    Open,
    /// Its CAR is on disk and recorded.
    Done,
    /// It cannot be made because its sources changed. They are planned again.
    Failed,
}

impl PieceState {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// One document of `packpieces`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackPieceDoc {
    /// `<plan>#<index>`
    #[serde(rename = "_id")]
    pub id: String,
    /// The plan's id.
    pub plan: String,
    /// From 0 on.
    pub index: i64,
    /// Number of its documents in `packfiles`.
    pub chunks: i64,
    /// Bytes of its sources.
    pub sourcebytes: i64,
    /// Bytes of its CAR, at most.
    pub carsizemaxbytes: i64,
    /// Its state.
    pub state: PieceState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "stored::opt_text")]
    pub reason: Option<String>,
    /// Payload CID, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "stored::opt_text")]
    pub filecid: Option<String>,
    /// Piece CID, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "stored::opt_text")]
    pub piececid: Option<String>,
    /// The CAR, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "stored::opt_text")]
    pub outputpath: Option<String>,
    /// The host of the CAR, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "stored::opt_text")]
    pub host: Option<String>,
    /// When it last changed (server time).
    #[serde(default, skip_serializing, deserialize_with = "stored::opt_time")]
    pub updatedtime: Option<DateTime>,
}

/// One document of `packfiles`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackFilesDoc {
    /// `<plan>#<piece>#<chunk>`
    #[serde(rename = "_id")]
    pub id: String,
    /// The plan's id.
    pub plan: String,
    /// Index of the piece.
    pub piece: i64,
    /// From 0 on.
    pub chunk: i64,
    /// What is in it, in the order of the paths.
    pub entries: Vec<PackEntryDoc>,
}

/// Something in a piece.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum PackEntryDoc {
    /// A file, or a part of one.
    File {
        /// Below the input, `/` between names.
        path: String,
        /// Bytes of the whole file.
        size: i64,
        /// Modification time, nanoseconds since 1970.
        mtimenanos: i64,
        /// Which part of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<PackPartDoc>,
    },
    /// A folder with nothing in it.
    Folder {
        /// Below the input.
        path: String,
    },
    /// A symbolic link.
    Symlink {
        /// Below the input.
        path: String,
        /// Where it leads, as it stands.
        target: String,
    },
}

/// Which bytes of a file are in a piece, and under which name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackPartDoc {
    /// First byte.
    pub from: i64,
    /// Behind the last byte.
    pub to: i64,
    /// Its name in the CAR, beside where the whole file would be.
    pub name: String,
}

impl PlanDoc {
    /// `_id` of a piece.
    pub fn piece_id(plan: &str, index: i64) -> String {
        format!("{plan}#{index}")
    }
}

impl PackEntryDoc {
    /// Its path below the input.
    pub fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Folder { path } | Self::Symlink { path, .. } => path,
        }
    }
}
