//! What a line of `makecars` says of a CAR: path, CIDs, sizes.

use std::path::Path;

use carferry_car::{BuiltCar, PaddedPieceSize, PayloadSize};
use serde::Serialize;

/// What a line says of a CAR. Field names are those of `cars` where they mean the same.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct CarReport {
    /// The CAR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carpath: Option<String>,
    /// Root of the CAR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payloadcid: Option<String>,
    /// Piece CID of the CAR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub piececid: Option<String>,
    /// Bytes of the CAR; in a dry run, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carsizebytes: Option<u64>,
    /// PADDED piece size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub piecesizebytes: Option<u64>,
    /// UNPADDED piece size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dealsizebytes: Option<u64>,
}

impl CarReport {
    /// A CAR that stands.
    pub(crate) fn made(path: &Path, car: &BuiltCar) -> Self {
        Self {
            carpath: Some(path.to_string_lossy().into_owned()),
            payloadcid: Some(car.payload_cid.to_string()),
            piececid: Some(car.piece_cid.to_string()),
            ..Self::sized(car.payload_size, Some(car.padded_piece_size))
        }
    }

    /// Only sizes.
    pub(crate) fn sized(car: PayloadSize, piece: Option<PaddedPieceSize>) -> Self {
        Self {
            carsizebytes: Some(car.get()),
            piecesizebytes: piece.map(PaddedPieceSize::get),
            dealsizebytes: piece.map(|size| size.unpadded().get()),
            ..Self::default()
        }
    }
}
