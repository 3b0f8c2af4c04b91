//! Files that are split over several CARs, and joined again.

use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::Mutex;

use carferry_car::{
    BadParts, Crew, Existing, ExtractError, ExtractOptions, Extracted, NoProgress, Outcome, PayloadCid,
    Placement, Profile, RestoredKind, extract,
};

use crate::extract::{restore, tree};
use crate::inputs::{pack, splitmix64};

/// A file in three parts, each in a folder in a CAR of its own, the second with a hole at its start.
struct Split {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    cars: Vec<PathBuf>,
    placements: Vec<Placement>,
}

const CUTS: [usize; 4] = [0, (2 << 20) + 10, 5 << 20, (6 << 20) + 123];

impl Split {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut bytes = Vec::new();
        splitmix64(5, CUTS[3].try_into().unwrap(), &mut bytes);
        bytes[CUTS[1]..CUTS[1] + (1 << 20)].fill(0);
        let (mut cars, mut placements) = (Vec::new(), Vec::new());
        for (index, cut) in CUTS.windows(2).enumerate() {
            let input = folder.path().join(format!("input-{index}"));
            fs::create_dir_all(input.join("some")).unwrap();
            fs::write(input.join("some/part"), &bytes[cut[0]..cut[1]]).unwrap();
            fs::write(input.join(format!("other-{index}")), "other").unwrap();
            let car = folder.path().join(format!("{index}.car"));
            let built = pack(&input, &car, Profile::Lotus.params(), 1);
            cars.push(car);
            placements.push(Placement {
                payload_cid: built.payload_cid,
                inside: "some/part".into(),
                file: "joined/the whole".into(),
                offset: cut[0].try_into().unwrap(),
                file_size: CUTS[3].try_into().unwrap(),
            });
        }
        Self { folder, bytes, cars, placements }
    }

    fn options(&self, existing: Existing) -> ExtractOptions {
        let placements = self.placements.clone();
        ExtractOptions { existing, placements, ..ExtractOptions::new(self.output("")) }
    }

    fn output(&self, inside: &str) -> PathBuf {
        self.folder.path().join("output").join(inside)
    }

    /// Restores some of the CARs; returns what was said of the parts, too.
    fn restore(&self, cars: &[usize], existing: Existing) -> (Extracted, Vec<Outcome>) {
        let cars: Vec<_> = cars.iter().map(|car| self.cars[*car].clone()).collect();
        let parts = Mutex::new(Vec::new());
        let note = |restored: &carferry_car::Restored<'_>| {
            if restored.inside == Path::new("some/part") {
                assert_eq!(restored.kind, RestoredKind::File);
                parts.lock().unwrap().push(restored.outcome);
            }
        };
        let crew = Crew::new(3.try_into().unwrap());
        let done = extract(&crew, &cars, self.options(existing), &note, &NoProgress).unwrap();
        (done, parts.into_inner().unwrap())
    }

    fn check_whole(&self) {
        assert!(fs::read(self.output("joined/the whole")).unwrap() == self.bytes);
        assert_eq!(fs::read_dir(self.output("joined")).unwrap().count(), 1, "nothing is left beside it");
    }
}

/// What is said of a part that is the only one so far.
fn first_part(index: usize) -> Outcome {
    let bytes_in = (CUTS[index + 1] - CUTS[index]).try_into().unwrap();
    Outcome::Part { bytes_in, file_size: CUTS[3].try_into().unwrap() }
}

#[test]
fn parts_are_joined_in_one_run() {
    for order in [[0, 1, 2], [2, 0, 1]] {
        let split = Split::new();
        let (done, parts) = split.restore(&order, Existing::Refuse);
        split.check_whole();
        assert_eq!(done.parts, 2);
        assert_eq!(parts.iter().filter(|outcome| **outcome == Outcome::Written).count(), 1);
        assert_eq!(fs::read(split.output("other-1")).unwrap(), b"other", "what is no part goes to its place");
        assert!(split.output("some").is_dir() && !split.output("some/part").exists());
    }
}

