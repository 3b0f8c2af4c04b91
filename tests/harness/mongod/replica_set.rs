//! A replica set of one's own, whose members can be killed, stopped and stepped down.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bson::{Document, doc};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::spawn_blocking;

use super::binary::binary;
use super::member::{Launch, Member};
use super::wire;
use crate::faults::Proxy;

const PRIMARY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// How many members a set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// One member: change streams and transactions, no failover.
    One,
    /// Three members: survives the loss of any one.
    Three,
}

impl Members {
    fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }
}

/// What a set is started with; [`Options::default`] suits tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the others wait for a dead primary. MongoDB's default is 10 s, here it is 0.5 s.
    pub election_timeout: Duration,
    /// Size of each member's oplog in MB (`--oplogSize`).
    pub oplog_mb: u32,
    /// Puts a [`Proxy`] before each member and advertises its port instead.
    pub behind_proxies: bool,
    /// Further arguments for every mongod.
    pub extra_args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_millis(500),
            oplog_mb: 16,
            behind_proxies: false,
            extra_args: Vec::new(),
        }
    }
}

/// A running replica set; its processes and files end with the last clone.
#[derive(Debug, Clone)]
pub struct ReplicaSet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    members: Vec<Mutex<Member>>,
    proxies: Vec<Proxy>,
    // Last: the members must be gone before their files are.
    _folder: tempfile::TempDir,
}

impl ReplicaSet {
    /// Starts a set in a temporary folder and waits until it has a writable primary and every
    /// other member is a secondary.
    pub async fn start(members: Members, options: Options) -> anyhow::Result<Self> {
        spawn_blocking(move || Self::start_in(&std::env::temp_dir(), members, &options)).await?
    }

    /// [`ReplicaSet::start`], blocking, with its files in a new folder under `parent`.
    pub fn start_in(parent: &Path, members: Members, options: &Options) -> anyhow::Result<Self> {
        let mongod = binary()?;
        let folder = tempfile::Builder::new().prefix("carferry-mongod-").tempdir_in(parent)?;
        // A name of its own keeps a set from meeting another one by mistake.
        let name = format!("carferry-{:08x}", fastrand::u32(..));
        let launch = Launch {
            mongod,
            replica_set: name.clone(),
            oplog_mb: options.oplog_mb,
            extra_args: options.extra_args.clone(),
        };
        let mut started = (0..members.count())
            .map(|i| Member::spawn(&launch, &folder.path().join(format!("member-{i}"))))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for member in &mut started {
            member.wait_until_listening(true)?;
        }
        let proxies = if options.behind_proxies {
            started.iter().map(|member| Proxy::start(member.port())).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        let members = started.into_iter().map(Mutex::new).collect();
        let set = Self(Arc::new(Inner { name, members, proxies, _folder: folder }));
        set.initiate(options.election_timeout)?;
        set.wait_until_complete()?;
        Ok(set)
    }

    /// The connection string: all advertised members and the set's name.
    pub fn uri(&self) -> String {
        let hosts: Vec<_> = self.advertised_ports().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("mongodb://{}/?replicaSet={}", hosts.join(","), self.0.name)
    }

    /// A driver's client for the set. It gives up on finding a member after 5 s instead of 30 s: a
    /// change stream whose primary died between two polls waits that long for the dead member.
    pub async fn client(&self) -> anyhow::Result<mongodb::Client> {
        let mut options = mongodb::options::ClientOptions::parse(self.uri()).await?;
        options.server_selection_timeout = Some(Duration::from_secs(5));
        Ok(mongodb::Client::with_options(options)?)
    }

    /// The proxy before member `index`, if the set was started with [`Options::behind_proxies`].
    pub fn proxy(&self, index: usize) -> Option<&Proxy> {
        self.0.proxies.get(index)
    }

    /// All of them, in the order of the members.
    pub fn proxies(&self) -> &[Proxy] {
        &self.0.proxies
    }

    /// Asks member `index` to end in good order (SIGTERM), as an operator does; a primary takes its time.
    pub fn end(&self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::TERM)
    }

    /// The members' process IDs; `None` for a member that is down.
    pub fn pids(&self) -> Vec<Option<u32>> {
        self.0.members.iter().map(|member| locked(member).pid()).collect()
    }

    /// Whether the process of member `index` runs.
    pub fn is_running(&self, index: usize) -> bool {
        self.member(index).is_ok_and(|member| locked(member).is_running())
    }

    /// Runs a command on the `admin` database of member `index`, past driver and proxy.
    pub fn admin(&self, index: usize, command: Document) -> anyhow::Result<Document> {
        wire::admin(self.port(index)?, command)
    }

    /// The member that takes writes now, if one does.
    pub fn primary_index(&self) -> Option<usize> {
        // A primary that was cut off may not know yet: the newest election counts.
        (0..self.0.members.len())
            .filter_map(|index| {
                let hello = self.hello(index)?;
                let is_primary = hello.get_bool("isWritablePrimary").unwrap_or(false);
                is_primary.then(|| (hello.get_object_id("electionId").ok(), index))
            })
            .max()
            .map(|(_, index)| index)
    }

