//! `makecars --layout pack` and `tree`: plans that are followed through kills, changes, full disks and by
//! several boxes; and the CARs checked, restored and made again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use bson::{Document, doc};
use futures::TryStreamExt as _;
use harness::machine::{Need, not_run};
use harness::{database, test_env};
use mongodb::{Collection, Database};

use crate::pack::{Pack, touch};

pub(crate) const PACK: [&str; 4] = ["--layout", "pack", "--piece-size", "2MiB"];

/// Small files in nested folders with odd names, some that fill pieces, one larger than several.
pub(crate) fn fill(pack: &Pack) {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut bytes = |count: usize| -> Vec<u8> { (0..count).map(|_| rng.u8(..)).collect() };
    for number in 0..240 {
        let name = format!("folder {}/sub-{}/ünï \n{number}", number % 5, number % 7);
        pack.write(&name, &bytes(number * 61 % 40_000));
    }
    for (number, size) in [700_000, 1_300_000, 900_000, 1_048_576].into_iter().enumerate() {
        pack.write(&format!("middling {number}"), &bytes(size));
    }
    pack.write("-large.bin", &bytes(7_500_000));
    pack.write("empty file", b"");
    fs::create_dir_all(pack.input.join("empty/folder")).unwrap();
    symlink("../folder 1", pack.input.join("folder 0/link")).unwrap();
}

/// Everything below a folder: what it is, and its content.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, (&'static str, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut to_visit = vec![root.to_owned()];
    while let Some(folder) = to_visit.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let what = if kind.is_symlink() {
                ("link", fs::read_link(&path).unwrap().into_os_string().into_vec())
            } else if kind.is_dir() {
                to_visit.push(path.clone());
                ("folder", Vec::new())
            } else {
                ("file", fs::read(&path).unwrap())
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    found
}

pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

fn agent(arguments: &[&str], files: &[PathBuf]) -> Output {
    let mut command = test_env::client_agent_command().unwrap();
    command.args(arguments).args(files).output().unwrap()
}

/// Every CAR is whole, has its manifest, and all together give back what went in.
fn check_cars(input: &Path, folders: &[&Path]) -> Vec<PathBuf> {
    let cars: Vec<PathBuf> = folders.iter().flat_map(|folder| files(folder, "car")).collect();
    let manifests: usize = folders.iter().map(|folder| files(folder, "jsonl").len()).sum();
    let everything: usize = folders.iter().map(|folder| fs::read_dir(folder).unwrap().count()).sum();
    assert_eq!((manifests, everything), (cars.len(), 2 * cars.len()), "nothing else is left there");
    let verified = agent(&["verify-car"], &cars);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let back = tempfile::tempdir().unwrap();
    let output = back.path().to_str().unwrap();
    let extracted = agent(&["extract", "--existing", "keep", "--output", output], &cars);
    assert!(extracted.status.success(), "{}", String::from_utf8_lossy(&extracted.stderr));
    assert!(tree(back.path()) == tree(input), "all is restored");
    cars
}

async fn all(collection: Collection<Document>) -> Vec<Document> {
    collection.find(doc! {}).await.unwrap().try_collect().await.unwrap()
}

