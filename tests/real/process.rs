//! A test binary that holds real nodes, as a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{env, fs};

use harness::{child_guard, eventually};
use serde::de::DeserializeOwned;

const READY_WITHIN: Duration = Duration::from_secs(900);

/// The nodes, which end with it.
#[derive(Debug)]
pub(crate) struct NodeProcess(Child);

impl NodeProcess {
    /// Starts the binary that a variable names, in the folder of tests beside it, and returns what it tells
    /// once it is ready. The nodes keep everything in `folder`.
    pub(crate) async fn start<Told: DeserializeOwned>(
        variable: &str,
        tests: &str,
        folder: &Path,
    ) -> (Self, Told) {
        let binary = PathBuf::from(env::var_os(variable).unwrap_or_else(|| {
            panic!("{variable} names no real node; hint: tests/real/README.md tells how to build one")
        }));
        let told = folder.join("info.json");
        let log_path = folder.join("node.log");
        let log = fs::File::create(&log_path).unwrap();
        let mut command = child_guard::command(&binary).unwrap();
        command
            .args(["-test.run", "TestCarferry$", "-test.timeout", "0"])
            // The sources of the tests are looked for where it runs.
            .current_dir(binary.parent().unwrap().join(tests))
            .env("CARFERRY_OUT", &told)
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut process = Self(child_guard::spawn(command).unwrap());
        eventually!(
            within READY_WITHIN,
            {
                let ended = process.0.try_wait().unwrap();
                assert!(ended.is_none(), "the node ended: {}", fs::read_to_string(&log_path).unwrap());
                told.exists()
            },
            "the node is ready"
        );
        let told = serde_json::from_slice(&fs::read(&told).unwrap()).unwrap();
        (process, told)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
