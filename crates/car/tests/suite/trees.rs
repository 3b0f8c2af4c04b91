//! Planned source trees: the CARs of folders, ranges of files, changed sources, invalid paths.

use std::fs;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use carferry_car::{
    BuildError, BuildOptions, BuiltCar, DagParams, FilePart, FolderRoot, NoProgress, Profile, SourceChange,
    SourceStamp, SourceTree, ThreadBudget, TreeError, build_tree, plan_car, verify_car,
};

use crate::inputs::{pack, sha256_of, splitmix64};

fn part(path: &Path, range: Range<u64>) -> FilePart {
    let expected = SourceStamp::of(&fs::metadata(path).unwrap());
    FilePart { path: path.to_owned(), range, expected }
}

fn whole(path: &Path) -> FilePart {
    part(path, 0..fs::metadata(path).unwrap().len())
}

fn build(tree: &SourceTree, car: &Path, params: DagParams, threads: usize) -> Result<BuiltCar, BuildError> {
    let budget = ThreadBudget::new(NonZeroUsize::new(threads).unwrap());
    let options = BuildOptions { params, ..BuildOptions::default() };
    build_tree(&budget, tree, &File::create(car).unwrap(), &options, &NoProgress)
}

/// Creates files and folders of all kinds; returns paths in the tree and their entries.
fn sample(folder: &Path) {
    fs::create_dir_all(folder.join("a/b/c")).unwrap();
    fs::create_dir_all(folder.join("empty/more")).unwrap();
    fs::create_dir(folder.join("many")).unwrap();
    for number in 0..5000 {
        let name = format!("many/a name of some length, number {number}");
        fs::write(folder.join(name), format!("{}", number % 7)).unwrap();
    }
    let mut bytes = Vec::new();
    splitmix64(1, (3 << 20) + 17, &mut bytes);
    for (at, length) in [("a/large", bytes.len()), ("a.txt", 126), ("a/b/c/z", 127), ("b", 0), ("é", 1 << 20)]
    {
        fs::write(folder.join(at), &bytes[..length]).unwrap();
    }
    std::os::unix::fs::symlink("../b", folder.join("a/link")).unwrap();
}

/// Everything in a folder by its path, folders before their entries.
fn places(folder: &Path, at: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let at = if at.is_empty() { name } else { format!("{at}/{name}") };
        found.push(at.clone());
        if entry.file_type().unwrap().is_dir() {
            places(&entry.path(), &at, found);
        }
    }
}

fn tree_of<'a>(folder: &Path, places: impl Iterator<Item = &'a String>) -> SourceTree {
    let mut tree = SourceTree::new();
    for at in places {
        let path = folder.join(at);
        let file_type = fs::symlink_metadata(&path).unwrap().file_type();
        if file_type.is_dir() {
            tree.add_folder(at).unwrap();
        } else if file_type.is_symlink() {
            tree.add_symlink(at, fs::read_link(&path).unwrap().to_str().unwrap().as_bytes()).unwrap();
        } else {
            tree.add_file(at, whole(&path)).unwrap();
        }
    }
    tree
}

#[test]
fn a_tree_with_all_of_a_folder_makes_the_car_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    sample(&input);
    let mut found = Vec::new();
    places(&input, "", &mut found);
    let in_order = {
        found.sort_unstable();
        tree_of(&input, found.iter())
    };
    let backwards = tree_of(&input, found.iter().rev());
    let (head, tail) = found.split_at(found.len() / 3);
    let mixed = tree_of(&input, tail.iter().chain(head.iter().rev()));
    for profile in Profile::ALL {
        let wanted = pack(&input, &car, profile.params(), 2);
        let wanted_sha256 = sha256_of(&car);
        let plan = plan_car(&input, &profile.params()).unwrap();
        for (tree, threads) in [(&in_order, 1), (&in_order, 7), (&backwards, 2), (&mixed, 7)] {
            let planned = tree.plan(&profile.params()).unwrap();
            assert_eq!(planned.payload_size_max, plan.payload_size_max, "{profile}");
            assert_eq!((planned.files, planned.source_bytes), (plan.files, plan.source_bytes), "{profile}");
            let built = build(tree, &car, profile.params(), threads).unwrap();
            assert_eq!(BuiltCar { source: wanted.source, ..built }, wanted, "{profile}, {threads} threads");
            assert_eq!(sha256_of(&car), wanted_sha256, "{profile}, {threads} threads");
        }
    }
}

