//! `POST /market/wake-poller`: Curio looks for the data of its waiting deals at once, and not in half a
//! minute.
//!
//! Source: curio v1.28.4 `cmd/curio/rpc/rpc.go:89-98`; since v1.28.3, without a token. Older releases answer
//! 404, and then their own time counts.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;
use url::Url;

const PATH: &str = "/market/wake-poller";
/// Port of a node's API. Source: curio v1.28.4 `deps/config/types.go`.
const PORT: u16 = 12300;

/// What a node answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It looks now.
    Yes,
    /// A release before v1.28.3: it looks by itself, every 30 s.
    NotKnown,
}

/// Why a node was not woken. It looks by itself all the same.
#[derive(Debug, thiserror::Error)]
pub enum WakeError {
    /// The address cannot be called.
    #[error("\"{0}\" is no http://host:port")]
    Address(String),
    /// No connection, a broken one, or no HTTP.
    #[error("no answer")]
    Http(#[from] Error),
    /// A status that means nothing here.
    #[error("answered HTTP {0}")]
    Status(StatusCode),
    /// Nothing came in time.
    #[error("no answer within {0} s")]
    Late(u64),
}

/// Wakes the poller of a node: `http://host:12300`, `host:12300` or `host`.
///
/// # Errors
///
/// [`WakeError`].
pub async fn wake_poller(node: &str, limit: Duration) -> Result<Woken, WakeError> {
    let late = |_elapsed| WakeError::Late(limit.as_secs());
    let status = timeout(limit, post(node)).await.map_err(late)??;
    match status {
        status if status.is_success() => Ok(Woken::Yes),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(Woken::NotKnown),
        status => Err(WakeError::Status(status)),
    }
}

async fn post(node: &str) -> Result<StatusCode, WakeError> {
    let unusable = || WakeError::Address(node.to_owned());
    let (host, port) = address(node).ok_or_else(unusable)?;
    let request = Request::post(format!("http://{host}:{port}{PATH}")).body(Empty::<Bytes>::new());
    let client = Client::builder(TokioExecutor::new()).build_http();
    Ok(client.request(request.map_err(|_| unusable())?).await?.status())
}

fn address(node: &str) -> Option<(String, u16)> {
    let text = if node.contains("://") { node.to_owned() } else { format!("http://{node}") };
    let url = Url::parse(&text).ok().filter(|url| url.scheme() == "http")?;
    let port = if text.ends_with(":80") { Some(80) } else { url.port() };
    Some((url.host_str()?.to_owned(), port.unwrap_or(PORT)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request, and returns its first line.
    async fn answer(listener: TcpListener, status: &str) -> String {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let count = stream.read(&mut asked).await.unwrap();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
        asked.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_node_is_woken_and_an_older_one_forgiven() {
        for (status, expected) in [
            ("200 OK", "Ok(Yes)"),
            ("404 Not Found", "Ok(NotKnown)"),
            ("401 Unauthorized", "Err(Status(401))"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let node = format!("http://{}", listener.local_addr().unwrap());
            let (woken, asked) =
                tokio::join!(wake_poller(&node, Duration::from_secs(20)), answer(listener, status));
            assert_eq!(format!("{woken:?}"), expected);
            assert_eq!(asked, "POST /market/wake-poller HTTP/1.1");
        }
    }

    #[test]
    fn addresses_have_curios_port_unless_they_name_one() {
        let read = |text| address(text).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(read("http://10.0.0.1:1234/").as_deref(), Some("10.0.0.1 1234"));
        assert_eq!(read("curio-1").as_deref(), Some("curio-1 12300"));
        assert_eq!(read("http://curio-1:80").as_deref(), Some("curio-1 80"));
        assert_eq!(read("[::1]:9").as_deref(), Some("[::1] 9"));
        assert_eq!(read("https://curio-1"), None);
    }
}
