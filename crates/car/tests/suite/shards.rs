//! Folders around the size from which on they are sharded, and very large ones.

use std::fs::{self, File};
use std::path::Path;

use carferry_car::{BuiltCar, Crew, NoProgress, Profile, plan_car, verify_car};

use crate::inputs::{pack, sha256_of};

/// A folder of so many empty files with names of this length, and one with a name of another length.
fn folder_of(folder: &Path, count: usize, name_len: usize, last_name_len: usize) {
    fs::create_dir(folder).unwrap();
    for number in 0..count {
        File::create(folder.join(format!("{number:0name_len$}"))).unwrap();
    }
    File::create(folder.join(format!("x{:0width$}", 0, width = last_name_len - 1))).unwrap();
}

fn packed(folder: &Path, profile: Profile) -> BuiltCar {
    let car = folder.with_extension("car");
    let built = pack(folder, &car, profile.params(), 2);
    let verified = verify_car(&Crew::alone(), &car, &NoProgress).unwrap();
    assert_eq!((verified.unreachable_blocks, verified.payload_cid), (0, built.payload_cid.clone()));
    let plan = plan_car(folder, &profile.params()).unwrap();
    assert!(plan.payload_size_max >= built.payload_size, "{profile}");
    built
}

/// Whether there is more than one block for the folder and one for its empty files.
fn is_sharded(car: &BuiltCar) -> bool {
    car.block_count > 2
}

#[test]
fn the_size_of_its_links_decides_up_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    // 36 bytes of CID and 28 of name make 64, and 4096 of these 256 KiB.
    let (below, at) = (folder.path().join("below"), folder.path().join("at"));
    folder_of(&below, 4095, 28, 27);
    folder_of(&at, 4095, 28, 28);
    for profile in [Profile::Ipfs1m174, Profile::Ipfs256k174] {
        assert!(!is_sharded(&packed(&below, profile)), "{profile}");
        assert!(is_sharded(&packed(&at, profile)), "{profile}");
    }
    // Lotus' CIDs of empty files have 4 bytes, so that the same folder is small.
    assert!(!is_sharded(&packed(&at, Profile::Lotus)));
    // 4 bytes of CID and 60 of name.
    let (below, at) = (folder.path().join("lotus-below"), folder.path().join("lotus-at"));
    folder_of(&below, 4094, 60, 60);
    folder_of(&at, 4095, 60, 60);
    assert!(!is_sharded(&packed(&below, Profile::Lotus)));
    assert!(is_sharded(&packed(&at, Profile::Lotus)));
}

#[test]
fn the_size_of_its_block_decides_up_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    // 64 bytes for each link with a name of 20, 60 for one of 16, and 4 for the rest of the block: 256 KiB.
    let (at, above) = (folder.path().join("at"), folder.path().join("above"));
    folder_of(&at, 4095, 20, 16);
    folder_of(&above, 4095, 20, 17);
    assert!(!is_sharded(&packed(&at, Profile::UnixfsV1_2025)));
    assert!(is_sharded(&packed(&above, Profile::UnixfsV1_2025)));
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