#[test]
fn parts_of_a_file_are_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    let mut bytes = Vec::new();
    splitmix64(2, (40 << 20) + 5, &mut bytes);
    fs::write(&input, &bytes).unwrap();
    let cuts = [0, 1, 1 << 20, (1 << 20) + 77, 19 << 20, 19 << 20, (40 << 20) + 4, (40 << 20) + 5];
    for profile in [Profile::Lotus, Profile::UnixfsV1_2025, Profile::Ipfs256k174] {
        let mut parts = SourceTree::new();
        let mut copies = SourceTree::new();
        let mut joined = Vec::new();
        for (number, cut) in cuts.windows(2).enumerate() {
            let at = format!("parts/{number}");
            parts.add_file(&at, part(&input, cut[0]..cut[1])).unwrap();
            let bytes = &bytes[usize::try_from(cut[0]).unwrap()..usize::try_from(cut[1]).unwrap()];
            let copy = folder.path().join(format!("copy-{number}"));
            fs::write(&copy, bytes).unwrap();
            copies.add_file(&at, whole(&copy)).unwrap();
            joined.extend_from_slice(bytes);
        }
        assert!(joined == bytes);
        let wanted = build(&copies, &car, profile.params(), 1).unwrap();
        let wanted_sha256 = sha256_of(&car);
        for threads in [1, 2, 7] {
            let built = build(&parts, &car, profile.params(), threads).unwrap();
            assert_eq!(BuiltCar { source: wanted.source, ..built }, wanted, "{profile}, {threads} threads");
            assert_eq!(sha256_of(&car), wanted_sha256, "{profile}, {threads} threads");
        }
        let verified = verify_car(&ThreadBudget::alone(), &car, &NoProgress).unwrap();
        assert_eq!((verified.unreachable_blocks, verified.piece_cid), (0, wanted.piece_cid));
    }
}

/// Plans a file of 5000 bytes, runs an action on it, and packs it.
fn change_after_planning(range: Range<u64>, what: impl FnOnce(&Path)) -> SourceChange {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::write(&input, [7; 5000]).unwrap();
    let mut tree = SourceTree::new();
    tree.add_file("here", part(&input, range)).unwrap();
    what(&input);
    match build(&tree, &folder.path().join("car"), DagParams::default(), 1) {
        Err(BuildError::SourceChanged { path, change }) => {
            assert_eq!(path, input);
            change
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_not_as_planned_is_named() {
    let resize =
        |size| move |path: &Path| File::options().write(true).open(path).unwrap().set_len(size).unwrap();
    for range in [0..5000, 0..10, 4990..5000, 20..20] {
        let now = 5001;
        assert_eq!(
            change_after_planning(range.clone(), resize(now)),
            SourceChange::Size { before: 5000, now },
            "{range:?}"
        );
        let now = 30;
        assert_eq!(
            change_after_planning(range.clone(), resize(now)),
            SourceChange::Size { before: 5000, now },
            "{range:?}"
        );
        let touch = |path: &Path| {
            let later = SystemTime::now() + Duration::from_secs(10);
            File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
        };
        assert_eq!(change_after_planning(range.clone(), touch), SourceChange::Modified, "{range:?}");
        let replace = |path: &Path| {
            let other = path.with_extension("other");
            fs::write(&other, [8; 5000]).unwrap();
            touch(&other);
            fs::remove_file(path).unwrap();
            fs::hard_link(other, path).unwrap();
        };
        assert_eq!(change_after_planning(range.clone(), replace), SourceChange::Modified, "{range:?}");
        let folder = |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        };
        assert_eq!(change_after_planning(range, folder), SourceChange::Replaced);
    }
}

#[test]
fn a_file_that_is_gone_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::write(&input, "here").unwrap();
    let mut tree = SourceTree::new();
    tree.add_file("a/b", whole(&input)).unwrap();
    fs::remove_file(&input).unwrap();
    let error = build(&tree, &folder.path().join("car"), DagParams::default(), 1).unwrap_err();
    assert!(matches!(&error, BuildError::SourceVanished { path, .. } if *path == input), "{error:?}");
}

#[test]
fn bad_places_are_named_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::write(&input, "hello").unwrap();
    let mut tree = SourceTree::new();
    tree.add_file("a/file", whole(&input)).unwrap();
    tree.add_symlink("a/link", b"file").unwrap();
    tree.add_folder("b/c").unwrap();
    let before = tree.plan(&DagParams::default()).unwrap();
    for (at, name) in
        [("", ""), ("/a", ""), ("a/", ""), ("a//b", ""), ("a/./b", "."), ("..", ".."), ("a\0b", "a\0b")]
    {
        let wanted = TreeError::BadName { at: at.to_owned(), name: name.to_owned() };
        assert_eq!(tree.add_file(at, whole(&input)), Err(wanted.clone()));
        assert_eq!(tree.add_folder(at), Err(wanted.clone()));
        assert_eq!(tree.add_symlink(at, b"x"), Err(wanted));
    }
    for (at, taken) in [
        ("a", "a"),
        ("a/file", "a/file"),
        ("a/link", "a/link"),
        ("b/c", "b/c"),
        ("a/file/below", "a/file"),
        ("a/link/below/that", "a/link"),
    ] {
        let wanted = Err(TreeError::Taken { at: taken.to_owned() });
        assert_eq!(tree.add_file(at, whole(&input)), wanted);
        assert_eq!(tree.add_symlink(at, b"x"), wanted);
    }
    assert_eq!(tree.add_folder("a/file"), Err(TreeError::Taken { at: "a/file".to_owned() }));
    assert_eq!(tree.add_folder("a"), Ok(()), "a folder that is there stays");
    let mut deep = "d/".repeat(1024);
    deep.push('f');
    assert_eq!(tree.add_folder(&deep), Err(TreeError::TooDeep { at: deep.clone() }));
    for range in [0..6, 6..6, Range { start: 5, end: 4 }] {
        let outcome = tree.add_file("part", part(&input, range.clone()));
        assert_eq!(outcome, Err(TreeError::Range { path: input.clone(), range, size: 5 }));
    }
    let rootless = FilePart { path: "/".into(), ..whole(&input) };
    assert_eq!(tree.add_file("root", rootless), Err(TreeError::NotAFile { path: "/".into() }));
    assert_eq!(tree.plan(&DagParams::default()).unwrap(), before);
}

