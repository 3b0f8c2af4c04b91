//! `public.json`: every input with every parameter set, compared up to the hash of the CAR.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use carferry_car::bench::Engine;
use carferry_car::{
    BlockHash, BuildOptions, CarOrder, DagParams, FilePart, FolderRoot, NoProgress, PayloadSize, Profile,
    ShardRule, SourceStamp, SourceTree, ThreadBudget, build_tree, check_kernel_choice, kernel_name, piece_of,
    plan_car, verify_car,
};
use serde_json::Value;

use crate::inputs::{list, make, number, pack, sha256_of, text, vectors};

/// Larger inputs have their own test.
const SMALL: u64 = 64 << 20;

fn public() -> Value {
    vectors(include_str!("../vectors/public.json"))
}

fn params(public: &Value, name: &str) -> DagParams {
    let set = &public["sets"][name];
    DagParams {
        chunk_size: u32::try_from(number(set, "chunk")).unwrap(),
        links_per_node: usize::try_from(number(set, "links")).unwrap(),
        block_hash: match text(set, "hash") {
            "blake2b-256" => BlockHash::Blake2b256,
            "sha2-256" => BlockHash::Sha2_256,
            hash => panic!("unknown hash {hash}"),
        },
        shard_rule: match name {
            "unixfs-v1-2025" | "mini" => ShardRule::BlockBytes,
            _ => ShardRule::LinksBytes,
        },
        order: match text(set, "car") {
            "dfs" => CarOrder::DepthFirst,
            "leaves-then-parents" => CarOrder::LeavesFirst,
            order => panic!("unknown order {order}"),
        },
        folder_root: FolderRoot::MayBeInlined,
        inline_limit: set["inline"].as_u64().map(|limit| usize::try_from(limit).unwrap()),
    }
}

/// Packs an input with one parameter set and compares all values of the vector.
fn check_vector(public: &Value, vector: &Value, input: &Path, car: &Path, threads: usize) {
    let name = format!("{} with {}", text(vector, "input"), text(vector, "set"));
    let params = params(public, text(vector, "set"));
    let plan = plan_car(input, &params).unwrap();
    let built = pack(input, car, params, threads);
    assert_eq!(built.payload_cid.to_string(), text(vector, "root"), "root of {name}");
    assert_eq!(built.payload_size.get(), number(vector, "car_size"), "size of {name}");
    assert_eq!(built.block_count, number(vector, "blocks"), "blocks of {name}");
    assert_eq!(built.piece_cid.to_string(), text(vector, "piece_cid"), "piece of {name}");
    assert_eq!(built.padded_piece_size.get(), number(vector, "padded"), "padded size of {name}");
    assert_eq!(
        built.padded_piece_size.unpadded().get(),
        number(vector, "unpadded"),
        "unpadded size of {name}"
    );
    assert_eq!(fs::metadata(car).unwrap().len(), number(vector, "car_size"), "size on disk of {name}");
    assert_eq!(sha256_of(car), text(vector, "car_sha256"), "bytes of {name}");
    assert!(plan.payload_size_max >= built.payload_size, "plan of {name}");
    let file_cids: Vec<String> = built.file_cids.iter().map(ToString::to_string).collect();
    assert_eq!(file_cids.first().map(String::as_str), vector["file_cid"].as_str(), "file of {name}");
    if let Some(v2) = vector["piece_cid_v2"].as_str() {
        assert_eq!(built.piece_cid.v2(built.payload_size).unwrap().to_string(), v2, "piece v2 of {name}");
    }
}

/// Verifies the CAR with this crate's reader.
fn check_verifies(vector: &Value, car: &Path) {
    let name = format!("{} with {}", text(vector, "input"), text(vector, "set"));
    let verified = verify_car(&ThreadBudget::alone(), car, &NoProgress)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(verified.payload_cid.to_string(), text(vector, "root"), "root of {name}");
    assert_eq!(verified.piece_cid.to_string(), text(vector, "piece_cid"), "piece of {name}");
    assert_eq!(verified.block_count, number(vector, "blocks"), "blocks of {name}");
    assert!(verified.unreachable_blocks == 0 || vector["file_cid"].is_string(), "blocks of {name}");
    assert_eq!(verified.inlined_without_section, 0, "blocks of {name}");
}

