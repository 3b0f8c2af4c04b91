//! `serve`: offers the CARs of this box over HTTP by their piece CID, until stopped.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use carferry_core::car_server::{CarServer, CarServerOptions, Catalogue};
use carferry_core::config::ConfigError;
use carferry_core::printer::ExitStatus;
use carferry_core::runtime::Supervisor;
use carferry_core::store::{IndexUser, Store};
use carferry_core::words::counted;
use serde::Serialize;
use tracing::warn;

use crate::commands::text::bytes;
use crate::config::Config;
use crate::console::Console;
use crate::exit::CommandError;
use crate::served_cars::{Found, ServeError, ServedCars};

/// Added to the answers' own grace period, for the tasks to end.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

/// The line that is printed once the server listens.
#[derive(Debug, Serialize)]
struct Line<'a> {
    url: &'a str,
    address: SocketAddr,
    host: &'a str,
    tokenneeded: bool,
    #[serde(flatten)]
    found: Found,
}

/// Runs `serve`.
///
/// # Errors
///
/// When address, token or TLS files cannot be used, or the database does not answer at the start.
pub(super) async fn serve(config: &Config, mut console: Console<'_>) -> Result<ExitStatus, CommandError> {
    let shutdown = console.shutdown;
    let grace = config.setting.grace_period;
    let Some(options) = CarServerOptions::of(&config.setting.serve, grace)? else {
        let places = ["`setting.serve.listen` in the file", "--serve-listen"].map(str::to_owned).to_vec();
        return Err(ConfigError::Missing { key: "setting.serve.listen".to_owned(), places }.into());
    };
    let is_open = options.token.is_none();
    let (catalogue, misses) = Catalogue::new();
    let server =
        CarServer::bind(options, catalogue.clone()).await.map_err(|error| CommandError::user(&error))?;
    let store = Store::open(&config.store_options()?).await?;
    store.ensure_indexes(IndexUser::ClientAgent).await?;
    let host = config.agent_name();
    let mut served = ServedCars::new(store, host.clone(), catalogue);
    let found = match shutdown.token().run_until_cancelled(served.refresh()).await {
        None => return Ok(ExitStatus::Success),
        Some(Err(ServeError::Store(error))) => return Err(error.into()),
        Some(Err(error)) => return Err(CommandError::failure(&error)),
        Some(Ok(found)) => found,
    };
    let (url, address) = (server.url(), server.address());
    let token = if is_open { "" } else { ", with the token" };
    console.result(
        &Line { url: &url, address, host: &host, tokenneeded: !is_open, found },
        format_args!(
            "{} ({}) at {url}?id=<piece CID>{token}; {} missing, {} not as recorded",
            counted(found.cars, "CAR"),
            bytes(found.bytes),
            found.missing,
            found.unfit,
        ),
    )?;
    if found.cars == 0 {
        warn!(host, "no CAR is recorded under this host's name; see setting.agentName");
    }
    if is_open && !address.ip().is_loopback() {
        warn!(%address, "no token is set: everyone who reaches this address may read these CARs");
    }
    let mut tasks = Supervisor::new();
    let stop = shutdown.token().clone();
    tasks.spawn("catalogue", async move {
        served.keep(misses, &stop).await;
        Ok::<(), Infallible>(())
    });
    let stop = shutdown.token().clone();
    tasks.spawn("server", async move {
        server.run(&stop).await;
        Ok::<(), Infallible>(())
    });
    tasks.run(shutdown, grace + GRACE_MARGIN).await.map_err(|error| CommandError::failure(&error))?;
    Ok(ExitStatus::Success)
}
