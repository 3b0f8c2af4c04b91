#![expect(clippy::disallowed_methods, reason = "times of files, and waits in real time")]

use std::fs;
use std::time::Duration;

use super::*;
use crate::car_files::folder_guard;
use crate::car_files::locate::content::SETTLED_AFTER;

const PIECE: &str = "baga6ea4seaqdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy";

/// A CAR with one raw block: small, and its root depends on its content.
struct Built {
    bytes: Vec<u8>,
    root: PayloadCid,
}

fn built(content: &[u8]) -> Built {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("in"), folder.path().join("out.car"));
    fs::write(&source, content).unwrap();
    let out = File::create(&target).unwrap();
    let options = carferry_car::BuildOptions::default();
    let budget = carferry_car::ThreadBudget::alone();
    let car = carferry_car::build_car(&budget, &source, &out, &options, &carferry_car::NoProgress).unwrap();
    Built { bytes: fs::read(&target).unwrap(), root: car.payload_cid }
}

/// A file that has not been written to for a while.
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let before = std::time::SystemTime::now() - SETTLED_AFTER * 2;
    File::options().write(true).open(path).unwrap().set_modified(before).unwrap();
}

fn looked(places: &Places, wanted: &Wanted, cars: &[CarDoc], checker: Option<&PieceChecker>) -> Located {
    let (folder_guard, heartbeat) = (FolderGuard::new(Duration::from_secs(60)), Heartbeat::default());
    locate(&Search { places, folder_guard: &folder_guard, heartbeat: &heartbeat, checker }, wanted, cars)
}

fn wanted(root: &PayloadCid) -> Wanted {
    Wanted { payload_cid: Some(root.clone()), piece_cid: None, piece_size: None }
}

fn recorded(outputpath: &str, size: Option<usize>) -> CarDoc {
    CarDoc {
        outputpath: Some(outputpath.to_owned()),
        carsizebytes: size.map(|size| i64::try_from(size).unwrap()),
        ..CarDoc::default()
    }
}

fn paths_of(found: &[Candidate]) -> Vec<String> {
    found.iter().map(|candidate| candidate.path.display().to_string()).collect()
}

#[test]
fn places_are_tried_best_first_and_once() {
    let root = built(b"x").root;
    let places = Places {
        roots: vec!["/mnt/a".into(), "/mnt/b".into()],
        paths: vec![PathMapping { from: "/data/out".into(), to: "/mnt/a".into() }],
        node_paths: Vec::new(),
    };
    let wanted = Wanted { piece_cid: Some(PIECE.parse().unwrap()), ..wanted(&root) };
    let found = candidates(&places, &wanted, &[recorded("/data/out/f/a.car", None)]);
    let mut expected = vec!["/mnt/a/f/a.car".to_owned()];
    for end in ["data/out/f/a.car", "out/f/a.car", "f/a.car", "a.car"] {
        for root in ["/mnt/a", "/mnt/b"] {
            expected.push(format!("{root}/{end}"));
        }
    }
    // The mapped path came first already.
    expected.remove(5);
    for name in [PIECE.to_owned(), root.to_string()] {
        expected.extend(["/mnt/a", "/mnt/b"].map(|root| format!("{root}/{name}.car")));
    }
    expected.push("/data/out/f/a.car".to_owned());
    assert_eq!(paths_of(&found), expected);
}

#[test]
fn recorded_paths_that_climb_stay_out_of_the_roots() {
    let root = built(b"x").root;
    let places = Places { roots: vec!["/mnt/a".into()], ..Places::default() };
    let found = candidates(&places, &wanted(&root), &[recorded("/data/../etc/a.car", None)]);
    assert!(paths_of(&found).iter().all(|path| !path.starts_with("/mnt/a/etc")), "{found:?}");
    assert!(
        candidates(&places, &wanted(&root), &[recorded("a.car", None)]).iter().all(|c| c.path.is_absolute())
    );
}

