//! From files to CARs and back: the same tree, whatever it is made of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use carferry_car::{
    BlockHash, Crew, DagParams, Existing, ExtractError, ExtractOptions, Extracted, Extraction, NoProgress,
    Outcome, PayloadCid, Profile, Progress, Restored, RestoredKind, Symlinks, extract,
};
use cid::multibase::Base;

use crate::blocks::Blocks;
use crate::inputs::{list, make, pack, sha256_of, splitmix64, text, vectors};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    File(u64, String),
    Folder,
    Symlink(PathBuf),
}

/// Everything at and below a path.
pub(crate) fn tree(path: &Path) -> BTreeMap<PathBuf, Node> {
    let mut nodes = BTreeMap::new();
    let mut paths = vec![path.to_owned()];
    while let Some(at) = paths.pop() {
        let metadata = fs::symlink_metadata(&at).unwrap();
        let node = if metadata.is_symlink() {
            Node::Symlink(fs::read_link(&at).unwrap())
        } else if metadata.is_dir() {
            paths.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
            Node::Folder
        } else {
            Node::File(metadata.len(), sha256_of(&at))
        };
        nodes.insert(at.strip_prefix(path).unwrap().to_owned(), node);
    }
    nodes
}

pub(crate) fn restore(
    cars: &[PathBuf],
    options: ExtractOptions,
    threads: usize,
) -> Result<Extracted, ExtractError> {
    let crew = Crew::new(threads.try_into().unwrap());
    extract(&crew, cars, options, &|_| {}, &NoProgress)
}

/// Restores a CAR of an input and compares: a folder as it is, a file by its own name.
fn check_round_trip(input: &Path, car: &Path, threads: usize, context: &str) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = folder.path().join("output");
    restore(&[car.to_owned()], ExtractOptions::new(&output), threads)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let restored = if input.is_dir() { output } else { output.join(car.file_stem().unwrap()) };
    assert!(tree(&restored) == tree(input), "{context}");
}

const MINI: DagParams = DagParams {
    chunk_size: 256,
    links_per_node: 4,
    block_hash: BlockHash::Blake2b256,
    inline_limit: Some(126),
};

/// Names that scripts stumble over, sizes at every border, links, holes.
fn strange(folder: &Path) -> PathBuf {
    let input = folder.join("input");
    fs::create_dir_all(input.join("empty folder/another")).unwrap();
    let long = "é".repeat(127) + "x";
    for (index, name) in
        ["a b", "new\nline", "-rf", "*?\"'\\", "日本語", "...", "%00", &long].into_iter().enumerate()
    {
        let mut bytes = Vec::new();
        splitmix64(index.try_into().unwrap(), 300 * u64::try_from(index).unwrap(), &mut bytes);
        fs::write(input.join(name), &bytes).unwrap();
        let below = input.join(format!("{index} below"));
        fs::create_dir(&below).unwrap();
        fs::create_dir(below.join(name)).unwrap();
        fs::write(below.join(name).join(name), &bytes[..bytes.len() / 2]).unwrap();
    }
    for size in [0, 1, 126, 127, 128, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        let mut bytes = Vec::new();
        splitmix64(size, size, &mut bytes);
        fs::write(input.join(format!("{size} bytes")), bytes).unwrap();
    }
    symlink("a b", input.join("link")).unwrap();
    symlink("/nowhere/at all", input.join("dangling")).unwrap();
    symlink("empty folder", input.join("link to a folder")).unwrap();
    let sparse = File::create(input.join("sparse")).unwrap();
    sparse.set_len((20 << 20) + 5).unwrap();
    sparse.write_all_at(b"data", 9 << 20).unwrap();
    input
}

#[test]
fn strange_trees_come_back_as_they_were() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let input = strange(folder.path());
    let car = folder.path().join("input.car");
    let with_many_leaves = DagParams { chunk_size: 1000, links_per_node: 1024, ..MINI };
    for params in Profile::ALL.map(Profile::params).into_iter().chain([MINI, with_many_leaves]) {
        pack(&input, &car, params, 2);
        for threads in [1, 5] {
            check_round_trip(&input, &car, threads, &format!("{params:?}, {threads} threads"));
        }
    }
}

#[test]
fn every_input_of_the_vectors_comes_back() {
    let public = vectors(include_str!("../vectors/public.json"));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut checked = 0;
    for input in list(&public, "inputs") {
        let is_wanted =
            input["size"].as_u64().unwrap_or(0) < 64 << 20 && input["hamt"].as_bool() != Some(true);
        if !is_wanted {
            continue;
        }
        let path = folder.path().join(text(input, "id"));
        make(input, &path);
        let car = folder.path().join(format!("{}.car", text(input, "id")));
        for params in [Profile::Lotus.params(), Profile::Ipfs256k174.params(), MINI] {
            pack(&path, &car, params, 2);
            check_round_trip(&path, &car, 2, &format!("{} with {params:?}", text(input, "id")));
            checked += 1;
        }
    }
    assert_eq!(checked, 51 * 3);
}

/// A CAR of the vectors that is there byte by byte.
fn published(name: &str, folder: &Path) -> PathBuf {
    let published = vectors(include_str!("../vectors/published.json"));
    let group = &published["car_files"];
    let vector = list(group, "vectors").iter().find(|vector| text(vector, "source").contains(name)).unwrap();
    let path = folder.join(name);
    fs::write(&path, Base::Base64Pad.decode(text(vector, "base64")).unwrap()).unwrap();
    path
}

#[test]
fn cars_of_other_projects_are_restored() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["adl_test.car", "simple-unixfs.car"] {
        let output = folder.path().join(name).with_extension("");
        let car = published(&format!("/{name}")[1..], folder.path());
        let done = restore(&[car], ExtractOptions::new(&output), 1).unwrap();
        println!("{name} {done:?} {:#?}", tree(&output));
    }
    let car = published("simple-unixfs-missing-blocks.car", folder.path());
    let error = restore(&[car.clone()], ExtractOptions::new(folder.path().join("none")), 1).unwrap_err();
    let as_expected = matches!(&error, ExtractError::MissingBlock { cars, .. } if *cars == [car]);
    assert!(as_expected, "{error:?}");
    assert!(!folder.path().join("none").exists(), "nothing is written before all blocks are there");
}
