//! `makecars` without a database: what becomes of files, and of CARs when things go wrong.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Ended, Folders, agent, agent_at, pattern, run};

/// So long to read with one thread that a test can act meanwhile, on any machine.
const LONG: u64 = 768 << 20;
/// So long that a test stops it long before its end.
const ENDLESS: u64 = 768 << 20;

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process number");
    kill_process(pid, signal).expect("the agent lives");
}

#[test]
fn every_file_becomes_the_car_that_lotus_makes() {
    let folders = Folders::new();
    // Sizes, roots, CAR sizes, piece CIDs and padded sizes of the Lotus contract.
    let vectors = [
        (0, "bafkqaaa", 31, "baga6ea4seaqpkjkg76vdsnq2mwqwzquznvml4fttpaboec5lwotw5lixse6vohq", 128),
        (
            127,
            "bafk2bzacebh7mlt4jrb74ea2a6chtreig27esb6z2smnzrlxzke5nffsyepzw",
            228,
            "baga6ea4seaqgqdruuiileqibe6ptb3r5k75cjqpgpg4zkhwtlr3nk3bq2tm6gia",
            256,
        ),
        (
            1_048_576,
            "bafk2bzaceaczjvagwxheinac47njrljn766ysbvuuw7e6qdwyz2dzb6qga7s4",
            1_048_678,
            "baga6ea4seaqom3ap2wpy7jxdmlydyqbc2luh4fp6ztsjnqnmvoa6dozxa3d4ubq",
            2_097_152,
        ),
        (
            3_145_728,
            "bafykbzaceax2vbph5hhzyj76u7juafwzum2ywsk7ay4jjbnmsqu72gujkshyu",
            3_146_117,
            "baga6ea4seaqkdagce56neuqd7f574i6nz2x6gxp6f62ve54emcdcygaci3ewshi",
            4_194_304,
        ),
    ];
    for (size, ..) in vectors {
        folders.write(&format!("sub/{size}.bin"), &pattern(size));
    }
    folders.write(".hidden", b"x");
    symlink("sub/127.bin", folders.input.join("link")).unwrap();
    let ended = run(&folders.makecars(&["--json"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (size, root, car_size, piece, padded) in vectors {
        let line = ended.about(&format!("{size}.bin"));
        let carpath = folders.output.join(format!("sub/{size}.bin.car"));
        assert_eq!(line["state"], "made");
        assert_eq!(line["payloadcid"], root);
        assert_eq!(line["piececid"], piece);
        assert_eq!(line["carpath"].as_str(), carpath.to_str());
        assert_eq!(line["carsizebytes"], car_size);
        assert_eq!(line["piecesizebytes"], padded);
        assert_eq!(line["dealsizebytes"], padded / 128 * 127);
        assert_eq!(fs::metadata(carpath).unwrap().len(), car_size);
    }
    assert_eq!(ended.about("link")["state"], "skipped");
    let cars =
        [".hidden.car", "sub/0.bin.car", "sub/1048576.bin.car", "sub/127.bin.car", "sub/3145728.bin.car"];
    assert_eq!(folders.made(), cars);
}

#[test]
fn a_second_run_makes_the_same_bytes_and_a_changed_file_others() {
    let folders = Folders::new();
    folders.write("a.tar", &pattern(70_000));
    assert_eq!(run(&folders.makecars(&[])).code, Some(0));
    let first = fs::read(folders.output.join("a.tar.car")).unwrap();
    assert_eq!(run(&folders.makecars(&["--jobs", "3"])).code, Some(0));
    assert_eq!(fs::read(folders.output.join("a.tar.car")).unwrap(), first);
    folders.write("a.tar", b"other");
    assert_eq!(run(&folders.makecars(&[])).code, Some(0));
    assert_ne!(fs::read(folders.output.join("a.tar.car")).unwrap(), first);
    assert_eq!(folders.made(), ["a.tar.car"]);
}

#[test]
fn a_file_as_input_is_the_only_one_packed() {
    let folders = Folders::new();
    folders.write("a.tar", b"a");
    folders.write("b.tar", b"b");
    let file = folders.input.join("a.tar");
    let output = folders.output.to_str().unwrap();
    let ended = run(&["makecars", "--input", file.to_str().unwrap(), "--output", output, "--no-database"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(folders.made(), ["a.tar.car"]);
}

#[test]
fn a_dry_run_says_what_it_would_make_and_writes_nothing() {
    let folders = Folders::new();
    folders.write("a.tar", &pattern(3_145_728));
    let ended = run(&folders.makecars(&["--json", "--dry-run"]));
    let line = ended.about("a.tar");
    assert_eq!((ended.code, line["state"].as_str()), (Some(0), Some("would-make")), "{ended:?}");
    assert_eq!(line["carsizebytes"], 3_146_117);
    assert!(!folders.output.exists());
}

#[test]
fn an_output_inside_the_input_is_not_packed_again() {
    let mut folders = Folders::new();
    folders.output = folders.input.join("cars");
    folders.write("a.tar", b"a");
    for _ in 0..2 {
        assert_eq!(run(&folders.makecars(&[])).code, Some(0));
        assert_eq!(folders.made(), ["a.tar.car"]);
    }
    folders.output.clone_from(&folders.input);
    let ended = run(&folders.makecars(&[]));
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("are the same folder"), "{}", ended.stderr);
}

#[test]
fn a_file_that_grows_or_vanishes_is_reported_and_the_others_go_on() {
    let folders = Folders::new();
    folders.write_long("a-grows", LONG);
    folders.write("b-vanishes", b"b");
    folders.write("c-stays", b"c");
    let mut child = agent(&folders.makecars(&["--json", "--jobs", "1"])).spawn().unwrap();
    folders.wait_until_begun(&mut child, "a-grows");
    OpenOptions::new().append(true).open(folders.input.join("a-grows")).unwrap().write_all(b"more").unwrap();
    fs::remove_file(folders.input.join("b-vanishes")).unwrap();
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(3), "{ended:?}");
    for (name, state, reason) in [
        ("a-grows", "failed", "changed while it was read: 805306368 bytes before, 805306372 now"),
        ("b-vanishes", "failed", "is gone"),
        ("c-stays", "made", ""),
    ] {
        let line = ended.about(name);
        assert_eq!(line["state"], state, "{line}");
        assert!(line["reason"].as_str().unwrap_or_default().contains(reason), "{line}");
    }
    assert_eq!(folders.made(), ["c-stays.car"]);
}

#[test]
fn what_cannot_be_read_or_written_is_reported_and_the_others_go_on() {
    let folders = Folders::new();
    let root = folders.root.path();
    // Root may read everything: then the agent runs as the user `nobody`.
    let is_root = rustix::process::getuid().is_root();
    let binary = root.join("client-agent");
    fs::copy(env!("CARGO_BIN_EXE_client-agent"), &binary).unwrap();
    folders.write("good", b"a");
    folders.write("blocked", b"a");
    folders.write("secret", b"a");
    folders.write("closed/inside", b"a");
    fs::create_dir_all(folders.output.join("blocked.car")).unwrap();
    for (path, mode) in [("", 0o755), ("out", 0o777), ("out/blocked.car", 0o777)] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    for path in ["secret", "closed"] {
        fs::set_permissions(folders.input.join(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let mut command = agent_at(&binary, &folders.makecars(&["--json"]));
    if is_root {
        command.uid(65534).gid(65534);
    }
    let ended = Ended::of(command.output().unwrap());
    fs::set_permissions(folders.input.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    for (name, state, reason) in [
        ("good", "made", ""),
        ("secret", "failed", "cannot read"),
        ("closed", "failed", "cannot list the folder: Permission denied"),
        ("blocked", "failed", "no regular file"),
    ] {
        let line = ended.about(name);
        assert_eq!(line["state"], state, "{line}");
        assert!(line["reason"].as_str().unwrap_or_default().contains(reason), "{line}");
    }
    assert_eq!(folders.made(), ["good.car"]);
}

#[test]
fn a_car_too_large_for_the_piece_is_refused_before_it_is_written() {
    let folders = Folders::new();
    // Its CAR would take 34,091,302,912 bytes at most to fit.
    folders.write_sparse("big", 34_091_302_912);
    folders.write("small", b"x");
    let ended = run(&folders.makecars(&["--json"]));
    let line = ended.about("big");
    assert_eq!((ended.code, line["state"].as_str()), (Some(3), Some("failed")), "{ended:?}");
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("does not fit into a piece of 34359738368 bytes; --max-piece 64GiB"), "{reason}");
    assert_eq!(folders.made(), ["small.car"]);
    let ended = run(&folders.makecars(&["--json", "--dry-run", "--max-piece", "64GiB"]));
    assert_eq!(ended.about("big")["piecesizebytes"], 68_719_476_736_u64, "{ended:?}");
}

#[test]
fn an_interrupted_run_leaves_no_debris() {
    for number in [Signal::INT, Signal::TERM] {
        let folders = Folders::new();
        folders.write_long("long", ENDLESS);
        folders.write("never-begun", b"x");
        let mut child = agent(&folders.makecars(&["--jobs", "1"])).spawn().unwrap();
        folders.wait_until_begun(&mut child, "long");
        signal(&child, number);
        let ended = Ended::of(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(130), "{ended:?}");
        assert!(ended.stdout.contains("1 failed, 1 not begun"), "{ended:?}");
        assert_eq!(folders.made(), Vec::<String>::new());
    }
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let folders = Folders::new();
    folders.write_long("long", ENDLESS);
    let mut child = agent(&folders.makecars(&["--jobs", "1"])).spawn().unwrap();
    folders.wait_until_begun(&mut child, "long");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(folders.made().len(), 1);
    // The source is gone, so nothing is written again in the place of the debris.
    fs::remove_file(folders.input.join("long")).unwrap();
    folders.write("other", b"x");
    assert_eq!(run(&folders.makecars(&[])).code, Some(0));
    assert_eq!(folders.made(), ["other.car"]);
}

#[test]
fn two_runs_never_work_on_the_same_output() {
    let folders = Folders::new();
    folders.write_long("long", ENDLESS);
    let mut child = agent(&folders.makecars(&["--jobs", "1"])).spawn().unwrap();
    folders.wait_until_begun(&mut child, "long");
    let second = run(&folders.makecars(&[]));
    signal(&child, Signal::INT);
    child.wait().unwrap();
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("another makecars writes into"), "{}", second.stderr);
    assert!(second.stderr.contains("hint: wait for it"), "{}", second.stderr);
    // The lock went with the first.
    fs::remove_file(folders.input.join("long")).unwrap();
    assert_eq!(run(&folders.makecars(&[])).code, Some(0));
}

#[test]
fn a_car_that_no_space_is_left_for_stops_the_run_before_it_begins() {
    let folders = Folders::new();
    fs::create_dir(&folders.output).unwrap();
    let free = rustix::fs::statvfs(&folders.output).unwrap();
    let free_bytes = free.f_bavail * free.f_frsize;
    let limit = 68_000_000_000;
    if free_bytes > limit {
        // No single CAR can be larger than this: then all of them together are, which is only a warning.
        for number in 0..=free_bytes / limit {
            folders.write_sparse(&format!("big-{number}"), limit);
        }
        let ended = run(&folders.makecars(&["--dry-run", "--max-piece", "64GiB"]));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("are free"), "{ended:?}");
    } else {
        File::create(folders.input.join("big")).and_then(|file| file.set_len(limit)).unwrap();
        let ended = run(&folders.makecars(&["--max-piece", "64GiB"]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("are free"), "{ended:?}");
    }
    assert_eq!(folders.made(), Vec::<String>::new());
}
