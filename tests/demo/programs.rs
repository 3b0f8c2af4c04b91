//! The three programs, built by cargo for this very run.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) client_agent: PathBuf,
    pub(crate) miner_agent: PathBuf,
    /// The simulator.
    pub(crate) sim: PathBuf,
}

/// A line of cargo's `--message-format=json`, reduced to what says where a program is.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Programs {
    /// Builds them and this simulator with this program's own profile, into its own target folder.
    pub(crate) async fn build(sim: &str) -> anyhow::Result<Self> {
        let here = env::current_exe().context("cannot tell the path of this program")?;
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(&cargo);
        // This package's library is built too: with it, cargo chooses the same features for the dependencies
        // as it did for the demo, and nothing is compiled twice.
        command
            .args(["build", "--message-format=json-render-diagnostics", "--lib"])
            .args(["--package", "carferry-tests"])
            .args(["--package", "client-agent", "--bin", "client-agent"])
            .args(["--package", "miner-agent", "--bin", "miner-agent"])
            .args(["--package", sim, "--bin", sim])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        for (name, _) in env::vars_os() {
            if is_of_cargo_run(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        if let Some((target, profile)) = home_of(&here) {
            command.arg("--target-dir").arg(target).arg("--profile").arg(profile);
        }
        let built = command
            .spawn()
            .with_context(|| format!("cannot start {}", cargo.display()))?
            .wait_with_output()
            .await?;
        ensure!(built.status.success(), "cargo build: {}", built.status);
        Self::among(&String::from_utf8_lossy(&built.stdout), sim)
    }

    fn among(messages: &str, sim: &str) -> anyhow::Result<Self> {
        let mut found: BTreeMap<String, PathBuf> = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Message>(line).ok())
            .filter_map(|message| Some((message.target?.name, message.executable?)))
            .collect();
        let mut take = |name: &str| match found.remove(name) {
            Some(path) => Ok(path),
            None => bail!("cargo build succeeded but named no {name}"),
        };
        Ok(Self { client_agent: take("client-agent")?, miner_agent: take("miner-agent")?, sim: take(sim)? })
    }
}

/// Variables that `cargo run` sets for its program. Some build scripts run again where they are new.
fn is_of_cargo_run(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The target folder and the profile of a program that cargo built: `<target>/<profile>/demo`.
fn home_of(program: &Path) -> Option<(PathBuf, &'static str)> {
    let folder = program.parent()?;
    let profile = match folder.file_name()?.to_str()? {
        "debug" => "dev",
        "release" => "release",
        "profiling" => "profiling",
        _ => return None,
    };
    Some((folder.parent()?.to_owned(), profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"carferry_core"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"client-agent"},"executable":"/t/debug/client-agent"}
            {"reason":"compiler-artifact","target":{"name":"miner-agent"},"executable":"/t/debug/miner-agent"}
            {"reason":"compiler-artifact","target":{"name":"lotus-sim"},"executable":"/t/debug/lotus-sim"}
            {"reason":"build-finished","success":true}"#;
        let programs = Programs::among(messages, "lotus-sim").unwrap();
        assert_eq!(programs.sim, Path::new("/t/debug/lotus-sim"));
        let missing = Programs::among(messages.lines().last().unwrap(), "lotus-sim").unwrap_err();
        assert!(missing.to_string().contains("client-agent"), "{missing}");
    }

    #[test]
    fn profile_is_the_one_of_the_demo() {
        assert_eq!(home_of(Path::new("/t/debug/demo")), Some((PathBuf::from("/t"), "dev")));
        assert_eq!(home_of(Path::new("/t/release/demo")), Some((PathBuf::from("/t"), "release")));
        assert_eq!(home_of(Path::new("/usr/bin/demo")), None);
    }
}
