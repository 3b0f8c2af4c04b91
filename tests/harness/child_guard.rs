//! Child processes that cannot outlive the process that started them, however it ends.
//!
//! Linux can signal a child when its parent dies, but "parent" means the *thread* that spawned it,
//! and a test's thread ends before the test run does. So one thread that lives as long as the
//! process does all the spawning, and the child arms the signal itself on its way to `exec`.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::{io, process, thread};

use anyhow::{Context as _, bail};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

use crate::helper;

type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();

/// A command whose process gets SIGKILL when this process ends. Start it with [`spawn`].
pub fn command(program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
    let mut command = Command::new(helper::program()?);
    command.arg(helper::EXEC_TIED).arg(process::id().to_string()).arg(program);
    Ok(command)
}

/// Starts a [`command`]; its process ID is the program's own.
pub fn spawn(command: Command) -> anyhow::Result<Child> {
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // An asker that has given up needs no answer.
                let _unheard = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, spawned) = mpsc::sync_channel(1);
    let name = command.get_program().to_owned();
    spawner.send((command, answer)).context("the spawning thread is gone")?;
    spawned
        .recv()
        .context("the spawning thread is gone")?
        .with_context(|| format!("cannot start {}", name.display()))
}

/// The child's side: arms the signal, lifts the limit on open files, becomes the program.
pub(crate) fn become_program(args: &[OsString]) -> anyhow::Result<()> {
    let [starter, program, args @ ..] = args else {
        bail!("expected the starter's process ID and a program");
    };
    let starter = starter.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The starter may have ended before the signal was armed.
    if starter.is_none() || getppid() != starter {
        bail!("the starting process is gone");
    }
    // A database per test adds up to more files than the usual soft limit of 1024.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
