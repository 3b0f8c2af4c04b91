//! `extract` and `verify --all`, killed with -9 at any instant, over and over, and then run to their end.
//!
//! How far a run has come is read from its own lines, and a kill counts if it left something to do: a machine
//! that is faster or slower takes more rounds, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::slice::from_ref;
use std::time::Duration;

use bson::{Bson, Document, doc};
use futures::TryStreamExt as _;
use harness::{child_guard, database, test_env};
use mongodb::Database;
use serde_json::Value;

use crate::dataset::{PACK, files, fill, tree};
use crate::pack::Pack;

const TREE: [&str; 4] = ["--layout", "tree", "--piece-size", "32MiB"];
/// Kills that have to come in the middle of a run.
const KILLS: usize = 12;
/// Rounds until then at most: far more than any machine needs.
const ROUNDS_MAX: usize = 400;

/// A run of client-agent that came to its end, or was killed.
#[derive(Debug)]
struct Run {
    lines: Vec<Value>,
    /// `None`: killed.
    code: Option<i32>,
    log: String,
}

/// Runs client-agent, and kills it once it has said so many lines, and then a moment later.
fn run(arguments: &[&str], files: &[PathBuf], kill_after: Option<(usize, Duration)>) -> Run {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = test_env::client_agent_command().unwrap();
    command.args(arguments).arg("--json").args(files);
    command.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
    let mut child = child_guard::spawn(command).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    while kill_after.is_none_or(|(count, _)| lines.len() < count) {
        let mut line = String::new();
        // The last one may have been cut.
        match output.read_line(&mut line).unwrap() {
            0 => break,
            _ => lines.extend(serde_json::from_str::<Value>(&line)),
        }
    }
    if let Some((_, moment)) = kill_after {
        std::thread::sleep(moment);
        // It may be gone already.
        let _gone = child.kill();
    }
    let status = child.wait().unwrap();
    assert!(status.code().is_some() || status.signal() == Some(9), "{status}");
    Run { lines, code: status.code(), log: fs::read_to_string(&log).unwrap() }
}

/// What a run left: nothing that is not whole has its last name. Whether anything is unfinished, and whether
/// all is there.
fn check_left(output: &Path, wanted: &BTreeMap<PathBuf, (&'static str, Vec<u8>)>) -> (bool, bool) {
    let there = if output.exists() { tree(output) } else { BTreeMap::new() };
    let is_unfinished = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with('.') && name.contains(".carferry-")
    };
    let (unfinished, named): (Vec<_>, Vec<_>) = there.iter().partition(|(path, _)| is_unfinished(path));
    for (path, what) in &named {
        assert!(wanted.get(*path) == Some(what), "{} is not what it was", path.display());
    }
    (!unfinished.is_empty(), named.len() == wanted.len())
}

fn extract_killed(layout: &[&str], cars_min: usize) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let pack = Pack::new("mongodb://127.0.0.1:1", "none");
    fill(&pack);
    let made = pack.run(&[layout, &["--no-database"]].concat());
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let mut cars = files(&pack.output, "car");
    assert!(cars.len() >= cars_min, "{cars:?}");
    let wanted = tree(&pack.input);
    let output = pack.input.with_file_name("back");
    let extract =
        |existing| ["extract", "--jobs", "2", "--output", output.to_str().unwrap(), "--existing", existing];

    let (mut in_the_middle, mut unfinished) = (0, 0);
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "only {in_the_middle} kills in the middle, {unfinished} left a file");
        rng.shuffle(&mut cars);
        // Few lines against all that there are: a pass takes several kills.
        let kill = (rng.usize(0..wanted.len() / 4), Duration::from_micros(rng.u64(0..3000)));
        // All that the data lies in, or some of it.
        let some = &cars[..rng.usize(1..=cars.len())];
        let killed = run(&extract("keep"), some, Some(kill));
        assert!(matches!(killed.code, None | Some(0 | 3)), "{}", killed.log);
        let (is_unfinished, is_whole) = check_left(&output, &wanted);
        in_the_middle += usize::from(!is_whole && killed.code.is_none());
        unfinished += usize::from(is_unfinished);
        if in_the_middle >= KILLS && unfinished > 0 {
            break;
        }
        if is_whole {
            fs::remove_dir_all(&output).unwrap();
        }
    }
    println!("{in_the_middle} kills in the middle, {unfinished} left a file unfinished");
    let last = run(&extract("keep"), &cars, None);
    assert_eq!(last.code, Some(0), "{}", last.log);
    assert!(tree(&output) == wanted, "all is restored, and nothing else is left");

    for _ in 0..KILLS / 2 {
        let kill = (rng.usize(0..wanted.len()), Duration::from_micros(rng.u64(0..3000)));
        run(&extract("replace"), &cars, Some(kill));
        let (_, is_whole) = check_left(&output, &wanted);
        assert!(is_whole, "what is replaced is there at every instant");
    }
    for existing in ["replace", "keep"] {
        let last = run(&extract(existing), &cars, None);
        assert_eq!(last.code, Some(0), "{}", last.log);
        assert!(tree(&output) == wanted, "all is as it was, and nothing else is left");
    }
}

