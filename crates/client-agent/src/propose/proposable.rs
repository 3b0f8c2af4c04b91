//! A document of `cars` as something that can be proposed: its CIDs and sizes, checked.

use bson::oid::ObjectId;
use carferry_car::{PaddedPieceSize, PayloadCid, PieceCid};
use carferry_core::model::CarDoc;

use crate::propose::conditions;

/// A CAR that can be proposed.
pub(super) struct Proposable {
    pub(super) payload_cid: PayloadCid,
    pub(super) piece_cid: PieceCid,
    pub(super) unpadded: i64,
    pub(super) padded: PaddedPieceSize,
    pub(super) path: String,
    /// The host that has it, where the record names one.
    pub(super) host: Option<String>,
}

/// The CAR of a document, or what the document lacks.
pub(super) fn proposable(car: &CarDoc) -> Result<Proposable, String> {
    let name = car.outputpath.clone().or_else(|| car.id.map(ObjectId::to_hex)).unwrap_or_default();
    let missing = |field: &str| format!("cars document of {name} has no {field}");
    let payload = car.filecid.as_deref().ok_or_else(|| missing("filecid"))?;
    let piece = car.piececid.as_deref().ok_or_else(|| missing("piececid"))?;
    let unpadded = car.dealsizebytes.ok_or_else(|| missing("dealsizebytes"))?;
    Ok(Proposable {
        payload_cid: payload.parse().map_err(|error| format!("cars document of {name}: filecid: {error}"))?,
        piece_cid: piece.parse().map_err(|error| format!("cars document of {name}: piececid: {error}"))?,
        padded: conditions::padded(unpadded)
            .map_err(|error| format!("cars document of {name}: dealsizebytes: {error}"))?,
        unpadded,
        path: car.outputpath.clone().unwrap_or_default(),
        host: car.host.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_car_document_with_a_hole_is_named() {
        let car = CarDoc {
            outputpath: Some("/out/a.car".into()),
            filecid: Some("bafkqaaa".into()),
            ..CarDoc::default()
        };
        assert_eq!(proposable(&car).err().unwrap(), "cars document of /out/a.car has no piececid");
        let piece = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";
        let car = CarDoc { piececid: Some(piece.into()), dealsizebytes: Some(128), ..car };
        assert!(proposable(&car).err().unwrap().contains("dealsizebytes"));
    }
}
