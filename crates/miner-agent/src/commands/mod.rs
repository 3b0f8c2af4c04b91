//! The commands of miner-agent, from the command line to the exit status.

pub mod doctor;
pub mod explain;
pub mod status;
use std::cell::RefCell;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

use carferry_car::check_kernel_choice;
use carferry_core::command_names::as_called;
use carferry_core::error_chain::{Hint, Report};
use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::rpc::endpoint::Endpoint;
use carferry_core::runtime::Shutdown;
use carferry_core::store::{StoreError, shut_down_after};
use carferry_core::telemetry;
use carferry_core::telemetry::fields;
use futures::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent;
use crate::agent::Agent;
use crate::cli::{Cli, Command, Doing, Retry};
use crate::config::Config;
use crate::dispatch::one_pass;
use crate::dispatch::one_pass::DealLine;
use crate::dispatch::pass::Trouble;
use crate::error::AgentError;
use crate::import::ImportContext;
use crate::market::node::Remedy;

/// The whole program, from its arguments (its own name first) to its exit status.
pub fn main_entry(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (cli, flags) = match Cli::parse_from(as_called(args, "miner-agent", &[("makedealimport", "run")])) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help goes to stdout and is no error. A terminal that takes nothing cannot be told.
            let _unwritable = error.print();
            return if error.use_stderr() {
                ExitStatus::UserError.into()
            } else {
                ExitStatus::Success.into()
            };
        }
    };
    let ended =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(AgentError::from).and_then(
            |runtime| {
                let ended = runtime.block_on(shut_down_after(execute(&cli, &flags)));
                // A file that is read on a blocking thread must not hold the process, and tasks that are left
                // must not see each other vanish, which a runtime that is shut down would do to them.
                std::mem::forget(runtime);
                ended
            },
        );
    match ended {
        Ok(status) => status.into(),
        Err(error) => {
            let status = error.exit_status();
            let _unwritable = writeln!(std::io::stderr(), "{}", Report::with_hint(&error, error.hint()));
            status.into()
        }
    }
}

/// Runs an agent until `stop` is cancelled and what is under way has ended, or the grace period has.
///
/// Reads the environment only for where Lotus nodes are, as Lotus does.
///
/// # Errors
///
/// [`AgentError`] when the configuration cannot be used. Servers that are down are waited for.
pub async fn run_agent(config: Config, stop: CancellationToken) -> Result<(), AgentError> {
    let shutdown = Shutdown::new();
    let agent = Agent::build(&config, environment).await?;
    // Cancel safety: the second branch never ends, so `run` is polled to its end.
    tokio::select! {
        ended = agent.run(&shutdown) => ended,
        never = ask_when(&stop, &shutdown) => match never {},
    }
}

