//! The commands of `client-agent`: parses the command line, loads the configuration, sets up the log, runs
//! one command, and turns its end into an exit status.

mod check_config;
mod deals;
mod doctor;
mod extract;
mod placements;
mod plan_text;
mod regenerate;
mod retry;
mod serve;
mod status;
mod text;
mod tools;
mod verify;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use carferry_car::check_kernel_choice;
use carferry_core::command_names::as_called;
use carferry_core::config::sections::{LogFormat, LogSection};
use carferry_core::config::{RESERVED_VARIABLES, Sources, overrides};
use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::runtime::Shutdown;
use carferry_core::store::shut_down_after;
use carferry_core::telemetry;
use clap::{ArgMatches, FromArgMatches};

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::exit::CommandError;
use crate::progress::Screen;
use crate::{cli, config, makecars};

/// Runs `client-agent` with these arguments, the program's name first.
pub fn main_entry(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments =
        as_called(arguments, "client-agent", &[("makecars", "makecars"), ("makedeals", "makedeals")]);
    let parsed = cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Nothing is left to do if the terminal is gone.
            drop(error.print());
            let wrong = error.use_stderr();
            return if wrong { ExitStatus::UserError } else { ExitStatus::Success }.into();
        }
    };
    let status = run(cli, &matches).unwrap_or_else(|error| {
        use io::Write as _;
        drop(writeln!(io::stderr(), "{error}"));
        error.status()
    });
    status.into()
}

fn run(cli: Cli, matches: &ArgMatches) -> Result<ExitStatus, CommandError> {
    check_kernel_choice()
        .map_err(|error| CommandError::user_hint(&error, "name one of these, or unset it"))?;
    let mut out = Printer::stdout();
    let screen = Screen::default();
    let given = Given { file: cli.config, flags: matches.subcommand().map(|(_, flags)| flags) };
    let configured = || {
        let config = load(&given)?;
        log(&config.log, &screen)?;
        Ok::<_, CommandError>(config)
    };
    match cli.command {
        Command::GenerateCar(args) => {
            quiet_log(&screen)?;
            block_on(async |shutdown| tools::generate_car(&args, &screen, &shutdown, &mut out).await)
        }
        Command::Commp(args) => {
            quiet_log(&screen)?;
            block_on(async |shutdown| tools::commp(&args, &screen, &shutdown, &mut out).await)
        }
        Command::VerifyCar(args) => {
            quiet_log(&screen)?;
            block_on(async |shutdown| tools::verify(&args, &screen, &shutdown, &mut out).await)
        }
        Command::Extract(args) => {
            quiet_log(&screen)?;
            block_on(async |shutdown| extract::extract(&args, &screen, &shutdown, &mut out).await)
        }
        Command::Verify(args) => {
            let config = configured()?;
            block_on(async |shutdown| verify::verify(&args, &config, &screen, &shutdown, &mut out).await)
        }
        Command::Regenerate(args) => {
            let config = configured()?;
            block_on(async |shutdown| {
                regenerate::regenerate(&args, &config, &screen, &shutdown, &mut out).await
            })
        }
        Command::Serve(args) => {
            let config = configured()?;
            block_on(async |shutdown| serve::serve(&args, &config, &shutdown, &mut out).await)
        }
        Command::Makecars(args) => {
            let config = configured()?;
            block_on(async |shutdown| makecars::makecars(&args, &config, &screen, &shutdown, &mut out).await)
        }
        Command::Makedeals(args) => {
            let config = configured()?;
            block_on(async |shutdown| deals::makedeals(&args, &config, &screen, &shutdown, &mut out).await)
        }
        Command::Track(args) => {
            let config = configured()?;
            block_on(async |shutdown| deals::track(&args, &config, &shutdown, &mut out).await)
        }
        Command::Run(args) => {
            let config = configured()?;
            block_on(async |shutdown| deals::run(&args, &config, &screen, &shutdown, &mut out).await)
        }
        Command::Retry(args) => {
            let config = configured()?;
            block_on(async |_| retry::retry(&args, &config, &mut out).await)
        }
        Command::Status(args) => {
            let config = configured()?;
            block_on(async |_| status::status(&args, &config, &mut out).await)
        }
        Command::Doctor(args) => {
            let config = configured()?;
            block_on(async |_| doctor::run(&args, &config, &mut out).await)
        }
        Command::CheckConfig(args) => {
            check_config::check_config(&args, &load(&given)?, given.file.as_deref(), &mut out)
        }
    }
}

/// What the command line says of the configuration.
struct Given<'a> {
    file: Option<PathBuf>,
    flags: Option<&'a ArgMatches>,
}

/// Loads the configuration from the file, the environment and the flags of a command.
fn load(given: &Given<'_>) -> Result<Config, CommandError> {
    let keys = config::keys();
    let flags = given.flags.map(|flags| overrides(&keys, flags)).unwrap_or_default();
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources = Sources {
        file: given.file.as_deref(),
        env,
        reserved: RESERVED_VARIABLES,
        flags: &flags,
        other: Some(&config::MINER_AGENT),
    };
    Ok(Config::load(&sources)?)
}

fn log(section: &LogSection, screen: &Screen) -> Result<(), CommandError> {
    telemetry::init_to(section.format, &section.filter, screen.log_writer())
        .map_err(|error| CommandError::user(&error))
}

/// Tools have no configuration: they log only what went wrong.
fn quiet_log(screen: &Screen) -> Result<(), CommandError> {
    telemetry::init_to(LogFormat::Text, "warn", screen.log_writer())
        .map_err(|error| CommandError::user(&error))
}

/// Runs a command that signals can end.
fn block_on(
    command: impl AsyncFnOnce(Shutdown) -> Result<ExitStatus, CommandError>,
) -> Result<ExitStatus, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(shut_down_after(async {
        let shutdown = Shutdown::listen()?;
        let ended = command(shutdown.clone()).await;
        match ended {
            Ok(ExitStatus::Success) => ended,
            Ok(_) if shutdown.was_signalled() => Ok(ExitStatus::Interrupted),
            Err(error) if shutdown.was_signalled() => Err(error.interrupted()),
            ended => ended,
        }
    }));
    // Blocking work may still be under way after a second signal; the process does not wait for it. Tasks
    // that are left must not see each other vanish, which a runtime that is shut down would do to them.
    std::mem::forget(runtime);
    ended
}
