//! `generate-car`, `commp`, `verify-car`.

use std::fs;

use crate::common::{Folders, pattern, run};

const ROOT: &str = "bafykbzaceax2vbph5hhzyj76u7juafwzum2ywsk7ay4jjbnmsqu72gujkshyu";
const PIECE: &str = "baga6ea4seaqkdagce56neuqd7f574i6nz2x6gxp6f62ve54emcdcygaci3ewshi";

/// A folder with `a.tar`, and a CAR of it in the output.
fn packed() -> (Folders, String) {
    let folders = Folders::new();
    folders.write("a.tar", &pattern(3_145_728));
    fs::create_dir(&folders.output).unwrap();
    let car = folders.output.join("a.car").to_str().unwrap().to_owned();
    let ended = run(&["generate-car", folders.input.join("a.tar").to_str().unwrap(), &car, "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line = &ended.json()[0];
    assert_eq!(line["file"].as_str(), Some(&*car));
    assert_eq!((line["payloadcid"].as_str(), line["piececid"].as_str()), (Some(ROOT), Some(PIECE)));
    assert_eq!((line["carsizebytes"].as_u64(), line["blocks"].as_u64()), (Some(3_146_117), Some(4)));
    (folders, car)
}

#[test]
fn a_generated_car_verifies_and_has_the_commitment_it_was_made_with() {
    let (_folders, car) = packed();
    let verified = run(&["verify-car", &car, "--json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let line = &verified.json()[0];
    assert_eq!((line["payloadcid"].as_str(), line["piececid"].as_str()), (Some(ROOT), Some(PIECE)));
    assert_eq!(line["unreachableblocks"], 0);

    let commitment = run(&["commp", &car, "--json"]);
    let line = &commitment.json()[0];
    assert_eq!(line["piececid"], PIECE);
    assert!(line["piececidv2"].as_str().unwrap().starts_with("bafkzcib"), "{line}");
    assert_eq!(line["payloadsizebytes"], 3_146_117);
    assert_eq!(
        (line["dealsizebytes"].as_u64(), line["piecesizebytes"].as_u64()),
        (Some(4_161_536), Some(4_194_304))
    );
}

#[test]
fn people_read_one_fact_a_line() {
    let (folders, car) = packed();
    let text = |args: &[&str]| run(args).stdout.replace(folders.output.to_str().unwrap(), "");
    insta::assert_snapshot!("verify-car", text(&["verify-car", &car]));
    insta::assert_snapshot!("commp", text(&["commp", &car]));
}

#[test]
fn an_existing_car_is_replaced_only_by_force() {
    let (folders, car) = packed();
    let source = folders.input.join("a.tar");
    fs::write(&source, b"other").unwrap();
    let before = fs::read(&car).unwrap();
    let refused = run(&["generate-car", source.to_str().unwrap(), &car]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("exists already\nhint: --force"), "{}", refused.stderr);
    assert_eq!(fs::read(&car).unwrap(), before);
    let forced = run(&["generate-car", source.to_str().unwrap(), &car, "--force"]);
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_ne!(fs::read(&car).unwrap(), before);
    assert_eq!(folders.made(), ["a.car"]);
}

#[test]
fn a_folder_becomes_one_car_of_its_tree() {
    let folders = Folders::new();
    for (name, content) in [("b/c.txt", "c"), ("a.txt", "a"), ("b/d/e.txt", "e")] {
        folders.write(name, content.as_bytes());
    }
    let (input, output) = (folders.input.to_str().unwrap(), folders.output.to_str().unwrap());
    for profile in ["lotus", "unixfs-v1-2025"] {
        let ended = run(&["generate-car", input, output, "--profile", profile, "--force"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(run(&["verify-car", output]).code, Some(0));
    }
    let inside = folders.input.join("b/out.car");
    let refused = run(&["generate-car", input, inside.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("inside the folder"), "{}", refused.stderr);
    assert!(!inside.exists());
}

#[test]
fn the_first_damage_is_named_with_its_offset() {
    let (folders, car) = packed();
    let good = fs::read(&car).unwrap();
    // Header 60 bytes, root node 181, then leaves of 42 bytes of frame each: the second leaf's content.
    let second_leaf = 60 + 1_048_576 + 600;
    let mut flipped = good.clone();
    flipped[second_leaf] ^= 1;
    for (name, bytes, says) in [
        ("flipped", flipped, "its bytes have another hash"),
        ("cut", good[..good.len() - 1].to_vec(), "the CAR is cut"),
        ("padded", [&good[..], &[0; 4]].concat(), "empty section"),
        ("text", b"this is no CAR".to_vec(), "at byte 0"),
        ("empty", Vec::new(), "byte 0"),
    ] {
        let path = folders.output.join(format!("{name}.car"));
        fs::write(&path, bytes).unwrap();
        let ended = run(&["verify-car", path.to_str().unwrap(), &car, "--json"]);
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        let line = ended.about(&format!("{name}.car"));
        assert!(line["error"].as_str().unwrap().contains(says), "{name}: {line}");
        assert!(line["offset"].is_u64(), "{name}: {line}");
        assert_eq!(ended.about("a.car")["payloadcid"], ROOT, "{name}: the other file is checked too");
    }
    let ended = run(&["verify-car", folders.output.join("padded.car").to_str().unwrap()]);
    assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains("3146117"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    for command in ["commp", "verify-car"] {
        let ended = run(&[command, "/nowhere/a.car"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("/nowhere/a.car"), "{}", ended.stderr);
    }
    let ended = run(&["generate-car", "/nowhere/a", "/tmp/never.car"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("/nowhere/a is gone"), "{}", ended.stderr);
}
