//! `curio-sim`: the simulator as a program, for rehearsals.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use curio_sim::{CurioConfig, Locator, Release};

/// A stand-in for Curio's market side, as far as it reads offline data.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Where web interface, wake-poller and control paths listen.
    #[arg(long, default_value = "127.0.0.1:4701")]
    listen: SocketAddr,
    /// The release that is played.
    #[arg(long, default_value = "1.28.4")]
    release: Release,
    /// URL of a piece locator; may be given several times.
    #[arg(long)]
    locator: Vec<String>,
    /// Bearer token for all locators.
    #[arg(long, env = "CURIO_SIM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// `SSRFAllowedHosts`: host or host:port; may be given several times.
    #[arg(long)]
    allowed_host: Vec<String>,
    /// Market nodes.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Seconds between two passes of a poller.
    #[arg(long, default_value_t = 30)]
    poll_seconds: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::DEBUG).init();
    let cli = Cli::parse();
    let headers: Vec<_> =
        cli.token.iter().map(|token| ("Authorization".to_owned(), format!("Bearer {token}"))).collect();
    let locators = cli.locator.into_iter().map(|url| Locator { url, headers: headers.clone() }).collect();
    let config = CurioConfig {
        release: cli.release,
        nodes: cli.nodes.max(1),
        locators,
        allowed_hosts: cli.allowed_host,
        poll_interval: Duration::from_secs(cli.poll_seconds.max(1)),
        listen: cli.listen,
        ..CurioConfig::default()
    };
    let sim = curio_sim::start(config).await.context("curio-sim cannot listen")?;
    tracing::info!(url = sim.url(), "curio-sim runs");
    pending().await
}
