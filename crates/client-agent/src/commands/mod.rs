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
use crate::console::Console;
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
    let given = Given { file: cli.config, flags: matches.subcommand().map(|(_, flags)| flags) };
    let call = Call { given, json: cli.json };
    match cli.command {
        Command::GenerateCar(args) => call.plain(async |console| tools::generate_car(&args, console).await),
        Command::Commp(args) => call.plain(async |console| tools::commp(&args, console).await),
        Command::VerifyCar(args) => call.plain(async |console| tools::verify(&args, console).await),
        Command::Extract(args) => call.plain(async |console| extract::extract(&args, console).await),
        Command::Verify(args) => {
            call.configured(async |config, console| verify::verify(&args, config, console).await)
        }
        Command::Regenerate(args) => {
            call.configured(async |config, console| regenerate::regenerate(&args, config, console).await)
        }
        Command::Serve => call.configured(async |config, console| serve::serve(config, console).await),
        Command::Makecars(args) => {
            call.configured(async |config, console| makecars::makecars(&args, config, console).await)
        }
        Command::Makedeals(args) => {
            call.configured(async |config, console| deals::makedeals(&args, config, console).await)
        }
        Command::Track(args) => {
            call.configured(async |config, console| deals::track(&args, config, console).await)
        }
        Command::Run(args) => {
            call.configured(async |config, console| deals::run(&args, config, console).await)
        }
        Command::Retry(args) => {
            call.configured(async |config, console| retry::retry(&args, config, console).await)
        }
        Command::Status => call.configured(async |config, console| status::status(config, console).await),
        Command::Doctor(args) => {
            call.configured(async |config, console| doctor::run(&args, config, console).await)
        }
        Command::CheckConfig => {
            let config = load(&call.given)?;
            check_config::check_config(&config, call.given.file.as_deref(), call.json, &mut Printer::stdout())
        }
    }
}

/// A call of the program.
struct Call<'a> {
    given: Given<'a>,
    json: bool,
}

impl Call<'_> {
    /// Runs a command that reads the configuration.
    fn configured(
        &self,
        command: impl AsyncFnOnce(&Config, Console<'_>) -> Result<ExitStatus, CommandError>,
    ) -> Result<ExitStatus, CommandError> {
        let config = load(&self.given)?;
        self.run(&config.log, async |console| command(&config, console).await)
    }

    /// Runs a tool, which has no configuration and logs only what went wrong.
    fn plain(
        &self,
        tool: impl AsyncFnOnce(Console<'_>) -> Result<ExitStatus, CommandError>,
    ) -> Result<ExitStatus, CommandError> {
        self.run(&LogSection { format: LogFormat::Text, filter: "warn".to_owned() }, tool)
    }

    /// Runs a command that signals can end.
    fn run(
        &self,
        log: &LogSection,
        command: impl AsyncFnOnce(Console<'_>) -> Result<ExitStatus, CommandError>,
    ) -> Result<ExitStatus, CommandError> {
        let screen = Screen::default();
        telemetry::init_to(log.format, &log.filter, screen.log_writer())
            .map_err(|error| CommandError::user(&error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let ended = runtime.block_on(shut_down_after(async {
            let shutdown = Shutdown::listen()?;
            let mut out = Printer::stdout();
            let console = Console { out: &mut out, screen: &screen, shutdown: &shutdown, json: self.json };
            let ended = command(console).await;
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
