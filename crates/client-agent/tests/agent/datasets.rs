//! Data sets without a database: manifests, changes while they are packed, what is refused, and the way back.

use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::common::{Ended, Folders, agent, pattern, run, until};

/// Enough that reading takes a while.
const LONG: u64 = 768 << 20;

fn json(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_manifest_says_which_car_is_of_which_file() {
    let folders = Folders::new();
    folders.write("sub/a.bin", &pattern(3000));
    folders.write("b", b"b");
    assert_eq!(run(&folders.makecars(&["--verify"])).code, Some(0));
    folders.write("c", b"c");
    fs::remove_file(folders.input.join("b")).unwrap();
    assert_eq!(run(&folders.makecars(&[])).code, Some(0));
    let lines = json(&folders.output.join("manifest.jsonl"));
    let cars: Vec<_> = lines.iter().map(|line| line["car"].as_str().unwrap()).collect();
    assert_eq!(cars, ["b.car", "c.car", "sub/a.bin.car"], "a CAR that stands keeps its line");
    let line = &lines[2];
    assert_eq!(line["file"].as_str(), folders.input.join("sub/a.bin").to_str());
    let checked = run(&["verify-car", "--json", folders.output.join("sub/a.bin.car").to_str().unwrap()]);
    for field in ["payloadcid", "piececid", "carsizebytes", "piecesizebytes", "dealsizebytes"] {
        assert_eq!(line[field], checked.json()[0][field], "{field}");
    }
}

#[test]
fn a_piece_whose_file_changes_while_it_is_read_is_not_made() {
    let folders = Folders::new();
    folders.write_long("grows", LONG);
    folders.write("small", b"small");
    let pack = ["--layout", "pack", "--piece-size", "1GiB", "--json"];
    let mut child = agent(&folders.makecars(&pack)).spawn().unwrap();
    until(&mut child, || folders.made().iter().any(|name| name.contains("-00000.car.")));
    OpenOptions::new().append(true).open(folders.input.join("grows")).unwrap().write_all(b"more").unwrap();
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let line = ended.json().pop().unwrap();
    assert_eq!(line["state"], "failed");
    let reason = line["reason"].as_str().unwrap();
    // The system changes time and size one after the other: either may be seen first.
    assert!(reason.contains("grows changed while it was read"), "{reason}");
    assert_eq!(folders.made(), [""; 0], "nothing of it is left");

    assert_eq!(run(&folders.makecars(&pack)).code, Some(0));
    let made = folders.made();
    assert_eq!(made.len(), 2, "{made:?}");
    let lines = json(&folders.output.join(&made[1]));
    let paths: Vec<_> = lines.iter().filter_map(|line| line["path"].as_str()).collect();
    assert_eq!(paths, ["grows", "small"]);
    assert_eq!(lines[1]["size"], 805_306_372);
}

#[test]
fn files_come_back_alone_in_trees_and_joined() {
    let folders = Folders::new();
    folders.write("folder/large", &pattern(5 << 20));
    folders.write("folder/small", b"small");
    let input = folders.input.to_str().unwrap();
    for (layout, cars) in [("tree", 1), ("pack", 3)] {
        let output = folders.root.path().join(layout);
        let output = output.to_str().unwrap();
        let piece = if layout == "tree" { "8MiB" } else { "2MiB" };
        let made = run(&[
            "makecars",
            "--no-database",
            "--input",
            input,
            "--output",
            output,
            "--layout",
            layout,
            "--piece-size",
            piece,
        ]);
        assert_eq!(made.code, Some(0), "{made:?}");
        let mut files: Vec<_> = fs::read_dir(output)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "car"))
            .map(|path| path.to_str().unwrap().to_owned())
            .collect();
        files.sort();
        assert!(files.len() >= cars, "{files:?}");
        let back = format!("{output}-back");
        let mut arguments = vec!["extract", "--output", &back, "--json"];
        arguments.extend(files.iter().map(String::as_str));
        // In whatever order.
        arguments.swap(4, 3 + files.len());
        let ended = run(&arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(fs::read(format!("{back}/folder/large")).unwrap() == pattern(5 << 20));
        assert_eq!(fs::read(format!("{back}/folder/small")).unwrap(), b"small");
        assert_eq!(fs::read_dir(format!("{back}/folder")).unwrap().count(), 2);
        // Nothing is overwritten by accident.
        let again = run(&arguments);
        assert_eq!(again.code, Some(1));
        assert!(again.stderr.contains("--existing keep"), "{}", again.stderr);
        let kept = run(&[&arguments[..], &["--existing", "keep"]].concat());
        assert_eq!(kept.code, Some(0), "{kept:?}");
    }
}

