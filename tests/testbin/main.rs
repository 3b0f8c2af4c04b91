//! Processes for tests to start and kill: one binary, many parts.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(ended) = harness::helper::run_if_asked() {
        return ended;
    }
    match std::env::args().nth(1).as_deref() {
        Some("use-mongod") => use_mongod(),
        Some("client-agent") => client_agent::main_entry(std::env::args_os().skip(1)),
        Some("miner-agent") => miner_agent::main_entry(std::env::args_os().skip(1)),
        _ => ExitCode::FAILURE,
    }
}

/// Joins the run's common mongod, tells its state, and stays until standard input ends.
fn use_mongod() -> ExitCode {
    use std::io::{Read as _, Write as _};
    let told = harness::mongod::shared().and_then(|state| {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&state)?)?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _unwritable = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}
