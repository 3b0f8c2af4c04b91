//! Folders around the size limit for sharding, and very large folders.

use std::fs;
use std::fs::File;
use std::path::Path;

use carferry_car::{
    BuildOptions, FilePart, NoProgress, Profile, SourceStamp, SourceTree, ThreadBudget, build_tree,
    verify_car,
};

use crate::inputs::{pack, sha256_of};

/// Whether a folder is sharded that has `count` empty files with names of this length, and one with a name of
/// another length.
fn is_sharded(folder: &Path, profile: Profile, count: usize, name_len: usize, last_name_len: usize) -> bool {
    let (path, car) = (folder.join("empty"), folder.join("car"));
    let expected = SourceStamp::of(&File::create(&path).unwrap().metadata().unwrap());
    let mut tree = SourceTree::new();
    let last = format!("x{:0width$}", 0, width = last_name_len - 1);
    for name in (0..count).map(|number| format!("{number:0name_len$}")).chain([last]) {
        tree.add_file(&name, FilePart { path: path.clone(), range: 0..0, expected }).unwrap();
    }
    let options = BuildOptions { params: profile.params(), ..BuildOptions::default() };
    let built =
        build_tree(&ThreadBudget::alone(), &tree, &File::create(&car).unwrap(), &options, &NoProgress)
            .unwrap();
    let verified = verify_car(&ThreadBudget::alone(), &car, &NoProgress).unwrap();
    assert_eq!((verified.unreachable_blocks, verified.payload_cid), (0, built.payload_cid));
    assert!(tree.plan(&options.params).unwrap().payload_size_max >= built.payload_size, "{profile}");
    // Otherwise there is one block for the folder, and one for the empty files.
    built.block_count > 2
}

#[test]
fn the_size_of_its_links_decides_up_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    // 36 bytes of CID and 28 of name make 64, and 4096 of these 256 KiB.
    for profile in [Profile::Ipfs1m174, Profile::Ipfs256k174] {
        assert!(!is_sharded(folder.path(), profile, 4095, 28, 27), "{profile}");
        assert!(is_sharded(folder.path(), profile, 4095, 28, 28), "{profile}");
    }
    // Lotus' CIDs of empty files have 4 bytes, so that names of 60 make 64.
    assert!(!is_sharded(folder.path(), Profile::Lotus, 4095, 28, 28));
    assert!(!is_sharded(folder.path(), Profile::Lotus, 4094, 60, 60));
    assert!(is_sharded(folder.path(), Profile::Lotus, 4095, 60, 60));
}

#[test]
fn the_size_of_its_block_decides_up_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    // 64 bytes for each link with a name of 20, 60 for one of 16, and 4 for the rest of the block: 256 KiB.
    assert!(!is_sharded(folder.path(), Profile::UnixfsV1_2025, 4095, 20, 16));
    assert!(is_sharded(folder.path(), Profile::UnixfsV1_2025, 4095, 20, 17));
}

#[test]
fn sharded_folders_do_not_depend_on_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    for below in ["", "a", "a/b"] {
        fs::create_dir_all(input.join(below)).unwrap();
        for number in 0..6000 {
            let name = input.join(below).join(format!("a name of some length, number {number}"));
            fs::write(name, format!("{}", number % 100)).unwrap();
        }
    }
    for profile in [Profile::UnixfsV1_2025, Profile::Ipfs256k174] {
        let (one, many) = (folder.path().join("one.car"), folder.path().join("many.car"));
        let built = pack(&input, &one, profile.params(), 1);
        // The same names three times, so that most shards below the roots are the same as well.
        assert!((500..1000).contains(&built.block_count), "{profile}: {built:?}");
        for threads in [2, 7] {
            assert_eq!(pack(&input, &many, profile.params(), threads), built, "{threads} threads, {profile}");
            assert_eq!(sha256_of(&many), sha256_of(&one), "{threads} threads, {profile}");
        }
    }
}
