//! A JSON-RPC client over HTTP for one node: token, time limits, and errors by kind.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::http_client::{HeaderMap, HeaderValue, HttpClientBuilder};
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span, warn};

use crate::config::Secret;
use crate::rpc::authority;
use crate::rpc::endpoint::Endpoint;
use crate::rpc::error::RpcError;
use crate::rpc::go_jsonrpc::{CompatLayer, RESPONSE_BYTES_MAX};
use crate::rpc::go_values::{EachEntry, read_each};

/// How often an idle connection is tested. A peer that lost its power, or a firewall that forgot the
/// connection, sends nothing more, and so does a node that imports for hours. Chosen: a lost peer is noticed
/// within a minute.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_RETRIES: u32 = 3;

/// How long calls may take, by kind.
#[derive(Clone, Copy, Debug)]
pub struct CallTimeouts {
    /// Reading one thing.
    pub quick: Duration,
    /// Listing all deals of a node.
    pub list: Duration,
    /// Sending a proposal: `ClientStatelessDeal` talks to the provider meanwhile and may retry for an hour
    /// (go-fil-markets v1.28.3 `network/libp2p_impl.go`: 1 s to 5 min, 15 times).
    pub publish: Duration,
    /// Importing a CAR: the node copies the file and computes its commitment, minutes per 32 GiB.
    pub import: Duration,
}

impl Default for CallTimeouts {
    fn default() -> Self {
        Self {
            quick: Duration::from_secs(30),
            list: Duration::from_secs(300),
            publish: Duration::from_secs(2 * 3600),
            import: Duration::from_secs(12 * 3600),
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Above every limit of [`CallTimeouts`]; those are what counts.
const TRANSPORT_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The answer as the node wrote it: a list of 100 000 deals is 150 MB of text, and many times that as a tree
/// of values.
type Answer = Result<Box<RawValue>, ClientError>;
type Connect = dyn Fn() -> Result<Arc<Call>, ClientError> + Send + Sync;
type Call = dyn Fn(&'static str, Vec<Value>) -> BoxFuture<'static, Answer> + Send + Sync;

/// A connection to one Lotus API. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    connect: Arc<Connect>,
    call: Arc<Call>,
    endpoint: Arc<str>,
    /// How many entries of the last list could not be read, by method.
    unreadable: Arc<Mutex<HashMap<&'static str, usize>>>,
    /// Limits by kind of call.
    pub timeouts: CallTimeouts,
}

/// A connection, made with its first call.
fn connection(
    url: &str,
    headers: HeaderMap,
    tls: Option<rustls::ClientConfig>,
) -> Result<Arc<Call>, ClientError> {
    let builder = HttpClientBuilder::default();
    let builder = match tls {
        Some(tls) => builder.with_custom_cert_store(tls),
        None => builder,
    };
    let client = builder
        .set_headers(headers)
        .max_response_size(RESPONSE_BYTES_MAX)
        .request_timeout(TRANSPORT_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .set_keep_alive(Some(KEEP_ALIVE_IDLE))
        .set_keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .set_keep_alive_retries(Some(KEEP_ALIVE_RETRIES))
        // The library's own middleware serializes every answer again for its log, even without a log.
        .set_rpc_middleware(RpcServiceBuilder::new())
        .set_http_middleware(tower::ServiceBuilder::new().layer(CompatLayer))
        .build(url)?;
    let client = Arc::new(client);
    Ok(Arc::new(move |method: &'static str, params: Vec<Value>| -> BoxFuture<'static, Answer> {
        let client = Arc::clone(&client);
        Box::pin(async move {
            let mut array = ArrayParams::new();
            for param in params {
                array.insert(param).map_err(ClientError::ParseError)?;
            }
            client.request::<Box<RawValue>, _>(method, array).await
        })
    }))
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for an `http(s)://host:port/rpc/v0` URL. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`RpcError::Transport`] for a URL or token that cannot be sent at all.
    pub fn new(url: &str, token: Option<&str>, timeouts: CallTimeouts) -> Result<Self, RpcError> {
        Self::open(url, token, None, timeouts)
    }

    /// A client for a node at its place, with its token and its authority. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`RpcError::Transport`] for a URL, token or authority that cannot be used at all.
    pub fn of(endpoint: &Endpoint, timeouts: CallTimeouts) -> Result<Self, RpcError> {
        let token = endpoint.token.as_ref().map(Secret::expose);
        Self::open(endpoint.url.as_str(), token, endpoint.ca_file.as_deref(), timeouts)
    }

    fn open(
        url: &str,
        token: Option<&str>,
        ca_file: Option<&Path>,
        timeouts: CallTimeouts,
    ) -> Result<Self, RpcError> {
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| RpcError::Transport {
            method: "connecting",
            endpoint: url.to_owned(),
            source,
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| broken(e.into()))?;
            value.set_sensitive(true);
            headers.insert(http::header::AUTHORIZATION, value);
        }
        let tls = ca_file.map(authority::trusting).transpose().map_err(|error| broken(error.into()))?;
        let connect: Arc<Connect> = {
            let url = url.to_owned();
            Arc::new(move || connection(&url, headers.clone(), tls.clone()))
        };
        let call = connect().map_err(|e| broken(e.into()))?;
        Ok(Self { connect, call, endpoint: url.into(), unreadable: Arc::default(), timeouts })
    }

    /// The same client over a new connection. A node may close an idle connection at any moment; a call that
    /// is then lost has an unknown effect.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn on_new_connection(&self, method: &'static str) -> Result<Self, RpcError> {
        let call = (self.connect)().map_err(|source| RpcError::Transport {
            method,
            endpoint: self.endpoint.to_string(),
            source: source.into(),
        })?;
        Ok(Self { call, ..self.clone() })
    }

    /// Where this client calls, without the token.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Calls `method` once. The client never retries.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the node may go on with the call.
    ///
    /// # Errors
    ///
    /// See [`RpcError`]; after [`RpcError::effect_is_unknown`] read the state before calling again.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Vec<Value>,
        limit: Duration,
    ) -> Result<T, RpcError> {
        let text = self.fetch(method, params, limit).await?;
        serde_json::from_str(text.get()).map_err(|source| self.unreadable(method, source))
    }

