//! The control API under `/sim/`, for tests that run the simulator as a separate process.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::acceptance::accept;
use crate::boot::Boostd;
use crate::faults::{DealFault, DealFaultKind, Endpoint, Fault, FaultKind};
use crate::http::{Body, plain};
use crate::inner::{Hold, Inner};
use crate::proposal::Proposal;
use crate::publishing;
use crate::record::{Checkpoint, ClientPeer};
use crate::view::deal_view;

type Refused = (u16, String);

/// Largest request. Chosen: a few thousand proposals.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Accepts connections until the simulator ends.
pub(crate) async fn listen(boostd: Arc<Boostd>, listener: TcpListener) {
    let inner = boostd.inner.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = inner.shutdown.cancelled() => return,
        };
        if let Ok((stream, _peer)) = accepted {
            inner.tasks.spawn(serve(boostd.clone(), stream));
        }
    }
}

async fn serve(boostd: Arc<Boostd>, stream: TcpStream) {
    let service = service_fn(|request| respond(boostd.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = boostd.inner.shutdown.cancelled() => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "control connection ended");
            }
        }
    }
}

async fn respond(
    boostd: Arc<Boostd>,
    request: HttpRequest<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let body = match Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(plain(StatusCode::BAD_REQUEST, format!("{error}\n"))),
    };
    let answer = Box::pin(answer(&boostd, method.as_str(), uri.path(), uri.query(), &body)).await;
    Ok(match answer {
        Ok(value) => plain(StatusCode::OK, format!("{value}\n")),
        Err((status, text)) => {
            plain(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), format!("{text}\n"))
        }
    })
}

fn bad(text: impl Into<String>) -> Refused {
    (400, text.into())
}

fn as_json(value: impl serde::Serialize) -> Result<Value, Refused> {
    serde_json::to_value(value).map_err(|error| (500, error.to_string()))
}

/// Answers one control call.
async fn answer(
    boostd: &Boostd,
    method: &str,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> Result<Value, Refused> {
    let body = if body.is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(body).map_err(|error| bad(format!("the body is no JSON object: {error}")))?
    };
    let fields = Fields(&body);
    let inner = &boostd.inner;
    let param = |name: &str| {
        let pairs = query.unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _value)| *key == name)
            .map(|(_key, value)| value)
    };
    match (method, path) {
        ("GET", "/sim/calls") => {
            let since = param("since").map_or(Ok(0), str::parse);
            let since = since.map_err(|error| bad(format!("since: {error}")))?;
            as_json(inner.with(|world| world.log.since(since)))
        }
        ("GET", "/sim/deals") => as_json(inner.with(|world| {
            let wanted = param("uuid");
            let deals = world.store.all().iter();
            let deals = deals.filter(|deal| wanted.is_none_or(|uuid| deal.uuid() == uuid));
            deals.map(|deal| deal_view(world, deal)).collect::<Vec<_>>()
        })),
        ("GET", "/sim/funds") => as_json(inner.with(|world| world.funds.log().to_vec())),
        ("GET", "/sim/state") => Ok(inner.with(|world| {
            let at = |checkpoint: Checkpoint| {
                (checkpoint.name().to_owned(), json!(world.store.count_at(checkpoint)))
            };
            let checkpoints: Map<String, Value> = Checkpoint::ALL.into_iter().map(at).collect();
            json!({
                "height": world.head(), "deals": world.store.len(), "checkpoints": checkpoints,
                "running": world.life().is_some(), "counters": world.counters,
            })
        })),
        ("POST", "/sim/propose") => {
            let proposal = read_proposal(fields, inner)?;
            let names = inner.with(|world| accept(world, &proposal, ClientPeer::Libp2p));
            let names = names.map_err(|reason| (409, reason))?;
            Ok(json!({
                "uuid": names.uuid, "signed_proposal_cid": names.signed_proposal_cid,
                "proposal_cid": names.proposal_cid,
            }))
        }
        ("POST", "/sim/epoch") => {
            let (advance, set) = (fields.integer("advance")?, fields.integer("set")?);
            let height = inner.with(|world| {
                let height = if set > 0 { set } else { world.head() + advance };
                world.set_head(height);
                height
            });
            Ok(json!({ "height": height }))
        }
        ("POST", "/sim/funds") => {
            let (escrow, publish_wallet) = (fields.amount("escrow")?, fields.amount("publish_wallet")?);
            inner.with(|world| world.funds.set(escrow, publish_wallet));
            Ok(json!({}))
        }
        ("POST", "/sim/faults") => {
            let fault = read_fault(fields)?;
            inner.with(|world| world.faults.push(fault));
            Ok(json!({}))
        }
        ("POST", "/sim/deal-faults") => {
            let fault = read_deal_fault(fields)?;
            inner.with(|world| world.faults.push_deal(fault));
            Ok(json!({}))
        }
        ("DELETE", "/sim/faults") => {
            inner.with(|world| world.faults.clear());
            Ok(json!({}))
        }
        ("POST", "/sim/hold" | "/sim/release") => {
            let step = read_step(&fields.text("step")?)?;
            if path == "/sim/hold" {
                inner.hold(step);
            } else {
                inner.release(step);
            }
            Ok(json!({}))
        }
        ("POST", "/sim/publish-now") => {
            inner.with(publishing::send);
            Ok(json!({}))
        }
        ("POST", power @ ("/sim/kill" | "/sim/start" | "/sim/restart")) => {
            if power != "/sim/start" {
                boostd.kill().await;
            }
            if power != "/sim/kill" {
                boostd.start().await.map_err(|error| (500, error.to_string()))?;
            }
            Ok(json!({}))
        }
        ("POST", "/sim/down") => {
            boostd.door(read_endpoint(&fields.text("endpoint")?)?).close().await;
            Ok(json!({}))
        }
        ("POST", "/sim/up") => {
            let door = boostd.door(read_endpoint(&fields.text("endpoint")?)?);
            door.open(inner).map_err(|error| (500, error.to_string()))?;
            Ok(json!({}))
        }
        _ => Err((404, format!("{method} {path} is not part of the control API; see the README"))),
    }
}

