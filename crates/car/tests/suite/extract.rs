//! Packs files into CARs and restores them: the tree is the same.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use carferry_car::{
    BlockHash, CarOrder, DagParams, Existing, ExtractError, ExtractOptions, Extracted, Extraction,
    FolderRoot, NoProgress, Outcome, PayloadCid, Profile, Progress, Restored, RestoredKind, ShardRule,
    Symlinks, ThreadBudget, extract,
};
use cid::multibase::Base;

use crate::blocks::Blocks;
use crate::inputs::{list, make, pack, sha256_of, splitmix64, text, vectors};

/// The entry at a path.
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
    let budget = ThreadBudget::new(threads.try_into().unwrap());
    extract(&budget, cars, options, &|_| {}, &NoProgress)
}

/// Restores a CAR of an input and compares it: a folder in place of the output, a file by its own name.
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
    shard_rule: ShardRule::LinksBytes,
    folder_root: FolderRoot::MayBeInlined,
    order: CarOrder::DepthFirst,
};

/// Unusual names, sizes at every boundary, links, sparse files.
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
    // The profiles that have folders.
    let profiles = Profile::ALL.map(Profile::params).into_iter();
    let profiles = profiles.filter(|params| params.order == CarOrder::DepthFirst);
    for params in profiles.chain([MINI, with_many_leaves]) {
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
            input["size"].as_u64().unwrap_or(0) < 16 << 20 && input["hamt"].as_bool() != Some(true);
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
    assert_eq!(checked, 49 * 3);
}

/// A CAR whose bytes are in the vectors.
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
    let output = |name: &str| folder.path().join(name).with_extension("");
    for (name, files) in [("adl_test.car", 2), ("simple-unixfs.car", 9)] {
        let done = restore(&[published(name, folder.path())], ExtractOptions::new(output(name)), 1).unwrap();
        assert_eq!(done.files, files, "{name}");
    }
    // Older kubo's leaves inside of nodes, and a file with raw parts.
    assert_eq!(fs::read(output("simple-unixfs.car").join("a/1/A.txt")).unwrap(), b"a1A\n");
    assert_eq!(fs::read(output("simple-unixfs.car").join("c/9/I.txt")).unwrap(), b"c9I\n");
    assert_eq!(fs::read(output("adl_test.car").join("@content.txt")).unwrap(), b"NO ADL");
    assert_eq!(fs::read(output("adl_test.car").join("Links/0/Hash")).unwrap(), b"ADL");

    let car = published("simple-unixfs-missing-blocks.car", folder.path());
    let none = folder.path().join("none");
    let error = restore(from_ref(&car), ExtractOptions::new(&none), 1).unwrap_err();
    let as_expected = matches!(&error, ExtractError::MissingBlock { cars, .. } if *cars == [car.clone()]);
    assert!(as_expected, "{error:?}");
    assert!(!none.exists(), "nothing is written before all blocks are there");
    // Another CAR has the missing block.
    let whole = published("simple-unixfs.car", folder.path());
    let done = restore(&[car, whole], ExtractOptions::new(&none), 1).unwrap();
    assert_eq!((done.files, done.same), (9, 0), "one root is restored once");
    assert!(tree(&none) == tree(&output("simple-unixfs.car")));
}

#[test]
fn zeros_behind_the_blocks_are_no_part_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    fs::write(&input, "test").unwrap();
    pack(&input, &car, Profile::UnixfsV1_2025.params(), 1);
    let length = fs::metadata(&car).unwrap().len();
    File::options().write(true).open(&car).unwrap().set_len(length + 1000).unwrap();
    let output = folder.path().join("output");
    restore(&[car], ExtractOptions::new(&output), 1).unwrap();
    assert_eq!(fs::read(output.join("car")).unwrap(), b"test");
}