#[test]
fn parts_are_joined_over_runs() {
    let split = Split::new();
    let keep = Existing::Keep;
    assert_eq!(split.restore(&[1], keep).1, [first_part(1)]);
    assert!(!split.output("joined/the whole").exists());
    assert!(split.output("joined/.the whole.carferry-part").exists());
    // The same once more changes nothing.
    assert_eq!(split.restore(&[1], keep).1, [first_part(1)]);
    let two = Outcome::Part { bytes_in: CUTS[2].try_into().unwrap(), file_size: CUTS[3].try_into().unwrap() };
    assert_eq!(split.restore(&[0], keep).1, [two]);
    let (done, parts) = split.restore(&[2], keep);
    assert_eq!((parts, done.parts), (vec![Outcome::Written], 0));
    split.check_whole();
    // All of it once more: kept, and each part compared with its range.
    let (done, parts) = split.restore(&[0, 1, 2], keep);
    assert_eq!((parts, done.different), (vec![Outcome::Same; 3], 0));
    let mut damaged = split.bytes.clone();
    damaged[CUTS[2] + 5] ^= 1;
    fs::write(split.output("joined/the whole"), damaged).unwrap();
    let mut parts = split.restore(&[0, 1, 2], keep).1;
    parts.sort_unstable_by_key(|outcome| *outcome == Outcome::Different);
    assert_eq!(parts, [Outcome::Same, Outcome::Same, Outcome::Different]);
    split.restore(&[0, 1, 2], Existing::Replace);
    split.check_whole();
}

#[test]
fn a_part_that_was_not_finished_is_written_anew() {
    let split = Split::new();
    split.restore(&[0], Existing::Refuse);
    // As if a run had been killed in the middle of the second part, which starts with zeros.
    let part = split.output("joined/.the whole.carferry-part");
    let mut bytes = fs::read(&part).unwrap();
    bytes[CUTS[1]..CUTS[2]].fill(7);
    fs::write(&part, bytes).unwrap();
    split.restore(&[1, 2], Existing::Keep);
    split.check_whole();
}

#[test]
fn a_list_without_its_file_counts_for_nothing() {
    let split = Split::new();
    split.restore(&[0, 1], Existing::Refuse);
    fs::remove_file(split.output("joined/.the whole.carferry-part")).unwrap();
    assert_eq!(split.restore(&[2], Existing::Keep).1, [first_part(2)]);
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    let fails = |change: &dyn Fn(&mut Vec<Placement>)| {
        let mut split = Split::new();
        change(&mut split.placements);
        let error = restore(&split.cars, split.options(Existing::Keep), 1).unwrap_err();
        assert!(!split.output("joined/the whole").exists());
        assert_eq!(tree(split.folder.path()).keys().filter(|path| path.starts_with("up")).count(), 0);
        match error {
            ExtractError::Parts { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(fails(&|all| all[1].offset -= 1), BadParts::Overlap { first: 0, .. }));
    assert!(matches!(fails(&|all| all[2].offset += 1), BadParts::Outside { .. }));
    assert!(matches!(fails(&|all| all[2].offset = u64::MAX), BadParts::Outside { .. }));
    assert!(matches!(fails(&|all| all[1].file_size += 1), BadParts::Size { .. }));
    for path in ["", "../up", "/up", "joined/..", "joined/.x.carferry-part"] {
        assert_eq!(fails(&|all| all[0].file = path.into()), BadParts::Path, "{path:?}");
    }
    // Over runs as well.
    let mut split = Split::new();
    split.restore(&[0], Existing::Keep);
    split.placements[1].offset -= 1;
    let error = restore(&split.cars[1..2], split.options(Existing::Keep), 1).unwrap_err();
    assert!(matches!(&error, ExtractError::Parts { reason: BadParts::Overlap { .. }, .. }), "{error:?}");
    fs::write(split.output("joined/.the whole.carferry-ranges"), "junk").unwrap();
    let error = restore(&split.cars[2..], split.options(Existing::Keep), 1).unwrap_err();
    assert!(matches!(&error, ExtractError::Parts { reason: BadParts::List, .. }), "{error:?}");
}

#[test]
fn a_root_can_be_a_part_and_a_part_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car, output) =
        (folder.path().join("input"), folder.path().join("car"), folder.path().join("output"));
    for content in ["", "content"] {
        fs::write(&input, content).unwrap();
        let payload_cid: PayloadCid = pack(&input, &car, Profile::Lotus.params(), 1).payload_cid;
        let placement = Placement {
            payload_cid,
            inside: PathBuf::new(),
            file: "whole".into(),
            offset: 0,
            file_size: content.len().try_into().unwrap(),
        };
        let options = ExtractOptions {
            placements: vec![placement],
            existing: Existing::Replace,
            ..ExtractOptions::new(&output)
        };
        let done = restore(from_ref(&car), options, 1).unwrap();
        assert_eq!((done.files, done.parts), (1, 0));
        assert_eq!(fs::read_to_string(output.join("whole")).unwrap(), content);
        assert_eq!(tree(&output).len(), 2);
    }
}