/// Everything that is recorded, and by how much documents stay below the server's limit.
async fn check_records(db: &Database, cars: &[PathBuf]) {
    let records = all(db.collection("cars")).await;
    let mut paths: Vec<PathBuf> =
        records.iter().map(|car| car.get_str("outputpath").unwrap().into()).collect();
    paths.sort();
    let mut cars = cars.to_vec();
    cars.sort();
    assert_eq!(paths, cars, "each CAR has its record");
    let pieces = all(db.collection("packpieces")).await;
    for piece in &pieces {
        assert_eq!((piece.get_str("state").unwrap(), piece.get("claim")), ("done", None), "{piece}");
        let root = piece.get_str("filecid").unwrap();
        assert!(records.iter().any(|car| car.get_str("filecid").unwrap() == root), "{piece}");
    }
    assert!(
        all(db.collection("packplans")).await.iter().all(|plan| plan.get_str("state").unwrap() == "ended")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_killed_at_every_step_is_carried_to_its_end() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    for point in [
        "piece.made",
        "piece.made:2",
        "piece.published",
        "piece.published:2",
        "piece.recorded",
        "piece.recorded:2",
    ] {
        let ended = pack.start_to(&pack.output, &PACK, Some(point)).end();
        assert_eq!(ended.code, None, "{point}: {}", ended.stderr);
    }
    // And at no step in particular.
    for after in [20, 60, 120, 200, 300] {
        let mut running = pack.start(&PACK);
        tokio::time::sleep(Duration::from_millis(after)).await;
        running.child.kill().unwrap();
        running.end();
    }
    let last = pack.run(&PACK);
    assert_eq!(last.code, Some(0), "{}", last.stderr);
    let cars = check_cars(&pack.input, &[&pack.output]);
    assert!(cars.len() > 5);
    check_records(&db.db, &cars).await;
    assert_eq!(all(db.db.collection("packplans")).await.len(), 1, "the first plan is the only one");

    let again = pack.run(&PACK);
    assert_eq!((again.code, again.lines.len()), (Some(0), 0), "{}", again.stderr);
    assert!(again.stderr.contains("everything is packed already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_boxes_share_a_plan_and_make_the_bytes_that_one_makes() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    let outputs = ["box one", "box two"].map(|name| pack.output.with_file_name(name));
    let both: Vec<_> = outputs
        .iter()
        .zip(["one", "two"])
        .map(|(output, name)| {
            let more = [&PACK[..], &["--agent-name", name, "--jobs", "1"]].concat();
            pack.start_to(output, &more, None)
        })
        .collect();
    for running in both {
        let ended = running.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    let [one, two] = &outputs;
    let cars = check_cars(&pack.input, &[one, two]);
    check_records(&db.db, &cars).await;
    assert!(!files(one, "car").is_empty() && !files(two, "car").is_empty(), "both had their part");

    let alone = pack.run(&[&PACK[..], &["--no-database", "--jobs", "3", "--verify"]].concat());
    assert_eq!(alone.code, Some(0), "{}", alone.stderr);
    for car in &cars {
        let same = pack.output.join(car.file_name().unwrap());
        assert!(fs::read(car).unwrap() == fs::read(&same).unwrap(), "{}", same.display());
    }
    assert_eq!(files(&pack.output, "car").len(), cars.len());
    // What is done is known from the manifests.
    let again = pack.run(&[&PACK[..], &["--no-database"]].concat());
    assert_eq!((again.code, again.lines.len()), (Some(0), 0), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_the_plan_is_reported_and_planned_anew() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    let first = pack.start_to(&pack.output, &PACK, Some("piece.made"));
    assert_eq!(first.end().code, None);
    // The plan stands, no piece is done.
    pack.write("middling 1", b"another content");
    touch(&pack.input.join("folder 3/sub-3/ünï \n3"));
    fs::remove_file(pack.input.join("folder 4/sub-4/ünï \n4")).unwrap();
    pack.write("new since", b"new");
    // The old plan as far as it goes, and then what is left.
    let second = pack.run(&PACK);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    for name in [
        "middling 1 (1300000 bytes then, 15 now)",
        "ünï \\\\n3 (its modification time",
        "ünï \\\\n4 (No such file",
    ] {
        assert!(second.stderr.contains(name), "{name}: {}", second.stderr);
    }
    let third = pack.run(&PACK);
    assert!(third.stderr.contains("everything is packed already"), "{}", third.stderr);
    let cars = files(&pack.output, "car");
    let back = tempfile::tempdir().unwrap();
    let output = back.path().to_str().unwrap();
    let extracted = agent(&["extract", "--existing", "keep", "--output", output], &cars);
    assert!(extracted.status.success(), "{}", String::from_utf8_lossy(&extracted.stderr));
    assert!(tree(back.path()) == tree(&pack.input), "all is as it is now, and nothing as it was before");
}

fn set_times(pack: &Pack, time: SystemTime) {
    for name in ["a", "b"] {
        fs::File::options().append(true).open(pack.input.join(name)).unwrap().set_modified(time).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_failed_is_worked_on_when_the_very_same_is_planned_again() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    pack.write("a", b"a");
    pack.write("b", b"b");
    let (before, after) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1), SystemTime::now());
    set_times(&pack, before);
    assert_eq!(pack.start_to(&pack.output, &PACK, Some("piece.made")).end().code, None);
    set_times(&pack, after);
    let second = pack.run(&PACK);
    assert_eq!((second.code, second.lines.len()), (Some(0), 2), "{}", second.stderr);
    // As when a backup is brought back, or a mount.
    set_times(&pack, before);
    let third = pack.run(&PACK);
    assert_eq!((third.code, third.lines.len()), (Some(0), 1), "{}", third.stderr);
    assert_eq!(third.lines[0]["state"], "made");
    assert_eq!(all(db.db.collection("packplans")).await.len(), 2);
    assert!(pack.run(&PACK).stderr.contains("everything is packed already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_since_the_plan_is_noticed_though_its_time_was_put_back() {
    for is_old_plan in [false, true] {
        let db = database().await.unwrap();
        let pack = Pack::new(&db.uri, db.db.name());
        pack.write("a", b"before");
        let path = pack.input.join("a");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(pack.start_to(&pack.output, &PACK, Some("piece.made")).end().code, None);
        if is_old_plan {
            let plans = db.db.collection::<Document>("packplans");
            plans.update_many(doc! {}, doc! { "$unset": { "seen": "" } }).await.unwrap();
        }
        pack.write("a", b"behind");
        fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
        let second = pack.run(&PACK);
        assert_eq!(second.code, Some(0), "{}", second.stderr);
        let is_noticed = second.stderr.contains("a (changed since it was planned");
        assert_eq!(is_noticed, !is_old_plan, "{}", second.stderr);
        // What is planned anew is the very same plan, and its file is what it is by then.
        let cars = check_cars(&pack.input, &[&pack.output]);
        check_records(&db.db, &cars).await;
        assert_eq!(all(db.db.collection("packplans")).await.len(), 1);
        assert!(pack.run(&PACK).stderr.contains("everything is packed already"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_stops_while_its_input_is_not_mounted() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    assert_eq!(pack.start_to(&pack.output, &PACK, Some("piece.made")).end().code, None);
    let away = pack.input.with_file_name("away");
    test_env::move_file(&pack.input, &away).unwrap();
    fs::create_dir(&pack.input).unwrap();
    let second = pack.run(&PACK);
    assert!(
        second.code != Some(0) && second.stderr.contains("is its file system mounted"),
        "{}",
        second.stderr
    );
    fs::remove_dir(&pack.input).unwrap();
    test_env::move_file(&away, &pack.input).unwrap();
    assert_eq!(pack.run(&PACK).code, Some(0));
    check_cars(&pack.input, &[&pack.output]);
    assert_eq!(all(db.db.collection("packplans")).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cars_are_checked_and_made_again() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    assert_eq!(pack.run(&PACK).code, Some(0));
    let cars = files(&pack.output, "car");
    let connection =
        ["--mongodb-uri", &pack.uri(), "--mongodb-database", db.db.name(), "--json"].map(str::to_owned);
    let with = |arguments: &[&str]| {
        let connection: Vec<&str> = connection.iter().map(String::as_str).collect();
        let ended = agent(&[arguments, &connection].concat(), &[]);
        (
            ended.status.code(),
            String::from_utf8(ended.stdout).unwrap(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    };
    let of_prototype = doc! { "inputpath": "/data/a", "outputpath": "/data/a.car", "filecid": "bafk" };
    db.db.collection("cars").insert_one(of_prototype).await.unwrap();
    let (code, said, log) = with(&["verify", "--all"]);
    assert_eq!(code, Some(0), "{said}{log}");
    assert!(said.contains("\"withouthost\":1"), "what nobody knows the box of is counted: {said}");
    let (_, said, _) = with(&["verify", "--all"]);
    assert!(said.contains(&format!("\"fresh\":{}", cars.len())), "{said}");

    let whole: Vec<Vec<u8>> = cars.iter().map(|car| fs::read(car).unwrap()).collect();
    fs::remove_file(&cars[0]).unwrap();
    let mut damaged = whole[1].clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&cars[1], damaged).unwrap();
    fs::write(&cars[2], &whole[2][..1000]).unwrap();
    let (code, said, _) = with(&["verify", "--all", "--within", "0"]);
    assert_ne!(code, Some(0));
    assert!(said.contains("\"wrong\":2") && said.contains("\"missing\":1"), "{said}");

    let record = db.db.collection::<Document>("cars");
    let root = record.find_one(doc! { "outputpath": cars[0].to_str().unwrap() }).await.unwrap().unwrap();
    let root = root.get_str("filecid").unwrap();
    // As a backup that keeps no times brings them back.
    assert!(touch_all(&pack) > 240);
    let (code, said, log) = with(&["regenerate", root]);
    assert_eq!(code, Some(0), "{said}{log}");
    assert!(fs::read(&cars[0]).unwrap() == whole[0]);
    for car in &cars[1..3] {
        let of_car = doc! { "outputpath": car.to_str().unwrap() };
        let root = record.find_one(of_car).await.unwrap().unwrap().get_str("filecid").unwrap().to_owned();
        let (code, said, log) = with(&["regenerate", &root, "--force"]);
        assert_eq!(code, Some(0), "{said}{log}");
    }
    // Parts that were made at different times find together: manifests keep the times of the plan.
    check_cars(&pack.input, &[&pack.output]);
    let file = pack.input.join("-large.bin");
    let large = fs::read(&file).unwrap();
    fs::write(&file, vec![7; large.len()]).unwrap();
    let (code, _, log) = with(&["regenerate", root, "--force"]);
    assert!(code != Some(0) && log.contains("they are not what they were"), "{log}");
    assert!(fs::read(&cars[0]).unwrap() == whole[0], "what stands is left alone");
    fs::write(&file, large).unwrap();
    let (code, _, log) = with(&["regenerate", root]);
    assert!(code != Some(0) && log.contains("exists already"), "{log}");
}

/// Gives every file another time, as a backup does that keeps none; returns how many there are.
fn touch_all(pack: &Pack) -> usize {
    let found = tree(&pack.input);
    let are_files = found.iter().filter(|(_, what)| what.0 == "file").map(|(path, _)| path);
    are_files.inspect(|path| touch(&pack.input.join(path))).count()
}

/// In a mount namespace of its own: the output is a small file system, then that is made larger. `$0`: the
/// output.
const SMALL_DISK: &str = r#"
set -u
mkdir -p "$0" && mount -t tmpfs -o size=7m tmpfs "$0" || exit 77
"$@"; echo "first: $?"; ls -a "$0"
mount -o remount,size=64m "$0" || exit 77
"$@"; echo "second: $?"
cp "$0"/* "$KEPT"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_whole_pieces_and_the_next_run_goes_on() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    let kept = tempfile::tempdir().unwrap();
    let mut script = Command::new("unshare");
    script
        .args(["--map-root-user", "--mount", "sh", "-c", SMALL_DISK])
        .arg(&pack.output)
        .env("KEPT", kept.path());
    script.args(test_env::client_agent_words().unwrap()).arg("makecars").args(PACK);
    script.args(["--mongodb-uri", &pack.uri(), "--mongodb-database", db.db.name()]);
    script.arg("--input").arg(&pack.input).arg("--output").arg(&pack.output);
    let ended = script.stdin(Stdio::null()).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if ended.status.code() == Some(77) || log.contains("unshare failed") {
        not_run(Need::Mount, &log);
        return;
    }
    assert!(said.contains("first: 2") || said.contains("first: 1"), "{said}\n{log}");
    assert!(
        log.contains("o space left on device")
            && log.contains("pieces are left")
            && log.contains("make room"),
        "{log}"
    );
    assert!(!said.contains(".carferry-"), "{said}");
    assert!(said.contains("second: 0"), "{said}\n{log}");
    check_cars(&pack.input, &[kept.path()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_one_car_of_the_whole_folder() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    let tree = ["--layout", "tree", "--piece-size", "32MiB"];
    assert_eq!(pack.run(&tree).code, Some(0));
    let cars = check_cars(&pack.input, &[&pack.output]);
    assert_eq!(cars.len(), 1);
    // The same as the tool that needs no plan makes.
    let other = pack.output.with_file_name("other.car");
    let made = agent(&["generate-car"], &[pack.input.clone(), other.clone()]);
    assert!(made.status.success());
    assert!(fs::read(&cars[0]).unwrap() == fs::read(other).unwrap());
    assert!(pack.run(&tree).stderr.contains("everything is packed already"));
    // Made again after a restore that kept no times.
    let root = all(db.db.collection("cars")).await[0].get_str("filecid").unwrap().to_owned();
    assert!(touch_all(&pack) > 240);
    let again = ["regenerate", &root, "--force", "--mongodb-uri", &pack.uri(), "--mongodb-database"];
    let again = agent(&[&again[..], &[db.db.name()]].concat(), &[]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    check_cars(&pack.input, &[&pack.output]);
    // Less than there was is another tree.
    fs::remove_file(pack.input.join("middling 0")).unwrap();
    assert_eq!(pack.run(&tree).lines.len(), 1);
    assert_eq!(files(&pack.output, "car").len(), 2);
    let small = pack.run(&["--layout", "tree", "--piece-size", "2MiB", "--group", "small"]);
    assert!(small.code != Some(0) && small.stderr.contains("--layout pack"), "{}", small.stderr);
}