#[test]
fn holes_stay_holes_and_cost_nothing() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("sparse.car"));
    let file = File::create(&input).unwrap();
    file.set_len(40 << 30).unwrap();
    file.write_all_at(b"data", 30 << 30).unwrap();
    pack(&input, &car, Profile::Lotus.params(), 2);
    let output = folder.path().join("output");
    let extraction = Extraction::open(from_ref(&car), ExtractOptions::new(&output), &NoProgress).unwrap();
    let plan = extraction.plan();
    assert_eq!((plan.files, plan.bytes, plan.bytes - plan.hole_bytes), (1, 40 << 30, 1 << 20));
    let watch = StopAfter { seen: AtomicU64::new(0), limit: u64::MAX };
    let done = extraction.run(&ThreadBudget::alone(), &|_| {}, &watch).unwrap();
    assert_eq!((done.files, done.bytes, watch.seen.into_inner()), (1, 40 << 30, 40 << 30));
    let restored = File::open(output.join("sparse")).unwrap();
    let metadata = restored.metadata().unwrap();
    assert_eq!(metadata.len(), 40 << 30);
    assert!(metadata.blocks() * 512 <= 2 << 20, "{} blocks", metadata.blocks());
    let mut bytes = vec![1; 8];
    restored.read_exact_at(&mut bytes, (30 << 30) - 2).unwrap();
    assert_eq!(bytes, b"\0\0data\0\0");
    // Comparing them finds no difference.
    let options = ExtractOptions { existing: Existing::Keep, ..ExtractOptions::new(&output) };
    assert_eq!(restore(from_ref(&car), options.clone(), 1).unwrap().same, 1);
    File::options().write(true).open(output.join("sparse")).unwrap().write_all_at(b"x", 7 << 30).unwrap();
    assert_eq!(restore(&[car], options, 1).unwrap().different, 1);
}

/// Three files and a link, and their CAR.
fn small(folder: &Path) -> (PathBuf, PathBuf) {
    let (input, car) = (folder.join("input"), folder.join("input.car"));
    fs::create_dir_all(input.join("below")).unwrap();
    let mut bytes = Vec::new();
    splitmix64(3, 3 << 20, &mut bytes);
    fs::write(input.join("large"), &bytes).unwrap();
    fs::write(input.join("below/small"), &bytes[..1000]).unwrap();
    fs::write(input.join("below/empty"), []).unwrap();
    symlink("large", input.join("link")).unwrap();
    pack(&input, &car, Profile::UnixfsV1_2025.params(), 1);
    (input, car)
}

#[test]
fn what_is_there_is_refused_replaced_or_kept() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (input, car) = small(folder.path());
    let wanted = tree(&input);
    let output = folder.path().join("output");
    let with = |existing| ExtractOptions { existing, ..ExtractOptions::new(&output) };
    restore(from_ref(&car), with(Existing::Refuse), 2).unwrap();
    let error = restore(from_ref(&car), with(Existing::Refuse), 2).unwrap_err();
    assert!(matches!(&error, ExtractError::Exists { path } if path.starts_with(&output)), "{error:?}");
    assert!(tree(&output) == wanted, "what was there stays, and nothing half is beside it");

    let done = restore(from_ref(&car), with(Existing::Keep), 2).unwrap();
    assert_eq!((done.files, done.symlinks, done.same, done.different, done.bytes), (0, 0, 4, 0, 0));
    fs::remove_file(output.join("below/small")).unwrap();
    let large = File::options().write(true).open(output.join("large")).unwrap();
    large.write_all_at(b"other", 2 << 20).unwrap();
    fs::remove_file(output.join("link")).unwrap();
    symlink("elsewhere", output.join("link")).unwrap();
    fs::write(output.join("below/empty"), "not empty").unwrap();
    let before = tree(&output);
    let outcomes = Mutex::new(Vec::new());
    let note = |restored: &Restored<'_>| {
        if restored.kind != RestoredKind::Folder {
            outcomes.lock().unwrap().push((restored.inside.to_owned(), restored.outcome));
        }
    };
    let done =
        extract(&ThreadBudget::alone(), from_ref(&car), with(Existing::Keep), &note, &NoProgress).unwrap();
    assert_eq!((done.files, done.symlinks, done.same, done.different, done.bytes), (1, 0, 0, 3, 1000));
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    let wanted_outcomes = [
        ("below/empty", Outcome::Different),
        ("below/small", Outcome::Written),
        ("large", Outcome::Different),
        ("link", Outcome::Different),
    ];
    assert_eq!(outcomes, wanted_outcomes.map(|(path, outcome)| (PathBuf::from(path), outcome)));
    let mut after = tree(&output);
    assert_eq!(after.remove(Path::new("below/small")), wanted.get(Path::new("below/small")).cloned());
    assert!(after == before, "what is another is left alone");

    let done = restore(from_ref(&car), with(Existing::Replace), 2).unwrap();
    assert_eq!((done.files, done.symlinks, done.same, done.different), (3, 1, 0, 0));
    assert!(tree(&output) == wanted);

    // Folders are never replaced.
    fs::remove_file(output.join("large")).unwrap();
    fs::create_dir(output.join("large")).unwrap();
    for existing in [Existing::Refuse, Existing::Replace, Existing::Keep] {
        let error = restore(from_ref(&car), with(existing), 1).unwrap_err();
        assert!(matches!(error, ExtractError::InTheWay { .. } | ExtractError::Exists { .. }), "{error:?}");
        assert!(output.join("large").is_dir(), "{existing:?}");
    }
}

