//! The binary `client-agent`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    client_agent::main_entry(std::env::args_os())
}
