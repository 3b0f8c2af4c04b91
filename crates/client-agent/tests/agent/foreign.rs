//! Files that a command must not replace, files that are not regular, and names that work a terminal.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::common::{Folders, pattern, run};

fn pipe(path: &std::path::Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn generate_car_replaces_cars_alone_and_never_its_input() {
    let folders = Folders::new();
    folders.write("a", b"the only copy");
    fs::create_dir(&folders.output).unwrap();
    let source = folders.input.join("a").to_str().unwrap().to_owned();
    let at = |name: &str| folders.output.join(name).to_str().unwrap().to_owned();
    fs::write(at("text"), b"a letter").unwrap();
    fs::create_dir(at("folder")).unwrap();
    pipe(&folders.output.join("pipe"));
    symlink(&source, at("link")).unwrap();
    fs::hard_link(&source, at("same")).unwrap();
    fs::write(at("empty"), b"").unwrap();
    for (output, words) in [
        (source.clone(), "is the input itself"),
        (at("same"), "is the input itself"),
        (at("text"), "no CAR"),
        (at("folder"), "no regular file"),
        (at("pipe"), "no regular file"),
        (at("link"), "no regular file"),
    ] {
        let ended = run(&["generate-car", &source, &output, "--force"]);
        assert_eq!(ended.code, Some(1), "{output}: {ended:?}");
        assert!(
            ended.stderr.contains(words) && ended.stderr.contains("hint: "),
            "{output}: {}",
            ended.stderr
        );
    }
    assert_eq!(fs::read(&source).unwrap(), b"the only copy");
    assert_eq!(fs::read(at("text")).unwrap(), b"a letter");
    for _ in 0..2 {
        assert_eq!(
            run(&["generate-car", &source, &at("empty"), "--force"]).code,
            Some(0),
            "a CAR is replaced"
        );
    }
}

#[test]
fn named_pipes_are_refused_without_waiting_for_their_other_ends() {
    let folders = Folders::new();
    fs::create_dir(&folders.output).unwrap();
    let path = folders.output.join("pipe");
    pipe(&path);
    let (path, back) = (path.to_str().unwrap(), folders.root.path().join("back"));
    for arguments in [
        &["commp", path][..],
        &["verify-car", path],
        &["extract", path, "--output", back.to_str().unwrap()],
        &["generate-car", path, "/tmp/never.car"],
        &["makecars", "--no-database", "--input", path, "--output", back.to_str().unwrap()],
    ] {
        let ended = run(arguments);
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        let words = ["a named pipe, not a regular file", "neither a file"];
        assert!(words.iter().any(|words| ended.stderr.contains(words)), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn makecars_replaces_only_the_car_of_the_same_file() {
    let folders = Folders::new();
    folders.write("a", &pattern(3000));
    folders.write("b", b"b");
    folders.write("c", b"c");
    fs::create_dir(&folders.output).unwrap();
    let at = |name: &str| folders.output.join(name);
    // A letter, and the CAR of another file.
    fs::write(at("a.car"), b"a letter").unwrap();
    let made =
        run(&["generate-car", folders.input.join("c").to_str().unwrap(), at("b.car").to_str().unwrap()]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let other = fs::read(at("b.car")).unwrap();
    let ended = run(&folders.makecars(&["--json"]));
    assert_ne!(ended.code, Some(0));
    for name in ["a", "b"] {
        let reason = ended.about(name)["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains("left alone") && reason.contains("--output"), "{name}: {reason}");
    }
    assert_eq!(ended.about("c")["state"], "made");
    assert_eq!(fs::read(at("a.car")).unwrap(), b"a letter");
    assert_eq!(fs::read(at("b.car")).unwrap(), other);
    fs::remove_file(at("a.car")).unwrap();
    fs::remove_file(at("b.car")).unwrap();
    assert_eq!(run(&folders.makecars(&[])).code, Some(0));
    // Another input with the same names.
    let second = folders.root.path().join("second");
    fs::create_dir(&second).unwrap();
    fs::write(second.join("a"), b"another a").unwrap();
    let before = fs::read(at("a.car")).unwrap();
    let arguments = ["makecars", "--no-database", "--json", "--input", second.to_str().unwrap(), "--output"];
    let ended = run(&[&arguments[..], &[folders.output.to_str().unwrap()]].concat());
    let reason = ended.about("a")["reason"].as_str().unwrap_or_default().to_owned();
    let first = folders.input.join("a");
    assert!(ended.code == Some(1) && reason.contains(first.to_str().unwrap()), "{ended:?}");
    assert_eq!(fs::read(at("a.car")).unwrap(), before);
    // A killed run leaves CARs without a manifest: the very same are taken.
    fs::remove_file(at("manifest.jsonl")).unwrap();
    assert_eq!(run(&folders.makecars(&[])).code, Some(0));
    folders.write("b", b"changed");
    assert_eq!(run(&folders.makecars(&[])).code, Some(0), "what the manifest names is replaced");
}

#[test]
fn manifests_of_others_are_left_alone() {
    let folders = Folders::new();
    folders.write("a", b"a");
    fs::create_dir(&folders.output).unwrap();
    let manifest = folders.output.join("manifest.jsonl");
    fs::write(&manifest, "{\"somebody\":\"else's\"}\n").unwrap();
    let ended = run(&folders.makecars(&[]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("not a manifest of makecars") && ended.stderr.contains("hint: move it away")
    );
    assert_eq!(folders.made(), [""; 0], "nothing is packed that could not be listed");
    fs::remove_file(&manifest).unwrap();
    // Beside the CAR of a piece as well.
    let pack = ["--layout", "pack", "--piece-size", "2MiB"];
    assert_eq!(run(&folders.makecars(&pack)).code, Some(0));
    let made = folders.made();
    for name in &made {
        fs::remove_file(folders.output.join(name)).unwrap();
    }
    for name in &made {
        let path = folders.output.join(name);
        fs::write(&path, "another's").unwrap();
        let ended = run(&folders.makecars(&pack));
        assert!(ended.code == Some(1) && ended.stderr.contains("not of this piece"), "{name}: {ended:?}");
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(folders.made(), [""; 0]);
}

#[test]
fn names_of_unfinished_files_are_refused_at_once_and_similar_ones_work() {
    let folders = Folders::new();
    folders.write(".x.carferry-y", b"y");
    folders.write(".carferry-notes", b"notes");
    let (input, car) = (folders.input.to_str().unwrap(), folders.root.path().join("a.car"));
    let (car, back) = (car.to_str().unwrap(), folders.root.path().join("back"));
    assert_eq!(run(&["generate-car", input, car]).code, Some(0));
    let ended = run(&["extract", car, "--output", back.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(fs::read(back.join(".x.carferry-y")).unwrap(), b"y");
    assert_eq!(fs::read(back.join(".carferry-notes")).unwrap(), b"notes");
    folders.write(".x.carferry-part", b"unfinished");
    let ended = run(&["generate-car", input, car, "--force"]);
    assert!(ended.code == Some(1) && ended.stderr.contains(".x.carferry-part"), "{ended:?}");
    let ended = run(&folders.makecars(&["--json"]));
    assert_eq!(ended.about(".x.carferry-part")["state"], "skipped");
    assert_eq!(folders.made(), [".carferry-notes.car", ".x.carferry-y.car"]);
}

#[test]
fn names_never_work_the_terminal() {
    let folders = Folders::new();
    let name = "evil\u{1b}[2J\u{9b}31m\u{202e}gpj";
    folders.write(name, b"x");
    let path = folders.input.join(name);
    let missing = folders.input.join("\u{1b}]0;gone\u{7}");
    let outputs = [
        run(&["commp", path.to_str().unwrap(), missing.to_str().unwrap()]),
        run(&["verify-car", path.to_str().unwrap()]),
        run(&folders.makecars(&[])),
        run(&["generate-car", missing.to_str().unwrap(), "/tmp/never.car"]),
    ];
    for ended in outputs {
        for text in [&ended.stdout, &ended.stderr] {
            let raw = text.chars().find(|c| c.is_control() && !"\n\t".contains(*c) || *c == '\u{202e}');
            assert_eq!(raw, None, "{text:?}");
        }
    }
    let line = run(&["commp", "--json", path.to_str().unwrap()]).json().remove(0);
    assert_eq!(line["file"].as_str(), path.to_str(), "machines read the name as it is");
}

#[test]
fn cars_that_are_something_else_are_named_with_a_hint() {
    let folders = Folders::new();
    folders.write("a", &pattern(3000));
    let car = folders.root.path().join("a.car");
    let car = car.to_str().unwrap();
    assert_eq!(run(&["generate-car", folders.input.join("a").to_str().unwrap(), car]).code, Some(0));
    let whole = fs::read(car).unwrap();
    let before = run(&["verify-car", car, "--json"]).json().remove(0);

    let mut padded = whole.clone();
    padded.resize(usize::try_from(before["dealsizebytes"].as_u64().unwrap()).unwrap(), 0);
    fs::write(car, &padded).unwrap();
    let after = run(&["verify-car", car, "--json"]).json().remove(0);
    assert_eq!(after["paddingbytes"], padded.len() - whole.len());
    for field in ["piececid", "payloadcid", "carsizebytes", "piecesizebytes"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(run(&["verify-car", car]).stdout.contains("this is the padded piece"));

    // Source: CARv2 specification, "Pragma".
    let pragma = b"\x0a\xa1\x67version\x02";
    fs::write(car, [&pragma[..], &[0; 40], &whole].concat()).unwrap();
    let back = folders.root.path().join("back");
    for arguments in [&["verify-car", car][..], &["extract", car, "--output", back.to_str().unwrap()]] {
        let ended = run(arguments);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(
            ended.stderr.contains("version 2") && ended.stderr.contains("car index --version 1"),
            "{ended:?}"
        );
    }
    // The root that tools write before they know it: of no bytes.
    let placeholder = [&b"\x19\xa2\x65roots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00\x67version\x01"[..]].concat();
    let header_len = usize::from(whole[0]) + 1;
    fs::write(car, [&placeholder[..], &whole[header_len..]].concat()).unwrap();
    let ended = run(&["verify-car", car]);
    assert!(ended.stderr.contains("placeholder") && ended.stderr.contains("--root CID"), "{ended:?}");
}

#[test]
fn many_small_files_are_warned_of() {
    let folders = Folders::new();
    for number in 0..16 {
        folders.write(&format!("{number}"), b"x");
    }
    let ended = run(&folders.makecars(&["--dry-run"]));
    assert!(ended.code == Some(0) && ended.stderr.contains("--layout pack"), "{ended:?}");
    fs::remove_file(folders.input.join("0")).unwrap();
    let ended = run(&folders.makecars(&["--dry-run"]));
    assert!(!ended.stderr.contains("--layout pack"), "{ended:?}");
}