#[test]
fn links_may_be_left_out() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (input, car) = small(folder.path());
    let output = folder.path().join("output");
    let options = ExtractOptions { symlinks: Symlinks::Skip, ..ExtractOptions::new(&output) };
    let done = restore(&[car], options, 1).unwrap();
    assert_eq!((done.symlinks, done.skipped), (0, 1));
    fs::remove_file(input.join("link")).unwrap();
    assert!(tree(&output) == tree(&input));
}

/// Cancels after a number of bytes.
struct StopAfter {
    seen: AtomicU64,
    limit: u64,
}

impl Progress for StopAfter {
    fn advance(&self, source_bytes: u64) {
        self.seen.fetch_add(source_bytes, Ordering::SeqCst);
    }

    fn is_cancelled(&self) -> bool {
        self.seen.load(Ordering::SeqCst) >= self.limit
    }
}

#[test]
fn a_run_that_was_stopped_is_taken_up_again() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (input, car, output) =
        (folder.path().join("input"), folder.path().join("car"), folder.path().join("output"));
    fs::create_dir(&input).unwrap();
    for index in 0..40 {
        let mut bytes = Vec::new();
        splitmix64(index, 3 << 20, &mut bytes);
        fs::write(input.join(format!("{index:02}")), bytes).unwrap();
    }
    pack(&input, &car, Profile::Lotus.params(), 2);
    let options = ExtractOptions { existing: Existing::Keep, ..ExtractOptions::new(&output) };
    for threads in [1, 3] {
        let stop = StopAfter { seen: AtomicU64::new(0), limit: 50 << 20 };
        let budget = ThreadBudget::new(threads.try_into().unwrap());
        let error = extract(&budget, from_ref(&car), options.clone(), &|_| {}, &stop).unwrap_err();
        assert!(matches!(error, ExtractError::Cancelled), "{error:?}");
        let (whole, there) = (tree(&input), tree(&output));
        assert!(there.len() > 2 && there.len() < whole.len(), "{} of {}", there.len(), whole.len());
        assert!(there.iter().all(|(path, node)| whole.get(path) == Some(node)), "only whole files are there");
        // The temporary file of a killed run.
        let killed = output.join(".39.carferry-new");
        fs::write(&killed, "half").unwrap();
        let done = restore(from_ref(&car), options.clone(), 2).unwrap();
        assert_eq!((done.files + done.same, done.different), (40, 0));
        assert!(done.same > 0, "what was there has been kept");
        assert!(tree(&output) == whole);
        fs::remove_dir_all(&output).unwrap();
    }
}

#[test]
fn a_caller_stops_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (_, car) = small(folder.path());
    let stop = StopAfter { seen: AtomicU64::new(0), limit: 0 };
    let error = Extraction::open(&[car], ExtractOptions::new(folder.path()), &stop).unwrap_err();
    assert!(matches!(error, ExtractError::Cancelled), "{error:?}");
}

#[test]
fn files_have_the_names_that_were_given() {
    let folder = tempfile::tempdir().unwrap();
    let mut blocks = Blocks::default();
    let root = blocks.raw(b"content");
    let car = blocks.write(folder.path(), "some.data.car", &root);
    let unnamed = blocks.write(folder.path(), ".car", &root);
    let cid = PayloadCid::from_bytes(&root).unwrap();
    let given =
        |name: &str| ExtractOptions { file_name: Some(name.into()), ..ExtractOptions::new(folder.path()) };
    let by_root = ExtractOptions { roots: Some(vec![cid.clone()]), ..ExtractOptions::new(folder.path()) };
    let replace = ExtractOptions { existing: Existing::Replace, ..ExtractOptions::new(folder.path()) };
    for (car, options, wanted) in [
        (&car, ExtractOptions::new(folder.path()), "some.data"),
        (&car, given("other name"), "other name"),
        (&unnamed, replace, &cid.to_string()),
        (&car, ExtractOptions { existing: Existing::Replace, ..by_root }, &cid.to_string()),
    ] {
        restore(from_ref(car), options, 1).unwrap();
        assert_eq!(fs::read(folder.path().join(wanted)).unwrap(), b"content", "{wanted}");
        fs::remove_file(folder.path().join(wanted)).unwrap();
    }
    let error = restore(&[car], given("../up"), 1).unwrap_err();
    assert!(matches!(error, ExtractError::Name { .. }), "{error:?}");
}

