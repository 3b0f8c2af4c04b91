//! Runs the built agent and looks at what it leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The agent, away from whatever the environment of the test sets for agents.
pub(crate) fn agent(args: &[&str]) -> Command {
    agent_at(Path::new(env!("CARGO_BIN_EXE_client-agent")), args)
}

pub(crate) fn agent_at(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARFERRY_") || name.starts_with("LOTUS_") || name.ends_with("_API_INFO") {
            command.env_remove(name);
        }
    }
    command.env("COLUMNS", "100");
    command
}

/// Runs the agent to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    Ended::of(agent(args).output().expect("the agent starts"))
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// The lines of `--json`.
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The JSON line about the file with this name.
    pub(crate) fn about(&self, name: &str) -> Value {
        let about =
            |line: &Value| line["file"].as_str().is_some_and(|file| file.ends_with(&format!("/{name}")));
        self.json().into_iter().find(about).unwrap_or_else(|| panic!("nothing about {name}: {self:?}"))
    }
}

/// An input and an output folder.
#[derive(Debug)]
pub(crate) struct Folders {
    pub(crate) root: tempfile::TempDir,
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
}

impl Folders {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().canonicalize().expect("it is there");
        let (input, output) = (path.join("in"), path.join("out"));
        fs::create_dir(&input).expect("a new folder");
        Self { root, input, output }
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.input.join(name);
        fs::create_dir_all(path.parent().expect("below the input")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    /// A file that takes its time: unlike those of a sparse one, its bytes have to be read and hashed.
    pub(crate) fn write_long(&self, name: &str, bytes: u64) {
        let mut file = fs::File::create(self.input.join(name)).expect("a long file");
        let mut block: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        for number in 0..bytes >> 20 {
            block.splice(..8, number.to_le_bytes());
            std::io::Write::write_all(&mut file, &block).expect("a long file");
        }
    }

    /// A file of this size that takes no space.
    pub(crate) fn write_sparse(&self, name: &str, bytes: u64) {
        fs::File::create(self.input.join(name)).and_then(|file| file.set_len(bytes)).expect("a sparse file");
    }

    /// Arguments of `makecars` without database.
    pub(crate) fn makecars<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let path = |path: &'a Path| path.to_str().expect("UTF-8");
        let mut args = vec!["makecars", "--input", path(&self.input), "--output", path(&self.output)];
        args.push("--no-database");
        args.extend(more);
        args
    }

    /// Every file below the output, hidden ones too, sorted; not the manifest.
    pub(crate) fn made(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut to_walk = vec![self.output.clone()];
        while let Some(folder) = to_walk.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    to_walk.push(path);
                } else {
                    let relative = path.strip_prefix(&self.output).expect("below the output");
                    found.push(relative.to_str().expect("UTF-8").to_owned());
                }
            }
        }
        found.retain(|name| name != "manifest.jsonl");
        found.sort();
        found
    }

    /// Waits until the CAR of this file is being written.
    pub(crate) fn wait_until_begun(&self, child: &mut Child, name: &str) {
        let begun = format!(".carferry-{name}.car.");
        until(child, || self.made().iter().any(|file| file.contains(&begun)));
    }
}

/// Waits for a condition while the agent runs; an agent that ends early fails the test.
pub(crate) fn until(child: &mut Child, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "it never came");
        assert!(child.try_wait().expect("a child").is_none() || holds(), "the agent ended before it came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The content of the vectors in the Lotus contract: `(7i + 13(i>>8) + 31(i>>16)) & 255`.
pub(crate) fn pattern(bytes: u64) -> Vec<u8> {
    (0..bytes)
        .map(|i| u8::try_from((7 * i + 13 * (i >> 8) + 31 * (i >> 16)) & 255).expect("masked"))
        .collect()
}
