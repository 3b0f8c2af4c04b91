//! `makecars` with a real database: what is recorded, skipped, redone, refused, and kept through trouble.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use bson::{Document, doc};
use harness::{Members, Options, ReplicaSet, child_guard, database, eventually, test_env};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) struct Pack {
    _root: tempfile::TempDir,
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    uri: String,
    database: String,
}

impl Pack {
    pub(crate) fn new(uri: &str, database: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        fs::create_dir(path.join("in")).unwrap();
        Self {
            input: path.join("in"),
            output: path.join("out"),
            _root: root,
            uri: uri.to_owned(),
            database: database.to_owned(),
        }
    }

    pub(crate) fn uri(&self) -> String {
        self.uri.clone()
    }

    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.input.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn start(&self, more: &[&str]) -> Running {
        self.start_to(&self.output, more, None)
    }

    /// The same into another folder, perhaps ending at a fail point.
    pub(crate) fn start_to(&self, output: &Path, more: &[&str], fail_point: Option<&str>) -> Running {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = test_env::client_agent_command().unwrap();
        command.args([
            "makecars",
            "--json",
            "--mongodb-uri",
            &self.uri,
            "--mongodb-database",
            &self.database,
        ]);
        command.arg("--input").arg(&self.input).arg("--output").arg(output).args(more);
        command.envs(fail_point.map(|point| ("FAIL_POINT", point)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen().unwrap());
        Running { child: child_guard::spawn(command).unwrap(), log }
    }

    pub(crate) fn run(&self, more: &[&str]) -> Ended {
        self.start(more).end()
    }
}

pub(crate) struct Running {
    pub(crate) child: Child,
    log: tempfile::NamedTempFile,
}

impl Running {
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(text)
    }

    pub(crate) fn end(self) -> Ended {
        let ended = self.child.wait_with_output().unwrap();
        let lines = String::from_utf8(ended.stdout).unwrap();
        Ended {
            code: ended.status.code(),
            lines: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            stderr: fs::read_to_string(&self.log).unwrap(),
        }
    }

    async fn end_in_background(self) -> Ended {
        tokio::task::spawn_blocking(move || self.end()).await.unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) lines: Vec<Value>,
    pub(crate) stderr: String,
}

impl Ended {
    fn states(&self) -> Vec<(&str, &str)> {
        let name = |line: &'_ Value| -> Option<(usize, usize)> {
            let file = line["file"].as_str()?;
            Some((file.rfind('/')? + 1, file.len()))
        };
        let mut states: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                let (from, to) = name(line).unwrap();
                (&line["file"].as_str().unwrap()[from..to], line["state"].as_str().unwrap())
            })
            .collect();
        states.sort_unstable();
        states
    }

    fn reason(&self, name: &str) -> &str {
        let line = self.lines.iter().find(|line| line["file"].as_str().unwrap().ends_with(name)).unwrap();
        line["reason"].as_str().unwrap_or_default()
    }
}