#[test]
fn files_outside_of_the_configured_folders_are_not_touched_by_any_way() {
    let good = built(b"good");
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
    fs::create_dir_all(inside.join("deep")).unwrap();
    fs::create_dir_all(&outside).unwrap();
    put(&outside.join("a.car"), &good.bytes);
    std::os::unix::fs::symlink(outside.join("a.car"), inside.join("a.car")).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("deep/linked")).unwrap();
    let places = Places {
        roots: vec![inside.clone()],
        paths: vec![PathMapping { from: "/data".into(), to: inside.join("deep") }],
        node_paths: Vec::new(),
    };
    let as_it_is = outside.join("a.car").display().to_string();
    for (path, is_named) in [
        ("/elsewhere/a.car", true),
        ("/data/linked/a.car", true),
        (as_it_is.as_str(), true),
        ("/data/../../out/a.car", false),
    ] {
        match looked(&places, &wanted(&good.root), &[recorded(path, None)], None) {
            Located::Missing { reason, .. } => {
                assert_eq!(reason.contains("lies outside of the folders"), is_named, "{path}: {reason}");
                assert_eq!(reason.contains("hint: add its folder to `roots`"), is_named, "{path}: {reason}");
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    // A folder that is itself reached by a link is a folder like any other.
    let linked = folder.path().join("linked");
    std::os::unix::fs::symlink(&outside, &linked).unwrap();
    let places = Places { roots: vec![linked], ..Places::default() };
    let found = looked(&places, &wanted(&good.root), &[recorded("/data/a.car", None)], None);
    assert!(matches!(found, Located::Found(_)), "{found:?}");
}

#[test]
fn the_good_file_is_found_beside_a_wrong_one_and_named_as_the_market_sees_it() {
    let (good, other) = (built(b"good"), built(b"other"));
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    fs::create_dir_all(&one).unwrap();
    fs::create_dir_all(&two).unwrap();
    put(&one.join("a.car"), &other.bytes);
    put(&two.join("a.car"), &good.bytes);
    let places = Places {
        roots: vec![one, two.clone()],
        paths: Vec::new(),
        node_paths: vec![PathMapping { from: two.clone(), to: "/cars".into() }],
    };
    let found = looked(&places, &wanted(&good.root), &[recorded("/data/out/a.car", None)], None);
    let expected = FoundCar {
        local_path: two.join("a.car"),
        node_path: "/cars/a.car".to_owned(),
        size: PayloadSize::new(u64::try_from(good.bytes.len()).unwrap()),
    };
    assert_eq!(found, Located::Found(expected));
}

#[test]
fn without_a_document_a_car_is_found_by_its_cids() {
    let good = built(b"good");
    let folder = tempfile::tempdir().unwrap();
    let places = Places { roots: vec![folder.path().to_owned()], ..Places::default() };
    let Located::Missing { reason, .. } = looked(&places, &wanted(&good.root), &[], None) else {
        panic!("found")
    };
    assert!(reason.starts_with(&format!("no document in `cars` for {}", good.root)), "{reason}");
    put(&folder.path().join(format!("{}.car", good.root)), &good.bytes);
    assert!(matches!(looked(&places, &wanted(&good.root), &[], None), Located::Found(_)));
}

#[test]
fn a_missing_car_names_where_it_was_looked_for() {
    let good = built(b"good");
    let places = Places { roots: vec!["/nonexistent".into()], ..Places::default() };
    let cars = [recorded("/data/out/a.car", None)];
    let Located::Missing { reason, names } = looked(&places, &wanted(&good.root), &cars, None) else {
        panic!("found")
    };
    assert_eq!(names, ["a.car".to_owned(), format!("{}.car", good.root)]);
    assert!(
        reason.starts_with("the CAR is not here yet; looked at /nonexistent/data/out/a.car, "),
        "{reason}"
    );
}

#[test]
fn what_differs_is_said_of_the_file_it_differs_in() {
    let (good, other) = (built(b"good"), built(b"other one"));
    let piece = |text: &str| Some(text.parse::<PieceCid>().unwrap());
    let zero_piece = PIECE;
    let another_piece = "baga6ea4seaqpkjkg76vdsnq2mwqwzquznvml4fttpaboec5lwotw5lixse6vohq";
    let cases: Vec<(&str, Vec<u8>, CarDoc, Wanted, bool)> = vec![
        ("has the root", other.bytes.clone(), recorded("a.car", None), wanted(&good.root), true),
        ("is no CAR", b"no car at all".to_vec(), recorded("a.car", None), wanted(&good.root), true),
        (
            "`cars` says",
            good.bytes.clone(),
            recorded("a.car", Some(good.bytes.len() - 1)),
            wanted(&good.root),
            true,
        ),
        (
            "still arriving",
            good.bytes.clone(),
            recorded("a.car", Some(good.bytes.len() + 1)),
            wanted(&good.root),
            false,
        ),
        ("still arriving", Vec::new(), recorded("a.car", None), wanted(&good.root), false),
        (
            "the deal's piece holds 127",
            vec![1; 128],
            recorded("a.car", None),
            Wanted { piece_size: Some(UnpaddedPieceSize::new(127).unwrap()), ..wanted(&good.root) },
            true,
        ),
        (
            "the deal is about",
            good.bytes.clone(),
            CarDoc { piececid: Some(another_piece.to_owned()), ..recorded("a.car", None) },
            Wanted { piece_cid: piece(zero_piece), ..wanted(&good.root) },
            true,
        ),
    ];
    for (what, bytes, mut car, wanted, is_wrong) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.car");
        put(&path, &bytes);
        car.outputpath = path.to_str().map(str::to_owned);
        let located = looked(&Places::default(), &wanted, &[car], None);
        let (Located::Wrong { reason, .. } | Located::Missing { reason, .. }) = &located else {
            panic!("found: {what}")
        };
        assert!(reason.contains(what) && reason.contains(path.to_str().unwrap()), "{what}: {reason}");
        assert_eq!(matches!(located, Located::Wrong { .. }), is_wrong, "{what}: {reason}");
    }
}

#[test]
fn a_car_of_unknown_size_is_left_alone_while_it_is_written() {
    let good = built(b"good");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.car");
    put(&path, &good.bytes);
    let look = |size| {
        let cars = [recorded(path.to_str().unwrap(), size)];
        looked(&Places::default(), &wanted(&good.root), &cars, None)
    };
    assert!(matches!(look(None), Located::Found(_)));
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    let Located::Missing { reason, .. } = look(None) else { panic!("handed on while it grows") };
    assert!(reason.contains("still arriving") && reason.contains("was written to"), "{reason}");
    assert!(matches!(look(Some(good.bytes.len())), Located::Found(_)), "its size is recorded");
    file.set_modified(std::time::SystemTime::now() + SETTLED_AFTER * 100).unwrap();
    assert!(matches!(look(None), Located::Found(_)), "another clock's time tells nothing");
}

#[test]
fn a_folder_or_pipe_is_no_car() {
    let good = built(b"good");
    let folder = tempfile::tempdir().unwrap();
    let cars = [recorded(folder.path().to_str().unwrap(), None)];
    let Located::Wrong { reason, .. } = looked(&Places::default(), &wanted(&good.root), &cars, None) else {
        panic!("not wrong")
    };
    assert!(reason.ends_with("is not a regular file"), "{reason}");
}

#[test]
fn the_piece_is_computed_where_that_is_asked_for() {
    let good = built(b"good");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.car");
    put(&path, &good.bytes);
    let cars = [recorded(path.to_str().unwrap(), None)];
    let checker = PieceChecker::default();
    let true_piece = carferry_car::piece_of(&good.bytes[..], &carferry_car::NoProgress).unwrap().piece_cid;
    for (piece, expected) in [(true_piece, true), (PIECE.parse().unwrap(), false)] {
        let wanted = Wanted { piece_cid: Some(piece), ..wanted(&good.root) };
        let located = looked(&Places::default(), &wanted, &cars, Some(&checker));
        assert_eq!(matches!(located, Located::Found(_)), expected, "{located:?}");
        assert!(matches!(looked(&Places::default(), &wanted, &cars, None), Located::Found(_)));
    }
}

#[test]
fn a_long_list_of_places_is_cut() {
    let good = built(b"good");
    let places =
        Places { roots: (0..20).map(|n| format!("/nonexistent/{n}").into()).collect(), ..Places::default() };
    let Located::Missing { reason, .. } = looked(&places, &wanted(&good.root), &[], None) else {
        panic!("found")
    };
    assert!(reason.ends_with(", and 12 more"), "{reason}");
}

#[test]
fn a_folder_that_does_not_answer_is_passed_over_and_named() {
    let good = built(b"good");
    let (silent, healthy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(&healthy.path().join("a.car"), &good.bytes);
    let places =
        Places { roots: vec![silent.path().to_owned(), healthy.path().to_owned()], ..Places::default() };
    let (folder_guard, heartbeat) = (FolderGuard::new(Duration::from_millis(20)), Heartbeat::default());
    // A permit is held for too long.
    let stuck = folder_guard.acquire(silent.path()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let search =
        Search { places: &places, folder_guard: &folder_guard, heartbeat: &heartbeat, checker: None };
    let found = locate(&search, &wanted(&good.root), &[recorded("/x/a.car", None)]);
    assert!(matches!(found, Located::Found(car) if car.local_path == healthy.path().join("a.car")));

    // A wrong file elsewhere is not the last word: the right one may be in there.
    let other = built(b"other");
    put(&healthy.path().join("a.car"), &other.bytes);
    let found = locate(&search, &wanted(&good.root), &[recorded("/x/a.car", None)]);
    let Located::Missing { reason, .. } = found else { panic!("{found:?}") };
    assert!(reason.contains("hangs") && reason.contains(&silent.path().display().to_string()), "{reason}");
    drop(stuck);
    let found = locate(&search, &wanted(&good.root), &[recorded("/x/a.car", None)]);
    assert!(matches!(found, Located::Wrong { .. }), "{found:?}");
}

#[test]
fn a_search_that_waits_at_one_gate_is_behind_no_other() {
    let good = built(b"good");
    let (links, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(&files.path().join("real.car"), &good.bytes);
    std::os::unix::fs::symlink(files.path().join("real.car"), links.path().join("a.car")).unwrap();
    let places =
        Places { roots: vec![links.path().to_owned(), files.path().to_owned()], ..Places::default() };
    let folder_guard = FolderGuard::new(Duration::from_secs(10));
    let everybody = |folder| -> Vec<_> {
        (0..folder_guard::PERMITS_MAX).map(|_| folder_guard.acquire(folder).unwrap()).collect()
    };
    let full = everybody(files.path());
    std::thread::scope(|scope| {
        let search = scope.spawn(|| {
            let search = Search {
                places: &places,
                folder_guard: &folder_guard,
                heartbeat: &Heartbeat::default(),
                checker: None,
            };
            locate(&search, &wanted(&good.root), &[recorded("/a.car", None)])
        });
        std::thread::sleep(Duration::from_millis(500));
        let waited = std::time::Instant::now();
        drop(everybody(links.path()));
        assert!(waited.elapsed() < Duration::from_secs(5), "the search is not in the folder of links");
        drop(full);
        let found = search.join().unwrap();
        assert!(
            matches!(&found, Located::Found(car) if car.local_path == links.path().join("a.car")),
            "{found:?}"
        );
    });
}

#[test]
fn a_car_with_zeros_up_to_its_piece_is_the_piece() {
    let good = built(&[7; 1000]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{PIECE}.car"));
    let places = Places { roots: vec![folder.path().to_owned()], ..Places::default() };
    let cars = [recorded("/data/a.car", Some(good.bytes.len()))];
    let checker = PieceChecker::default();
    // Also in a piece that is larger than it has to be.
    for piece in [2032_usize, 4064] {
        let piece_size = UnpaddedPieceSize::new(piece.try_into().unwrap()).unwrap();
        let mut padded = good.bytes.clone();
        padded.resize(piece, 0);
        put(&path, &padded);
        let file = File::open(&path).unwrap();
        let budget = carferry_car::ThreadBudget::alone();
        let found = carferry_car::piece_of_file(&budget, &file, &carferry_car::NoProgress).unwrap();
        let deal =
            Wanted { piece_cid: Some(found.piece_cid), piece_size: Some(piece_size), ..wanted(&good.root) };
        let name = folder.path().join(format!("{}.car", found.piece_cid));
        fs::copy(&path, &name).unwrap();
        let located = looked(&places, &deal, &cars, Some(&checker));
        let Located::Found(located) = located else { panic!("{located:?}") };
        assert_eq!((located.local_path, located.size), (name.clone(), PayloadSize::new(piece as u64)));
        for (bytes, words) in [
            (&padded[..piece - 1], "still arriving"),
            (&[&padded[..piece - 1], &[1]].concat(), "`cars` says"),
            (&[&padded[..], &[0]].concat(), "`cars` says"),
        ] {
            put(&name, bytes);
            match looked(&places, &deal, &cars, None) {
                Located::Missing { reason, .. } | Located::Wrong { reason, .. } => {
                    assert!(reason.contains(words), "{reason}");
                }
                found @ Located::Found(_) => panic!("{found:?}"),
            }
        }
        fs::remove_file(&name).unwrap();
    }
}
