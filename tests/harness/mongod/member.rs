//! One mongod process: its port, its folder, its life.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, bail};

use crate::child_guard;

/// Below the range that Linux hands out to outgoing connections (32768 and up), so that a member
/// that was killed finds its port free when it comes back.
const PORTS: Range<u16> = 15_000..32_000;
const PORT_TRIES_MAX: u32 = 20;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const READY_MARK: &str = "Waiting for connections";
const TAKEN_MARK: &str = "Address already in use";

/// How to start a mongod.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) mongod: PathBuf,
    pub(crate) replica_set: String,
    pub(crate) oplog_mb: u32,
    pub(crate) extra_args: Vec<String>,
}

/// A mongod that listens, or did until it was killed.
#[derive(Debug)]
pub(crate) struct Member {
    launch: Launch,
    folder: PathBuf,
    port: u16,
    starts: u32,
    child: Option<Child>,
}

impl Member {
    /// Spawns mongod in `folder` on a free port; [`Member::wait_until_listening`] must follow.
    pub(crate) fn spawn(launch: &Launch, folder: &Path) -> anyhow::Result<Self> {
        let mut member = Self {
            launch: launch.clone(),
            folder: folder.to_owned(),
            port: free_port()?,
            starts: 0,
            child: None,
        };
        fs::create_dir_all(folder.join("db"))
            .with_context(|| format!("cannot create {}", folder.display()))?;
        member.start()?;
        Ok(member)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process ID, unless the member is down.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether the process runs; a process that ended is reaped.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts the process on the port and folder it has.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.starts += 1;
        let log = File::create(self.log_path())?;
        let mut command = child_guard::command(&self.launch.mongod)?;
        command
            .args(["--replSet", &self.launch.replica_set])
            .args(["--bind_ip", "127.0.0.1", "--nounixsocket"])
            .args(["--port", &self.port.to_string()])
            .arg("--dbpath")
            .arg(self.folder.join("db"))
            .args(["--oplogSize", &self.launch.oplog_mb.to_string()])
            .args(["--wiredTigerCacheSizeGB", "0.25"])
            // The journal's files are allocated at full size: 300 MB a member otherwise.
            .args(["--wiredTigerEngineConfigString", "log=(file_max=1MB,prealloc=false)"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(["--setParameter", "enableTestCommands=1"])
            .args(&self.launch.extra_args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(child_guard::spawn(command)?);
        Ok(())
    }

    /// Waits for the process to listen. `may_move` lets a first start go to another port where
    /// another process took the first.
    pub(crate) fn wait_until_listening(&mut self, may_move: bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut moves = 0;
        // Its own log says that it listens; the port alone could be answered by a stranger.
        loop {
            let log = fs::read_to_string(self.log_path()).unwrap_or_default();
            if log.contains(READY_MARK) {
                return Ok(());
            }
            if !self.is_running() {
                let log = fs::read_to_string(self.log_path()).unwrap_or_default();
                if may_move && log.contains(TAKEN_MARK) && moves < PORT_TRIES_MAX {
                    moves += 1;
                    self.port = free_port()?;
                    self.start()?;
                    continue;
                }
                bail!("mongod ended while starting: {}", log_tail(&log));
            }
            if Instant::now() > deadline {
                bail!("mongod does not listen after {START_TIMEOUT:?}: {}", log_tail(&log));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the process as a power cut would, and reaps it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that is gone already.
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("mongod-{}.log", self.starts))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let port = fastrand::u16(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

/// The last lines that are worse than informational, else the last lines.
fn log_tail(log: &str) -> String {
    let is_bad =
        |line: &&str| !line.starts_with('{') || line.contains(r#""s":"E""#) || line.contains(r#""s":"F""#);
    let bad: Vec<_> = log.lines().filter(is_bad).collect();
    let lines = if bad.is_empty() { log.lines().collect() } else { bad };
    lines[lines.len().saturating_sub(5)..].join("\n")
}