#[test]
fn a_root_of_the_callers_is_restored_from_all_cars() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, mut second) = (Blocks::default(), Blocks::default());
    let leaves = [first.raw(b"one "), second.raw(b"two")];
    let file = second.file(&[(&leaves[0], 4), (&leaves[1], 3)]);
    let root = second.folder(&[(b"joined", &file)]);
    // Singularity: the root in the header is the first leaf.
    let cars = [first.write(folder.path(), "1", &leaves[0]), second.write(folder.path(), "2", &leaves[1])];
    let output = folder.path().join("output");
    let roots = Some(vec![PayloadCid::from_bytes(&root).unwrap()]);
    let done = restore(&cars, ExtractOptions { roots, ..ExtractOptions::new(&output) }, 1).unwrap();
    assert_eq!((done.files, done.bytes), (1, 7));
    assert_eq!(fs::read(output.join("joined")).unwrap(), b"one two");
    assert_eq!(tree(&output).len(), 2);
}

#[test]
fn roots_with_the_same_names_are_restored_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut blocks = Blocks::default();
    let [one, two] = [b"one", b"two"].map(|bytes| blocks.raw(bytes));
    let names: Vec<String> = (0..200).map(|index| index.to_string()).collect();
    let cars = [one, two].map(|leaf| {
        let links: Vec<_> = names.iter().map(|name| (name.as_bytes(), &leaf[..])).collect();
        let root = blocks.folder(&links);
        blocks.write(folder.path(), &leaf[35].to_string(), &root)
    });
    let output = folder.path().join("output");
    let with = |existing| ExtractOptions { existing, ..ExtractOptions::new(&output) };
    for (existing, wanted, different) in [(Existing::Replace, "two", 0), (Existing::Keep, "one", 200)] {
        assert_eq!(restore(&cars, with(existing), 4).unwrap().different, different);
        for name in &names {
            assert_eq!(fs::read_to_string(output.join(name)).unwrap(), wanted);
        }
        fs::remove_dir_all(&output).unwrap();
    }
    assert!(matches!(restore(&cars, with(Existing::Refuse), 4), Err(ExtractError::Exists { .. })));
}

#[test]
fn older_forms_of_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut blocks = Blocks::default();
    // A node of type raw with its bytes, a file with bytes and children, an unbalanced tree.
    let old_leaf = blocks.node(&[], b"\x08\x00\x12\x04old \x18\x04");
    let raw = blocks.raw(b"raw ");
    let inner =
        blocks.node(&[(b"", &old_leaf), (b"", &raw)], b"\x08\x02\x12\x05inner\x18\x0d\x20\x04\x20\x04");
    let root = blocks.file(&[(&raw, 4), (&inner, 13), (&old_leaf, 4)]);
    let car = blocks.write(folder.path(), "old.car", &root);
    restore(&[car], ExtractOptions::new(folder.path()), 1).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("old")).unwrap(), "raw innerold raw old ");
}

/// A shard of shards, as kubo writes a large folder.
#[test]
fn sharded_folders_are_restored() {
    let folder = tempfile::tempdir().unwrap();
    let mut blocks = Blocks::default();
    let [one, two] = [b"one", b"two"].map(|bytes| blocks.raw(bytes));
    let link = blocks.symlink(b"first");
    let below = blocks.shard(8, &[(b"3nested", &one)]);
    let deep = blocks.shard(256, &[(b"00second file", &two), (b"FFlink", &link)]);
    let shard = blocks.shard(256, &[(b"0Afirst", &one), (b"7C", &deep)]);
    let root = blocks.shard(256, &[(b"00", &shard), (b"01third", &two), (b"FFfolder", &below)]);
    let car = blocks.write(folder.path(), "car", &root);
    let output = folder.path().join("output");
    let done = restore(&[car], ExtractOptions::new(&output), 1).unwrap();
    assert_eq!((done.files, done.folders, done.symlinks), (4, 1, 1));
    for (name, wanted) in
        [("first", "one"), ("second file", "two"), ("third", "two"), ("folder/nested", "one")]
    {
        assert_eq!(fs::read_to_string(output.join(name)).unwrap(), wanted, "{name}");
    }
    assert_eq!(fs::read_link(output.join("link")).unwrap(), Path::new("first"));
}

#[test]
fn thousands_of_small_files_need_few_descriptors() {
    let limit = "ulimit -n 128 && exec \"$0\" extract::strange_trees --test-threads 1";
    let test = std::env::current_exe().unwrap();
    let child = std::process::Command::new("sh").args(["-c", limit]).arg(test).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}
