//! The helper program: the running binary, started again under hidden subcommands.
//!
//! Some things need a process of their own: the daemon that outlives the test that started it, and
//! the step between `fork` and `exec` that ties a mongod to its starter's life. Cargo builds
//! `testbin` for every test of this package; the demo, which is built alone, serves itself.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use crate::child_guard;
use crate::mongod::daemon;

/// The hidden subcommand that ties a program to its starter and becomes it.
pub(crate) const EXEC_TIED: &str = "exec-tied";
/// The hidden subcommand that keeps the run's common mongod.
pub(crate) const KEEP_MONGOD: &str = "keep-mongod";

static SERVES_ITSELF: AtomicBool = AtomicBool::new(false);

/// Runs the hidden subcommand this process was started with, if there is one.
///
/// A binary that calls this first thing in `main` becomes a helper program for its own process.
pub fn run_if_asked() -> Option<ExitCode> {
    SERVES_ITSELF.store(true, Ordering::Relaxed);
    let mut args = env::args_os().skip(1);
    let subcommand = args.next()?;
    let rest: Vec<OsString> = args.collect();
    let ended = match subcommand.to_str()? {
        EXEC_TIED => child_guard::become_program(&rest),
        KEEP_MONGOD => daemon::main(&rest),
        _ => return None,
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Without standard error there is no one left to tell.
            let _unwritable = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Where the helper program is.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let current = env::current_exe().context("cannot tell the path of this program")?;
    if SERVES_ITSELF.load(Ordering::Relaxed) {
        return Ok(current);
    }
    // Tests live in target/<profile>/deps, binaries one folder up.
    current
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("testbin"))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "no helper program near {}\nhint: cargo build --package carferry-tests --bin testbin",
                current.display()
            )
        })
}
