//! Listeners that open and close at a fixed address.
//!
//! A closed listener refuses connections, as the port of a stopped process does. A second socket holds the
//! address meanwhile, without listening, so that no other process gets the port.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::faults::Endpoint;
use crate::http::serve;
use crate::inner::Inner;

/// Length of the queue of connections that wait to be accepted. Chosen: more than any test opens at once.
const BACKLOG: u32 = 1024;

/// The listener of one endpoint.
#[derive(Debug)]
pub(crate) struct Door {
    endpoint: Endpoint,
    address: SocketAddr,
    /// Bound to the address, never listening.
    _holder: TcpSocket,
    open: Mutex<Option<(CancellationToken, JoinHandle<()>)>>,
}

impl Door {
    /// Takes an address; nothing listens yet.
    pub(crate) fn new(endpoint: Endpoint, address: Option<SocketAddr>) -> io::Result<Self> {
        let holder = bound(address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()))?;
        let address = holder.local_addr()?;
        Ok(Self { endpoint, address, _holder: holder, open: Mutex::new(None) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens, unless it does.
    pub(crate) fn open(&self, inner: &Arc<Inner>) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            let listener = bound(self.address)?.listen(BACKLOG)?;
            let down = CancellationToken::new();
            let accepting = accept(inner.clone(), self.endpoint, listener, down.clone());
            *open = Some((down, inner.tasks.spawn(accepting)));
        }
        Ok(())
    }

    /// Refuses connections and cuts those that are open.
    pub(crate) async fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((down, accepting)) = open {
            down.cancel();
            // Ends at once: it does nothing but accept.
            accepting.await.ok();
        }
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(inner: Arc<Inner>, endpoint: Endpoint, listener: TcpListener, down: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = down.cancelled() => return,
            () = inner.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // A lack of descriptors is temporary; the client's connection closes at once.
        let Ok((stream, _peer)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        inner.tasks.spawn(serve(inner.clone(), endpoint, stream, down.clone()));
    }
}
