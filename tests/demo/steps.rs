//! The steps of the demo, one after another, and the cleaning up behind them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use carferry_core::fsx;
use carferry_core::printer::{ExitStatus, Printer};
use harness::{Members, Options, ReplicaSet, mongod};
use indicatif::BinaryBytes;
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::processes::{Errors, Process, log_tails};
use crate::programs::Programs;
use crate::sample::Sample;
use crate::step_log::StepLog;
use crate::summary::{Goal, Summary};
use crate::{Arguments, Market, boost, configs, making, sample, watching};

const MINERS: [&str; 3] = ["f01000", "f01001", "f01002"];
const WALLET: &str = "f1djcw6gt533u2bdzckvtcui6hmmuzpu3mykxkunq";
const LOTUS_VERSION: &str = "1.23";
/// An epoch of mainnet takes 30 s.
const EPOCH_MS: &str = "1000";
const GRACE: Duration = Duration::from_secs(10);
/// What the databases and logs take beside the files.
const ROOM_BESIDE: u64 = 512 << 20;

/// What has been started so far, in the order in which it ends.
#[derive(Debug, Default)]
struct Started {
    agents: Vec<Process>,
    sim: Option<Process>,
    set: Option<ReplicaSet>,
    folder: Option<TempDir>,
    /// Whether Carferry's programs are at work: what fails from here on is not the user's to fix.
    under_way: bool,
}

/// Goes all the steps and cleans up, however they end.
pub(crate) async fn travel(arguments: &Arguments, stop: &CancellationToken) -> anyhow::Result<ExitStatus> {
    let mut started = Started::default();
    let summary = stop.run_until_cancelled(steps(arguments, stop, &mut started)).await;
    let folder = started.folder.as_ref().map(|folder| folder.path().to_owned());
    let status = match summary {
        Some(Ok(summary)) => {
            let mut out = Printer::stdout();
            if arguments.json {
                out.json(&summary)?;
            } else {
                out.line(summary.text())?;
            }
            out.flush()?;
            ExitStatus::Success
        }
        Some(Err(error)) => {
            say!("\nerror: {error:#}");
            if let Some(folder) = &folder {
                let tails = log_tails(folder);
                if !tails.is_empty() {
                    say!("\nThe logs end like this (--keep keeps them whole):\n{tails}");
                }
            }
            if started.under_way { ExitStatus::Failure } else { ExitStatus::UserError }
        }
        None => {
            say!("\ninterrupted: cleaning up");
            ExitStatus::UserError
        }
    };
    started.clean_up(arguments.keep).await?;
    Ok(status)
}

async fn steps(
    arguments: &Arguments,
    stop: &CancellationToken,
    started: &mut Started,
) -> anyhow::Result<Summary> {
    let mut log = StepLog::new();
    if let Some(input) = &arguments.input {
        // Better now than after minutes of building.
        input.canonicalize().with_context(|| format!("cannot use --input {}", input.display()))?;
    }

    let sim = arguments.market.simulator();
    log.begin(&format!("Building client-agent, miner-agent and {sim} (cargo build)"));
    let programs = Programs::build(sim).await?;
    log.end("build", "");

    let folder = tempfile::Builder::new().prefix("carferry-demo-").tempdir()?;
    let folder = started.folder.insert(folder).path().canonicalize()?;

    log.begin("Starting MongoDB: a replica set of three members");
    let mongod = spawn_blocking(mongod::binary).await??;
    say!("      mongod: {} ({})", mongod.display(), origin(&mongod));
    let set = started.set.insert(ReplicaSet::start(Members::Three, Options::default()).await?);
    let uri = set.uri();
    log.end("mongod", &format!("--mongodb-uri '{uri}'"));

    let (input, sample) = if let Some(input) = &arguments.input {
        log.begin("Looking at the files");
        let input =
            input.canonicalize().with_context(|| format!("cannot use --input {}", input.display()))?;
        (input.clone(), sample::measure(&input)?)
    } else {
        log.begin("Gathering a sample of this machine's files (--input DIR takes yours)");
        check_room(&folder, arguments.size)?;
        let input = folder.join("sample");
        let (into, bytes, stop) = (input.clone(), arguments.size, stop.clone());
        (input, spawn_blocking(move || sample::gather(&into, bytes, &stop)).await??)
    };
    let Sample { files, bytes, smallest, largest } = sample;
    // CARs, and the copy that each of the miners makes.
    check_room(&folder, bytes.saturating_mul(1 + u64::try_from(MINERS.len())?))?;
    log.end(
        "sample",
        &format!(
            "{files} files, {} in all, from {} to {}",
            BinaryBytes(bytes),
            BinaryBytes(smallest),
            BinaryBytes(largest)
        ),
    );

    started.under_way = true;
    if arguments.market == Market::Boost {
        let road = boost::Road { programs: &programs, folder: &folder, uri: &uri, input: &input, bytes };
        return road.travel(&mut log, &mut started.sim, &mut started.agents, arguments.patience).await;
    }
    log.begin("Starting lotus-sim, which plays a Lotus full node and three miners");
    let endpoints = start_sim(&programs, &folder, &mut started.sim).await?;
    log.end("lotus-sim", &format!("Lotus {LOTUS_VERSION}, {}", MINERS.join(", ")));
    let cars_folder = folder.join("cars");
    let world = configs::World {
        folder: &folder,
        cars: &cars_folder,
        mongodb_uri: &uri,
        endpoints: &endpoints,
        wallet: WALLET,
        method: arguments.method.as_str(),
    };
    let configs = world.write()?;

    let client_config = configs.client.to_string_lossy().into_owned();
    log.begin("Making CARs: client-agent makecars -c client-agent.yaml --input … --output cars");
    making::cars(&programs, &folder, &client_config, &input, &cars_folder).await?;
    let store = making::store(&uri).await?;
    let cars = making::told_cars(&store, bytes, &mut log).await?;

    log.begin("Making deals and importing: client-agent run -c …, miner-agent run -c … twice");
    say!("      {}", watching::LEGEND);
    let miners: Vec<String> = endpoints.miners.keys().cloned().collect();
    for (name, config) in ["miner-agent-a", "miner-agent-b"].iter().zip(&configs.miner_agents) {
        let arguments = ["run", "-c", &config.to_string_lossy()];
        started.agents.push(Process::start(name, &programs.miner_agent, &arguments, &folder, Errors::ToLog)?);
    }
    let run = ["run", "-c", &client_config];
    started.agents.push(Process::start(
        "client-agent",
        &programs.client_agent,
        &run,
        &folder,
        Errors::ToLog,
    )?);
    let times =
        watching::until_active(&store, &miners, &cars, &mut started.agents, arguments.patience).await?;
    let deals = watching::deals(&store).await?;
    log.end("deals", &format!("{} deals are active", deals.len()));
    log.divide_last(&[
        ("publishing", times.published),
        ("importing", times.imported.saturating_sub(times.published)),
        ("sealing", times.active.saturating_sub(times.imported)),
    ]);
    let (stages, total) = log.so_far();
    Ok(Summary::new(&input, &cars, &deals, Goal::Active, stages, total))
}

