//! HTTP servers: JSON-RPC with the status codes of go-jsonrpc, GraphQL, and the control API.
//!
//! What lives here: connections, authentication, status codes. What does not: listeners that open and close
//! (`doors`), the calls (`methods`, `graphql`, `control`).

use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lotus_sim::Permission;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::faults::Endpoint;
use crate::graphql::resolve::Request as GraphqlRequest;
use crate::handle::handle;
use crate::inner::Inner;
use crate::methods;
use crate::reply::{Answer, CallError, Handled};

/// Largest request. Source: go-jsonrpc `DEFAULT_MAX_REQUEST_SIZE`.
const REQUEST_BYTES_MAX: usize = 100 << 20;

/// Closes a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed on purpose")]
pub(crate) struct CloseConnection;

pub(crate) type Body = Full<Bytes>;

/// Serves one connection until it ends, or until the listener goes down.
pub(crate) async fn serve(inner: Arc<Inner>, endpoint: Endpoint, stream: TcpStream, down: CancellationToken) {
    stream.set_nodelay(true).ok();
    let service = service_fn(|request| answer(inner.clone(), endpoint, request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A stopped process sends nothing further.
        biased;
        () = down.cancelled() => {}
        () = inner.shutdown.cancelled() => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
        }
    }
}

async fn answer(
    inner: Arc<Inner>,
    endpoint: Endpoint,
    request: HttpRequest<Incoming>,
) -> Result<Response<Body>, CloseConnection> {
    match (endpoint, request.uri().path()) {
        (Endpoint::Rpc, "/rpc/v0") => Box::pin(rpc(&inner, request)).await,
        (Endpoint::Graphql, "/graphql/query") => Box::pin(graphql(&inner, request)).await,
        _ => Ok(plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())),
    }
}

async fn rpc(inner: &Arc<Inner>, request: HttpRequest<Incoming>) -> Result<Response<Body>, CloseConnection> {
    let Some(permissions) = authenticate(inner, &request) else {
        return Ok(unauthorized());
    };
    let parse_error = || Ok(frame(inner, None, &CallError::protocol(-32700, "Parse error")));
    let Some(body) = body_bytes(request).await else { return parse_error() };
    let version = inner.config.version;
    // Measured: v2.5.2 tells an empty request from one that is no JSON.
    let invalid = || {
        Ok(frame(inner, None, &CallError { status: 400, ..CallError::protocol(-32600, "Invalid request") }))
    };
    if body.is_empty() && version.sorts_answer_keys() {
        return invalid();
    }
    let Ok(value) = serde_json::from_slice::<Value>(&body) else { return parse_error() };
    match &value {
        Value::Object(_) => {
            let id = value.get("id").filter(|id| !id.is_null());
            let handled = Box::pin(call(inner, &permissions, &value)).await;
            respond(handled, |answer| match answer {
                // What a method answers to a notification is dropped.
                Err(error) if id.is_some() || error.status != 200 => frame(inner, id, error),
                _ => rpc_answer(inner, StatusCode::OK, frame_text(inner, id, answer)),
            })
            .await
        }
        Value::Array(batch) if batch.is_empty() && version.sorts_answer_keys() => invalid(),
        Value::Array(batch) if version.has_batches() => {
            let mut answers = Vec::new();
            for value in batch {
                let id = value.get("id").filter(|id| !id.is_null());
                match Box::pin(call(inner, &permissions, value)).await {
                    Handled::Answer(answer) | Handled::CutAnswer(answer) => {
                        answers.push(frame_text(inner, id, &answer).trim_end().to_owned());
                    }
                    other => return respond(other, |_answer| plain(StatusCode::OK, String::new())).await,
                }
            }
            answers.retain(|answer| !answer.is_empty());
            Ok(rpc_answer(inner, StatusCode::OK, format!("[{}]\n", answers.join(","))))
        }
        _ => parse_error(),
    }
}

