//! One single-member set for the whole test run, whatever runs it: threads of one process
//! (`cargo test`) or a process per test (`cargo nextest run`).
//!
//! Every test process holds a shared lock on `users.lock` while it lives; the kernel drops it
//! however the process ends. A daemon process owns the mongod and ends it when, for a while, it
//! could have had that lock for itself. Who finds no daemon starts one; `daemon.lock` lets one win.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{FlockOperation, flock};

use super::binary::{MONGOD_VARIABLE, binary};
use crate::helper;

/// The environment variable that moves the run's folder, for tests of the daemon itself.
pub const RUN_FOLDER_VARIABLE: &str = "CARFERRY_TEST_RUN_DIR";
/// The environment variable that says how long an unused mongod is kept, in milliseconds.
pub const IDLE_VARIABLE: &str = "CARFERRY_TEST_IDLE_MS";

const IDLE_DEFAULT: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// The files through which test processes and daemon know of each other.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder(pub(crate) PathBuf);

impl RunFolder {
    pub(crate) fn users_lock(&self) -> anyhow::Result<File> {
        open_lock(&self.0.join("users.lock"))
    }

    pub(crate) fn daemon_lock(&self) -> anyhow::Result<File> {
        open_lock(&self.0.join("daemon.lock"))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
}

/// What the daemon tells the test processes.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct State {
    /// The connection string.
    pub uri: String,
    /// The process ID of mongod.
    pub mongod_pid: u32,
    /// The process ID of the daemon.
    pub daemon_pid: u32,
}

/// The run's common mongod, started if need be, and kept until this process ends.
///
/// Blocks for about a second when it is the first. Its fail points and its primary belong to
/// everybody: a test that changes them takes a [`super::replica_set::ReplicaSet`] of its own.
pub fn shared() -> anyhow::Result<State> {
    static SHARED: OnceLock<Result<(State, File), String>> = OnceLock::new();
    match SHARED.get_or_init(|| join().map_err(|error| format!("{error:#}"))) {
        Ok((state, _users_lock)) => Ok(state.clone()),
        Err(reason) => Err(anyhow!(reason.clone()).context("no mongod for the test run")),
    }
}

/// Joins the run; the lock must live as long as the mongod is used.
fn join() -> anyhow::Result<(State, File)> {
    let folder = run_folder()?;
    fs::create_dir_all(&folder.0).with_context(|| format!("cannot create {}", folder.0.display()))?;
    let users_lock = folder.users_lock()?;
    // From here on no daemon ends its mongod.
    flock(&users_lock, FlockOperation::LockShared)?;
    let deadline = Instant::now() + START_TIMEOUT;
    let mut own_daemon: Option<(std::process::Child, File)> = None;
    loop {
        if is_kept(&folder)? {
            if let Some(state) = read_state(&folder)? {
                return Ok((state, users_lock));
            }
        } else {
            match own_daemon.as_mut() {
                None => own_daemon = Some(start_daemon(&folder)?),
                Some((daemon, log)) => match daemon.try_wait()? {
                    None => {}
                    // Another daemon was quicker, but has ended since.
                    Some(status) if status.success() => own_daemon = None,
                    Some(status) => {
                        log.seek(SeekFrom::Start(0))?;
                        bail!("the daemon ended ({status}): {}", std::io::read_to_string(log)?.trim());
                    }
                },
            }
        }
        if Instant::now() > deadline {
            bail!("no mongod after {START_TIMEOUT:?} in {}", folder.0.display());
        }
        thread::sleep(POLL);
    }
}

fn is_kept(folder: &RunFolder) -> anyhow::Result<bool> {
    match flock(folder.daemon_lock()?, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn read_state(folder: &RunFolder) -> anyhow::Result<Option<State>> {
    match fs::read(folder.state()) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn start_daemon(folder: &RunFolder) -> anyhow::Result<(std::process::Child, File)> {
    let idle = match env::var(IDLE_VARIABLE) {
        Ok(milliseconds) => Duration::from_millis(milliseconds.parse()?),
        Err(_) => IDLE_DEFAULT,
    };
    let log = tempfile::tempfile()?;
    let daemon = Command::new(helper::program()?)
        .arg(helper::KEEP_MONGOD)
        .arg(&folder.0)
        .arg(idle.as_millis().to_string())
        // Found (or fetched) here, so that a failure is this test's own.
        .env(MONGOD_VARIABLE, binary()?)
        // A daemon that held the test's pipes would keep the test runner waiting.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone()?)
        .spawn()
        .context("cannot start the daemon")?;
    Ok((daemon, log))
}

/// Beside the binaries, so that a run with another target folder has a mongod of its own.
fn run_folder() -> anyhow::Result<RunFolder> {
    if let Some(named) = env::var_os(RUN_FOLDER_VARIABLE) {
        return Ok(RunFolder(std::path::absolute(named)?));
    }
    let helper = helper::program()?;
    let folder = helper.parent().context("the helper program has no folder")?;
    Ok(RunFolder(folder.join("carferry-mongod")))
}

fn open_lock(path: &Path) -> anyhow::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
