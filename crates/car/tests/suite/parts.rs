//! Files that are split over several CARs are joined again.

use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::Mutex;

use carferry_car::{
    BadParts, Existing, ExtractError, ExtractOptions, Extracted, NoProgress, OtherState, Outcome, PayloadCid,
    Placement, Profile, RestoredKind, ThreadBudget, Unfinished, extract,
};

use crate::extract::{restore, tree};
use crate::inputs::{pack, splitmix64};

/// A file in three parts, each in a folder of its own CAR. The second part starts with a hole.
struct Split {
    folder: tempfile::TempDir,
    output: PathBuf,
    bytes: Vec<u8>,
    cars: Vec<PathBuf>,
    placements: Vec<Placement>,
}

const CUTS: [usize; 4] = [0, (2 << 20) + 10, 5 << 20, (6 << 20) + 123];

impl Split {
    fn new() -> Self {
        Self::of_state(5, None)
    }

    /// The same file with other content and another modification time.
    fn of_state(seed: u64, mtime_nanos: Option<i64>) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut bytes = Vec::new();
        splitmix64(seed, CUTS[3].try_into().unwrap(), &mut bytes);
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
                mtime_nanos,
            });
        }
        let output = folder.path().join("output");
        Self { folder, output, bytes, cars, placements }
    }

    /// Restores into the output of another.
    fn into_output_of(mut self, other: &Self) -> Self {
        self.output.clone_from(&other.output);
        self
    }

    fn options(&self, existing: Existing) -> ExtractOptions {
        let placements = self.placements.clone();
        ExtractOptions { existing, placements, ..ExtractOptions::new(self.output("")) }
    }

    fn output(&self, inside: &str) -> PathBuf {
        self.output.join(inside)
    }

    /// Restores some of the CARs; returns the results of the parts as well.
    fn restore(&self, cars: &[usize], existing: Existing) -> (Extracted, Vec<Outcome>) {
        let (done, parts) = self.restore_all(cars, existing);
        (done, parts.into_iter().map(|(outcome, _)| outcome).collect())
    }

    /// Restores one of the CARs; returns the result of its part.
    fn restore_one(&self, car: usize) -> (Outcome, Option<OtherState>) {
        self.restore_all(&[car], Existing::Keep).1[0]
    }

    fn restore_all(
        &self,
        cars: &[usize],
        existing: Existing,
    ) -> (Extracted, Vec<(Outcome, Option<OtherState>)>) {
        let cars: Vec<_> = cars.iter().map(|car| self.cars[*car].clone()).collect();
        let parts = Mutex::new(Vec::new());
        let note = |restored: &carferry_car::Restored<'_>| {
            if restored.inside == Path::new("some/part") {
                assert_eq!(restored.kind, RestoredKind::File);
                parts.lock().unwrap().push((restored.outcome, restored.other_state));
            }
        };
        let budget = ThreadBudget::new(3.try_into().unwrap());
        let done = extract(&budget, &cars, self.options(existing), &note, &NoProgress).unwrap();
        (done, parts.into_inner().unwrap())
    }

    fn check_whole(&self) {
        assert!(fs::read(self.output("joined/the whole")).unwrap() == self.bytes);
        assert_eq!(fs::read_dir(self.output("joined")).unwrap().count(), 1, "nothing is left beside it");
    }
}