pub(crate) fn touch(path: &Path) {
    let later = SystemTime::now() + Duration::from_secs(7);
    fs::File::options().append(true).open(path).unwrap().set_modified(later).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_skipped_and_what_is_not_is_redone() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    let cars = db.db.collection::<Document>("cars");
    pack.write("Fedora_001.tar", &[7; 3000]);
    pack.write("sub/b.bin", &[8; 200]);
    pack.write("c.bin", b"c");
    let first = pack.run(&[]);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_eq!(first.states(), [("Fedora_001.tar", "made"), ("b.bin", "made"), ("c.bin", "made")]);

    let input = pack.input.join("Fedora_001.tar");
    let car = cars.find_one(doc! { "inputpath": input.to_str().unwrap() }).await.unwrap().unwrap();
    let text =
        |name: &str| car.get_str(name).unwrap_or_else(|error| panic!("{name}: {error}: {car}")).to_owned();
    let number = |name: &str| car.get_i64(name).unwrap_or_else(|error| panic!("{name}: {error}: {car}"));
    assert_eq!(text("outputpath"), pack.output.join("Fedora_001.tar.car").to_str().unwrap());
    assert_eq!((text("group"), text("profile")), ("Fedora".to_owned(), "lotus".to_owned()));
    assert!(text("filecid").starts_with("baf") && text("piececid").starts_with("baga6ea4seaq"), "{car}");
    assert_eq!(
        (number("filesizebytes"), number("dealsizebytes"), number("piecesizebytes")),
        (3000, 4064, 4096)
    );
    assert_eq!(
        number("carsizebytes"),
        i64::try_from(fs::metadata(text("outputpath")).unwrap().len()).unwrap()
    );
    assert!(number("sourcemtimenanos") > 0 && car.get_datetime("createdtime").is_ok(), "{car}");
    let in_folder = cars.find_one(doc! { "group": "in" }).await.unwrap();
    assert!(in_folder.is_some(), "the folder names the other groups");

    let second = pack.run(&[]);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.states().iter().all(|(_, state)| *state == "skipped"), "{second:?}");

    touch(&pack.input.join("Fedora_001.tar"));
    fs::remove_file(pack.output.join("c.bin.car")).unwrap();
    let third = pack.run(&[]);
    assert_eq!(third.states(), [("Fedora_001.tar", "made"), ("b.bin", "skipped"), ("c.bin", "made")]);
    let other = pack.run(&["--profile", "unixfs-v1-2025"]);
    assert!(other.states().iter().all(|(_, state)| *state == "made"), "{other:?}");
    // One document stands for each path; the CARs of the other profile are marked as replaced.
    let standing = cars.count_documents(doc! { "replacedtime": { "$exists": false } }).await.unwrap();
    assert_eq!(standing, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_car_that_deals_wait_for_is_not_replaced() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    pack.write("a.tar", &[7; 3000]);
    let first = pack.run(&[]);
    let root = first.lines[0]["payloadcid"].as_str().unwrap().to_owned();
    let before = fs::read(pack.output.join("a.tar.car")).unwrap();
    let deals = db.db.collection::<Document>("offlinedeals");
    deals
        .insert_one(
            doc! { "filecid": &root, "dealcid": "bafyrei", "miner": "f01000", "isdeal": 0, "status": 18 },
        )
        .await
        .unwrap();

    // Other bytes with the same root would be no loss: only touched.
    touch(&pack.input.join("a.tar"));
    assert_eq!(pack.run(&[]).states(), [("a.tar", "made")]);

    pack.write("a.tar", &[9; 3000]);
    let refused = pack.run(&[]);
    assert_eq!((refused.code, refused.states()), (Some(1), vec![("a.tar", "failed")]), "{refused:?}");
    assert!(refused.reason("a.tar").contains("1 deal waits"), "{refused:?}");
    assert!(refused.reason("a.tar").contains("--replace"), "{refused:?}");
    assert_eq!(fs::read(pack.output.join("a.tar.car")).unwrap(), before);
    assert_eq!(fs::read_dir(&pack.output).unwrap().count(), 2, "a CAR and the manifest, no temporary file");

    let forced = pack.run(&["--replace"]);
    assert_eq!((forced.code, forced.states()), (Some(0), vec![("a.tar", "made")]), "{forced:?}");
    assert_ne!(fs::read(pack.output.join("a.tar.car")).unwrap(), before);
    // A proposal that is on the way counts as well: its deal is recorded when the provider has answered.
    let standing = forced.lines[0]["payloadcid"].as_str().unwrap().to_owned();
    let intents = db.db.collection::<Document>("dealintents");
    intents.insert_one(doc! { "_id": "x#1", "filecid": &standing, "state": "intended" }).await.unwrap();
    pack.write("a.tar", &[11; 3000]);
    let refused = pack.run(&[]);
    assert_eq!((refused.code, refused.states()), (Some(1), vec![("a.tar", "failed")]), "{refused:?}");
    intents.update_one(doc! {}, doc! { "$set": { "state": "refused" } }).await.unwrap();
    // Once the deal is imported, nothing is asked.
    pack.write("a.tar", &[10; 3000]);
    deals.update_one(doc! {}, doc! { "$set": { "isdeal": 1 } }).await.unwrap();
    assert_eq!(pack.run(&[]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_while_it_records_leaves_no_replaced_car_standing() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    pack.write("a.tar", &[7; 3000]);
    let first = pack.run(&[]);
    let old = first.lines[0]["payloadcid"].as_str().unwrap().to_owned();
    pack.write("a.tar", &[9; 3000]);
    let killed = pack.start_to(&pack.output, &[], Some("cars.marked")).child.wait_with_output().unwrap();
    assert_eq!(killed.status.code(), None, "{killed:?}");
    assert_eq!(pack.run(&[]).states(), [("a.tar", "made")]);
    let cars = db.db.collection::<Document>("cars");
    let standing = cars.find_one(doc! { "replacedtime": { "$exists": false } }).await.unwrap().unwrap();
    assert_ne!(standing.get_str("filecid").unwrap(), old);
    assert_eq!(cars.count_documents(doc! { "replacedtime": { "$exists": true } }).await.unwrap(), 1);
}

/// Two boxes with the same paths and bytes: each finds its own record again, also beside the prototype's
/// index.
#[tokio::test(flavor = "multi_thread")]
async fn boxes_with_the_same_paths_keep_their_own_records() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, &db.name);
    let cars = db.db.collection::<Document>("cars");
    pack.write("a.tar", &[7; 3000]);
    let states =
        |name: &str| pack.run(&["--agent-name", name]).lines[0]["state"].as_str().unwrap().to_owned();
    assert_eq!([states("box-1"), states("box-2")], ["made", "made"]);
    assert_eq!([states("box-1"), states("box-2")], ["skipped", "skipped"]);
    assert_eq!(cars.count_documents(doc! { "replacedtime": { "$exists": false } }).await.unwrap(), 2);

    let old = database().await.unwrap();
    let pack = Pack::new(&old.uri, &old.name);
    let cars = old.db.collection::<Document>("cars");
    let keys = doc! { "inputpath": 1, "outputpath": 1, "filecid": 1 };
    let unique = mongodb::options::IndexOptions::builder().unique(true).build();
    cars.create_index(mongodb::IndexModel::builder().keys(keys).options(unique).build()).await.unwrap();
    pack.write("a.tar", &[7; 3000]);
    for name in ["box-1", "box-2"] {
        assert_eq!(pack.run(&["--agent-name", name]).code, Some(0));
    }
    let one = cars.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!((cars.count_documents(doc! {}).await.unwrap(), one.get_str("host").unwrap()), (1, "box-2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cars_made_while_the_database_is_away_are_recorded_when_it_is_back() {
    let set = ReplicaSet::start(Members::One, Options::default()).await.unwrap();
    let pack = Pack::new(&set.uri(), "pack");
    fs::File::create(pack.input.join("long")).unwrap().set_len(1 << 30).unwrap();
    pack.write("zz", b"z");
    let quick = ["--jobs", "1", "--database-timeout", "1s"];
    let child = pack.start(&quick);
    eventually!(begun(&pack.output), "the first CAR is begun");
    set.freeze(0).unwrap();
    eventually!(pack.output.join("zz.car").is_file(), "CARs are made without the database");
    eventually!(child.has_logged("not recorded yet"), "the agent has met the silent database");
    set.thaw(0).unwrap();
    let ended = child.end_in_background().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("not recorded yet"), "{}", ended.stderr);
    let cars = set.client().await.unwrap().database("pack").collection::<Document>("cars");
    assert_eq!(cars.count_documents(doc! {}).await.unwrap(), 2);

    // Interrupted while it waits: the CAR stays, and the next run records it.
    fs::File::create(pack.input.join("later")).unwrap().set_len(1 << 30).unwrap();
    let child = pack.start(&quick);
    eventually!(begun(&pack.output), "the CAR is begun");
    set.freeze(0).unwrap();
    eventually!(!begun(&pack.output), "the CAR is there");
    let pid = Pid::from_raw(i32::try_from(child.child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = child.end_in_background().await;
    set.thaw(0).unwrap();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(pack.output.join("later.car").is_file(), "{ended:?}");
    assert!(ended.reason("later").contains("on disk"), "{ended:?}");
    let again = pack.run(&[]);
    // A write whose answer was lost may have happened after all: then there is nothing to redo.
    assert!(again.code == Some(0) && again.lines.len() == 3, "{again:?}");
    assert_eq!(cars.count_documents(doc! {}).await.unwrap(), 3);
}

fn begun(output: &Path) -> bool {
    let names = fs::read_dir(output).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with(".carferry-"))
}