/// A split file's CARs, in the order of its parts, as it was at this time.
fn split(folders: &Folders, name: &str, content: &[u8], seconds: u64) -> Vec<PathBuf> {
    let file = folders.input.join("large");
    fs::write(&file, content).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    OpenOptions::new().write(true).open(&file).unwrap().set_modified(time).unwrap();
    let output = folders.root.path().join(name);
    let input = folders.input.to_str().unwrap();
    let made = run(&[
        "makecars",
        "--no-database",
        "--input",
        input,
        "--output",
        output.to_str().unwrap(),
        "--layout",
        "pack",
        "--piece-size",
        "2MiB",
    ]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let paths = fs::read_dir(output).unwrap().map(|entry| entry.unwrap().path());
    let of_car = |car: PathBuf| {
        let lines = json(&car.with_extension("jsonl"));
        (lines[1]["from"].as_u64().unwrap(), car)
    };
    let is_car = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "car");
    let mut cars: Vec<_> = paths.filter(is_car).map(of_car).collect();
    cars.sort();
    cars.into_iter().map(|(_, car)| car).collect()
}

#[test]
fn states_of_a_split_file_are_never_mixed_over_calls() {
    let folders = Folders::new();
    let (old, new) = (pattern(5 << 20), pattern((5 << 20) + 9).split_off(9));
    assert!(old.len() == new.len() && old != new);
    let (before, after) = (split(&folders, "before", &old, 1000), split(&folders, "after", &new, 1001));
    assert!(before.len() > 2 && before.len() == after.len(), "{before:?} {after:?}");
    let back = folders.root.path().join("back");
    let extract = |car: &PathBuf, more: &[&str]| {
        let (car, back) = (car.to_str().unwrap(), back.to_str().unwrap());
        let ended = run(&[&["extract", car, "--output", back, "--existing", "keep"], more].concat());
        let is_whole = fs::exists(format!("{back}/large")).unwrap();
        assert_eq!(ended.code, Some(if is_whole { 0 } else { 3 }), "{ended:?}");
        assert_eq!(ended.stdout.contains("unfinished"), !is_whole || more == ["--json"], "{ended:?}");
        assert!(!back_has_mixed(back, &old, &new), "{ended:?}");
        ended.stdout
    };
    // All of the older state but one part; then the newer one, in between the older's missing part.
    for car in &before[1..] {
        assert!(!extract(car, &[]).contains("state of"));
    }
    let said = extract(&after[0], &[]);
    assert!(said.contains("begun anew") && said.contains("an older state"), "{said}");
    let said = extract(&before[0], &[]);
    assert!(said.contains("stays a part") && said.contains("a newer state"), "{said}");
    let said = extract(&before[0], &["--json"]);
    assert!(said.contains("\"state\":\"same\"") && said.contains("\"otherstate\":\"older\""), "{said}");
    for car in &after[1..] {
        assert!(!back.join("large").exists());
        extract(car, &[]);
    }
    assert!(fs::read(back.join("large")).unwrap() == new);
    let mut names: Vec<_> = fs::read_dir(&back).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 2, "the file, and the part that was left: {names:?}");

    // A file that was begun when lists knew no states: nothing joins it, and nothing of it is lost.
    fs::remove_dir_all(&back).unwrap();
    extract(&before[0], &[]);
    let list = back.join(".large.carferry-ranges");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replace(" changed 1000000000000", "")).unwrap();
    let said = extract(&after[1], &[]);
    assert!(said.contains("nobody knows") && said.contains("remove"), "{said}");
    assert!(back.join(".large.carferry-part").exists());
    fs::remove_file(back.join(".large.carferry-part")).unwrap();
    for car in &after {
        extract(car, &[]);
    }
    assert!(fs::read(back.join("large")).unwrap() == new);
}

