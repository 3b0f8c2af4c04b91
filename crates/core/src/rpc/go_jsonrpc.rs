//! Repairs answers of go-jsonrpc servers for a strict JSON-RPC client.
//!
//! Every Lotus that has the storage market speaks go-jsonrpc before v0.3.2, which
//!
//! 1. answers void methods with neither `result` nor `error` (go-jsonrpc#102),
//! 2. answers protocol errors (unknown method, wrong parameters, panics) with HTTP 500 or 400 and the reason
//!    in the body,
//! 3. may add `meta` to an error object, which a strict reader refuses,
//! 4. may write `"error": null` beside a result.
//!
//! A tower layer below the HTTP client converts each of them to the form that the client expects. Bodies that
//! are no JSON object pass unchanged.

use std::future;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use http::StatusCode;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jsonrpsee::core::http_helpers::HttpError;
use jsonrpsee::http_client::{HttpBody, HttpRequest, HttpResponse, transport};
use serde_json::{Map, Value};
use tower::{Layer, Service};

use crate::rpc::send_deadline::limited;

/// Answers larger than this are lists of deals, never a void answer or an error: they pass unparsed.
const REPAIRED_BYTES_MAX: usize = 64 * 1024;
/// Limit of an answer. A list of deals exceeds the client library's default of 10 MiB at about 7 700 deals of
/// a provider, and 1 GiB, the library's maximum, at about 700 000.
pub(super) const RESPONSE_BYTES_MAX: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct CompatLayer;

impl<S> Layer<S> for CompatLayer {
    type Service = CompatService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CompatService { inner }
    }
}

#[derive(Clone, Debug)]
pub(super) struct CompatService<S> {
    inner: S,
}

impl<S, B> Service<HttpRequest> for CompatService<S>
where
    S: Service<HttpRequest, Response = HttpResponse<B>, Error = transport::Error>,
    S::Future: Send + 'static,
    B: BodyExt + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = HttpResponse<HttpBody>;
    type Error = transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let answer = self.inner.call(limited(request));
        Box::pin(async move {
            let (mut head, body) = answer.await?.into_parts();
            let failed = |error| transport::Error::Http(HttpError::Stream(error));
            let body = match beginning(body).await.map_err(failed)? {
                Beginning::Whole(bytes) => match repair(&bytes) {
                    Some(Repaired { text, is_error }) => {
                        if is_error {
                            head.status = StatusCode::OK;
                        }
                        head.headers.remove(http::header::CONTENT_LENGTH);
                        HttpBody::from(text)
                    }
                    None => match WebPage::read(head.status, &bytes) {
                        Some(page) => return Err(failed(Box::new(page))),
                        None => HttpBody::from(bytes),
                    },
                },
                Beginning::Long(body) => body,
            };
            Ok(HttpResponse::from_parts(head, body))
        })
    }
}

/// A web page instead of an answer of the API.
#[derive(Debug, thiserror::Error)]
#[error("a web page (HTTP {status}{title})")]
pub(super) struct WebPage {
    status: u16,
    title: String,
}

/// Characters of a page's title that are shown.
const TITLE_MAX: usize = 80;

impl WebPage {
    fn read(status: StatusCode, body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let start = text.trim_start().get(..9).unwrap_or_default().to_ascii_lowercase();
        if !(start.starts_with("<!doctype") || start.starts_with("<html") || start.starts_with("<head")) {
            return None;
        }
        let lower = text.to_ascii_lowercase();
        let from = lower.find("<title>").map(|at| at + "<title>".len());
        let to = lower.find("</title>");
        let title = from.zip(to).and_then(|(from, to)| text.get(from..to)).unwrap_or_default();
        let title: String =
            title.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(TITLE_MAX).collect();
        let title = if title.is_empty() { title } else { format!(", \"{title}\"") };
        Some(Self { status: status.as_u16(), title })
    }

    /// Status and title.
    pub(super) fn told(&self) -> (u16, String) {
        (self.status, self.title.clone())
    }
}

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body as far as it has to be read to know whether it may need repair.
enum Beginning {
    Whole(Vec<u8>),
    /// A list: it is not kept here beside the copy that the client makes.
    Long(HttpBody),
}

