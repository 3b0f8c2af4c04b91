//! `cargo demo`: from files to active deals, once, on servers that it starts itself.
//!
//! Real files become CARs, the CARs become deals, the deals are imported and sealed: by the programs
//! that people run, as processes, on a real replica set, against `lotus-sim` in place of Lotus, or against
//! `boost-sim` in place of Boost, where deals of another client are adopted. What
//! lives here: the order of the steps and how they end. Nothing here is tested by others: it is the
//! test that a newcomer runs.

/// One line to standard error; a terminal that is gone needs none.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        drop(writeln!(std::io::stderr(), $($what)*));
    }};
}

mod boost;
mod configs;
mod making;
mod processes;
mod programs;
mod sample;
mod step_log;
mod steps;
mod summary;
mod watching;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use carferry_core::config::human;
use carferry_core::printer::ExitStatus;
use carferry_core::runtime::Shutdown;
use clap::{Parser, ValueEnum};

/// Carries real files from a folder to active deals, on servers that it starts itself.
///
/// Builds client-agent, miner-agent and lotus-sim, gets a mongod, starts a replica set of three and a
/// simulated Lotus with three miners, and cleans up after itself.
#[derive(Debug, Parser)]
#[command(name = "demo", bin_name = "cargo demo", version, max_term_width = 100)]
struct Arguments {
    /// Folder whose files are packed [default: a sample of files of this machine].
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Size of the sample.
    #[arg(long, value_name = "SIZE", default_value = "300MiB", value_parser = bytes, conflicts_with = "input")]
    size: u64,
    /// The market of the miners.
    #[arg(long, value_enum, default_value_t = Market::Lotus)]
    market: Market,
    /// How deals are published (Lotus).
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    method: Method,
    /// Give up when nothing has changed for so long.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    patience: Duration,
    /// Keep the work folder: sample, CARs, configurations, logs.
    #[arg(long)]
    keep: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// The market that is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Market {
    /// Lotus' own, with three miners: client-agent makes the deals.
    Lotus,
    /// Boost, with one miner: another client makes the deals, and miner-agent adopts them.
    Boost,
}

impl Market {
    fn simulator(self) -> &'static str {
        match self {
            Self::Lotus => "lotus-sim",
            Self::Boost => "boost-sim",
        }
    }
}

/// As in `publishMethod` of client-agent.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    /// Stateless where the price is 0 and the node has it.
    Auto,
    /// `ClientStatelessDeal`: the node forgets the deal, it is followed on chain.
    Stateless,
    /// `ClientStartDeal`: the node keeps the deal and is asked for it.
    Start,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Stateless => "stateless",
            Self::Start => "start",
        }
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    human::parse_bytes(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    human::parse_duration(text).map_err(|error| error.to_string())
}

/// How long a blocking step under way may take to end and clean up after itself.
const LAST_STEPS: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    // mongod and the agents are started through this program, so that they end with it.
    if let Some(ended) = harness::helper::run_if_asked() {
        return ended;
    }
    let arguments = Arguments::parse();
    let status = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => {
            let status = runtime.block_on(run(&arguments));
            runtime.shutdown_timeout(LAST_STEPS);
            status
        }
        Err(error) => {
            say!("cannot start: {error}");
            ExitStatus::Failure
        }
    };
    status.into()
}

async fn run(arguments: &Arguments) -> ExitStatus {
    let shutdown = match Shutdown::listen() {
        Ok(shutdown) => shutdown,
        Err(error) => {
            say!("cannot listen for signals: {error}");
            return ExitStatus::Failure;
        }
    };
    match steps::travel(arguments, shutdown.token()).await {
        Ok(status) => status,
        Err(error) => {
            say!("\nerror: {error:#}");
            ExitStatus::Failure
        }
    }
}