/// Whether there is a whole file that is neither.
fn back_has_mixed(back: &str, old: &[u8], new: &[u8]) -> bool {
    fs::read(format!("{back}/large")).is_ok_and(|bytes| bytes != old && bytes != new)
}

#[test]
fn what_cannot_be_a_data_set_is_refused_with_a_hint() {
    let folders = Folders::new();
    folders.write("a", &pattern(4 << 20));
    for (more, words) in [
        (&["--layout", "tree", "--piece-size", "2MiB"][..], "--layout pack divides it"),
        (&["--layout", "pack", "--piece-size", "1MiB"], "larger --piece-size"),
        (&["--layout", "pack", "--profile", "singularity"], "unixfs-v1-2025"),
        (&["--layout", "heap"], "setting.layout"),
    ] {
        let ended = run(&folders.makecars(more));
        assert!(ended.code != Some(0) && ended.stderr.contains(words), "{more:?}: {}", ended.stderr);
    }
    let dry = run(&folders.makecars(&["--layout", "pack", "--piece-size", "2MiB", "--dry-run", "--json"]));
    assert_eq!(dry.code, Some(0), "{dry:?}");
    let lines = dry.json();
    assert_eq!(lines.last().unwrap()["pieces"], lines.len() - 1);
    assert_eq!(folders.made(), [""; 0]);
}

/// The CARs below a folder, sorted.
fn cars_in(folder: &std::path::Path) -> Vec<String> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_car = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "car");
    let mut cars: Vec<_> = paths.filter(is_car).map(|path| path.to_str().unwrap().to_owned()).collect();
    cars.sort();
    cars
}

#[test]
fn what_extract_leaves_out_is_named_with_its_reason_and_a_status_of_its_own() {
    let folders = Folders::new();
    folders.write("huge.img", &pattern(5 << 20));
    folders.write("small", b"small");
    let pack = ["--layout", "pack", "--piece-size", "2MiB"];
    assert_eq!(run(&folders.makecars(&pack)).code, Some(0));
    let cars = cars_in(&folders.output);
    let back = |name: &str| folders.root.path().join(name).to_str().unwrap().to_owned();
    let extract = |output: &str, cars: &[String], more: &[&str]| {
        let cars: Vec<&str> = cars.iter().map(String::as_str).collect();
        run(&[&["extract", "--output", output], more, &cars].concat())
    };
    let all = extract(&back("all"), &cars, &[]);
    assert_eq!(all.code, Some(0), "{all:?}");
    assert!(all.stdout.ends_with("\n2 files, 0 folders, 0 links restored (5.00 MiB)\n"), "{all:?}");

    // A CAR that was not named.
    let some = extract(&back("some"), &cars[1..], &[]);
    assert_eq!(some.code, Some(3), "{some:?}");
    assert!(some.stdout.contains("unfinished  huge.img: ") && some.stdout.contains(" of 5.00 MiB, the CARs"));
    let some = extract(&back("some-json"), &cars[1..], &["--json"]).json();
    let [.., file, total] = &some[..] else { panic!("{some:?}") };
    assert_eq!((file["path"].as_str(), file["state"].as_str()), (Some("huge.img"), Some("unfinished")));
    assert_eq!((&total["unfinished"], &total["parts"]), (&1.into(), &file["parts"]));

    // Another file has its name.
    fs::write(folders.root.path().join("all/small"), b"other").unwrap();
    let kept = extract(&back("all"), &cars, &["--existing", "keep"]);
    assert!(kept.code == Some(3) && kept.stdout.contains("different   small"), "{kept:?}");

    // A manifest as earlier versions of `regenerate` wrote it: its file has the time of that day.
    let manifest = std::path::Path::new(&cars[0]).with_extension("jsonl");
    let text = fs::read_to_string(&manifest).unwrap();
    let time = text.split("\"mtimenanos\":").nth(1).unwrap().split(',').next().unwrap();
    fs::write(&manifest, text.replace(time, "1999999999000000000")).unwrap();
    let again = extract(&back("again"), &cars, &[]);
    assert!(again.code == Some(0) && fs::read(back("again") + "/huge.img").unwrap() == pattern(5 << 20));

    // No manifest: the parts are whole, the file is not.
    for car in &cars {
        fs::remove_file(std::path::Path::new(car).with_extension("jsonl")).unwrap();
    }
    let loose = extract(&back("loose"), &cars, &[]);
    assert_eq!(loose.code, Some(3), "{loose:?}");
    assert!(loose.stdout.contains("unfinished  huge.img: no manifest"), "{loose:?}");
}

