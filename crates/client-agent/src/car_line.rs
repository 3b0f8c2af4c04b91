//! JSON of a CAR, as the commands and the manifests write it: path, CIDs, sizes.

use std::path::Path;

use carferry_car::{BuiltCar, PaddedPieceSize, PayloadSize, PieceCid, Profile};
use carferry_core::model::CarDoc;
use serde::{Deserialize, Serialize};

/// What is known of a CAR. Field names are those of `cars` where they mean the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CarLine {
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

impl CarLine {
    /// A CAR that was built.
    pub(crate) fn built(car: &BuiltCar) -> Self {
        Self {
            payloadcid: Some(car.payload_cid.to_string()),
            carsizebytes: Some(car.payload_size.get()),
            ..Self::piece(&car.piece_cid, car.padded_piece_size)
        }
    }

    /// A CAR as its record describes it.
    pub(crate) fn recorded(car: &CarDoc) -> Self {
        let bytes = |stored: Option<i64>| stored.and_then(|bytes| u64::try_from(bytes).ok());
        Self {
            carpath: car.outputpath.clone(),
            payloadcid: car.filecid.clone(),
            piececid: car.piececid.clone(),
            carsizebytes: bytes(car.carsizebytes),
            piecesizebytes: bytes(car.piecesizebytes),
            dealsizebytes: bytes(car.dealsizebytes),
        }
    }

    /// Only the piece.
    pub(crate) fn piece(piece_cid: &PieceCid, size: PaddedPieceSize) -> Self {
        Self { piececid: Some(piece_cid.to_string()), ..Self::default() }.padded(Some(size))
    }

    /// Only sizes.
    pub(crate) fn sized(car: PayloadSize, piece: Option<PaddedPieceSize>) -> Self {
        Self { carsizebytes: Some(car.get()), ..Self::default() }.padded(piece)
    }

    /// The same, with the place of the CAR.
    pub(crate) fn at(self, path: &Path) -> Self {
        Self { carpath: Some(path.to_string_lossy().into_owned()), ..self }
    }

    fn padded(self, piece: Option<PaddedPieceSize>) -> Self {
        Self {
            piecesizebytes: piece.map(PaddedPieceSize::get),
            dealsizebytes: piece.map(|size| size.unpadded().get()),
            ..self
        }
    }
}

/// A manifest's line about a CAR, and about what the CAR is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestLine<Of> {
    /// Version of the format.
    pub manifest: u32,
    /// The CAR, below the folder of the manifest.
    pub car: String,
    /// CIDs and sizes.
    #[serde(flatten)]
    pub facts: CarLine,
    /// DAG profile.
    pub profile: String,
    /// What it is of.
    #[serde(flatten)]
    pub of: Of,
}

/// Version of the format that [`ManifestLine::new`] writes.
pub(crate) const MANIFEST_VERSION: u32 = 1;

impl<Of> ManifestLine<Of> {
    /// The line of a CAR with this name.
    pub(crate) fn new(car: String, facts: CarLine, profile: Profile, of: Of) -> Self {
        let facts = CarLine { carpath: None, ..facts };
        Self { manifest: MANIFEST_VERSION, car, facts, profile: profile.name().to_owned(), of }
    }
}