/// Fields of a request's body, each optional.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn text(self, name: &str) -> Result<String, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(bad(format!("{name}: {other} is no text"))),
        }
    }

    fn given(self, name: &str) -> Result<Option<String>, Refused> {
        Ok(Some(self.text(name)?).filter(|text| !text.is_empty()))
    }

    fn integer(self, name: &str) -> Result<i64, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| bad(format!("{name}: {value} is no integer"))),
        }
    }

    fn unsigned(self, name: &str) -> Result<u64, Refused> {
        u64::try_from(self.integer(name)?).map_err(|error| bad(format!("{name}: {error}")))
    }

    fn flag(self, name: &str, missing: bool) -> Result<bool, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(missing),
            Some(value) => value.as_bool().ok_or_else(|| bad(format!("{name}: {value} is no flag"))),
        }
    }

    /// A decimal text or a number.
    fn amount(self, name: &str) -> Result<u128, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                text.parse().map_err(|_error| bad(format!("{name}: {value} is no amount")))
            }
        }
    }

    fn times(self) -> Result<Option<usize>, Refused> {
        let times =
            usize::try_from(self.integer("times")?).map_err(|error| bad(format!("times: {error}")))?;
        Ok(Some(times).filter(|times| *times > 0))
    }
}

fn read_proposal(fields: Fields<'_>, inner: &Inner) -> Result<Proposal, Refused> {
    let size = fields.unsigned("piece_size")?;
    let mut proposal = Proposal::new(fields.text("piece_cid")?, size, fields.text("payload_cid")?);
    let start = match fields.integer("start_epoch")? {
        0 => inner.with(|world| world.head()) + 10_000,
        start => start,
    };
    proposal = proposal.starting(start);
    if let end @ 1.. = fields.integer("end_epoch")? {
        proposal.end_epoch = end;
    }
    if let Some(label) = fields.given("label")? {
        proposal.label = label;
    }
    if let Some(client) = fields.given("client")? {
        proposal.client = client;
    }
    proposal.uuid = fields.given("uuid")?;
    proposal.car_size = fields.unsigned("car_size")?;
    proposal.verified = fields.flag("verified", false)?;
    proposal.is_offline = fields.flag("is_offline", true)?;
    proposal.price_per_epoch = fields.amount("price_per_epoch")?;
    proposal.provider_collateral = fields.amount("provider_collateral")?;
    Ok(proposal)
}

fn read_endpoint(name: &str) -> Result<Endpoint, Refused> {
    match name {
        "rpc" => Ok(Endpoint::Rpc),
        "graphql" => Ok(Endpoint::Graphql),
        other => Err(bad(format!("no endpoint is called {other:?}; one of rpc, graphql"))),
    }
}

fn read_step(name: &str) -> Result<Hold, Refused> {
    Ok(match name {
        "commp" => Hold::Commp,
        "publish" => Hold::Publish,
        "confirm" => Hold::Confirm,
        "add-piece" => Hold::AddPiece,
        "index" => Hold::Index,
        other => {
            return Err(bad(format!(
                "no step is called {other:?}; one of commp, publish, confirm, add-piece, index"
            )));
        }
    })
}

fn read_fault(fields: Fields<'_>) -> Result<Fault, Refused> {
    let text = fields.text("text")?;
    let after = Duration::from_millis(fields.unsigned("ms")?);
    let kind = match fields.text("kind")?.as_str() {
        "delay" => FaultKind::Delay(after),
        "delay-answer" => FaultKind::DelayAnswer(after),
        "drop-before" => FaultKind::DropBefore,
        "drop-after-work" => FaultKind::DropAfterWork,
        "http-500" => FaultKind::Http500,
        "unauthorized" => FaultKind::Unauthorized,
        "hang" => FaultKind::Hang,
        "hang-after-work" => FaultKind::HangAfterWork,
        "application-error" => FaultKind::ApplicationError(text),
        "application-error-after-work" => FaultKind::ApplicationErrorAfterWork(text),
        "cut-answer" => FaultKind::CutAnswer,
        other => return Err(bad(format!("no fault is of kind {other:?}"))),
    };
    let endpoint = fields.given("endpoint")?;
    Ok(Fault {
        endpoint: endpoint.map(|name| read_endpoint(&name)).transpose()?,
        method: fields.given("method")?,
        params_contain: fields.given("params_contain")?,
        kind,
        times: fields.times()?,
    })
}

fn read_deal_fault(fields: Fields<'_>) -> Result<DealFault, Refused> {
    let text = fields.text("text")?;
    let kind = match fields.text("kind")?.as_str() {
        "insufficient-funds" => DealFaultKind::InsufficientFunds,
        "tag-fails" => DealFaultKind::TagFails,
        "remote-commp-fails" => DealFaultKind::RemoteCommpFails(text),
        "publish-fails" => DealFaultKind::PublishFails(text),
        "confirm-fails" => DealFaultKind::ConfirmFails(text),
        "add-piece-fails" => DealFaultKind::AddPieceFails(text),
        "index-fails" => DealFaultKind::IndexFails(text),
        "lookup-fails" => DealFaultKind::LookupFails,
        "lookup-null" => DealFaultKind::LookupNull,
        other => return Err(bad(format!("no fault of deals is of kind {other:?}"))),
    };
    Ok(DealFault { uuid: fields.given("uuid")?, kind, times: fields.times()? })
}
