//! The document of a CAR in `cars`, which is written after the file.

use std::path::Path;

use carferry_car::{BuiltCar, Profile};
use carferry_core::model::CarDoc;

/// What a document says of every CAR. `dealsizebytes` is the UNPADDED piece size, as the notes have it.
pub(super) fn of(car: &BuiltCar, path: &Path, profile: Profile, host: &str) -> CarDoc {
    let stored = |bytes: u64| i64::try_from(bytes).ok();
    CarDoc {
        outputpath: Some(path.to_string_lossy().into_owned()),
        piececid: Some(car.piece_cid.to_string()),
        filecid: Some(car.payload_cid.to_string()),
        dealsizebytes: stored(car.padded_piece_size.unpadded().get()),
        carsizebytes: stored(car.payload_size.get()),
        piecesizebytes: stored(car.padded_piece_size.get()),
        profile: Some(profile.name().to_owned()),
        host: Some(host.to_owned()),
        ..CarDoc::default()
    }
}