#[test]
fn pieces_with_split_files_are_restored_whatever_is_killed() {
    extract_killed(&PACK, 6);
}

#[test]
fn a_tree_is_restored_whatever_is_killed() {
    extract_killed(&TREE, 1);
}

/// CARs with a part of this file, and where in it that starts.
fn parts_of(cars: &[PathBuf], file: &str) -> Vec<(PathBuf, u64)> {
    let part_in = |car: &PathBuf| {
        let manifest = fs::read_to_string(car.with_extension("jsonl")).unwrap();
        let mut lines = manifest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let line = lines.find(|line| line["path"] == file)?;
        Some((car.clone(), line["from"].as_u64().unwrap()))
    };
    cars.iter().filter_map(part_in).collect()
}

#[test]
fn a_part_that_was_killed_is_never_taken_for_one_that_is_in() {
    let pack = Pack::new("mongodb://127.0.0.1:1", "none");
    fill(&pack);
    let made = pack.run(&[&PACK[..], &["--no-database"]].concat());
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let wanted = tree(&pack.input);
    let parts = parts_of(&files(&pack.output, "car"), "-large.bin");
    assert!(parts.len() > 2, "{parts:?}");
    let output = pack.input.with_file_name("back");
    let extract = ["extract", "--output", output.to_str().unwrap(), "--existing", "keep"];
    let (part, whole) = (output.join(".-large.bin.carferry-part"), output.join("-large.bin"));
    let mut in_the_middle = 0;
    for round in 0.. {
        assert!(round < ROUNDS_MAX / 4, "only {in_the_middle} kills in the middle");
        let (last, others) = parts.split_first().unwrap();
        let others: Vec<_> = others.iter().map(|(car, _)| car.clone()).collect();
        assert_eq!(run(&extract, &others, None).code, Some(3), "the file is not whole");
        // The last part's first bytes are on their way.
        let mut command = test_env::client_agent_command().unwrap();
        command.args(extract).arg(&last.0).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child_guard::spawn(command).unwrap();
        let has_begun = || {
            let mut bytes = [0; 16];
            let file = fs::File::open(&part);
            file.and_then(|file| file.read_exact_at(&mut bytes, last.1)).is_ok() && bytes != [0; 16]
        };
        while !has_begun() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(50));
        }
        let _gone = child.kill();
        child.wait().unwrap();
        in_the_middle += usize::from(!whole.exists());
        // A run of another part ends the file if the list says that all are in.
        assert!(matches!(run(&extract, &others[..1], None).code, Some(0 | 3)));
        check_left(&output, &wanted);
        assert_eq!(run(&extract, from_ref(&last.0), None).code, Some(0));
        assert!(fs::read(&whole).unwrap() == wanted[Path::new("-large.bin")].1);
        assert!(!part.exists());
        if in_the_middle >= 3 {
            break;
        }
        fs::remove_dir_all(&output).unwrap();
    }
}