/// The result of the first part.
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
        // The whole file, and one further file of each CAR.
        assert_eq!((done.files, done.parts, &done.unfinished), (4, 0, &vec![]));
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
    let (done, _) = split.restore(&[1, 2], keep);
    let unfinished = Unfinished {
        file: "joined/the whole".into(),
        parts: 2,
        bytes_in: (CUTS[3] - CUTS[1]).try_into().unwrap(),
        file_size: CUTS[3].try_into().unwrap(),
        left: None,
    };
    assert_eq!((done.parts, done.unfinished), (2, vec![unfinished]));
    fs::remove_dir_all(split.output("")).unwrap();
    assert_eq!(split.restore(&[1], keep).1, [first_part(1)]);
    // A repetition changes nothing.
    assert_eq!(split.restore(&[1], keep).1, [first_part(1)]);
    let two = Outcome::Part { bytes_in: CUTS[2].try_into().unwrap(), file_size: CUTS[3].try_into().unwrap() };
    assert_eq!(split.restore(&[0], keep).1, [two]);
    let (done, parts) = split.restore(&[2], keep);
    assert_eq!((parts, done.parts), (vec![Outcome::Written], 0));
    split.check_whole();
    // A repetition of all parts keeps the file and compares each part with its range.
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
    // As after a run that was killed in the second part, which starts with zeros.
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
    assert!(matches!(fails(&|all| all[1].mtime_nanos = Some(1)), BadParts::States));
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

/// A file in two states of one length.
fn two_states() -> (Split, Split) {
    let older = Split::of_state(5, Some(-7));
    let newer = Split::of_state(6, Some(20)).into_output_of(&older);
    assert_ne!(older.bytes, newer.bytes);
    (older, newer)
}

#[test]
fn a_newer_state_begins_the_file_anew() {
    let (older, newer) = two_states();
    older.restore(&[0, 1], Existing::Keep);
    assert_eq!(newer.restore_one(2), (first_part(2), Some(OtherState::BegunAnew)));
    // No part of the older state remains: all three parts are needed.
    assert_eq!(newer.restore_one(1).1, None);
    assert!(!newer.output("joined/the whole").exists());
    assert_eq!(newer.restore_one(0), (Outcome::Written, None));
    newer.check_whole();
}

#[test]
fn a_part_of_an_older_state_stays_a_part() {
    let (older, newer) = two_states();
    newer.restore(&[0, 2], Existing::Keep);
    assert_eq!(older.restore_one(1), (Outcome::Written, Some(OtherState::Older)));
    let part = older.output("some/part");
    assert!(fs::read(&part).unwrap() == older.bytes[CUTS[1]..CUTS[2]], "it is whole under its own name");
    let (done, _) = older.restore(&[1], Existing::Replace);
    assert_eq!((done.files, done.unfinished[0].left), (1, Some(OtherState::Older)), "{done:?}");
    assert_eq!(older.restore_one(1), (Outcome::Same, Some(OtherState::Older)), "once more");
    assert_eq!(newer.restore_one(1), (Outcome::Written, None));
    newer.check_whole();
    // An older part is compared with the complete file.
    assert_eq!(older.restore_one(0), (Outcome::Different, None));
    newer.check_whole();
}

#[test]
fn parts_of_an_unknown_state_join_none_that_is_known() {
    // A list without a state, and then a placement without a state.
    for (before, after) in [(None, Some(20)), (Some(20), None)] {
        let there = Split::of_state(5, before);
        let other = Split::of_state(6, after).into_output_of(&there);
        there.restore(&[0, 1], Existing::Keep);
        let list = fs::read_to_string(there.output("joined/.the whole.carferry-ranges")).unwrap();
        assert_eq!(list.contains("changed 20"), before.is_some(), "{list}");
        assert_eq!(other.restore_one(2), (Outcome::Written, Some(OtherState::Unknown)));
        fs::remove_file(there.output("some/part")).unwrap();
        // The existing parts can be completed or removed.
        if before.is_some() {
            assert_eq!(there.restore_one(2), (Outcome::Written, None));
            there.check_whole();
        } else {
            fs::remove_file(there.output("joined/.the whole.carferry-part")).unwrap();
            assert_eq!(other.restore_one(2), (first_part(2), None));
            other.restore(&[0, 1], Existing::Keep);
            other.check_whole();
        }
    }
    // Neither state is known.
    let split = Split::new();
    split.restore(&[0, 2], Existing::Keep);
    assert_eq!(split.restore_one(1), (Outcome::Written, None));
    split.check_whole();
}

