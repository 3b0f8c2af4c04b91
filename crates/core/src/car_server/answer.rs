//! Which answer a request gets.
//!
//! ```text
//! 401  without the token               404  another path, no piece CID, a piece that is not offered
//! 405  neither GET nor HEAD            416  a range beyond the end
//! 200  the whole file                  206  one range of it
//! 503  the disk does not answer
//! ```
//!
//! What is not here is always 404, and at once: Curio's poller takes every other status as trouble of the
//! locator, and asks no other one (curio v1.28.4 `tasks/storage-market/storage_market.go:672-786`).

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::car_server::body::{Activity, CarBody, Disk, NotServed, OpenCar};
use crate::car_server::catalogue::{Catalogue, OfferedCar};
use crate::car_server::request::{Span, TokenHash, piece_id, span};
use crate::error_chain::ErrorChain;

/// How long a file may take to be opened. Chosen: below the 10 s that Curio's poller waits.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    Text(Full<Bytes>),
    Car(Box<CarBody>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Text(text) => {
                Pin::new(text).poll_frame(context).map_err(|never: Infallible| match never {})
            }
            Self::Car(car) => Pin::new(&mut **car).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Car(car) => car.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Car(car) => car.size_hint(),
        }
    }
}

/// Answers the requests of all connections.
pub(super) struct Answers {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) token: Option<TokenHash>,
    /// The path that is served: `/piece`.
    pub(super) path: String,
    pub(super) disk: Arc<Disk>,
}

impl Answers {
    /// The answer to one request; `activity` is its connection's.
    pub(super) async fn answer<B>(
        &self,
        request: &Request<B>,
        activity: &Arc<Activity>,
    ) -> Response<AnswerBody> {
        if self.token.is_some_and(|token| !token.admits(request.headers())) {
            return with(
                text(StatusCode::UNAUTHORIZED, "401: no or another bearer token\n"),
                WWW_AUTHENTICATE,
                "Bearer",
            );
        }
        if request.uri().path() != self.path {
            return text(StatusCode::NOT_FOUND, "404: CARs are served under another path\n");
        }
        let method = request.method();
        if method != Method::GET && method != Method::HEAD {
            return with(text(StatusCode::METHOD_NOT_ALLOWED, "405: GET and HEAD\n"), ALLOW, "GET, HEAD");
        }
        let Some(piece) = piece_id(request.uri().query()) else {
            return text(StatusCode::NOT_FOUND, "404: ?id= names no piece CID\n");
        };
        let offered = self.catalogue.find(&piece);
        if method == Method::HEAD
            && let Some(car) = offered.first()
        {
            debug!(piece = %car.piece_cid, size = %car.size, "HEAD");
            return head(car);
        }
        for car in offered {
            match self.open(&car).await {
                Ok(Ok(open)) => return self.serve(request, open, activity),
                Ok(Err(not_served)) => {
                    let (piece, path) = (car.piece_cid, car.path.display());
                    warn!(%piece, %path, error = %ErrorChain(&not_served), "no longer served");
                    self.catalogue.withdraw(&car);
                }
                Err(_elapsed) => {
                    warn!(path = %car.path.display(), "the file system does not answer");
                    let busy = text(StatusCode::SERVICE_UNAVAILABLE, "503: the disk does not answer\n");
                    return with(busy, RETRY_AFTER, "10");
                }
            }
        }
        debug!(piece = %piece.piece_cid(), "not here");
        self.catalogue.missed(piece.piece_cid());
        text(StatusCode::NOT_FOUND, "404: this piece is not here\n")
    }

    async fn open(
        &self,
        car: &Arc<OfferedCar>,
    ) -> Result<Result<OpenCar, NotServed>, tokio::time::error::Elapsed> {
        let to_open = Arc::clone(car);
        let opened = self.disk.blocking(move || Ok(OpenCar::open(to_open)));
        Ok(timeout(OPEN_TIMEOUT, opened).await?.unwrap_or_else(|error| Err(NotServed::Unreadable(error))))
    }

    fn serve<B>(
        &self,
        request: &Request<B>,
        open: OpenCar,
        activity: &Arc<Activity>,
    ) -> Response<AnswerBody> {
        let (size, etag) = (open.car.size.get(), open.car.etag());
        let (status, from, end, content_range) = match span(request.headers(), &etag, size) {
            Span::Whole => (StatusCode::OK, 0, size, None),
            Span::Part { first, last } => {
                let content_range = format!("bytes {first}-{last}/{size}");
                (StatusCode::PARTIAL_CONTENT, first, last + 1, Some(content_range))
            }
            Span::Unsatisfiable => {
                let refused =
                    text(StatusCode::RANGE_NOT_SATISFIABLE, "416: the CAR ends before this range\n");
                return with(refused, CONTENT_RANGE, &format!("bytes */{size}"));
            }
        };
        debug!(piece = %open.car.piece_cid, path = %open.car.path.display(), from, end, "GET");
        let body = CarBody::new(open, Arc::clone(&self.disk), from, end, Arc::clone(activity));
        let answer = of_car(status, AnswerBody::Car(Box::new(body)), &etag);
        match content_range {
            Some(content_range) => with(answer, CONTENT_RANGE, &content_range),
            None => answer,
        }
    }
}

/// Answered from memory: Curio asks for every waiting deal each half minute, one after the other.
fn head(car: &OfferedCar) -> Response<AnswerBody> {
    let empty = AnswerBody::Text(Full::default());
    with(of_car(StatusCode::OK, empty, &car.etag()), CONTENT_LENGTH, &car.size.to_string())
}

fn of_car(status: StatusCode, body: AnswerBody, etag: &str) -> Response<AnswerBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let answer = with(answer, ACCEPT_RANGES, "bytes");
    let answer = with(answer, CONTENT_TYPE, "application/vnd.ipld.car");
    with(answer, ETAG, etag)
}

fn text(status: StatusCode, words: &'static str) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::Text(Full::new(Bytes::from_static(words.as_bytes()))));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with(mut answer: Response<AnswerBody>, name: HeaderName, value: &str) -> Response<AnswerBody> {
    // Values are made of numbers, CIDs and constants.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
