//! Damaged and malicious CARs: extraction names the error, and writes nothing outside of the output.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use carferry_car::{
    BadName, Existing, ExtractError, ExtractOptions, Extraction, HeaderError, NoProgress, NotUnixfs,
    PayloadCid, Profile,
};
use proptest::prelude::*;

use crate::blocks::{Blocks, DAG_PB, RAW, cid, identity, section};
use crate::extract::{restore, tree};
use crate::inputs::{pack, splitmix64};

fn error_of(car: &Path, output: &Path) -> ExtractError {
    restore(&[car.to_owned()], ExtractOptions::new(output), 1).unwrap_err()
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (names, wanted) in [
        (&[&b""[..]][..], BadName::Empty),
        (&[b"."], BadName::Dots),
        (&[b".."], BadName::Dots),
        (&[b"../up"], BadName::Separator),
        (&[b"/etc/x"], BadName::Separator),
        (&[b"a\0b"], BadName::Separator),
        (&[b"twice", b"twice"], BadName::Twice),
        (&[b".x.carferry-part"], BadName::Reserved),
    ] {
        let mut blocks = Blocks::default();
        let leaf = blocks.raw(b"harm");
        let links: Vec<_> = names.iter().map(|name| (*name, &*leaf)).collect();
        let harm = blocks.folder(&links);
        let root = blocks.folder(&[(b"good", &leaf), (b"sub", &harm)]);
        let output = folder.path().join("output");
        let car = blocks.write(folder.path(), "car", &root);
        match error_of(&car, &output) {
            ExtractError::Name { folder, reason, .. } => {
                assert_eq!((folder.as_path(), reason), (Path::new("sub"), wanted), "{names:?}");
            }
            other => panic!("{names:?}: {other:?}"),
        }
        assert!(!output.exists(), "nothing is written: {names:?}");
    }
}

#[test]
fn shards_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |make: &dyn Fn(&mut Blocks, &[u8]) -> Vec<u8>| {
        let mut blocks = Blocks::default();
        let leaf = blocks.raw(b"leaf");
        let root = make(&mut blocks, &leaf);
        error_of(&blocks.write(folder.path(), "car", &root), &folder.path().join("output"))
    };
    let twice = check(&|blocks, leaf| {
        let below = blocks.shard(256, &[(b"00name", leaf)]);
        blocks.shard(256, &[(b"00", &below), (b"01name", leaf)])
    });
    assert!(matches!(twice, ExtractError::Name { reason: BadName::Twice, .. }), "{twice:?}");
    let linked_twice = check(&|blocks, _| {
        let below = blocks.shard(256, &[]);
        blocks.shard(256, &[(b"00", &below), (b"01", &below)])
    });
    let other_fanout = check(&|blocks, leaf| {
        let below = blocks.shard(8, &[(b"0name", leaf)]);
        blocks.shard(256, &[(b"00", &below)])
    });
    let too_deep = check(&|blocks, leaf| {
        let mut below = blocks.shard(256, &[(b"00name", leaf)]);
        for _ in 0..8 {
            below = blocks.shard(256, &[(b"00", &below)]);
        }
        below
    });
    let odd_prefix = check(&|blocks, leaf| blocks.shard(256, &[(b"0xname", leaf)]));
    for error in [linked_twice, other_fanout, too_deep, odd_prefix] {
        assert!(matches!(error, ExtractError::NotUnixfs { source: NotUnixfs::Shard, .. }), "{error:?}");
    }
    let no_shard = check(&|blocks, leaf| {
        let below = blocks.folder(&[(b"name", leaf)]);
        blocks.shard(256, &[(b"00", &below)])
    });
    assert!(matches!(no_shard, ExtractError::NotUnixfs { source: NotUnixfs::Misplaced, .. }), "{no_shard:?}");
}