    /// Waits for a member that takes writes.
    pub async fn wait_for_primary(&self) -> anyhow::Result<usize> {
        let set = self.clone();
        spawn_blocking(move || set.wait_for_other_primary(None)).await?
    }

    /// Kills member `index` as a power cut would.
    pub fn kill9(&self, index: usize) -> anyhow::Result<()> {
        locked(self.member(index)?).kill();
        Ok(())
    }

    /// Kills the primary and tells which member it was.
    pub async fn kill9_primary(&self) -> anyhow::Result<usize> {
        let primary = self.wait_for_primary().await?;
        self.kill9(primary)?;
        Ok(primary)
    }

    /// Starts member `index` again, on its old port and files, and waits until it is a primary or
    /// secondary. A member that still runs is killed first.
    pub async fn restart(&self, index: usize) -> anyhow::Result<()> {
        let set = self.clone();
        spawn_blocking(move || {
            {
                let mut member = locked(set.member(index)?);
                member.kill();
                member.start()?;
                member.wait_until_listening(false)?;
            }
            let deadline = Instant::now() + PRIMARY_TIMEOUT;
            while !set.is_settled(index) {
                ensure!(Instant::now() < deadline, "member {index} does not recover");
                thread::sleep(POLL);
            }
            Ok(())
        })
        .await?
    }

    /// Stops member `index` (SIGSTOP): connections stay open, nothing is answered.
    pub fn freeze(&self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::STOP)
    }

    /// Lets a member that was frozen go on.
    pub fn thaw(&self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::CONT)
    }

    /// Makes the primary step down and waits for the next one, whose index it returns. In a set of
    /// one the same member comes back a second later.
    pub async fn step_down(&self) -> anyhow::Result<usize> {
        let set = self.clone();
        spawn_blocking(move || {
            let primary = set.wait_for_other_primary(None)?;
            let is_alone = set.0.members.len() == 1;
            let command = if is_alone {
                doc! { "replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": true }
            } else {
                doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 2 }
            };
            // Refused while the others lag, or have stepped down themselves a moment ago.
            let deadline = Instant::now() + PRIMARY_TIMEOUT;
            while let Err(refusal) = set.admin(primary, command.clone()) {
                if Instant::now() > deadline {
                    return Err(refusal);
                }
                thread::sleep(POLL);
            }
            set.wait_for_other_primary(Some(primary).filter(|_| !is_alone))
        })
        .await?
    }

    fn initiate(&self, election_timeout: Duration) -> anyhow::Result<()> {
        let members: Vec<_> = (0_i32..)
            .zip(self.advertised_ports())
            .map(|(id, port)| doc! { "_id": id, "host": format!("127.0.0.1:{port}") })
            .collect();
        let election_timeout_ms = i64::try_from(election_timeout.as_millis())?;
        let config = doc! {
            "_id": &self.0.name,
            "members": members,
            "settings": {
                "electionTimeoutMillis": election_timeout_ms,
                "heartbeatIntervalMillis": (election_timeout_ms / 4).clamp(50, 2000),
            },
        };
        self.admin(0, doc! { "replSetInitiate": config })?;
        Ok(())
    }

    fn wait_until_complete(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PRIMARY_TIMEOUT;
        loop {
            let settled = (0..self.0.members.len()).filter(|index| self.is_settled(*index)).count();
            if settled == self.0.members.len() && self.primary_index().is_some() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("replica set is not complete after {PRIMARY_TIMEOUT:?}: {settled} members ready");
            }
            thread::sleep(POLL);
        }
    }

    fn wait_for_other_primary(&self, not: Option<usize>) -> anyhow::Result<usize> {
        let deadline = Instant::now() + PRIMARY_TIMEOUT;
        loop {
            match self.primary_index() {
                Some(primary) if Some(primary) != not => return Ok(primary),
                _ => ensure!(Instant::now() < deadline, "no primary after {PRIMARY_TIMEOUT:?}"),
            }
            thread::sleep(POLL);
        }
    }

    fn is_settled(&self, index: usize) -> bool {
        self.hello(index).is_some_and(|hello| {
            ["isWritablePrimary", "secondary"].iter().any(|role| hello.get_bool(role).unwrap_or(false))
        })
    }

    fn hello(&self, index: usize) -> Option<Document> {
        self.admin(index, doc! { "hello": 1 }).ok()
    }

    fn signal(&self, index: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = locked(self.member(index)?).pid().context("the member is down")?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process ID")?;
        Ok(kill_process(pid, signal)?)
    }

    fn port(&self, index: usize) -> anyhow::Result<u16> {
        Ok(locked(self.member(index)?).port())
    }

    fn advertised_ports(&self) -> Vec<u16> {
        if self.0.proxies.is_empty() {
            self.0.members.iter().map(|member| locked(member).port()).collect()
        } else {
            self.0.proxies.iter().map(Proxy::port).collect()
        }
    }

    fn member(&self, index: usize) -> anyhow::Result<&Mutex<Member>> {
        self.0.members.get(index).with_context(|| format!("the set has no member {index}"))
    }
}

fn locked(member: &Mutex<Member>) -> MutexGuard<'_, Member> {
    member.lock().unwrap_or_else(PoisonError::into_inner)
}
