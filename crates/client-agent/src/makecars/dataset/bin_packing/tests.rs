use std::collections::BTreeMap;
use std::path::Path;

use carferry_car::Profile;
use carferry_core::model::{PackEntryDoc, PlanKey};
use proptest::prelude::*;

use super::*;
use crate::makecars::dataset::build_piece::{SourceTimes, tree};
use crate::makecars::dataset::plan::Plan;
use crate::makecars::dataset::rules::PlanRules;
use crate::makecars::dataset::survey::{Folder, Item, Kind};

const SMALL: PaddedPieceSize = match PaddedPieceSize::new(1 << 23) {
    Ok(size) => size,
    Err(_) => unreachable!(),
};

/// Folders `f0/f1/…`, and in each some files of these sizes.
fn survey(folders: &[Vec<u64>]) -> Survey {
    let mut survey = Survey::default();
    survey.folders.push(Folder { parent: 0, name: "".into(), depth: 0 });
    for (number, sizes) in (0_u32..).zip(folders) {
        let name = format!("folder {number}").into();
        survey.folders.push(Folder { parent: number / 2, name, depth: 1 });
        let folder = number + 1;
        for (file, size) in sizes.iter().enumerate() {
            let kind = Kind::File { size: *size, mtime_nanos: 0, is_sparse: false };
            survey.items.push(Item { folder, name: format!("file {file}").into(), kind, range: None });
        }
        if sizes.is_empty() {
            survey.items.push(Item { folder, name: "".into(), kind: Kind::EmptyFolder, range: None });
        }
    }
    survey
}

fn rules(profile: Profile, keep_whole: bool) -> FillRules {
    FillRules { params: PlanRules::LATEST.params(profile), piece_size: SMALL, keep_whole }
}

/// What must be true of any plan.
fn check(survey: Survey, rules: &FillRules, profile: Profile) -> Vec<PlannedPiece> {
    let fills = fill(&survey, rules).unwrap();
    assert_eq!(fill(&survey, rules).unwrap(), fills, "the same again");
    let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
    for item in &survey.items {
        wanted.insert(survey.path(item), item.size());
    }
    let key = PlanKey {
        input: "/in".into(),
        group: "g".into(),
        layout: "pack".into(),
        profile: profile.name().into(),
        piecesizebytes: 0,
    };
    let plan = Plan::new(key, "box", survey, fills.clone());
    let mut parts: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
    for (piece, fill) in fills.iter().enumerate() {
        let stored: Vec<PackEntryDoc> = plan.files(piece).flat_map(|files| files.entries).collect();
        assert!(plan.entries(piece).eq(stored.iter().cloned()));
        // Every name is used once, or the tree could not be made.
        let exact =
            tree(Path::new("/in"), &stored, SourceTimes::AsPlanned).unwrap().plan(&rules.params).unwrap();
        let (bound, capacity) = (fill.car_bytes_max, rules.piece_size.unpadded().get());
        assert!(exact.payload_size_max.get() <= bound && bound <= capacity, "{exact:?} {bound}");
        for entry in stored {
            match entry {
                PackEntryDoc::File { path, size, part, .. } => {
                    let bytes = part.map_or((0, size), |part| (part.from, part.to));
                    parts.entry(path).or_default().push(bytes);
                }
                other => parts.entry(other.path().to_owned()).or_default().push((0, 0)),
            }
        }
    }
    assert_eq!(parts.len(), wanted.len());
    for (path, mut parts) in parts {
        parts.sort_unstable();
        let end = parts.iter().try_fold(0, |end, (from, to)| (*from == end).then_some(*to));
        assert_eq!(end, Some(i64::try_from(wanted[&path]).unwrap()), "{path}: {parts:?}");
        let chunk = i64::from(rules.params.chunk_size);
        assert!(parts.iter().all(|(from, _)| from % chunk == 0), "{path}: {parts:?}");
        assert!(!rules.keep_whole || wanted[&path] > rules.piece_size.get() / 2 || parts.len() == 1);
    }
    fills
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn everything_is_in_exactly_one_piece_and_every_piece_fits(
        folders in proptest::collection::vec(
            proptest::collection::vec(
                prop_oneof![4 => 0_u64..100_000, 2 => 0_u64..4_000_000, 1 => 0_u64..40_000_000], 0..20),
            1..12),
        keep_whole in any::<bool>(),
    ) {
        for profile in [Profile::Lotus, Profile::Ipfs256k174] {
            check(survey(&folders), &rules(profile, keep_whole), profile);
        }
    }
}

#[test]
fn a_sharded_folder_fits_too() {
    let fills = check(survey(&[vec![700; 30_000]]), &rules(Profile::Lotus, false), Profile::Lotus);
    assert!(waste_permille(&fills[..fills.len() - 1]) < 250, "{}", waste_permille(&fills));
}

#[test]
fn data_sets_much_larger_than_a_piece_waste_less_than_one_percent() {
    let mut rng = fastrand::Rng::with_seed(3);
    let piece_size = PaddedPieceSize::new(1 << 30).unwrap();
    // Files of which two never fit together; many middling ones; and small ones.
    let folders = [
        (0..200).map(|_| rng.u64(550_000_000..900_000_000)).collect(),
        (0..800).map(|_| rng.u64(50_000_000..300_000_000)).collect(),
        (0..40_000).map(|_| rng.u64(0..4_000_000)).collect::<Vec<_>>(),
    ];
    for folders in [&folders[..1], &folders[1..2], &folders[2..], &folders[..]] {
        let rules = FillRules { piece_size, ..rules(Profile::Lotus, false) };
        let fills = check(survey(folders), &rules, Profile::Lotus);
        assert!(fills.len() > 70 && waste_permille(&fills) < 10, "{}", waste_permille(&fills));
    }
}

#[test]
fn a_piece_that_holds_no_leaf_is_refused() {
    let tiny =
        FillRules { piece_size: PaddedPieceSize::new(1 << 20).unwrap(), ..rules(Profile::Lotus, false) };
    assert!(fill(&survey(&[vec![3 << 20]]), &tiny).is_err());
}
