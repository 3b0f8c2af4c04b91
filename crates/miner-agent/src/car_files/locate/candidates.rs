//! The paths at which the CAR of a deal may be, best first.

use std::path::{Component, Path, PathBuf};

use carferry_car::{PayloadSize, PieceCid};
use carferry_core::model::CarDoc;

use crate::car_files::locate::{Places, Wanted};

/// A place where the CAR may be, with what is recorded about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) car_size: Option<PayloadSize>,
    pub(super) piece_cid: Option<PieceCid>,
}

/// Every place to look, each once, best first.
pub(super) fn candidates(places: &Places, wanted: &Wanted, cars: &[CarDoc]) -> Vec<Candidate> {
    let mut found = Vec::<Candidate>::new();
    let mut add = |path: PathBuf, car: Option<&CarDoc>| {
        let climbs = path.components().any(|component| component == Component::ParentDir);
        if path.is_absolute() && !climbs && !found.iter().any(|known| known.path == path) {
            let number = |stored: Option<i64>| stored.and_then(|n| u64::try_from(n).ok());
            found.push(Candidate {
                path,
                car_size: car.and_then(|car| number(car.carsizebytes)).map(PayloadSize::new),
                piece_cid: car.and_then(|car| car.piececid.as_deref()?.parse().ok()),
            });
        }
    };
    let recorded = || cars.iter().filter_map(|car| Some((car, Path::new(car.outputpath.as_deref()?))));
    for (car, path) in recorded() {
        for mapping in &places.paths {
            if let Some(local) = mapping.apply(path) {
                add(local, Some(car));
            }
        }
    }
    for (car, path) in recorded() {
        for end in ends_longest_first(path) {
            for root in &places.roots {
                add(root.join(&end), Some(car));
            }
        }
    }
    let only_car = if let [car] = cars { Some(car) } else { None };
    let piece_name = wanted.piece_cid.as_ref().map(|piece_cid| format!("{piece_cid}.car"));
    let payload_name = wanted.payload_cid.as_ref().map(|payload_cid| format!("{payload_cid}.car"));
    for name in piece_name.into_iter().chain(payload_name) {
        for root in &places.roots {
            add(root.join(&name), only_car);
        }
    }
    for (car, path) in recorded() {
        add(path.to_owned(), Some(car));
    }
    found
}

/// `/data/out/a.car` → `data/out/a.car`, `out/a.car`, `a.car`. Nothing for paths that climb (`..`).
pub(super) fn ends_longest_first(path: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return Vec::new(),
        }
    }
    (0..names.len()).map(|start| names.iter().skip(start).collect()).collect()
}