#[test]
fn states_of_other_lengths_are_other_states() {
    let (older, mut newer) = two_states();
    // The newer state has one byte more, and no CAR has the part of this byte.
    newer.placements.iter_mut().for_each(|part| part.file_size += 1);
    older.restore(&[0, 1], Existing::Keep);
    assert_eq!(newer.restore_one(0).1, Some(OtherState::BegunAnew));
    assert_eq!(older.restore_one(2).1, Some(OtherState::Older));
    let part = newer.output("joined/.the whole.carferry-part");
    assert_eq!(fs::metadata(part).unwrap().len(), u64::try_from(CUTS[3]).unwrap() + 1);
}

#[test]
fn a_file_that_is_begun_anew_is_begun_whatever_is_killed() {
    let ranges = |split: &Split| split.output("joined/.the whole.carferry-ranges");
    let part = |split: &Split| split.output("joined/.the whole.carferry-part");
    // Killed after the list was replaced and before the file was emptied; also with another length.
    for length in [CUTS[3], CUTS[3] - 1, 0] {
        let (older, newer) = two_states();
        older.restore(&[0, 1], Existing::Keep);
        fs::write(ranges(&newer), format!("file {} changed 20\n", CUTS[3])).unwrap();
        fs::File::options()
            .write(true)
            .open(part(&newer))
            .unwrap()
            .set_len(length.try_into().unwrap())
            .unwrap();
        assert_eq!(newer.restore_one(1), (first_part(1), None));
        newer.restore(&[0, 2], Existing::Keep);
        newer.check_whole();
    }
    // Killed between the rename after the last part and the removal of the list, and while a list was
    // written.
    let (_, newer) = two_states();
    newer.restore(&[0, 1, 2], Existing::Keep);
    fs::write(ranges(&newer), format!("file {} changed 20\n0 1000\n", CUTS[3])).unwrap();
    fs::write(newer.output("joined/.the whole.carferry-new-ranges"), "file").unwrap();
    newer.restore(&[0], Existing::Keep);
    newer.check_whole();
}

#[test]
fn a_whole_file_does_not_disturb_the_parts_of_another_state() {
    let (_, newer) = two_states();
    newer.restore(&[0, 1], Existing::Keep);
    // The older state fitted into one CAR.
    let input = newer.folder.path().join("whole");
    fs::create_dir_all(input.join("joined")).unwrap();
    fs::write(input.join("joined/the whole"), vec![7; CUTS[3]]).unwrap();
    let car = newer.folder.path().join("whole.car");
    pack(&input, &car, Profile::Lotus.params(), 1);
    restore(&[car], ExtractOptions::new(newer.output("")), 1).unwrap();
    assert!(fs::read(newer.output("joined/the whole")).unwrap() == vec![7; CUTS[3]]);
    newer.restore(&[2], Existing::Replace);
    newer.check_whole();
}

#[test]
fn two_parts_of_a_file_lie_in_one_car() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    fs::create_dir(&input).unwrap();
    let mut bytes = Vec::new();
    splitmix64(3, 5 << 20, &mut bytes);
    let (first, second) = bytes.split_at(2 << 20);
    fs::write(input.join("a"), first).unwrap();
    fs::write(input.join("b"), second).unwrap();
    let payload_cid = pack(&input, &car, Profile::Lotus.params(), 1).payload_cid;
    let placement = |inside: &str, offset: u64| Placement {
        payload_cid: payload_cid.clone(),
        inside: inside.into(),
        file: "whole".into(),
        offset,
        file_size: 5 << 20,
        mtime_nanos: Some(1),
    };
    let output = folder.path().join("output");
    let placements = vec![placement("a", 0), placement("b", 2 << 20)];
    restore(&[car], ExtractOptions { placements, ..ExtractOptions::new(&output) }, 2).unwrap();
    assert!(fs::read(output.join("whole")).unwrap() == bytes);
    assert_eq!(fs::read_dir(output).unwrap().count(), 1);
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
            mtime_nanos: Some(1),
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
