//! Starting a simulator: a listener for each node, and the task of the clock.
//!
//! What lives here: binding and spawning. What does not: connections (`http`), the handle (`sim`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::calls::NodeName;
use crate::config::SimConfig;
use crate::http;
use crate::ids::random_u64;
use crate::inner::Inner;
use crate::sim::Sim;
use crate::world::World;

/// Starts a simulator: one listener for the full node and one for each miner, on 127.0.0.1.
///
/// # Errors
///
/// If a port cannot be bound, or a miner's or wallet's address is none.
pub async fn start(config: SimConfig) -> io::Result<Sim> {
    let config = Arc::new(config);
    let own_folder =
        std::env::temp_dir().join(format!("lotus-sim-{}-{:x}", std::process::id(), random_u64()));
    let staging = config.staging_dir.clone().unwrap_or_else(|| own_folder.clone());
    let world = World::new(config.clone(), &staging)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let listener = http::bind(config.listen).await?;
    let full_node = listener.local_addr()?;
    let mut listeners = vec![(NodeName::Full, listener)];
    let mut miners = BTreeMap::new();
    for (id, miner) in &world.miners {
        let listener = http::bind(miner.config.listen).await?;
        miners.insert(id.clone(), listener.local_addr()?);
        listeners.push((NodeName::Miner(id.clone()), listener));
    }
    let inner = Arc::new(Inner::new(config, world, own_folder));
    for (node, listener) in listeners {
        inner.tasks.spawn(http::listen(inner.clone(), node, listener));
    }
    let clock = inner.clone();
    inner.tasks.spawn(async move { clock.keep_time().await });
    Ok(Sim::new(inner, full_node, miners))
}
