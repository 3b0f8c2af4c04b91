//! The program `lotus-sim`: prints its endpoints and serves until SIGINT or SIGTERM.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lotus_sim::{
    Ask, LotusVersion, MinerConfig, Permission, Sim, SimConfig, TimeScale, Timings, WalletConfig,
};
use serde_json::{Value, json};

/// Simulates a Lotus full node and its miners. Not a node: for rehearsals only.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A miner's address; may be given many times.
    #[arg(long = "miner", value_name = "ADDRESS", default_value = "f01000")]
    miners: Vec<String>,
    /// The simulated Lotus release: 1.5, 1.11, 1.23 or 1.27.1.
    #[arg(long, default_value = "1.23", value_parser = parse_version)]
    lotus_version: LotusVersion,
    /// Real milliseconds per epoch; 0 stops the chain (see POST /sim/epoch).
    #[arg(long, default_value_t = 30_000)]
    epoch_ms: u64,
    /// How fast deals go on; 1 is a few seconds from import to active, 0.1 ten times as long.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Chain height at the start.
    #[arg(long, default_value_t = 1_000_000)]
    start_epoch: i64,
    /// Listen address of the full node.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A wallet of the full node; may be given many times.
    #[arg(long = "wallet", value_name = "ADDRESS")]
    wallets: Vec<String>,
    /// Balance of each wallet in FIL.
    #[arg(long, default_value_t = 100)]
    balance: u32,
    /// `DataCap` of each wallet in GiB; without it they are no verified clients.
    #[arg(long)]
    datacap_gib: Option<u32>,
    /// Sector size of the miners in bytes.
    #[arg(long, default_value_t = 32 << 30)]
    sector_size: u64,
    /// The miners' price, in attoFIL per GiB per epoch.
    #[arg(long, default_value_t = 0)]
    price: u64,
    /// Everyone may do everything without a token.
    #[arg(long)]
    no_permissions: bool,
    /// Write `api` and `token` files here as Lotus does: DIR/lotus and DIR/<miner>.
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// Print one JSON object in place of text.
    #[arg(long)]
    json: bool,
}

fn parse_version(text: &str) -> Result<LotusVersion, String> {
    match text.trim_start_matches('v') {
        text if text.starts_with("1.27.1") => Ok(LotusVersion::V1_27_1),
        text if text == "1.5" || text.starts_with("1.5.") => Ok(LotusVersion::V1_5),
        text if text == "1.11" || text.starts_with("1.11.") => Ok(LotusVersion::V1_11),
        text if ["1.23", "1.24", "1.25", "1.26", "1.27"].iter().any(|known| text.starts_with(known)) => {
            Ok(LotusVersion::V1_23)
        }
        _ => Err("one of 1.5, 1.11, 1.23, 1.27.1".to_owned()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let sim = lotus_sim::start(config(&arguments)?).await.context("cannot start")?;
    if let Some(repo) = &arguments.repo {
        write_repos(&sim, repo).with_context(|| format!("cannot write below {}", repo.display()))?;
    }
    announce(&sim, &arguments)?;
    stopped().await?;
    if let Some(repo) = &arguments.repo {
        remove_api_files(&sim, repo);
    }
    sim.shutdown().await;
    Ok(())
}

fn config(arguments: &Arguments) -> Result<SimConfig> {
    ensure!(arguments.speed > 0.0 && arguments.speed.is_finite(), "--speed must be above 0");
    let miner = |id: &String| MinerConfig {
        sector_size: arguments.sector_size,
        ask: Ask {
            price: arguments.price.into(),
            verified_price: (arguments.price / 10).into(),
            ..Ask::default()
        },
        ..MinerConfig::new(id)
    };
    let wallet = |address: String| WalletConfig {
        address,
        balance: u128::from(arguments.balance) * lotus_sim::ATTO_PER_FIL,
        escrow: 0,
        datacap: arguments.datacap_gib.map(|gib| u128::from(gib) << 30),
    };
    let mut wallets = arguments.wallets.clone();
    if wallets.is_empty() {
        wallets.push(WalletConfig::default().address);
    }
    // Twenty times the durations of the tests, and Lotus' interval of polls.
    let timings = Timings {
        client_poll: Duration::from_secs(1),
        client_send_limit: Duration::from_secs(60),
        ..Timings::default().slower(20.0 / arguments.speed)
    };
    Ok(SimConfig {
        version: arguments.lotus_version,
        miners: arguments.miners.iter().map(miner).collect(),
        time: TimeScale { epoch: Duration::from_millis(arguments.epoch_ms) },
        start_epoch: arguments.start_epoch,
        timings,
        wallets: wallets.into_iter().map(wallet).collect(),
        permissions: !arguments.no_permissions,
        listen: Some(arguments.listen),
        ..SimConfig::default()
    })
}

fn announce(sim: &Sim, arguments: &Arguments) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let admin = Permission::Admin;
    if arguments.json {
        let tokens: serde_json::Map<String, Value> =
            [Permission::Read, Permission::Write, Permission::Sign, Permission::Admin]
                .into_iter()
                .map(|permission| (permission.name().to_owned(), json!(sim.token(permission))))
                .collect();
        let miners: serde_json::Map<String, Value> = sim
            .miners()
            .into_iter()
            .map(|id| {
                let info = sim.miner_api_info(&id, admin);
                (id.clone(), json!({ "url": sim.miner_url(&id), "api_info": info }))
            })
            .collect();
        let full = json!({ "url": sim.full_node_url(), "api_info": sim.full_node_api_info(admin) });
        let control = format!("http://{}/sim/", sim.full_node_addr());
        writeln!(
            out,
            "{}",
            json!({ "full_node": full, "miners": miners, "tokens": tokens, "control": control })
        )?;
    } else {
        writeln!(out, "lotus-sim plays Lotus {}; it is no node.", arguments.lotus_version.release())?;
        writeln!(out, "full node      {}", sim.full_node_url())?;
        for id in sim.miners() {
            writeln!(out, "miner {id:8} {}", sim.miner_url(&id))?;
        }
        writeln!(out, "control        http://{}/sim/", sim.full_node_addr())?;
        writeln!(out, "FULLNODE_API_INFO={}", sim.full_node_api_info(admin))?;
        for id in sim.miners() {
            writeln!(out, "MINER_API_INFO={}  # {id}", sim.miner_api_info(&id, admin))?;
        }
        writeln!(out, "write token    {}", sim.token(Permission::Write))?;
    }
    out.flush()?;
    Ok(())
}

/// The folder of each node below the repo folder, with its API.
fn repos(sim: &Sim, repo: &Path) -> Vec<(PathBuf, SocketAddr)> {
    let mut repos = vec![(repo.join("lotus"), sim.full_node_addr())];
    repos.extend(sim.miners().into_iter().map(|id| (repo.join(&id), sim.miner_addr(&id))));
    repos
}

fn write_repos(sim: &Sim, repo: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    for (folder, address) in repos(sim, repo) {
        std::fs::create_dir_all(&folder)?;
        let token = folder.join("token");
        std::fs::remove_file(&token).ok();
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&token)?;
        file.write_all(sim.token(Permission::Admin).as_bytes())?;
        std::fs::write(folder.join("api"), format!("/ip4/{}/tcp/{}/http", address.ip(), address.port()))?;
    }
    Ok(())
}

/// Lotus removes `api` when it stops, and leaves `token`.
fn remove_api_files(sim: &Sim, repo: &Path) {
    for (folder, _address) in repos(sim, repo) {
        std::fs::remove_file(folder.join("api")).ok();
    }
}

async fn stopped() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
