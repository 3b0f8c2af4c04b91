//! The program `boost-sim`: prints its endpoints and serves until SIGINT or SIGTERM.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use boost_sim::{Ask, BoostConfig, BoostSim, BoostVersion, Permission, PublishBatch, Timings};
use clap::Parser;
use serde_json::{Value, json};

/// Simulates boostd. Not a market: for rehearsals only.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The provider's address.
    #[arg(long, default_value = "f01000")]
    miner: String,
    /// The simulated Boost release: 1.5.0, 1.6.4, 1.7.0, 2.1.2 or 2.5.2.
    #[arg(long, default_value = "2.5.2")]
    boost_version: BoostVersion,
    /// Real milliseconds per epoch; 0 stops the chain (see POST /sim/epoch).
    #[arg(long, default_value_t = 30_000)]
    epoch_ms: u64,
    /// Real milliseconds of each step of a deal: publish, confirm, add piece, index.
    #[arg(long, default_value_t = 1000)]
    step_ms: u64,
    /// Payload bytes per second of the commitment; 0 is this machine's speed.
    #[arg(long, default_value_t = 0)]
    commp_speed: u64,
    /// Deals in a publish message.
    #[arg(long, default_value_t = 1)]
    deals_per_message: usize,
    /// Milliseconds that a publish message waits for further deals.
    #[arg(long, default_value_t = 0)]
    publish_period_ms: u64,
    /// Chain height at the start.
    #[arg(long, default_value_t = 1_000_000)]
    start_epoch: i64,
    /// Listen address of the JSON-RPC.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Listen address of GraphQL.
    #[arg(long, default_value = "127.0.0.1:0")]
    graphql_listen: SocketAddr,
    /// Listen address of the control API.
    #[arg(long, default_value = "127.0.0.1:0")]
    control_listen: SocketAddr,
    /// The provider's price, in attoFIL per GiB per epoch.
    #[arg(long, default_value_t = 0)]
    price: u64,
    /// Every call works without a token.
    #[arg(long)]
    no_permissions: bool,
    /// Print one JSON object in place of text.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let sim = boost_sim::start(config(&arguments)?).await.context("cannot start")?;
    announce(&sim, &arguments)?;
    stopped().await?;
    sim.shutdown().await;
    Ok(())
}

fn config(arguments: &Arguments) -> Result<BoostConfig> {
    ensure!(arguments.deals_per_message > 0, "--deals-per-message must be above 0");
    let defaults = BoostConfig::default();
    Ok(BoostConfig {
        version: arguments.boost_version,
        miner: arguments.miner.clone(),
        ask: Ask {
            price: arguments.price.into(),
            verified_price: (arguments.price / 10).into(),
            ..defaults.ask.clone()
        },
        start_epoch: arguments.start_epoch,
        epoch: Duration::from_millis(arguments.epoch_ms),
        timings: Timings::each(Duration::from_millis(arguments.step_ms)),
        commp_bytes_per_second: Some(arguments.commp_speed).filter(|speed| *speed > 0),
        batch: PublishBatch {
            deals_max: arguments.deals_per_message,
            period: Duration::from_millis(arguments.publish_period_ms),
        },
        permissions: !arguments.no_permissions,
        listen: Some(arguments.listen),
        graphql_listen: Some(arguments.graphql_listen),
        control_listen: Some(arguments.control_listen),
        ..defaults
    })
}

fn announce(sim: &BoostSim, arguments: &Arguments) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let api_info = sim.api_info(Permission::Admin);
    if arguments.json {
        let tokens: serde_json::Map<String, Value> =
            [Permission::Read, Permission::Write, Permission::Sign, Permission::Admin]
                .into_iter()
                .map(|permission| (permission.name().to_owned(), json!(sim.token(permission))))
                .collect();
        let endpoints = json!({
            "rpc": sim.rpc_url(), "graphql": sim.graphql_url(), "control": sim.control_url(),
            "api_info": api_info, "tokens": tokens, "miner": arguments.miner,
        });
        writeln!(out, "{endpoints}")?;
    } else {
        writeln!(out, "boost-sim plays Boost {}; it is no market.", arguments.boost_version)?;
        writeln!(out, "JSON-RPC  {}", sim.rpc_url())?;
        writeln!(out, "GraphQL   {}", sim.graphql_url())?;
        writeln!(out, "control   {}", sim.control_url())?;
        writeln!(out, "BOOST_API_INFO={api_info}")?;
    }
    out.flush()?;
    Ok(())
}

async fn stopped() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