/// When each CAR was checked, and whether it was good.
async fn checked(db: &Database) -> BTreeMap<String, (bson::DateTime, bool)> {
    let filter = doc! { "verifiedtime": { "$exists": true } };
    let found = db.collection::<Document>("cars").find(filter).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    let of_car = |car: &Document| {
        let path = car.get_str("outputpath").unwrap().to_owned();
        (path, (*car.get_datetime("verifiedtime").unwrap(), car.get_bool("verifiedgood").unwrap()))
    };
    found.iter().map(of_car).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_car_is_verified_once_whatever_is_killed() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    assert_eq!(pack.run(&PACK).code, Some(0));
    let cars = files(&pack.output, "car");
    let (damaged, whole) = (&cars[cars.len() / 2], fs::read(&cars[cars.len() / 2]).unwrap());
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(damaged, bytes).unwrap();
    let damaged = damaged.to_str().unwrap();
    let verify = ["verify", "--all", "--mongodb-uri", &pack.uri(), "--mongodb-database", db.db.name()];

    let mut in_the_middle = 0;
    let mut before = BTreeMap::new();
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "only {in_the_middle} kills in the middle");
        let kill = (fastrand::usize(0..3), Duration::from_micros(fastrand::u64(0..8000)));
        let killed = tokio::task::block_in_place(|| run(&verify, &[], Some(kill)));
        let after = checked(&db.db).await;
        for line in &killed.lines {
            let Some(path) = line["carpath"].as_str() else { continue };
            assert_eq!(line["verdict"] == "good", path != damaged, "{line}");
            assert!(after.contains_key(path), "what is said is recorded: {line}");
            assert!(path == damaged || !before.contains_key(path), "it was checked before: {line}");
        }
        for (path, (time, is_good)) in &before {
            assert_eq!(*is_good, path != damaged, "{path}");
            assert!(!is_good || after[path] == (*time, true), "{path} was checked again");
        }
        let is_left = after.len() < cars.len();
        in_the_middle += usize::from(killed.code.is_none() && is_left && !after.is_empty());
        before = after;
        if in_the_middle >= 5 {
            break;
        }
        if !is_left {
            let unset = doc! { "$unset": { "verifiedtime": "", "verifiedgood": "" } };
            db.db.collection::<Document>("cars").update_many(doc! {}, unset).await.unwrap();
            before.clear();
        }
    }
    let last = tokio::task::block_in_place(|| run(&verify, &[], None));
    let after = checked(&db.db).await;
    assert_eq!(after.len(), cars.len(), "{}", last.log);
    assert!(before.iter().all(|(path, found)| path == damaged || after[path] == *found));
    // Also if it was found by a run that was killed before it could say so.
    let sums = last.lines.last().unwrap();
    let fresh = before.keys().filter(|path| *path != damaged).count();
    assert_eq!((last.code, &sums["wrong"], &sums["fresh"]), (Some(1), &1.into(), &fresh.into()), "{sums}");
    assert!(last.lines.iter().any(|line| line["carpath"] == damaged && line["verdict"] == "wrong"));

    let still = tokio::task::block_in_place(|| run(&verify, &[], None));
    let sums = still.lines.last().unwrap();
    assert_eq!(
        (still.code, &sums["wrong"]),
        (Some(1), &1.into()),
        "it is said until it is put right: {sums}"
    );
    fs::write(damaged, whole).unwrap();
    let last = tokio::task::block_in_place(|| run(&verify, &[], None));
    let sums = last.lines.last().unwrap();
    let fresh = cars.len() - 1;
    assert_eq!((last.code, &sums["good"], &sums["fresh"]), (Some(0), &1.into(), &fresh.into()), "{sums}");
    let record = doc! { "outputpath": damaged };
    let record = db.db.collection::<Document>("cars").find_one(record).await.unwrap().unwrap();
    assert_eq!(record.get("verifiedgood"), Some(&Bson::Boolean(true)), "{record}");
}
