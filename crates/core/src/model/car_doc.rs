//! The collection `cars`: CARs that are complete and on disk.

use bson::DateTime;
use bson::oid::ObjectId;
use serde::{Deserialize, Serialize};

use crate::model::stored;

/// One document of `cars`. The first block of fields has the prototype's names and meaning; the second block
/// is newer. Every field may be missing in documents of the prototype.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CarDoc {
    /// The document's own id.
    #[serde(rename = "_id", skip_serializing_if = "Option::is_none")]
    pub id: Option<ObjectId>,
    /// The source file, absolute.
    #[serde(deserialize_with = "stored::opt_text")]
    pub inputpath: Option<String>,
    /// The CAR made of it, absolute, on the data-prep box.
    #[serde(deserialize_with = "stored::opt_text")]
    pub outputpath: Option<String>,
    /// Piece CID (commP) of the CAR.
    #[serde(deserialize_with = "stored::opt_text")]
    pub piececid: Option<String>,
    /// Payload CID: the CAR's root.
    #[serde(deserialize_with = "stored::opt_text")]
    pub filecid: Option<String>,
    /// Name of the data set.
    #[serde(deserialize_with = "stored::opt_text")]
    pub group: Option<String>,
    /// Bytes of the source file.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub filesizebytes: Option<i64>,
    /// UNPADDED piece size in bytes (127·2ⁿ): what `--manual-piece-size` takes.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub dealsizebytes: Option<i64>,
    /// When the CAR was first recorded.
    #[serde(deserialize_with = "stored::opt_time")]
    pub createdtime: Option<DateTime>,
    /// When the record last changed.
    #[serde(deserialize_with = "stored::opt_time")]
    pub updatedtime: Option<DateTime>,

    /// Bytes of the CAR on disk.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub carsizebytes: Option<i64>,
    /// PADDED piece size in bytes (128·2ⁿ).
    #[serde(deserialize_with = "stored::opt_integer")]
    pub piecesizebytes: Option<i64>,
    /// Name of the DAG profile (`lotus`, …).
    #[serde(deserialize_with = "stored::opt_text")]
    pub profile: Option<String>,
    /// Modification time of the source when it was read, nanoseconds since 1970.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub sourcemtimenanos: Option<i64>,
    /// Host name of the data-prep box that holds source and CAR.
    #[serde(deserialize_with = "stored::opt_text")]
    pub host: Option<String>,
    /// Set when another CAR took this one's place on disk: no new deals are made for it.
    #[serde(deserialize_with = "stored::opt_time")]
    pub replacedtime: Option<DateTime>,
    /// The plan (`packplans`) that the CAR is a piece of; a CAR of one file has none.
    #[serde(deserialize_with = "stored::opt_text", skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Index of the piece in the plan, from 0 on.
    #[serde(deserialize_with = "stored::opt_integer", skip_serializing_if = "Option::is_none")]
    pub planpiece: Option<i64>,
}