/// How [`mongod::binary()`] came to it.
fn origin(mongod: &Path) -> &'static str {
    if std::env::var_os(mongod::binary::MONGOD_VARIABLE).is_some_and(|named| Path::new(&named) == mongod) {
        "named by CARFERRY_MONGOD"
    } else if mongod.components().any(|part| part.as_os_str() == "carferry") {
        "fetched once with pip, kept for the next time"
    } else {
        "found on PATH"
    }
}

fn check_room(folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let free = fsx::free_space(folder)?;
    let needed = bytes.saturating_add(ROOM_BESIDE);
    ensure!(
        free >= needed,
        "the demo needs {} in {}, but only {} are free\nhint: TMPDIR=/somewhere/else cargo demo, or --size 50MiB",
        BinaryBytes(needed),
        folder.display(),
        BinaryBytes(free)
    );
    Ok(())
}

async fn start_sim(
    programs: &Programs,
    folder: &Path,
    slot: &mut Option<Process>,
) -> anyhow::Result<configs::Endpoints> {
    let mut arguments =
        vec!["--json", "--lotus-version", LOTUS_VERSION, "--epoch-ms", EPOCH_MS, "--wallet", WALLET];
    arguments.extend(MINERS.iter().flat_map(|miner| ["--miner", miner]));
    let sim = slot.insert(Process::start("lotus-sim", &programs.sim, &arguments, folder, Errors::ToLog)?);
    making::first_line("lotus-sim", sim, folder).await
}

impl Started {
    async fn clean_up(self, keep: bool) -> anyhow::Result<()> {
        let Self { agents, sim, set, folder, under_way: _ } = self;
        let stopping = agents.into_iter().map(|agent| agent.stop(GRACE));
        let mut stubborn = futures::future::join_all(stopping).await.iter().filter(|well| !**well).count();
        if let Some(sim) = sim
            && !sim.stop(GRACE).await
        {
            stubborn += 1;
        }
        if stubborn > 0 {
            say!("{stubborn} processes did not end within {} s of SIGTERM and were killed", GRACE.as_secs());
        }
        spawn_blocking(move || drop(set)).await?;
        let Some(folder) = folder else { return Ok(()) };
        if keep {
            let kept: PathBuf = folder.keep();
            say!("\nkept: {}", kept.display());
            return Ok(());
        }
        remove(folder).await
    }
}

/// Removes the work folder. A step that was interrupted may still be writing there for a moment.
async fn remove(folder: TempDir) -> anyhow::Result<()> {
    let path = folder.keep();
    let mut tries_left = 20;
    loop {
        let doomed = path.clone();
        match spawn_blocking(move || fs::remove_dir_all(doomed)).await? {
            Ok(()) => return Ok(()),
            Err(error) if tries_left == 0 => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            Err(_) => tries_left -= 1,
        }
        sleep(Duration::from_millis(100)).await;
    }
}
