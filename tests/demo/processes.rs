//! Processes whose output goes to files, and that end with this one.

use std::fs;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use harness::child_guard;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(20);
const TAIL_LINES: usize = 15;
const TAIL_COLUMNS: usize = 220;

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
}

/// Where the standard error of a program goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errors {
    /// To its log.
    ToLog,
    /// The process shows its own progress on this process's output.
    Shown,
}

impl Process {
    /// Starts a program; its standard output goes to `<folder>/<name>.out` if its errors are shown or
    /// logged apart, its log to `<folder>/<name>.log`.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[&str],
        folder: &Path,
        errors: Errors,
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let mut command = child_guard::command(program)?;
        command
            .args(arguments)
            // What is set in this shell is meant for other agents than these.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_kept(&name.to_string_lossy())))
            .env("TMPDIR", folder)
            // A process group of its own: Ctrl-C reaches the demo, which ends the others in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(folder.join(format!("{name}.out")))?);
        command.stderr(match errors {
            Errors::ToLog => Stdio::from(File::create(&log)?),
            Errors::Shown => Stdio::inherit(),
        });
        let child = child_guard::spawn(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails when it has ended: it was to run until told to stop.
    pub(crate) fn check_runs(&mut self) -> anyhow::Result<()> {
        let ended = self.ended()?;
        ensure!(ended.is_none(), "{} ended: {}", self.name, ended.unwrap_or_default());
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }

    /// Asks it to end; kills it when it does not within the grace period. Returns whether it ended
    /// by itself.
    pub(crate) async fn stop(mut self, grace: Duration) -> bool {
        let Ok(None) = self.ended() else { return true };
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Gone already is as well.
            let _gone = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if !matches!(self.ended(), Ok(None)) {
                return true;
            }
            sleep(POLL).await;
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Variables that a program gets: neither Carferry's, nor those that tell Lotus' tools where a node is.
fn is_kept(name: &str) -> bool {
    const NODES: [&str; 7] = [
        "FULLNODE_API_INFO",
        "MINER_API_INFO",
        "MARKETS_API_INFO",
        "LOTUS_PATH",
        "LOTUS_MINER_PATH",
        "LOTUS_MARKETS_PATH",
        "RUST_LOG",
    ];
    !name.starts_with("CARFERRY_") && !NODES.contains(&name)
}

/// The last lines of every log in the folder that has any.
pub(crate) fn log_tails(folder: &Path) -> String {
    let mut logs: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    logs.iter()
        .filter_map(|log| {
            let text = fs::read(log).ok()?;
            let tail = tail(&String::from_utf8_lossy(&text));
            let name = log.file_name()?.display();
            (!tail.is_empty()).then(|| format!("--- {name}\n{tail}"))
        })
        .collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut tail = String::new();
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        let length = line.char_indices().nth(TAIL_COLUMNS).map_or(line.len(), |(at, _)| at);
        tail.push_str(&line[..length]);
        tail.push_str(if length < line.len() { "…\n" } else { "\n" });
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_other_agents_are_not_handed_on() {
        for name in ["CARFERRY_MONGODB__URI", "FULLNODE_API_INFO", "LOTUS_PATH"] {
            assert!(!is_kept(name), "{name}");
        }
        assert!(is_kept("PATH") && is_kept("HOME"));
    }

    #[test]
    fn tail_has_the_last_lines_cut_to_a_readable_length() {
        let lines: Vec<String> = (0..40).map(|n| format!("line {n} {}", "é".repeat(300))).collect();
        let tail = tail(&lines.join("\n"));
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 25 ") && tail.lines().all(|line| line.ends_with('…')));
    }
}
