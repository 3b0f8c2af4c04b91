//! One HTTP/1.1 request on a connection of its own, without redirects and proxies.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, RANGE};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use url::Url;

/// An answer whose body is read in parts.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `Content-Length`.
    pub(crate) length: Option<u64>,
    body: Incoming,
    /// Drives the connection until this is dropped.
    _connection: JoinSet<()>,
}

impl Answer {
    /// The next bytes; `None` at the end.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// Sends a request; `admit` decides about the address before anything is sent.
pub(crate) async fn fetch(
    method: Method,
    url: &str,
    headers: &[(String, String)],
    range: Option<String>,
    admit: impl FnOnce(IpAddr) -> Result<(), String>,
) -> Result<Answer, String> {
    let url = Url::parse(url).map_err(|error| error.to_string())?;
    if url.scheme() != "http" {
        return Err(format!("unsupported protocol scheme {:?}", url.scheme()));
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await.map_err(|error| error.to_string())?;
    admit(stream.peer_addr().map_err(|error| error.to_string())?.ip())?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Why it ended is seen by the reader of the body.
        let _ended = connection.await;
    });
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut request = Request::builder().method(method).uri(target).header(HOST, format!("{host}:{port}"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if let Some(range) = range {
        request = request.header(RANGE, range);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let length = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Answer { status: answer.status().as_u16(), length, body: answer.into_body(), _connection: driver })
}
