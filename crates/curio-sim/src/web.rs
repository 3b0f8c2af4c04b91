//! The web interface (`CurioWeb`), `wake-poller`, and the simulator's own control paths, on one port.
//!
//! ```text
//! POST /api/webrpc/v0          CurioWeb.Version, StorageDealInfo, GetMK12DealPipelines
//! POST /market/wake-poller     since v1.28.3
//! GET  /sim/deals, /sim/calls
//! POST /sim/deals              {miner, piece_cid, piece_size, start_epoch}
//! POST /sim/release            reads that are held go on
//! ```
//!
//! Source: curio v1.28.4 `web/api/webrpc/{routes,market}.go`, `cmd/curio/rpc/rpc.go:89-98`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::deal::{Deal, State};
use crate::inner::{Inner, Proposal};

/// Bytes of a request, at most.
const REQUEST_MAX: usize = 1 << 20;
/// Entries of one answer, at most.
const PIPELINES_MAX: usize = 100;

/// Answers connections until the end.
pub(crate) async fn listen(inner: Arc<Inner>, listener: TcpListener) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let shared = Arc::clone(&inner);
        inner.tasks.spawn(async move {
            let service = service_fn(|request| {
                let inner = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&inner, request).await) }
            });
            // A client that went away is no trouble.
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(inner: &Inner, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = match Limited::new(request.into_body(), REQUEST_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match (method, path.as_str()) {
        (Method::POST, "/api/webrpc/v0") => json_answer(&rpc(inner, &body)),
        (method, "/market/wake-poller") if inner.config.release.has_wake_poller() => {
            if method != Method::POST {
                return text(StatusCode::METHOD_NOT_ALLOWED, String::new());
            }
            inner.note(0, "woken", &path, Ok(200));
            inner.wake();
            text(StatusCode::OK, String::new())
        }
        (Method::GET, "/sim/deals") => {
            json_answer(&inner.with(|world| json!(world.deals.values().collect::<Vec<_>>())))
        }
        (Method::POST, "/sim/deals") => match serde_json::from_slice::<Proposal>(&body) {
            Ok(proposal) => json_answer(&json!({ "uuid": inner.propose(proposal) })),
            Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
        },
        (Method::GET, "/sim/calls") => json_answer(&inner.with(|world| json!(world.calls))),
        (Method::POST, "/sim/release") => {
            inner.let_go();
            text(StatusCode::OK, String::new())
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    }
}

fn rpc(inner: &Inner, body: &[u8]) -> Value {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let params = &request["params"];
    let result = match request["method"].as_str().unwrap_or_default() {
        "CurioWeb.Version" => {
            let crate::Release(major, minor, patch) = inner.config.release;
            Ok(json!(format!("{major}.{minor}.{patch}+sim")))
        }
        "CurioWeb.StorageDealInfo" => {
            let uuid = params[0].as_str().unwrap_or_default();
            let deal = inner.with(|world| world.deal(uuid).map(deal_info));
            deal.ok_or_else(|| (1, format!("No such deal found in database: {uuid}")))
        }
        "CurioWeb.GetMK12DealPipelines" => {
            let count = |param: &Value| param.as_u64().and_then(|number| usize::try_from(number).ok());
            let limit = count(&params[0]).unwrap_or(PIPELINES_MAX).min(PIPELINES_MAX);
            let offset = count(&params[1]).unwrap_or(0);
            Ok(inner.with(|world| {
                let rows = world.deals.values().filter(|deal| deal.is_in_pipeline());
                json!(rows.skip(offset).take(limit).map(pipeline).collect::<Vec<_>>())
            }))
        }
        method => Err((-32601, format!("method '{method}' not found"))),
    };
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }),
        Err((code, message)) => {
            json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": message } })
        }
    }
}

/// Plain nulls beside `sql.Null…`: as the source mixes them.
fn deal_info(deal: &Deal) -> Value {
    let is_sealed = deal.state == State::Sealed;
    json!({
        "id": deal.uuid, "miner": deal.miner, "sector": deal.sector, "created_at": "2026-01-01T00:00:00Z",
        "signed_proposal_cid": "", "offline": true, "verified": false, "start_epoch": deal.start_epoch,
        "end_epoch": deal.start_epoch, "chain_deal_id": null, "publish_cid": null, "piece_cid": deal.piece_cid,
        "piece_size": deal.piece_size, "RawSize": null_int(deal.raw_size), "url": deal.url, "error": null,
        "indexed": { "Bool": is_sealed, "Valid": is_sealed }, "is_ddo": false, "piece_cid_v2": "",
    })
}

fn pipeline(deal: &Deal) -> Value {
    let is_started = deal.state != State::Waiting;
    let is_checked = matches!(deal.state, State::Published | State::Sealed | State::SectorFailed);
    // A task that failed three times is gone, and its number stays.
    let task = (is_started && !is_checked).then_some(1);
    let sector = deal.sector.and_then(|sector| u64::try_from(sector).ok());
    json!({
        "uuid": deal.uuid, "started": is_started, "raw_size": null_int(deal.raw_size),
        "url": { "String": deal.url.clone().unwrap_or_default(), "Valid": deal.url.is_some() },
        "commp_task_id": null_int(task), "after_commp": is_checked, "psd_task_id": null_int(None),
        "after_psd": is_checked, "find_deal_task_id": null_int(None), "after_find_deal": is_checked,
        "sector": null_int(sector), "complete": false,
    })
}

fn null_int(number: Option<u64>) -> Value {
    json!({ "Int64": number.unwrap_or(0), "Valid": number.is_some() })
}

fn json_answer(value: &Value) -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::OK, value.to_string());
    let json = hyper::header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    answer
}

fn text(status: StatusCode, words: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(words)));
    *answer.status_mut() = status;
    answer
}