#[test]
fn an_empty_tree_is_an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    fs::create_dir(&input).unwrap();
    let wanted = pack(&input, &car, DagParams::default(), 1);
    let built = build(&SourceTree::new(), &car, DagParams::default(), 1).unwrap();
    assert_eq!((built.payload_cid, built.piece_cid), (wanted.payload_cid, wanted.piece_cid));
}

#[test]
fn planners_sum_up_to_no_less_than_the_car() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    sample(&input);
    let mut found = Vec::new();
    places(&input, "", &mut found);
    for profile in Profile::ALL {
        let params = profile.params();
        let mut exact = 0;
        let mut bound = params.header_bytes_max() + params.folder_bytes_max();
        for at in &found {
            let path = input.join(at);
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name_len = path.file_name().unwrap().len();
            let in_large = at.starts_with("many/");
            bound += if in_large {
                params.sharded_link_bytes_max(name_len)
            } else {
                params.link_bytes_max(name_len)
            };
            if metadata.is_dir() {
                bound += params.folder_bytes_max();
                exact += params.empty_folder_bytes();
            } else if metadata.is_symlink() {
                bound += params.symlink_bytes(b"../b");
                exact += params.symlink_bytes(b"../b");
            } else {
                bound += params.file_bytes(metadata.len());
                exact += params.file_bytes(metadata.len()) + params.file_link_bytes(name_len, metadata.len());
            }
        }
        let plan = tree_of(&input, found.iter()).plan(&params).unwrap().payload_size_max.get();
        assert!((exact..=bound).contains(&plan), "{profile}: {exact} {plan} {bound}");
    }
}

/// A small folder: its block has 126 bytes or fewer.
fn small_trees(folder: &Path) -> Vec<(SourceTree, &'static str)> {
    let large = folder.join("large");
    let mut bytes = Vec::new();
    splitmix64(5, (3 << 20) + 300, &mut bytes);
    fs::write(&large, &bytes).unwrap();
    fs::write(folder.join("tiny"), "tiny").unwrap();
    let filled = |fill: &dyn Fn(&mut SourceTree)| {
        let mut tree = SourceTree::new();
        fill(&mut tree);
        tree
    };
    let add = |tree: &mut SourceTree, at: &str, part| tree.add_file(at, part).unwrap();
    vec![
        (filled(&|_| {}), "nothing"),
        (filled(&|tree| add(tree, "a", whole(&large))), "one file"),
        (filled(&|tree| add(tree, "a.part-0-of-9", part(&large, 5..3 << 20))), "a part"),
        (filled(&|tree| add(tree, "folder/tiny", whole(&folder.join("tiny")))), "a folder"),
        (
            filled(&|tree| {
                (0..40).for_each(|n| add(tree, &format!("tiny-{n}"), whole(&folder.join("tiny"))));
            }),
            "many",
        ),
    ]
}

#[test]
fn the_root_of_a_tree_is_hashed_where_that_is_asked_for() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let car = folder.path().join("car");
    for (tree, what) in small_trees(folder.path()) {
        for profile in [Profile::Lotus, Profile::UnixfsV1_2025] {
            let as_ever = build(&tree, &car, profile.params(), 1).unwrap();
            let inlined = as_ever.payload_cid.is_inlined();
            assert_eq!(inlined, profile == Profile::Lotus && what != "many", "{what}, {profile}");
            let before = fs::read(&car).unwrap();
            let params = DagParams { folder_root: FolderRoot::Hashed, ..profile.params() };
            let built = build(&tree, &car, params, 2).unwrap();
            assert!(!built.payload_cid.is_inlined(), "{what}, {profile}");
            let checked = verify_car(&ThreadBudget::alone(), &car, &NoProgress).unwrap();
            assert_eq!((&checked.payload_cid, checked.piece_cid), (&built.payload_cid, built.piece_cid));
            assert_eq!((checked.unreachable_blocks, checked.inlined_without_section), (0, 0));
            assert_eq!(checked.block_count, as_ever.block_count, "{what}, {profile}");
            let planned = tree.plan(&params).unwrap().payload_size_max;
            assert!(planned >= built.payload_size, "{what}, {profile}");
            assert!(what == "many" || planned == built.payload_size, "{what}: nothing repeats");
            // The blocks after the root are the same, inlined blocks included.
            let after = fs::read(&car).unwrap();
            assert_eq!(inlined, before != after, "{what}, {profile}");
            let below = before.len().min(after.len()).saturating_sub(300);
            assert_eq!(before[before.len() - below..], after[after.len() - below..], "{what}, {profile}");
        }
    }
}