#[test]
fn no_link_is_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let (output, outside) = (folder.path().join("output"), folder.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let mut blocks = Blocks::default();
    let leaf = blocks.raw(b"harm");
    let [to_folder, to_file] = ["outside", "outside/victim"]
        .map(|target| blocks.symlink(folder.path().join(target).as_os_str().as_encoded_bytes()));
    let links = blocks.folder(&[(b"a", &to_folder), (b"b", &to_file)]);
    let below = blocks.folder(&[(b"victim", &leaf), (b"new", &leaf)]);
    let through = blocks.folder(&[(b"a", &below)]);
    let over = blocks.folder(&[(b"b", &leaf)]);
    let [links, through, over] = [("1", links), ("2", through), ("3", over)]
        .map(|(name, root)| blocks.write(folder.path(), name, &root));
    for existing in [Existing::Refuse, Existing::Replace, Existing::Keep] {
        let options = ExtractOptions { existing, ..ExtractOptions::new(&output) };
        let error = restore(&[links.clone(), through.clone()], options, 1).unwrap_err();
        assert!(matches!(&error, ExtractError::InTheWay { path } if *path == output.join("a")), "{error:?}");
        assert_eq!(tree(&outside).len(), 2, "{existing:?}");
        fs::remove_dir_all(&output).unwrap();
    }
    // The link itself is replaced, not the file that it leads to.
    let options = ExtractOptions { existing: Existing::Replace, ..ExtractOptions::new(&output) };
    restore(&[links, over], options, 1).unwrap();
    assert_eq!(fs::read(output.join("b")).unwrap(), b"harm");
    assert!(!output.join("b").is_symlink());
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"safe");
}

#[test]
fn a_link_under_a_temporary_name_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (output, victim) = (folder.path().join("output"), folder.path().join("victim"));
    fs::create_dir(&output).unwrap();
    fs::write(&victim, "safe").unwrap();
    symlink(&victim, output.join(".x.carferry-new")).unwrap();
    let mut blocks = Blocks::default();
    let root = blocks.raw(b"harm");
    let car = blocks.write(folder.path(), "x.car", &root);
    restore(&[car], ExtractOptions::new(&output), 1).unwrap();
    assert_eq!(fs::read(victim).unwrap(), b"safe");
    assert_eq!(fs::read(output.join("x")).unwrap(), b"harm");
    assert_eq!(tree(&output).len(), 2);
}

/// A tree of nodes that all link to the node below them, a thousand times each.
fn bomb(blocks: &mut Blocks, leaf: &[u8], levels: u32) -> Vec<u8> {
    let mut below = blocks.raw(leaf);
    let mut size = u64::try_from(leaf.len()).unwrap();
    for _ in 0..levels {
        below = blocks.file(&vec![(&below[..], size); 1024]);
        size *= 1024;
    }
    below
}

#[test]
fn few_blocks_that_mean_many_bytes_are_seen_for_what_they_are() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = folder.path().join("output");
    let mut blocks = Blocks::default();
    let mut leaf = Vec::new();
    splitmix64(1, 4096, &mut leaf);
    let root = bomb(&mut blocks, &leaf, 4);
    let car = blocks.write(folder.path(), "bytes.car", &root);
    let error = error_of(&car, &output);
    let as_expected =
        matches!(&error, ExtractError::NoSpace { what: "bytes", wanted, .. } if *wanted == 1 << 52);
    assert!(as_expected, "{error:?}");
    let options = ExtractOptions { bytes_max: (1 << 52) - 1, ..ExtractOptions::new(&output) };
    let error = restore(&[car], options, 1).unwrap_err();
    assert!(matches!(error, ExtractError::TooMuch { wanted, .. } if wanted == 1 << 52), "{error:?}");

    // Nested folders: more entries than fit in 64 bits.
    let mut below = blocks.raw(b"");
    let names: Vec<String> = (0..1000).map(|index| index.to_string()).collect();
    for _ in 0..30 {
        let links: Vec<_> = names.iter().map(|name| (name.as_bytes(), &below[..])).collect();
        below = blocks.folder(&links);
    }
    let car = blocks.write(folder.path(), "folders.car", &below);
    let error = error_of(&car, &output);
    assert!(matches!(error, ExtractError::TooMuch { wanted: u64::MAX, .. }), "{error:?}");
}