async fn ask_when(stop: &CancellationToken, shutdown: &Shutdown) -> std::convert::Infallible {
    stop.cancelled().await;
    shutdown.request();
    std::future::pending().await
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn execute(cli: &Cli, flags: &[(String, String)]) -> Result<ExitStatus, AgentError> {
    let variables = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    check_kernel_choice()?;
    let config = Config::load(cli.config.as_deref(), variables.collect(), flags)?;
    telemetry::init(config.log.format, &config.log.filter)?;
    let mut printer = Printer::stdout();
    match &cli.command {
        Command::Run(Doing { dry_run: false }) => {
            let shutdown = Shutdown::listen()?;
            Agent::build(&config, environment).await?.run(&shutdown).await?;
            Ok(ExitStatus::Success)
        }
        Command::Run(Doing { dry_run: true }) | Command::Import(Doing { dry_run: true }) => {
            let agent = Agent::build(&config, environment).await?;
            over_miners(&agent, cli.json, &mut printer, async |context, tell| {
                one_pass::plan_due(context, tell).await
            })
            .await
        }
        Command::Import(Doing { dry_run: false }) => {
            let agent = Agent::build(&config, environment).await?;
            agent.store.check_replica_set().await?;
            let shutdown = Shutdown::listen()?;
            let stop = shutdown.token().clone();
            let work = over_miners(&agent, cli.json, &mut printer, async |context, tell| {
                one_pass::import_due(context, &stop, tell).await
            });
            let ended = unless_forced(&shutdown, work).await?;
            Ok(if shutdown.token().is_cancelled() { ExitStatus::Interrupted } else { ended })
        }
        Command::Status(options) => {
            let store = agent::open_store(&config).await?;
            if let Some(deal) = &options.deal {
                let explained = explain::explain(&store, &miners(&config), deal).await?;
                if cli.json {
                    printer.json(&explained)?;
                } else {
                    printer.text(explained.text())?;
                }
                let is_known = explained.record.is_some();
                return Ok(if is_known { ExitStatus::Success } else { ExitStatus::UserError });
            }
            let report = status::status(&store, &miners(&config), options.limit).await?;
            if cli.json {
                printer.json(&report)?;
            } else {
                printer.text(report.text())?;
            }
            Ok(ExitStatus::Success)
        }
        Command::Retry(options) => retry(&config, options, cli.json, &mut printer).await,
        Command::Doctor => {
            let checks = doctor::checks(&config, environment).await;
            if cli.json {
                for check in &checks {
                    printer.json(check)?;
                }
            } else {
                printer.text(doctor::text(&checks))?;
            }
            Ok(carferry_core::doctor::status(&checks))
        }
        Command::CheckConfig => {
            // Also finds addresses that are none and token files that cannot be read.
            let agent = Agent::build(&config, environment).await?;
            config.mongodb.check_files()?;
            let target = config.mongodb.target()?;
            let file = cli.config.as_ref().map(|file| file.display().to_string());
            let nodes: Vec<_> = agent.contexts.iter().map(|context| context.market.endpoint()).collect();
            let address = |node: &Option<Endpoint>| node.as_ref().map(|node| node.url.to_string());
            if cli.json {
                let markets: Vec<_> = nodes.iter().map(address).collect();
                printer.json(&json!({
                    "ok": true, "file": file, "miners": miners(&config), "markets": markets,
                    "database": target.database, "servers": target.servers,
                }))?;
            } else {
                let place = file.as_deref().unwrap_or("the environment");
                printer.line(format!("{place} can be used: miners {}", miners(&config).join(", ")))?;
                printer.line(format!("database   {} on {}", target.database, target.servers))?;
                for (miner, node) in miners(&config).iter().zip(&nodes) {
                    let node =
                        node.as_ref().map_or_else(|| "not running now".to_owned(), Endpoint::to_string);
                    printer.line(format!("market     {miner} at {node}"))?;
                }
            }
            Ok(ExitStatus::Success)
        }
    }
}

fn miners(config: &Config) -> Vec<String> {
    config.miners.iter().map(|entry| entry.miner.clone()).collect()
}

/// Ends a pass at once at the second signal; its leases run out.
async fn unless_forced(
    shutdown: &Shutdown,
    work: impl Future<Output = Result<ExitStatus, AgentError>>,
) -> Result<ExitStatus, AgentError> {
    match shutdown.forced().run_until_cancelled(work).await {
        Some(ended) => ended,
        None => Ok(ExitStatus::Interrupted),
    }
}

/// Makes a pass over all miners at once and prints a line per deal; one miner's trouble does not keep the
/// others from their turn.
async fn over_miners<F>(
    agent: &Agent,
    json: bool,
    printer: &mut Printer,
    pass: F,
) -> Result<ExitStatus, AgentError>
where
    F: AsyncFn(&ImportContext, &mut dyn FnMut(DealLine)) -> Result<Option<Trouble>, StoreError>,
{
    let told = RefCell::new((Told::default(), Ok::<(), std::io::Error>(())));
    let out = RefCell::new(&mut *printer);
    let tell = |line: DealLine| {
        let mut told = told.borrow_mut();
        if line.is_trouble() {
            told.0.troubled += 1;
        } else {
            told.0.well += 1;
        }
        let mut out = out.borrow_mut();
        let written = if json { out.json(&line) } else { out.line(text_of(&line)) };
        if told.1.is_ok() {
            told.1 = written;
        }
    };
    let ends =
        join_all(agent.contexts.iter().map(async |context| pass(context, &mut |line| tell(line)).await))
            .await;
    let (told, written) = told.into_inner();
    let mut status = ExitStatus::of_counts(told.well, told.troubled);
    for (context, end) in agent.contexts.iter().zip(ends) {
        if let Some(trouble) = end? {
            warn!(
                { fields::MINER } = context.market.miner(),
                reason = trouble.reason,
                "the market node cannot be worked with"
            );
            status = status.max(match trouble.remedy {
                Remedy::Operator => ExitStatus::UserError,
                Remedy::Time => ExitStatus::Failure,
            });
        }
    }
    written?;
    if !json && told.well + told.troubled == 0 && status == ExitStatus::Success {
        let miners: Vec<_> = agent.contexts.iter().map(|context| context.market.miner()).collect();
        printer.line(format!("nothing is due for {}", miners.join(", ")))?;
    }
    printer.flush()?;
    Ok(status)
}

/// Deals of a pass: done or waiting as they should, and those that a person must look at.
#[derive(Debug, Default)]
struct Told {
    well: u64,
    troubled: u64,
}

fn text_of(line: &DealLine) -> String {
    let mut text = format!("{:<8} {} {}", line.outcome.as_str(), line.miner, line.deal);
    for part in [line.path.as_deref(), line.reason.as_deref()].into_iter().flatten() {
        text.push_str("  ");
        text.push_str(part);
    }
    text
}

async fn retry(
    config: &Config,
    options: &Retry,
    json: bool,
    printer: &mut Printer,
) -> Result<ExitStatus, AgentError> {
    let (store, miners) = (agent::open_store(config).await?, miners(config));
    let asked = store.retry_imports(&miners, options.deal.as_deref()).await?;
    let why = match &options.deal {
        Some(deal) if asked == 0 => {
            Some(explain::why_not_retried(&explain::explain(&store, &miners, deal).await?, &miners))
        }
        None if asked == 0 => Some("none waits or failed".to_owned()),
        _ => None,
    };
    if json {
        printer.json(&json!({ "deals": asked, "reason": why }))?;
    } else if let Some(why) = why {
        printer.line(format!("no deal will be tried again: {why}"))?;
    } else {
        let deals = if asked == 1 { "deal" } else { "deals" };
        printer.line(format!("{asked} {deals} will be tried again"))?;
    }
    // A deal that was named and not found is a slip of the pen; nothing to do for `--all` is none.
    Ok(if asked == 0 && options.deal.is_some() { ExitStatus::UserError } else { ExitStatus::Success })
}