#[test]
fn roots_of_pieces_are_never_inside_their_cids() {
    let folders = Folders::new();
    folders.write("only.img", &pattern(3 << 20));
    for layout in ["tree", "pack"] {
        let output = folders.root.path().join(layout);
        let (input, output) = (folders.input.to_str().unwrap(), output.to_str().unwrap());
        let more = ["--layout", layout, "--piece-size", "4MiB", "--group", "数据", "--json"];
        let made =
            run(&[&["makecars", "--no-database", "--input", input, "--output", output][..], &more].concat());
        assert_eq!(made.code, Some(0), "{made:?}");
        let line = &made.json()[0];
        let (root, car) = (line["payloadcid"].as_str().unwrap(), line["carpath"].as_str().unwrap());
        assert!(root.starts_with("bafykbz") && root.len() == 62, "{root}");
        assert!(car.contains("/数据-"), "{car}");
        assert_eq!(run(&["verify-car", car]).code, Some(0));
        // `generate-car` is Lotus' own importer with folders, and stays so.
        let other = format!("{output}/other.car");
        assert_eq!(run(&["generate-car", input, &other]).code, Some(0));
        let other = run(&["verify-car", &other, "--json"]).json();
        assert!(other[0]["payloadcid"].as_str().unwrap().starts_with("bafyaa"), "{other:?}");
        let again =
            run(&[&["makecars", "--no-database", "--input", input, "--output", output][..], &more].concat());
        assert!(again.code == Some(0) && again.stdout.is_empty(), "{again:?}");
    }
}

#[test]
fn a_plan_that_was_begun_by_the_first_rules_goes_on_by_them() {
    let folders = Folders::new();
    folders.write("a.img", &pattern(3 << 20));
    folders.write("b.img", &pattern((3 << 20) + 5));
    let pack = ["--layout", "pack", "--piece-size", "4MiB", "--group", "数据", "--json"];
    let made = run(&folders.makecars(&pack));
    assert_eq!((made.code, made.json().len()), (Some(0), 2), "{made:?}");
    // As the first version would have left it: under an ASCII name.
    let cars = cars_in(&folders.output);
    let before = cars[0].replace("数据", "__");
    let manifest = |car: &str| std::path::Path::new(car).with_extension("jsonl");
    fs::copy(&cars[0], &before).unwrap();
    fs::copy(manifest(&cars[0]), manifest(&before)).unwrap();
    for car in &cars {
        fs::remove_file(car).unwrap();
        fs::remove_file(manifest(car)).unwrap();
    }
    let resumed = run(&folders.makecars(&pack));
    assert_eq!((resumed.code, resumed.json().len()), (Some(0), 1), "{resumed:?}");
    let line = &resumed.json()[0];
    assert!(line["carpath"].as_str().unwrap().contains("/__-"), "{line}");
    assert!(line["payloadcid"].as_str().unwrap().starts_with("bafyaa"), "{line}");
}