async fn beginning<B>(body: B) -> Result<Beginning, BodyError>
where
    B: BodyExt + Send + 'static,
    B::Data: Send,
    B::Error: Into<BodyError>,
{
    let mut body = Box::pin(body);
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.map_err(Into::into)?.into_data() else { continue };
        read.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        if read.len() > REPAIRED_BYTES_MAX {
            let rest = body.into_data_stream().map(|data| {
                let mut data = data.map_err(Into::into)?;
                Ok::<_, BodyError>(Frame::data(data.copy_to_bytes(data.remaining())))
            });
            let start = stream::once(future::ready(Ok(Frame::data(Bytes::from(read)))));
            return Ok(Beginning::Long(HttpBody::new(StreamBody::new(start.chain(rest)))));
        }
    }
    Ok(Beginning::Whole(read))
}

struct Repaired {
    text: Vec<u8>,
    is_error: bool,
}

/// The answer in strict form, or `None` where the bytes are no JSON-RPC answer.
fn repair(bytes: &[u8]) -> Option<Repaired> {
    let mut answer: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    if !answer.contains_key("jsonrpc") || answer.contains_key("method") {
        return None;
    }
    if answer.get("error").is_some_and(Value::is_null) {
        answer.remove("error");
    }
    let is_error = answer.contains_key("error");
    if let Some(error) = answer.get_mut("error").and_then(Value::as_object_mut)
        && let Some(meta) = error.remove("meta")
    {
        error.entry("data").or_insert(meta);
    }
    if !is_error && !answer.contains_key("result") {
        answer.insert("result".to_owned(), Value::Null);
    }
    serde_json::to_vec(&answer).ok().map(|text| Repaired { text, is_error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(text: &str) -> Option<Value> {
        repair(text.as_bytes()).map(|r| serde_json::from_slice(&r.text).unwrap())
    }

    #[test]
    fn void_answers_get_a_null_result() {
        assert_eq!(
            repaired(r#"{"jsonrpc":"2.0","id":7}"#).unwrap(),
            serde_json::json!({"jsonrpc":"2.0","id":7,"result":null})
        );
    }

    #[test]
    fn meta_moves_to_data_and_a_null_error_goes() {
        let with_meta = repaired(
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":3,"message":"actor not found","meta":{"a":1}}}"#,
        );
        assert_eq!(with_meta.unwrap()["error"]["data"], serde_json::json!({"a":1}));
        let null_error = repaired(r#"{"jsonrpc":"2.0","id":7,"result":5,"error":null}"#).unwrap();
        assert_eq!(null_error, serde_json::json!({"jsonrpc":"2.0","id":7,"result":5}));
    }

    #[test]
    fn what_is_no_answer_passes_unchanged() {
        for text in ["", "<html>", "[1]", r#"{"x":1}"#] {
            assert!(repaired(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_web_page_is_known_by_its_beginning_and_named_by_its_title() {
        let page = "\r\n<!DOCTYPE html>\n<html><head><title>502 Bad\n Gateway</title></head></html>";
        let page = WebPage::read(StatusCode::BAD_GATEWAY, page.as_bytes()).unwrap();
        assert_eq!(page.to_string(), "a web page (HTTP 502, \"502 Bad Gateway\")");
        let without = WebPage::read(StatusCode::OK, b"<HTML><body>").unwrap();
        assert_eq!(without.to_string(), "a web page (HTTP 200)");
        for other in [&b""[..], b"[1]", b"<?xml version='1.0'?>", b"no page", &[0xff; 20]] {
            assert!(WebPage::read(StatusCode::OK, other).is_none());
        }
    }

    #[tokio::test]
    async fn a_long_answer_passes_as_it_is_and_its_errors_too() {
        let chunk = |byte: u8| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![byte; 40_000])));
        let body = |chunks: Vec<_>| StreamBody::new(stream::iter(chunks));

        let Beginning::Whole(short) = beginning(body(vec![chunk(1)])).await.unwrap() else {
            panic!("one chunk may need repair")
        };
        assert_eq!(short, vec![1; 40_000]);

        let chunks = vec![chunk(1), chunk(2), chunk(3)];
        let Beginning::Long(long) = beginning(body(chunks)).await.unwrap() else {
            panic!("three chunks are a list")
        };
        let read = long.collect().await.unwrap().to_bytes();
        assert_eq!(read, [1, 2, 3].map(|byte| vec![byte; 40_000]).concat());

        let cut = || Err(std::io::Error::other("cut"));
        let Beginning::Long(long) = beginning(body(vec![chunk(1), chunk(2), cut()])).await.unwrap() else {
            panic!("two chunks are a list")
        };
        assert!(long.collect().await.is_err());
        assert!(beginning(body(vec![chunk(1), cut()])).await.is_err());
    }
}