fn check_raw_piece(input: &Value, path: &Path) -> bool {
    let Some(raw_piece) = input.get("raw_piece") else { return false };
    let name = text(input, "id");
    let piece = piece_of(File::open(path).unwrap(), &NoProgress).unwrap();
    assert_eq!(piece.piece_cid.to_string(), text(raw_piece, "commp"), "raw piece of {name}");
    assert_eq!(piece.padded_piece_size.get(), number(raw_piece, "padded"), "raw piece of {name}");
    assert_eq!(piece.payload_size, PayloadSize::new(number(input, "size")), "raw piece of {name}");
    if let Some(v2) = raw_piece["piece_cid_v2"].as_str() {
        assert_eq!(piece.piece_cid.v2(piece.payload_size).unwrap().to_string(), v2, "raw piece v2 of {name}");
    }
    true
}

/// Runs inputs of some sizes; returns how many vectors and raw pieces were checked.
fn check_inputs(wanted: impl Fn(u64) -> bool, threads: usize) -> (usize, usize) {
    let public = public();
    let folder = tempfile::tempdir().unwrap();
    let (mut checked, mut raw_pieces) = (0, 0);
    for input in list(&public, "inputs") {
        if !wanted(input["size"].as_u64().unwrap_or(0)) {
            continue;
        }
        let id = text(input, "id");
        let path = folder.path().join(id);
        make(input, &path);
        if let Some(sha256) = input["sha256"].as_str() {
            assert_eq!(sha256_of(&path), sha256, "the input {id} itself");
        }
        raw_pieces += usize::from(check_raw_piece(input, &path));
        let car = folder.path().join("out.car");
        for vector in list(&public, "vectors") {
            if text(vector, "input") != id {
                continue;
            }
            check_vector(&public, vector, &path, &car, threads);
            if number(vector, "car_size") < SMALL {
                check_verifies(vector, &car);
            }
            checked += 1;
        }
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    (checked, raw_pieces)
}

#[test]
fn small_inputs_give_the_cars_of_other_tools() {
    assert_eq!(check_inputs(|size| size < SMALL, 1), (176, 42));
}

#[test]
fn large_inputs_give_the_cars_of_other_tools() {
    assert_eq!(check_inputs(|size| size >= SMALL, 2), (10, 3));
}

/// A kernel is chosen once per process, so each kernel is tested in its own process.
#[test]
fn every_kernel_gives_the_cars_of_other_tools() {
    let mut children = Vec::new();
    for kernel in carferry_car::bench::engines().into_iter().map(Engine::name) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["public::small_inputs", "public::cars_are", "public::the_kernel"])
            .args(["published::pieces", "published::car_files"])
            .env("CARFERRY_KERNEL", kernel)
            .output()
            .unwrap();
        assert!(child.status.success(), "{kernel}: {}", String::from_utf8_lossy(&child.stdout));
        children.push(String::from_utf8_lossy(&child.stdout).matches("... ok").count());
    }
    assert!(children.iter().all(|passed| *passed == 8), "{children:?}");
}

#[test]
fn the_kernel_is_the_one_that_was_asked_for() {
    assert_eq!(check_kernel_choice().unwrap(), kernel_name());
    if let Ok(wanted) = std::env::var("CARFERRY_KERNEL") {
        assert_eq!(kernel_name(), wanted);
    }
}

#[test]
fn cars_do_not_depend_on_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    // Chunks that repeat within and across groups: A B A C, then all zeros, then A again.
    let mut bytes = Vec::new();
    for seed in [1, 2, 1, 3] {
        crate::inputs::splitmix64(seed, 9 << 20, &mut bytes);
    }
    bytes.resize(bytes.len() + (11 << 20), 0);
    crate::inputs::splitmix64(1, (9 << 20) + 77, &mut bytes);
    fs::write(&input, &bytes).unwrap();
    let public = public();
    for set in ["lotus", "unixfs-v1-2025", "ipfs-256k-174", "singularity"] {
        let one = folder.path().join("one.car");
        let built = pack(&input, &one, params(&public, set), 1);
        let verified = verify_car(&ThreadBudget::alone(), &one, &NoProgress).unwrap();
        assert_eq!(verified.piece_cid, built.piece_cid, "{set}");
        let once = built.payload_size.get() < 40 << 20;
        assert_eq!(once, set != "singularity", "repeated chunks are written once with {set}");
        for threads in [2, 7] {
            let many = folder.path().join("many.car");
            assert_eq!(pack(&input, &many, params(&public, set), threads), built, "{threads} threads, {set}");
            assert_eq!(sha256_of(&many), sha256_of(&one), "{threads} threads, {set}");
        }
    }
}