#[test]
fn few_blocks_that_mean_many_zeros_are_one_hole() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut blocks = Blocks::default();
    let root = bomb(&mut blocks, &[0; 1024], 3);
    let car = blocks.write(folder.path(), "zeros.car", &root);
    let done = restore(&[car], ExtractOptions::new(folder.path()), 1).unwrap();
    assert_eq!(done.bytes, 1 << 40);
    assert_eq!(fs::metadata(folder.path().join("zeros")).unwrap().len(), 1 << 40);
}

#[test]
fn sizes_that_are_not_true_are_found_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let check = |blocks: &Blocks, root: &[u8]| {
        let error = error_of(&blocks.write(folder.path(), "car", root), &output);
        assert!(matches!(error, ExtractError::NotUnixfs { source: NotUnixfs::Sizes, .. }), "{error:?}");
        assert!(!output.exists());
    };
    let mut blocks = Blocks::default();
    let leaf = blocks.raw(b"four");
    for size in [3, 5, u64::MAX] {
        let root = blocks.file(&[(&leaf, size)]);
        check(&blocks, &root);
    }
    let inner = blocks.file(&[(&leaf, 4), (&leaf, 4)]);
    let root = blocks.file(&[(&inner, 1_000_000)]);
    check(&blocks, &root);
    let root = blocks.node(&[(b"", &leaf)], b"\x08\x02\x18\x05\x20\x04");
    check(&blocks, &root);
}

#[test]
fn a_leaf_that_is_a_node_must_be_as_long_as_it_was_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let zeros = [0; 5000];
    let four = cid(RAW, b"four");
    let of_zeros = cid(RAW, &zeros);
    // Nodes that look like leaves by their length, but have another length, or unexpected children.
    for (data, links) in [
        (&b"\x08\x02\x12\x04four\x18\x04"[..], &[][..]),
        (b"\x08\x02\x18\x05\x20\x05", &[&four]),
        (b"\x08\x02\x18\x05\x20\x05", &[&of_zeros]),
        (b"\x08\x02\x18\x05\x20\x05", &[&Vec::new()]),
    ] {
        let mut blocks = Blocks::default();
        blocks.raw(b"four");
        blocks.raw(&zeros);
        let links: Vec<_> = links.iter().map(|cid| (&b""[..], &cid[..])).collect();
        let leaf = blocks.node(&links, data);
        let inner = [&[8, 2, 0x12][..], &[0x88, 0x27], &zeros, &[0x18, 0x88, 0x27]].concat();
        let inner = blocks.node(&[], &inner);
        let root = blocks.file(&[(&of_zeros, 5000), (&of_zeros, 5000), (&inner, 5000), (&leaf, 5)]);
        let error = error_of(&blocks.write(folder.path(), "car", &root), &output);
        let as_expected = matches!(
            error,
            ExtractError::NotUnixfs { source: NotUnixfs::Sizes, .. } | ExtractError::Link { .. }
        );
        assert!(as_expected, "{error:?}");
        assert_eq!(tree(&output).len(), 1, "nothing half is left");
    }
}

#[test]
fn what_is_nested_too_deeply_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    for (levels, is_restored) in [(1000, true), (1030, false)] {
        let mut blocks = Blocks::default();
        let mut below = blocks.raw(b"leaf");
        for _ in 0..levels {
            below = blocks.folder(&[(b"d", &below)]);
        }
        let car = blocks.write(folder.path(), "car", &below);
        let result = restore(&[car], ExtractOptions::new(&output), 1);
        match result {
            Ok(done) => assert!(is_restored && done.files == 1, "{levels}"),
            Err(error) => assert!(!is_restored && matches!(error, ExtractError::TooDeep { .. }), "{error:?}"),
        }
    }
    let mut blocks = Blocks::default();
    let mut below = blocks.raw(&[7; 1000]);
    for _ in 0..70 {
        below = blocks.file(&[(&below, 1000)]);
    }
    let error = error_of(&blocks.write(folder.path(), "car", &below), &output);
    assert!(matches!(error, ExtractError::TooDeep { .. }), "{error:?}");
}

