//! Starting a simulator: listeners, boostd, the control API.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::boot::Boostd;
use crate::config::BoostConfig;
use crate::control;
use crate::doors::Door;
use crate::faults::Endpoint;
use crate::inner::Inner;
use crate::sim::BoostSim;
use crate::world::World;

/// Starts a simulator on 127.0.0.1: JSON-RPC, GraphQL and the control API, each on its own port.
///
/// # Errors
///
/// If a port cannot be bound, or the miner's address is none.
pub async fn start(config: BoostConfig) -> io::Result<BoostSim> {
    let config = Arc::new(config);
    let world =
        World::new(config.clone()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let rpc = Door::new(Endpoint::Rpc, config.listen)?;
    let graphql = Door::new(Endpoint::Graphql, config.graphql_listen)?;
    let listener =
        TcpListener::bind(config.control_listen.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())).await?;
    let control = listener.local_addr()?;
    let inner = Arc::new(Inner::new(config, world));
    let boostd = Arc::new(Boostd::new(inner.clone(), rpc, graphql));
    boostd.start().await?;
    inner.tasks.spawn(control::listen(boostd.clone(), listener));
    Ok(BoostSim::new(boostd, control))
}
