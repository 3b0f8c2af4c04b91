//! An HTTP/1.1 server of CARs by their piece CID: `GET` and `HEAD` of `<path>?id=<piece CID>`, with ranges.
//!
//! ```text
//! agent ─► Catalogue (memory) ◄─ requests ◄─ connections: so many in all, and of one address
//!              │ withdraws a file that changed or is gone
//! ```
//!
//! What lives here: connections, answers, reading of files in blocks. What does not: which CARs are offered,
//! and whether they are what they are offered as; that is the agent's, which fills the [`Catalogue`].
//!
//! What it costs, by `examples/car_server.rs`: at 1.05 Gbit/s to one reader on the same machine 10 to 13 %
//! of a core, of which the program takes 1.6 %, and the system's copies the rest (a build without
//! optimisation on a busy virtual machine of 2 cores).

mod answer;
mod body;
mod catalogue;
mod connection;
mod request;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::car_server::answer::Answers;
use crate::car_server::body::Disk;
pub use crate::car_server::catalogue::{Catalogue, FileStamp, Misses, Offer, OfferedCar, PieceId};
use crate::car_server::connection::Addresses;
use crate::car_server::request::TokenHash;
pub use crate::car_server::tls::TlsError;
use crate::config::sections::CarServerSection;
use crate::config::{ConfigError, Secret, secret};
use crate::error_chain::{ErrorChain, Hint};

/// How long a client may take for its part of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a connection that could not be accepted, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a server listens, whom it admits, and what it may use.
#[derive(Clone, Debug)]
pub struct CarServerOptions {
    /// `host:port` it listens on.
    pub listen: String,
    /// The path of its URL: `/piece`.
    pub path: String,
    /// The bearer token that requests need.
    pub token: Option<Secret>,
    /// PEM files of certificate chain and key; plain HTTP without them.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Connections in all. More wait to be accepted.
    pub connections_max: usize,
    /// Connections of one address. More are closed.
    pub connections_per_address_max: usize,
    /// Bytes a second over all connections.
    pub bytes_per_second_max: Option<u64>,
    /// How long nothing may move on a connection.
    pub idle_timeout: Duration,
    /// How long answers under way may go on after the stop.
    pub grace: Duration,
}

impl CarServerOptions {
    /// What a section of the configuration says; `None` where it names no address.
    ///
    /// # Errors
    ///
    /// When the token's file cannot be read, or one of the TLS files is missing.
    pub fn of(section: &CarServerSection, grace: Duration) -> Result<Option<Self>, ConfigError> {
        let Some(listen) = section.listen.clone() else { return Ok(None) };
        let key = |name: &str| format!("{}.{name}", section.section);
        let token = secret::resolve(&key("token"), section.token.as_ref(), section.token_file.as_deref())?;
        let tls = match (section.tls_cert_file.clone(), section.tls_key_file.clone()) {
            (None, None) => None,
            (Some(certificates), Some(private)) => Some((certificates, private)),
            (certificates, _) => {
                let (there, lacks) = match certificates {
                    Some(_) => ("tlsCertFile", "tlsKeyFile"),
                    None => ("tlsKeyFile", "tlsCertFile"),
                };
                return Err(ConfigError::Conflict {
                    key: key(there),
                    problem: format!("`{}` is not set", key(lacks)),
                    hint: "TLS needs both, the certificate chain and its private key, as PEM files"
                        .to_owned(),
                });
            }
        };
        let path = format!("/{}", section.path.trim().trim_matches('/'));
        Ok(Some(Self {
            listen,
            path,
            token,
            tls,
            connections_max: section.max_connections.max(1),
            connections_per_address_max: section.max_connections_per_address.max(1),
            bytes_per_second_max: section.max_bytes_per_second,
            idle_timeout: section.idle_timeout,
            grace,
        }))
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CarServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address as configured.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Hint for CarServerError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "another process listens there; choose another port".to_owned()
            }
            Self::Listen { .. } => "write an address of this machine and a port: 0.0.0.0:7777".to_owned(),
            Self::Tls(_) => {
                "name PEM files of the certificate chain and of its unencrypted private key".to_owned()
            }
        })
    }
}

/// A server that listens.
pub struct CarServer {
    listener: TcpListener,
    address: SocketAddr,
    answers: Arc<Answers>,
    tls: Option<TlsAcceptor>,
    options: CarServerOptions,
}

impl std::fmt::Debug for CarServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CarServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl CarServer {
    /// Listens; connections are answered once [`Self::run`] is called.
    ///
    /// # Errors
    ///
    /// [`CarServerError`].
    pub async fn bind(options: CarServerOptions, catalogue: Arc<Catalogue>) -> Result<Self, CarServerError> {
        let tls = match &options.tls {
            Some((certificates, key)) => Some(tls::acceptor(certificates, key)?),
            None => None,
        };
        let of_listen = |source| CarServerError::Listen { address: options.listen.clone(), source };
        let listener = TcpListener::bind(&options.listen).await.map_err(of_listen)?;
        let address = listener.local_addr().map_err(of_listen)?;
        let answers = Arc::new(Answers {
            catalogue,
            token: options.token.as_ref().map(|token| TokenHash::of(token.expose())),
            path: options.path.clone(),
            disk: Disk::new(options.connections_max, options.bytes_per_second_max),
        });
        Ok(Self { listener, address, answers, tls, options })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL under which clients on this machine find it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.address, self.options.path)
    }

    /// Answers until the stop; answers under way then have [`CarServerOptions::grace`] to end.
    pub async fn run(self, stop: &CancellationToken) {
        let mut connections = JoinSet::new();
        let permits = Arc::new(Semaphore::new(self.options.connections_max));
        let addresses = Addresses::new(self.options.connections_per_address_max);
        loop {
            while connections.try_join_next().is_some() {}
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            // Cancel safety: no connection is lost that was not accepted.
            let Some((permit, accepted)) = stop.run_until_cancelled(next).await else { break };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(counted) = addresses.admit(peer.ip()) else {
                debug!(peer = %peer.ip(), "closed: this address has as many connections as it may have");
                continue;
            };
            let (answers, tls) = (Arc::clone(&self.answers), self.tls.clone());
            let (idle, stop) = (self.options.idle_timeout, stop.clone());
            connections.spawn(async move {
                serve(stream, tls, answers, idle, &stop).await;
                drop((permit, counted));
            });
        }
        drop(self.listener);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.options.grace, all_ended).await.is_err() {
            debug!(connections = connections.len(), "cut off; their clients go on where they were");
        }
        connections.shutdown().await;
    }
}

async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    answers: Arc<Answers>,
    idle: Duration,
    stop: &CancellationToken,
) {
    // A header that waits for more bytes would wait for the client's acknowledgement.
    let _refused = stream.set_nodelay(true);
    let Some(tls) = tls else { return connection::serve(stream, answers, idle, stop).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => connection::serve(stream, answers, idle, stop).await,
        Ok(Err(error)) => debug!(error = %ErrorChain(&error), "no TLS came about"),
        Err(_elapsed) => debug!("a TLS handshake was not ended in time"),
    }
}

#[cfg(test)]
mod tests;