#[test]
fn what_is_no_file_and_no_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |codec: u8, block: &[u8], wanted: NotUnixfs| {
        let mut blocks = Blocks::default();
        let leaf = blocks.add(codec, block);
        let root = blocks.folder(&[(b"odd", &leaf)]);
        let error = error_of(&blocks.write(folder.path(), "car", &root), &folder.path().join("output"));
        match error {
            ExtractError::NotUnixfs { inside, cid, source } => {
                assert_eq!((inside, source), (PathBuf::from("odd"), wanted));
                assert_eq!(cid.to_bytes(), leaf);
            }
            other => panic!("{other:?}"),
        }
    };
    check(0x71, b"\xa0", NotUnixfs::Codec(0x71));
    check(DAG_PB, b"\x0a\x02\x08\x03", NotUnixfs::Metadata);
    check(DAG_PB, b"\x0a\x02\x08\x07", NotUnixfs::UnknownType(7));
    check(DAG_PB, b"\x0a\x00", NotUnixfs::NotUnixfs);
    check(DAG_PB, b"junk", NotUnixfs::NotDagPb);
}

#[test]
fn damaged_and_missing_blocks_are_named() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (input, path, output) =
        (folder.path().join("input"), folder.path().join("car"), folder.path().join("output"));
    fs::create_dir_all(input.join("a")).unwrap();
    let mut bytes = Vec::new();
    splitmix64(7, 5 << 20, &mut bytes);
    fs::write(input.join("a/large"), &bytes).unwrap();
    fs::write(input.join("a/before"), &bytes[..5000]).unwrap();
    pack(&input, &path, Profile::UnixfsV1_2025.params(), 1);
    let whole = fs::read(&path).unwrap();
    let at = whole.windows(100).position(|window| *window == bytes[(3 << 20) + 500..][..100]).unwrap();

    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    let damaged_path = folder.path().join("damaged");
    fs::write(&damaged_path, &damaged).unwrap();
    let leaf = PayloadCid::from_bytes(&cid(RAW, &bytes[3 << 20..4 << 20])).unwrap();
    match error_of(&damaged_path, &output) {
        ExtractError::DamagedBlock { car, offset, cid, inside } => {
            assert_eq!((car, cid, inside), (damaged_path.clone(), leaf.clone(), PathBuf::from("a/large")));
            assert_eq!(offset, u64::try_from(at - 500).unwrap());
        }
        other => panic!("{other:?}"),
    }
    let there = tree(&output);
    assert!(!there.contains_key(Path::new("a/large")), "{there:?}");
    assert!(there.keys().all(|path| !path.to_string_lossy().contains("carferry")), "{there:?}");
    // An intact copy in another CAR is found.
    fs::remove_dir_all(&output).unwrap();
    restore(&[damaged_path.clone(), path.clone()], ExtractOptions::new(&output), 2).unwrap();
    assert!(tree(&output) == tree(&input));
    fs::remove_dir_all(&output).unwrap();

    // The leaf's section cut out.
    let start = at - 500 - 36 - 3;
    let missing = [&whole[..start], &whole[at - 500 + (1 << 20)..]].concat();
    fs::write(&damaged_path, missing).unwrap();
    match error_of(&damaged_path, &output) {
        ExtractError::MissingBlock { cars, cid, inside } => {
            assert_eq!((cars, cid, inside), (vec![damaged_path.clone()], leaf, PathBuf::from("a/large")));
        }
        other => panic!("{other:?}"),
    }
    assert!(!output.exists());

    // Cut anywhere.
    for length in [0, 1, 30, 59, 60, 100, at, whole.len() - 1] {
        fs::write(&damaged_path, &whole[..length]).unwrap();
        match error_of(&damaged_path, &output) {
            ExtractError::Truncated { car, offset } => {
                assert_eq!(car, damaged_path, "{length}");
                assert!(offset <= u64::try_from(length).unwrap(), "{length}: {offset}");
            }
            ExtractError::MissingBlock { .. } if length == 59 => {}
            other => panic!("{length}: {other:?}"),
        }
        assert!(!output.exists());
    }
}

