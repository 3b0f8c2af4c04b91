//! `makecars --layout pack` where something is in the way of all pieces: no room, or plans of other boxes
//! without end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bson::{Document, doc};
use harness::machine::{Need, not_run};
use harness::{child_guard, database, eventually, test_env};
use mongodb::Database;
use rustix::process::{Pid, Signal, kill_process};

use crate::pack::Pack;

const PACK: [&str; 5] = ["--layout", "pack", "--keep-whole", "--piece-size", "2MiB"];
/// Pieces that the files of [`fill`] make.
const PIECES: usize = 12;

/// Files of which no two fit into a piece.
fn fill(pack: &Pack) {
    let mut rng = fastrand::Rng::with_seed(5);
    for number in 0..PIECES {
        let bytes: Vec<u8> = (0..1_500_000).map(|_| rng.u8(..)).collect();
        pack.write(&format!("file {number}"), &bytes);
    }
}

fn cars(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|found| found == "car")).collect()
}

/// In a mount namespace of its own: the output has space for some of the pieces. A test has finished
/// CARs moved away by the file `$KEPT/move`. `$0`: the output.
const SMALL_DISK: &str = r#"
mkdir -p "$0" && mount -t tmpfs -o size=8m tmpfs "$0" || exit 77
: > "$KEPT/mounted"
"$@" & made=$!
trap 'kill -TERM $made' TERM
while kill -0 $made 2> "$KEPT/null"; do
    kill -0 $PPID || kill -KILL $made
    if [ -e "$KEPT/move" ]; then mv "$0"/*.car "$0"/*.jsonl "$KEPT" 2> "$KEPT/null"; fi
    sleep 0.2
done
wait $made; code=$?
mv "$0"/* "$KEPT" 2> "$KEPT/null"
ls -A "$0"
exit $code
"#;

struct Unattended {
    shell: Child,
    kept: tempfile::TempDir,
    log: tempfile::NamedTempFile,
}

impl Unattended {
    /// `None` where mounting is not permitted.
    async fn start(pack: &Pack, database: &Database) -> Option<Self> {
        let (kept, log) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let mut script = Command::new("unshare");
        script.args(["--map-root-user", "--mount", "sh", "-c", SMALL_DISK]);
        script.arg(&pack.output).env("KEPT", kept.path());
        script
            .args(test_env::client_agent_words().unwrap())
            .arg("makecars")
            .args(PACK)
            .arg("--wait-for-space");
        script.args(["--mongodb-uri", &pack.uri(), "--mongodb-database", database.name()]);
        script.arg("--input").arg(&pack.input).arg("--output").arg(&pack.output);
        script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen().unwrap());
        let mut this = Self { shell: child_guard::spawn(script).unwrap(), kept, log };
        while !this.kept.path().join("mounted").exists() {
            if this.shell.try_wait().unwrap().is_some() {
                not_run(Need::Mount, &this.logged());
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(this)
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn waits(&self) -> bool {
        self.logged().contains("no room for piece")
    }
}

async fn counts(database: &Database, filter: Document) -> u64 {
    database.collection::<Document>("packpieces").count_documents(filter).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_room_goes_on_when_finished_cars_are_moved_away() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    let Some(unattended) = Unattended::start(&pack, &db.db).await else { return };
    eventually!(unattended.waits(), "it says that it waits");
    let log = unattended.logged();
    assert!(log.contains("have to be free in") && log.contains("needed_bytes"), "{log}");
    assert!(!log.contains("pieces are left"), "{log}");
    let done = counts(&db.db, doc! { "state": "done" }).await;
    assert!((1..12).contains(&done), "{done}");
    let claimed = doc! { "state": "open", "claim": { "$exists": true } };
    assert_eq!(counts(&db.db, claimed).await, 0, "another box may take what this one has no room for");

    fs::write(unattended.kept.path().join("move"), "").unwrap();
    let Unattended { shell, kept, log } = unattended;
    let ended = tokio::task::spawn_blocking(|| shell.wait_with_output().unwrap()).await.unwrap();
    let log = fs::read_to_string(&log).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{log}");
    assert!(log.contains("there is room again"), "{log}");
    assert_eq!(cars(kept.path()).len(), PIECES, "{log}");
    assert_eq!(counts(&db.db, doc! { "state": "done" }).await, 12);
    let mut verify = test_env::client_agent_command().unwrap();
    verify.arg("verify-car").args(cars(kept.path()));
    let verified = verify.output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_room_ends_when_it_is_asked_to_or_when_another_box_made_the_rest() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    let Some(asked) = Unattended::start(&pack, &db.db).await else { return };
    eventually!(asked.waits(), "it waits");
    kill_process(Pid::from_child(&asked.shell), Signal::TERM).unwrap();
    let Unattended { shell, kept, log } = asked;
    let ended = tokio::task::spawn_blocking(|| shell.wait_with_output().unwrap()).await.unwrap();
    let (said, log) = (String::from_utf8_lossy(&ended.stdout), fs::read_to_string(&log).unwrap());
    assert!(ended.status.code() != Some(0) && log.contains("interrupted"), "{said}\n{log}");
    let made = cars(kept.path()).len();
    assert!(said.contains(&format!("0 failed, {} left", PIECES - made)), "{said}\n{log}");
    assert!(!said.contains(".carferry-"), "{said}");

    let Some(waiting) = Unattended::start(&pack, &db.db).await else { return };
    eventually!(waiting.waits(), "it waits again");
    let other = pack.output.with_file_name("other");
    let rest = pack.start_to(&other, &[&PACK[..], &["--agent-name", "other"]].concat(), None);
    let rest = tokio::task::spawn_blocking(|| rest.end()).await.unwrap();
    assert_eq!(rest.code, Some(0), "{}", rest.stderr);
    let Unattended { shell, kept: kept_too, log } = waiting;
    let ended = tokio::task::spawn_blocking(|| shell.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", fs::read_to_string(&log).unwrap());
    let all = [kept.path(), kept_too.path(), &other].map(|folder| cars(folder).len());
    assert_eq!(all.iter().sum::<usize>(), PIECES, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_records_what_it_finished_and_gives_back_the_rest() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    for number in 0..200 {
        pack.write(&format!("file {number}"), &vec![number; 1_200_000]);
    }
    let running = pack.start(&PACK);
    eventually!(counts(&db.db, doc! { "state": "done" }).await >= 20, "it is at work");
    kill_process(Pid::from_child(&running.child), Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(|| running.end()).await.unwrap();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let done = counts(&db.db, doc! { "state": "done" }).await;
    assert!(done < 200, "{}", ended.stderr);
    assert_eq!(cars(&pack.output).len() as u64, done, "every CAR is recorded");
    assert_eq!(counts(&db.db, doc! { "claim": { "$exists": true } }).await, 0, "others need not wait");
    assert!(ended.stderr.contains(&format!("0 failed, {} left", 200 - done)), "{}", ended.stderr);
    assert_eq!(pack.run(&PACK).code, Some(0));
    assert_eq!(cars(&pack.output).len(), 200);
}

/// Another box has plans of the same data set in every run.
async fn plan_without_end(database: Database, input: &str) {
    let plans = database.collection::<Document>("packplans");
    for number in 0.. {
        // While the run follows one, others come to be.
        while plans.count_documents(doc! { "state": "ready" }).await.unwrap() >= STOCK {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let plan = doc! {
            "_id": format!("{number:032x}"), "input": input, "group": "in", "layout": "pack", "profile": "lotus",
            "piecesizebytes": 2_097_152_i64, "state": "ready", "pieces": 0_i64, "chunks": 0_i64,
            "sourcebytes": 0_i64, "entries": 0_i64, "host": "other",
        };
        plans.insert_one(plan).await.unwrap();
    }
}

/// Plans of others that are there at any time: so many that following them takes longer than this process may
/// be kept from making more.
const STOCK: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_never_comes_to_a_plan_of_its_own_says_so_and_is_no_success() {
    let db = database().await.unwrap();
    let pack = Pack::new(&db.uri, db.db.name());
    fill(&pack);
    let others = plan_without_end(db.db.clone(), pack.input.to_str().unwrap());
    let run = async {
        let plans = db.db.collection::<Document>("packplans");
        eventually!(plans.count_documents(doc! {}).await.unwrap() == STOCK, "others plan");
        let running = pack.start(&PACK);
        tokio::task::spawn_blocking(|| running.end()).await.unwrap()
    };
    tokio::pin!(others, run);
    let ended = tokio::select! {
        ended = &mut run => ended,
        () = &mut others => unreachable!("others plan without end"),
    };
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("other boxes went on planning"), "{}", ended.stderr);
    assert!(ended.stderr.contains("0 failed, 1 left"), "{}", ended.stderr);
    assert_eq!(cars(&pack.output).len(), 0);
    // They are followed, and the next run comes to its own.
    let next = pack.run(&PACK);
    assert_eq!((next.code, next.lines.len()), (Some(0), PIECES), "{}", next.stderr);
}