    /// Calls a method that answers with a list, whose entries are read one by one.
    ///
    /// A list of hundreds of thousands of deals is seconds of reading, by the client library as well: it is
    /// done on a thread that nothing else waits for.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::call`].
    ///
    /// # Errors
    ///
    /// See [`RpcError`].
    pub async fn call_list<T: DeserializeOwned + Send + 'static>(
        &self,
        method: &'static str,
        params: Vec<Value>,
        limit: Duration,
    ) -> Result<Vec<T>, RpcError> {
        self.call_list_by(method, params, limit, read_each).await
    }

    /// The same, where the caller knows how the list is read.
    pub(crate) async fn call_list_by<T: Send + 'static>(
        &self,
        method: &'static str,
        params: Vec<Value>,
        limit: Duration,
        read_list: impl FnOnce(&str) -> serde_json::Result<EachEntry<T>> + Send + 'static,
    ) -> Result<Vec<T>, RpcError> {
        let (client, runtime, stop) = (self.clone(), Handle::current(), CancellationToken::new());
        let _stops_with_this_future = stop.clone().drop_guard();
        let reading =
            tokio::task::spawn_blocking(move || {
                let text = runtime.block_on(stop.run_until_cancelled(client.fetch(method, params, limit)))?;
                Some(text.and_then(|text| {
                    read_list(text.get()).map_err(|source| client.unreadable(method, source))
                }))
            });
        match reading.await {
            Ok(Some(read)) => read.map(|EachEntry { entries, unreadable, problem }| {
                self.tell_unreadable(method, unreadable, problem);
                entries
            }),
            Ok(None) => Err(self.unreadable(method, serde_json::Error::custom("the call was given up"))),
            Err(error) => Err(self.unreadable(method, serde_json::Error::custom(error))),
        }
    }

    /// Logged when their number changes, because every list contains them.
    fn tell_unreadable(&self, method: &'static str, entries: usize, problem: Option<String>) {
        let mut known = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(method, entries).unwrap_or(0) != entries && entries > 0 {
            let (endpoint, problem) = (&self.endpoint, problem.unwrap_or_default());
            warn!(method, %endpoint, entries, problem, "the node lists what cannot be read: passed over");
        }
    }

    async fn fetch(
        &self,
        method: &'static str,
        params: Vec<Value>,
        limit: Duration,
    ) -> Result<Box<RawValue>, RpcError> {
        let span = debug_span!("rpc", method, endpoint = %self.endpoint);
        match tokio::time::timeout(limit, (self.call)(method, params)).instrument(span).await {
            Err(_elapsed) => Err(RpcError::Timeout {
                method,
                endpoint: self.endpoint.to_string(),
                seconds: limit.as_secs(),
            }),
            Ok(answer) => answer.map_err(|error| RpcError::classify(method, &self.endpoint, error)),
        }
    }

    fn unreadable(&self, method: &'static str, source: serde_json::Error) -> RpcError {
        RpcError::Decode { method, endpoint: self.endpoint.to_string(), source: source.into() }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use futures::future::join;
    use tokio::net::TcpListener;

    use super::*;

    /// Source: Linux `Documentation/networking/proc_net_tcp.rst`: which timer runs, where 2 is keepalive, and
    /// after how many hundredths of a second it ends, in hexadecimal.
    const KEEP_ALIVE_TIMER: &str = "02:";

    #[tokio::test]
    async fn a_connection_that_is_silent_is_asked_whether_it_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}/rpc/v0");
        let client = Client::new(&url, None, CallTimeouts::default()).unwrap();
        let call = client.call::<Value>("Filecoin.Version", Vec::new(), Duration::from_millis(500));
        let look = async {
            let silent = listener.accept().await.unwrap();
            // What was sent is acknowledged by then, so no other timer runs.
            tokio::time::sleep(Duration::from_millis(250)).await;
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            drop(silent);
            let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let ours = |row: &Vec<String>| row.get(2).is_some_and(|to| to.ends_with(&format!(":{port:04X}")));
            table.lines().map(fields).find(ours).expect("the connection is there")
        };
        let (answer, row) = join(call, look).await;
        assert!(answer.is_err());
        let left = row.get(5).and_then(|timer| timer.strip_prefix(KEEP_ALIVE_TIMER));
        let left = left.and_then(|left| u64::from_str_radix(left, 16).ok()).map(|left| left / 100);
        assert!(left.is_some_and(|seconds| seconds <= KEEP_ALIVE_IDLE.as_secs()), "{row:?}");
    }
}