#[test]
fn roots_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut blocks = Blocks::default();
    blocks.raw(b"leaf");
    let stranger = cid(RAW, b"stranger");
    let car = blocks.write(folder.path(), "car", &stranger);
    match error_of(&car, folder.path()) {
        ExtractError::MissingBlock { cid, inside, .. } => {
            assert_eq!((cid.to_bytes(), inside), (stranger.clone(), PathBuf::new()));
        }
        other => panic!("{other:?}"),
    }
    let unknown_hash = [&[1, RAW, 0x13, 64][..], &[7; 64]].concat();
    let car = blocks.write(folder.path(), "car", &unknown_hash);
    let error = error_of(&car, folder.path());
    assert!(matches!(error, ExtractError::UnknownHash { hash: 0x13, .. }), "{error:?}");
    fs::write(&car, b"\x11\xa2\x65roots\x80\x67version\x01").unwrap();
    let error = error_of(&car, folder.path());
    assert!(matches!(error, ExtractError::Header { source: HeaderError::RootCount(0), .. }), "{error:?}");
    fs::write(&car, b"\x11\xa2\x65roots\x80\x67version\x02").unwrap();
    let error = error_of(&car, folder.path());
    assert!(matches!(error, ExtractError::Header { source: HeaderError::Version(2), .. }), "{error:?}");
    let error = error_of(&folder.path().join("none"), folder.path());
    assert!(matches!(error, ExtractError::Unreadable { .. }), "{error:?}");
}

#[test]
fn a_block_under_another_ones_cid_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let mut blocks = Blocks::default();
    let good = cid(RAW, b"good");
    blocks.0.push(section(&good, b"evil"));
    let root = blocks.folder(&[(b"file", &good)]);
    let output = folder.path().join("output");
    let error = error_of(&blocks.write(folder.path(), "car", &root), &output);
    assert!(matches!(error, ExtractError::DamagedBlock { .. }), "{error:?}");
    // A later intact copy is found.
    blocks.raw(b"good");
    let car = blocks.write(folder.path(), "car", &root);
    restore(&[car], ExtractOptions::new(&output), 1).unwrap();
    assert_eq!(fs::read(output.join("file")).unwrap(), b"good");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn junk_is_restored_or_refused_and_stays_inside(
        digest in proptest::collection::vec(any::<u8>(), 0..120),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
        codec in prop_oneof![Just(RAW), Just(DAG_PB)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let blocks = Blocks(vec![rest]);
        let car = blocks.write(folder.path(), "car", &identity(codec, &digest));
        let output = folder.path().join("output");
        let options = ExtractOptions { bytes_max: 1 << 20, ..ExtractOptions::new(&output) };
        if let Ok(extraction) = Extraction::open(from_ref(&car), options.clone(), &NoProgress) {
            prop_assert!(extraction.plan().entries() < 10_000);
        }
        drop(restore(&[car], options, 1));
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert!(names.iter().all(|name| name == "car" || name == "output"), "{:?}", names);
    }

    #[test]
    fn any_flipped_bit_is_found_or_harmless(at in 0usize..100_000, bit in 0u8..8) {
        let mut blocks = Blocks::default();
        let leaf = blocks.raw(&[9; 300]);
        let file = blocks.file(&[(&leaf, 300), (&leaf, 300)]);
        let root = blocks.folder(&[(b"file", &file), (b"leaf", &leaf)]);
        let folder = tempfile::tempdir().unwrap();
        let mut car = blocks.car(&root);
        let length = car.len();
        car[at % length] ^= 1 << bit;
        let path = folder.path().join("car");
        fs::write(&path, car).unwrap();
        let output = folder.path().join("output");
        // Only a change of the codec in a section's CID can pass, because the hash does not cover it.
        if restore(&[path], ExtractOptions::new(&output), 1).is_ok() {
            prop_assert_eq!(fs::read(output.join("file")).unwrap(), vec![9; 600]);
            prop_assert_eq!(fs::read(output.join("leaf")).unwrap(), vec![9; 300]);
        }
    }
}
