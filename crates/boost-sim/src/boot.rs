//! Start and end of boostd.
//!
//! Source: boost v2.5.2 `storagemarket/provider.go` (`Start`).

use std::io;
use std::sync::Arc;

use crate::doors::Door;
use crate::execution::{fail, start_passed, start_thread};
use crate::faults::Endpoint;
use crate::inner::Inner;
use crate::record::{Checkpoint, ClientPeer, DUMMY_PEER, Record, Retry};
use crate::world::World;

/// A boostd that can be stopped and started.
#[derive(Debug)]
pub(crate) struct Boostd {
    pub(crate) inner: Arc<Inner>,
    pub(crate) rpc: Door,
    pub(crate) graphql: Door,
    /// One start or end at a time.
    power: tokio::sync::Mutex<()>,
}

impl Boostd {
    pub(crate) fn new(inner: Arc<Inner>, rpc: Door, graphql: Door) -> Self {
        Self { inner, rpc, graphql, power: tokio::sync::Mutex::new(()) }
    }

    pub(crate) fn door(&self, endpoint: Endpoint) -> &Door {
        match endpoint {
            Endpoint::Rpc => &self.rpc,
            Endpoint::Graphql => &self.graphql,
        }
    }

    /// Starts boostd and its listeners; deals go on.
    pub(crate) async fn start(&self) -> io::Result<()> {
        let _power = self.power.lock().await;
        let inner = &self.inner;
        inner.with(|world| {
            let unreadable = |deal: &Record| {
                deal.client_peer == ClientPeer::Dummy && deal.checkpoint != Checkpoint::Complete
            };
            if world.life().is_none() && world.store.all().iter().any(unreadable) {
                // One row that cannot be read fails the list of active deals.
                return Err(io::Error::other(format!("failed to list active deals: {DUMMY_PEER}")));
            }
            if world.begin_life() {
                resume(inner, world);
            }
            Ok(())
        })?;
        self.rpc.open(inner)?;
        self.graphql.open(inner)
    }

    /// Stops boostd as `kill -9` does.
    pub(crate) async fn kill(&self) {
        let _power = self.power.lock().await;
        self.inner.with(World::end_life);
        self.rpc.close().await;
        self.graphql.close().await;
    }
}

/// Takes up deals where the database has them.
fn resume(inner: &Arc<Inner>, world: &mut World) {
    let Some(life) = world.life() else { return };
    let deals: Vec<Record> = world.store.all().to_vec();
    for mut deal in deals {
        if deal.checkpoint >= Checkpoint::IndexedAndAnnounced {
            world.funds.untag(deal.index, deal.uuid());
            continue;
        }
        if deal.checkpoint < Checkpoint::AddedPiece
            && let Some(text) = start_passed(world, &deal)
        {
            fail(world, life.number, &mut deal, text);
            continue;
        }
        let waits_for_data = deal.is_offline && deal.inbound_file_path.is_empty();
        // Online deals have no transfer here.
        if waits_for_data || !deal.is_offline || deal.retry != Retry::Auto {
            continue;
        }
        start_thread(inner, world, deal);
    }
}