#[test]
fn files_in_singularitys_order_give_its_cars() {
    let public = public();
    let folder = tempfile::tempdir().unwrap();
    let car = folder.path().join("car");
    for vector in list(&public, "singularity_multi") {
        let mut tree = SourceTree::new();
        for (number, id) in list(vector, "inputs").iter().enumerate() {
            let input = list(&public, "inputs").iter().find(|input| input["id"] == *id).unwrap();
            let path = folder.path().join(id.as_str().unwrap());
            if !path.exists() {
                make(input, &path);
            }
            let expected = SourceStamp::of(&fs::metadata(&path).unwrap());
            // Names and folders decide the order only; links are left out.
            let at = if number % 2 == 0 { format!("{number}") } else { format!("{number}/folder/file") };
            tree.add_file(&at, FilePart { path, range: 0..expected.size, expected }).unwrap();
            tree.add_symlink(&format!("link-{number}"), b"0").unwrap();
        }
        tree.add_folder("empty").unwrap();
        for threads in [1usize, 2, 7] {
            let budget = ThreadBudget::new(threads.try_into().unwrap());
            let options = BuildOptions { params: Profile::Singularity.params(), ..BuildOptions::default() };
            let output = File::create(&car).unwrap();
            let built = build_tree(&budget, &tree, &output, &options, &NoProgress).unwrap();
            assert_eq!(built.payload_cid.to_string(), text(vector, "root"));
            assert_eq!(built.block_count, number(vector, "blocks"));
            assert_eq!(built.piece_cid.to_string(), text(vector, "piece_cid"));
            let file_cids: Vec<String> = built.file_cids.iter().map(ToString::to_string).collect();
            assert!(list(vector, "file_cids").iter().eq(&file_cids), "{file_cids:?}");
            assert_eq!(sha256_of(&car), text(vector, "car_sha256"), "{threads} threads");
            let plan = tree.plan(&options.params).unwrap();
            assert_eq!(plan.payload_size_max.get(), number(vector, "car_size"));
        }
    }
    assert_eq!(list(&public, "singularity_multi").len(), 2);
}

/// Rows of the table in the contract: CARs that Lotus' code writes from generated bytes.
#[test]
fn cars_are_those_of_lotus_for_every_kind_of_inlining() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    for (size, root, car_bytes, sha256_start) in [
        (0, "bafkqaaa", 31, "3c4833ade2a80adc"),
        (1, "bafkqaaia", 34, "1d24a10d4439f594"),
        (127, "bafk2bzacebh7mlt4jrb74ea2a6chtreig27esb6z2smnzrlxzke5nffsyepzw", 228, "de7a43bdf06b7325"),
        (1024, "bafk2bzacea7gq7z2trrt6wxffovtdjkfbystnmaz6r472nspnsrsxg4clf35c", 1125, "43d15e50822e6850"),
        (
            1 << 20,
            "bafk2bzaceaczjvagwxheinac47njrljn766ysbvuuw7e6qdwyz2dzb6qga7s4",
            1_048_678,
            "9b34de2e86a617f9",
        ),
        (
            (1 << 20) + 1,
            "bafyaasysfyfcmakvudsaeiafstkannooiq2afz62tcws3755redljjn6j5ahnrtuhsd5amb7fyjaageaqbabecykauavkaab6ajaagabbigaqaqyqgaeaieaqbacaai",
            1_048_882,
            "d34aaea3770328b4",
        ),
        (
            2 << 20,
            "bafyaa4isfyfcmakvudsaeiafstkannooiq2afz62tcws3755redljjn6j5ahnrtuhsd5amb7fyjaageaqbabelqkeyavliheaiqekjp7thsmc2us3vjry625sxgggc44zegx64g63m6pufl7cymebkasaamibacabihqqaqyqcaiaajaqcaeaieaqbaa",
            2_097_607,
            "f583328243a9337a",
        ),
        (
            (2 << 20) + 5,
            "bafykbzacebko6runbhkpkg4ey2wh3plriwnk5oo6uscdak2yz4oxvsshdq7kq",
            2_097_482,
            "1294344db0beabb2",
        ),
        (
            3 << 20,
            "bafykbzaceax2vbph5hhzyj76u7juafwzum2ywsk7ay4jjbnmsqu72gujkshyu",
            3_146_117,
            "b755b34d5adbfd89",
        ),
    ] {
        let bytes: Vec<u8> =
            (0u64..size).map(|i| (7 * i + 13 * (i >> 8) + 31 * (i >> 16)).to_le_bytes()[0]).collect();
        fs::write(&input, bytes).unwrap();
        let built = pack(&input, &car, DagParams::default(), 1);
        assert_eq!(built.payload_cid.to_string(), root, "{size} bytes");
        assert_eq!(built.payload_size.get(), car_bytes, "{size} bytes");
        assert_eq!(&sha256_of(&car)[..16], sha256_start, "{size} bytes");
    }
}