async fn call(inner: &Arc<Inner>, permissions: &[Permission], value: &Value) -> Handled {
    let method = value.get("method").and_then(Value::as_str).unwrap_or_default();
    let params = value.get("params").unwrap_or(&Value::Null);
    let work = || methods::call(inner, permissions, method, params);
    handle(inner, Endpoint::Rpc, method, params, work).await
}

async fn graphql(
    inner: &Arc<Inner>,
    request: HttpRequest<Incoming>,
) -> Result<Response<Body>, CloseConnection> {
    if request.method() != Method::POST {
        return Ok(plain(StatusCode::BAD_REQUEST, "EOF\n".to_owned()));
    }
    let Some(body) = body_json(request).await else {
        return Ok(plain(StatusCode::BAD_REQUEST, "invalid character\n".to_owned()));
    };
    let request = GraphqlRequest::read(&body);
    let params = json!({ "query": body.get("query"), "variables": body.get("variables") });
    let work = || Ok(request.answer(inner));
    let handled = handle(inner, Endpoint::Graphql, request.method(), &params, work).await;
    respond(handled, |answer| match answer {
        Ok(value) => with_type("application/json", StatusCode::OK, value.to_string()),
        Err(error) if error.status == 200 => {
            let errors = json!({ "errors": [{ "message": error.message }] });
            with_type("application/json", StatusCode::OK, errors.to_string())
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", error.message)),
    })
    .await
}

/// Sends an answer, or withholds it.
async fn respond(
    handled: Handled,
    write: impl FnOnce(&Answer) -> Response<Body>,
) -> Result<Response<Body>, CloseConnection> {
    match handled {
        Handled::Answer(answer) => Ok(write(&answer)),
        Handled::CutAnswer(answer) => {
            let response = write(&answer);
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Ok(Response::from_parts(head, Full::new(bytes.slice(..bytes.len() / 2))))
        }
        Handled::Unauthorized => Ok(unauthorized()),
        Handled::Close => Err(CloseConnection),
    }
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

async fn body_bytes(request: HttpRequest<Incoming>) -> Option<Bytes> {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await.ok()?;
    Some(body.to_bytes())
}

async fn body_json(request: HttpRequest<Incoming>) -> Option<Value> {
    serde_json::from_slice(&body_bytes(request).await?).ok()
}

/// An error frame with its status. Without an id, go-jsonrpc before its sorted answers sends no body.
fn frame(inner: &Inner, id: Option<&Value>, error: &CallError) -> Response<Body> {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let id = id.or(inner.config.version.sorts_answer_keys().then_some(&Value::Null));
    rpc_answer(inner, status, frame_text(inner, id, &Err(error.clone())))
}

/// An answer of go-jsonrpc, which names its type since its answers are sorted (measured with v2.5.2).
fn rpc_answer(inner: &Inner, status: StatusCode, text: String) -> Response<Body> {
    if inner.config.version.sorts_answer_keys() {
        with_type("application/json", status, text)
    } else {
        plain(status, text)
    }
}

fn unauthorized() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

/// The text of an answer, with the final newline of Go's encoder. Empty for a request without an id.
fn frame_text(inner: &Inner, id: Option<&Value>, answer: &Answer) -> String {
    let Some(id) = id else { return String::new() };
    let sorted = inner.config.version.sorts_answer_keys();
    match answer {
        Ok(value) if sorted => format!("{{\"id\":{id},\"jsonrpc\":\"2.0\",\"result\":{value}}}\n"),
        Ok(value) => format!("{{\"jsonrpc\":\"2.0\",\"result\":{value},\"id\":{id}}}\n"),
        Err(CallError { code, message, .. }) => {
            let message = json!(message);
            let error = format!("{{\"code\":{code},\"message\":{message}}}");
            if sorted {
                format!("{{\"error\":{error},\"id\":{id},\"jsonrpc\":\"2.0\"}}\n")
            } else {
                format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}\n")
            }
        }
    }
}

pub(crate) fn plain(status: StatusCode, text: String) -> Response<Body> {
    with_type("text/plain; charset=utf-8", status, text)
}

fn with_type(content_type: &'static str, status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
