//! The daemon: the process that owns the run's common mongod. See [`super::shared`].

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::replica_set::{Members, Options, ReplicaSet};
use super::shared::{RunFolder, State};

const POLL: Duration = Duration::from_millis(100);
/// Test processes try the daemon's lock for an instant each; that must not end a daemon.
const LOCK_TRIES_MAX: u32 = 10;

/// Runs until the mongod was unused for a while. Arguments: the run's folder, and that while in
/// milliseconds.
pub(crate) fn main(args: &[OsString]) -> anyhow::Result<()> {
    let [folder, idle_ms] = args else {
        bail!("expected the run's folder and the idle time in milliseconds");
    };
    let folder = RunFolder(PathBuf::from(folder));
    let idle_ms = idle_ms.to_str().and_then(|text| text.parse().ok()).context("not a number")?;

    // Ctrl-C, and a test runner that kills its test's process group, do not reach the daemon: it ends
    // when no test is left.
    rustix::process::setsid().context("cannot leave the terminal's session")?;
    std::env::set_current_dir("/")?;
    let daemon_lock = folder.daemon_lock()?;
    if !lock_alone(&daemon_lock)? {
        return Ok(());
    }
    remove_leftovers(&folder)?;
    let set = ReplicaSet::start_in(&folder.0, Members::One, &Options::default())?;
    publish(&folder, &set)?;
    let _users_lock = keep_until_idle(&folder, &set, Duration::from_millis(idle_ms))?;
    // Under the lock that newcomers wait for: mongod ends, its files go.
    drop(set);
    Ok(())
}

fn lock_alone(lock: &File) -> anyhow::Result<bool> {
    for _ in 0..LOCK_TRIES_MAX {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => thread::sleep(POLL / 5),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// What a killed daemon left behind; its mongod died with it.
fn remove_leftovers(folder: &RunFolder) -> anyhow::Result<()> {
    remove_state(folder)?;
    for entry in fs::read_dir(&folder.0)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn publish(folder: &RunFolder, set: &ReplicaSet) -> anyhow::Result<()> {
    let mongod_pid = set.pids().first().copied().flatten().context("mongod is gone")?;
    let state = State { uri: set.uri(), mongod_pid, daemon_pid: process::id() };
    let mut file = tempfile::NamedTempFile::new_in(&folder.0)?;
    file.write_all(&serde_json::to_vec(&state)?)?;
    file.persist(folder.state())?;
    Ok(())
}

/// Returns when the set was unused for `idle`: with the state removed, and with the lock that
/// newcomers wait for.
fn keep_until_idle(folder: &RunFolder, set: &ReplicaSet, idle: Duration) -> anyhow::Result<File> {
    let users_lock = folder.users_lock()?;
    let mut unused_since = None;
    loop {
        if !set.is_running(0) {
            remove_state(folder)?;
            bail!("mongod ended under the tests");
        }
        match flock(&users_lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let since = *unused_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= idle {
                    remove_state(folder)?;
                    return Ok(users_lock);
                }
                flock(&users_lock, FlockOperation::Unlock)?;
            }
            Err(Errno::WOULDBLOCK) => unused_since = None,
            Err(error) => return Err(error.into()),
        }
        thread::sleep(POLL);
    }
}

fn remove_state(folder: &RunFolder) -> anyhow::Result<()> {
    let state: &Path = &folder.state();
    match fs::remove_file(state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", state.display()))
        }
        _ => Ok(()),
    }
}
