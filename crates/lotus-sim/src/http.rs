//! HTTP server of each node: POST and WebSocket upgrade on one path, with the status codes of go-jsonrpc.
//!
//! What lives here: accepting connections, authentication, status codes. What does not: WebSocket frames
//! (`ws`), the calls (`rpc`).

use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::calls::{NodeName, Transport};
use crate::inner::Inner;
use crate::jwt::Permission;
use crate::reply::{Api, Caller, RpcError};
use crate::rpc::{Handled, Request, Unreadable, answer_text, handle};
use crate::{control, ws};

/// Largest request. Source: lotus v1.23.3 `--api-max-req-size`.
const REQUEST_BYTES_MAX: usize = 100 << 20;

/// Closes a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed on purpose")]
struct CloseConnection;

/// Accepts connections of one node until the simulator ends.
pub(crate) async fn listen(inner: Arc<Inner>, node: NodeName, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = inner.shutdown.cancelled() => return,
        };
        // A lack of descriptors is temporary; the client's connection closes at once.
        let Ok((stream, _peer)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let life = inner.with(|world| world.node(&node).filter(|node| node.up).map(|node| node.life.clone()));
        if let Some(life) = life {
            inner.tasks.spawn(serve(inner.clone(), node.clone(), stream, life));
        }
    }
}

async fn serve(inner: Arc<Inner>, node: NodeName, stream: TcpStream, life: CancellationToken) {
    stream.set_nodelay(true).ok();
    let service = service_fn(|request| answer(inner.clone(), node.clone(), life.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        // A stopped process sends nothing further.
        biased;
        () = life.cancelled() => {}
        () = inner.shutdown.cancelled() => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%node, %error, "connection ended");
            }
        }
    }
}

type Body = Full<Bytes>;

async fn answer(
    inner: Arc<Inner>,
    node: NodeName,
    life: CancellationToken,
    request: HttpRequest<Incoming>,
) -> Result<Response<Body>, CloseConnection> {
    let path = request.uri().path().to_owned();
    let version = inner.config.version;
    let api = match (path.as_str(), &node) {
        ("/rpc/v0", _) => Api::V0,
        ("/rpc/v1", NodeName::Full) if version.has_split_api() => Api::V1,
        ("/health/livez" | "/health/readyz", NodeName::Full) if version.has_newer_jsonrpc() => {
            return Ok(plain(StatusCode::OK, String::new()));
        }
        (control, _) if control.starts_with("/sim/") => return Ok(control_answer(&inner, request).await),
        _ => return Ok(plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())),
    };
    let Some(permissions) = authenticate(&inner, &request) else {
        return Ok(plain(StatusCode::UNAUTHORIZED, String::new()));
    };
    let gone = CancellationToken::new();
    let _gone_when_dropped = gone.clone().drop_guard();
    let upgrade = request
        .headers()
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("upgrade")));
    let transport = if upgrade { Transport::Ws } else { Transport::Http };
    let caller = Caller { node, api, transport, permissions, gone };
    if upgrade {
        return Ok(upgrade_answer(inner, caller, life, request));
    }
    let Ok(body) = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await else {
        return Ok(frame(&inner, None, &RpcError::protocol(-32700, "Parse error")));
    };
    rpc_answer(&inner, &caller, &body.to_bytes()).await
}

/// The permissions of a request. `None` for an invalid token, or a header without `Bearer `.
fn authenticate(inner: &Inner, request: &HttpRequest<Incoming>) -> Option<Vec<Permission>> {
    if let Some(value) = request.headers().get(AUTHORIZATION) {
        return inner.secret.verify(value.to_str().ok()?.strip_prefix("Bearer ")?.trim()).ok();
    }
    let query = request.uri().query().unwrap_or_default();
    match query.split('&').find_map(|pair| pair.strip_prefix("token=")) {
        Some(token) if !token.is_empty() => inner.secret.verify(token).ok(),
        _ => Some(vec![Permission::Read]),
    }
}

