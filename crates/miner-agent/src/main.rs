//! `miner-agent`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    miner_agent::main_entry(std::env::args_os())
}
