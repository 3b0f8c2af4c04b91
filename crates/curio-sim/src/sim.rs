//! The handle of a running simulator, and its start.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::config::CurioConfig;
use crate::deal::Deal;
use crate::inner::{Call, Inner, Proposal};
use crate::{poller, web};

/// A running simulator; it ends when this is dropped.
#[derive(Debug)]
pub struct CurioSim {
    inner: Arc<Inner>,
    address: SocketAddr,
    _end: DropGuard,
}

impl CurioSim {
    /// `http://host:port` of the web interface; `wake-poller` and the control paths are there as well.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A deal that Curio accepted and whose data it waits for; its UUID.
    pub fn propose(&self, proposal: Proposal) -> String {
        self.inner.propose(proposal)
    }

    /// A deal as it is.
    pub fn deal(&self, uuid: &str) -> Option<Deal> {
        self.inner.with(|world| world.deal(uuid).cloned())
    }

    /// What was asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.with(|world| world.calls.clone())
    }

    /// Whether a read for sealing waits to be released.
    pub fn is_held(&self) -> bool {
        self.inner.is_held.load(Ordering::Acquire)
    }

    /// Lets reads that are held go on.
    pub fn release(&self) {
        self.inner.let_go();
    }
}

/// Starts a simulator.
///
/// # Errors
///
/// When it cannot listen.
pub async fn start(config: CurioConfig) -> io::Result<CurioSim> {
    let listener = TcpListener::bind(config.listen).await?;
    let address = listener.local_addr()?;
    let inner = Arc::new(Inner::new(config));
    let (tasks, end) = (&inner.tasks, inner.tasks.end.clone());
    for node in 0..inner.wakes.len() {
        tasks.spawn(poller::poll(Arc::clone(&inner), node));
    }
    tasks.spawn(web::listen(Arc::clone(&inner), listener));
    Ok(CurioSim { inner, address, _end: end.drop_guard() })
}
