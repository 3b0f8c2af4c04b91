//! Agents, inside this process or in processes of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::{env, fs};

use anyhow::Context as _;
use carferry_core::config::sections::LogFormat;
use carferry_core::telemetry;
use lotus_sim::Permission;
use miner_agent::AgentError;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{MINER, TestEnv};
use crate::{child_guard, helper};

/// A log filter (`debug`, say) for agents inside the test's process, whose logs are not shown otherwise.
const LOG_VARIABLE: &str = "CARFERRY_TEST_LOG";
/// Quick enough for tests; the scan is slow, so that what arrives meanwhile is found by its event.
pub(super) const SETTING: &str = "{scanInterval: 20s, waitInterval: 300ms, retryMin: 300ms, retryMax: 1s, \
     confirmTimeout: 3s, providerPollInterval: 500ms, lease: 3s, gracePeriod: 3s, databaseTimeout: 5s}";

pub(super) fn begin_logging() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = env::var(LOG_VARIABLE) {
            // Logs are for people; a filter that is none is seen at once.
            let _unset = telemetry::init(LogFormat::Text, &filter);
        }
    });
}

/// A miner-agent inside this process.
#[derive(Debug)]
pub struct MinerAgent {
    stop: CancellationToken,
    task: JoinSet<Result<(), AgentError>>,
}

impl MinerAgent {
    /// Asks it to end, waits until it has, and says how.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.join_next().await.context("the agent was never started")??.map_err(Into::into)
    }
}

/// A program that is killed with its handle.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it said on standard error.
    pub log: PathBuf,
}

impl Process {
    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has said this on standard error.
    pub fn has_logged(&self, text: &str) -> anyhow::Result<bool> {
        Ok(fs::read_to_string(&self.log)?.contains(text))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("no process ID")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.kill9();
    }
}

/// A client-agent as a program of its own; add its arguments and [`spawn`] it.
pub fn client_agent_command() -> anyhow::Result<Command> {
    agent_command("client-agent")
}

/// A miner-agent as a program of its own; add its arguments and [`spawn`] it.
pub fn miner_agent_command() -> anyhow::Result<Command> {
    agent_command("miner-agent")
}

/// client-agent as a command line for scripts, which start it and do not end it.
pub fn client_agent_words() -> anyhow::Result<[PathBuf; 2]> {
    Ok([helper::program()?, "client-agent".into()])
}

fn agent_command(name: &str) -> anyhow::Result<Command> {
    let mut command = child_guard::command(helper::program()?)?;
    command.arg(name).stdin(Stdio::null());
    for lotus in ["FULLNODE_API_INFO", "MINER_API_INFO", "MARKETS_API_INFO", "STORAGE_API_INFO"] {
        command.env_remove(lotus);
    }
    // The agents refuse variables that look like theirs and are not.
    command.env_remove(LOG_VARIABLE);
    Ok(command)
}

/// Starts a program that ends with this process at the latest; what it says goes to the file `log`.
pub fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Process> {
    command.stdout(Stdio::null()).stderr(fs::File::create(log)?);
    Ok(Process { child: child_guard::spawn(command)?, log: log.to_owned() })
}

impl TestEnv {
    /// A configuration of miner-agent for these miners, with times that suit tests.
    pub fn import_yaml(&self, miners: &[&str]) -> anyhow::Result<PathBuf> {
        self.import_yaml_on(&format!("{{uri: '{}', database: '{}'}}", self.uri, self.db.name()), miners)
    }

    /// The same with another section `mongodb`.
    pub fn import_yaml_on(&self, mongodb: &str, miners: &[&str]) -> anyhow::Result<PathBuf> {
        let token = self.sim.token(Permission::Write);
        let miners: Vec<_> = miners
            .iter()
            .map(|miner| {
                format!("{{miner: {miner}, endpoint: '{}', token: '{token}'}}", self.sim.miner_url(miner))
            })
            .collect();
        let text = format!(
            "miners: [{}]\nfullNode: {{endpoint: '{}'}}\nmongodb: {mongodb}\nsetting: {SETTING}\n",
            miners.join(", "),
            self.sim.full_node_url(),
        );
        let file = self.new_path("import.yaml");
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Starts a miner-agent for [`MINER`] inside this process.
    pub fn miner_agent(&self) -> anyhow::Result<MinerAgent> {
        self.miner_agent_with(&[])
    }

    /// The same with some keys (`setting.lease`) set otherwise.
    pub fn miner_agent_with(&self, keys: &[(&str, &str)]) -> anyhow::Result<MinerAgent> {
        self.miner_agent_for(&[MINER], keys)
    }

    /// The same for other miners.
    pub fn miner_agent_for(&self, miners: &[&str], keys: &[(&str, &str)]) -> anyhow::Result<MinerAgent> {
        let keys: Vec<_> = keys.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let config = miner_agent::Config::load(Some(&self.import_yaml(miners)?), Vec::new(), &keys)?;
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(miner_agent::run_agent(config, stop.clone()));
        Ok(MinerAgent { stop, task })
    }

    /// What `miner-agent status` prints.
    pub fn status_of_miner_agent(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = miner_agent_command()?;
        command.arg("status").args(arguments).arg("-c").arg(self.import_yaml(&[MINER])?);
        Ok(String::from_utf8(command.output()?.stdout)?)
    }

    /// Starts a miner-agent for [`MINER`] as a process of its own.
    pub fn miner_agent_process(&self) -> anyhow::Result<Process> {
        self.miner_agent_process_of(&self.import_yaml(&[MINER])?)
    }

    /// The same with a configuration file of the caller's.
    pub fn miner_agent_process_of(&self, config: &Path) -> anyhow::Result<Process> {
        let mut command = miner_agent_command()?;
        command.arg("run").arg("-c").arg(config);
        spawn(command, &self.new_path("miner-agent.log"))
    }
}