async fn rpc_answer(
    inner: &Arc<Inner>,
    caller: &Caller,
    body: &[u8],
) -> Result<Response<Body>, CloseConnection> {
    let newer = inner.config.version.has_newer_jsonrpc();
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Ok(frame(inner, None, &RpcError::protocol(-32700, "Parse error")));
    };
    if let Value::Array(batch) = &value {
        if !newer {
            return Ok(frame(inner, None, &RpcError::protocol(-32700, "Parse error")));
        }
        return batch_answer(inner, caller, batch).await;
    }
    match Request::read(&value, newer) {
        Err(Unreadable::Invalid) => {
            let mut error = RpcError::protocol(-32600, "Invalid request");
            error.status = 400;
            Ok(frame(inner, None, &error))
        }
        Err(Unreadable::Parse) => Ok(frame(inner, None, &RpcError::protocol(-32700, "Parse error"))),
        Ok(request) => match Box::pin(handle(inner, caller, &request)).await {
            Handled::Answer(Err(error)) if error.status != 200 => {
                Ok(frame(inner, request.id.as_ref(), &error))
            }
            Handled::Answer(result) => {
                Ok(plain(StatusCode::OK, answer_text(inner, request.id.as_ref(), &result)))
            }
            Handled::CutAnswer(result) => {
                let text = answer_text(inner, request.id.as_ref(), &result);
                Ok(plain(StatusCode::OK, text[..text.len() / 2].to_owned()))
            }
            Handled::NullId => {
                Ok(frame(inner, Some(&Value::Null), &RpcError::protocol(-32700, "Parse error")))
            }
            Handled::Unauthorized => Ok(plain(StatusCode::UNAUTHORIZED, String::new())),
            Handled::Close => Err(CloseConnection),
            Handled::Never => std::future::pending().await,
        },
    }
}

/// Answers the calls of a batch one after the other; only go-jsonrpc v0.3.1 has batches.
async fn batch_answer(
    inner: &Arc<Inner>,
    caller: &Caller,
    batch: &[Value],
) -> Result<Response<Body>, CloseConnection> {
    let mut answers = Vec::new();
    for value in batch {
        let Ok(request) = Request::read(value, true) else {
            let mut error = RpcError::protocol(-32600, "Invalid request");
            error.status = 400;
            return Ok(frame(inner, None, &error));
        };
        match Box::pin(handle(inner, caller, &request)).await {
            Handled::Answer(result) | Handled::CutAnswer(result) => {
                answers.push(answer_text(inner, request.id.as_ref(), &result).trim_end().to_owned());
            }
            Handled::Unauthorized => return Ok(plain(StatusCode::UNAUTHORIZED, String::new())),
            Handled::NullId | Handled::Close => return Err(CloseConnection),
            Handled::Never => std::future::pending().await,
        }
    }
    answers.retain(|answer| !answer.is_empty());
    Ok(plain(StatusCode::OK, format!("[{}]\n", answers.join(","))))
}

/// An error frame with its status. Without an id the older go-jsonrpc sends no body, and the newer one sends
/// `"id":null`.
fn frame(inner: &Inner, id: Option<&Value>, error: &RpcError) -> Response<Body> {
    let newer = inner.config.version.has_newer_jsonrpc();
    let status = if newer {
        error.status
    } else if error.status == 200 {
        200
    } else {
        500
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let id = id.or(newer.then_some(&Value::Null));
    plain(status, answer_text(inner, id, &Err(error.clone())))
}

fn upgrade_answer(
    inner: Arc<Inner>,
    caller: Caller,
    life: CancellationToken,
    request: HttpRequest<Incoming>,
) -> Response<Body> {
    let mut request = request;
    match fastwebsockets::upgrade::upgrade(&mut request) {
        Ok((response, socket)) => {
            let tasks = inner.tasks.clone();
            tasks.spawn(ws::serve(inner, caller, life, socket));
            response.map(|_empty| Full::default())
        }
        Err(error) => plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

async fn control_answer(inner: &Arc<Inner>, request: HttpRequest<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let body = match Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let (status, text) = match control::answer(inner, method.as_str(), uri.path(), uri.query(), &body) {
        Ok(value) => (StatusCode::OK, format!("{value}\n")),
        Err((status, text)) => {
            (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), format!("{text}\n"))
        }
    };
    plain(status, text)
}

/// An answer with the content type that Go detects for all of them: plain text.
fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

/// Binds the given address, or any free port of 127.0.0.1.
pub(crate) async fn bind(address: Option<std::net::SocketAddr>) -> io::Result<TcpListener> {
    TcpListener::bind(address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())).await
}
