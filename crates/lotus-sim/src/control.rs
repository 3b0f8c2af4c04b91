//! The control API under `/sim/`, for tests that run the simulator as a separate process.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::calls::NodeName;
use crate::faults::{Fault, FaultKind};
use crate::inner::Inner;
use crate::json::Fields;
use crate::lost_sight::{LostAt, LostSight, Watcher};
use crate::states::DealState;
use crate::{sim, view};

type Refused = (u16, String);

/// Answers one control call.
pub(crate) fn answer(
    inner: &Arc<Inner>,
    method: &str,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> Result<Value, Refused> {
    let bad = |text: String| (400, text);
    let body: Value = if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(body).map_err(|error| bad(format!("the body is no JSON: {error}")))?
    };
    match (method, path) {
        ("GET", "/sim/calls") => {
            let since = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("since=")));
            let since = since.map_or(Ok(0), str::parse).map_err(|error| bad(format!("since: {error}")))?;
            let calls = inner.with(|world| world.log.since(since));
            serde_json::to_value(calls).map_err(|error| (500, error.to_string()))
        }
        ("GET", "/sim/deals") => {
            serde_json::to_value(view::deal_views(inner)).map_err(|error| (500, error.to_string()))
        }
        ("GET", "/sim/state") => Ok(inner.with(|world| {
            let miners: serde_json::Map<String, Value> = world
                .miners
                .keys()
                .map(|id| {
                    let states = world.provider_states(id);
                    let states: serde_json::Map<String, Value> = states
                        .into_iter()
                        .map(|(state, count)| (state.name().to_owned(), json!(count)))
                        .collect();
                    (id.clone(), Value::Object(states))
                })
                .collect();
            json!({ "height": world.head(), "deals": world.deals.len(), "miners": miners })
        })),
        ("POST", "/sim/faults") => {
            let fault = read_fault(&body).map_err(bad)?;
            inner.with(|world| world.faults.push(fault));
            Ok(json!({}))
        }
        ("DELETE", "/sim/faults") => {
            inner.with(|world| world.faults.clear());
            Ok(json!({}))
        }
        ("POST", "/sim/lost-sight") => {
            let lost = read_lost_sight(&body).map_err(bad)?;
            inner.with(|world| world.lost_sight.push(lost));
            Ok(json!({}))
        }
        ("DELETE", "/sim/lost-sight") => {
            inner.with(|world| world.lost_sight.clear());
            Ok(json!({}))
        }
        ("POST", "/sim/epoch") => {
            let fields = Fields::of(&body).map_err(bad)?;
            let (advance, set) = (fields.epoch("advance").map_err(bad)?, fields.epoch("set").map_err(bad)?);
            let height = inner.with(|world| {
                let height = if set > 0 { set } else { world.head() + advance };
                world.set_head(height);
                world.head()
            });
            Ok(json!({ "height": height }))
        }
        ("POST", "/sim/restart") => {
            let node = Fields::of(&body).and_then(|fields| fields.text("node")).map_err(bad)?;
            match node.as_str() {
                "" | "all" => sim::restart_all(inner),
                node => sim::restart(inner, &NodeName::parse(node)),
            }
            Ok(json!({}))
        }
        ("POST", "/sim/deal") => {
            let fields = Fields::of(&body).map_err(bad)?;
            let cid = fields.text("cid").map_err(bad)?;
            let state = state_of(fields).map_err(bad)?;
            let message = fields.text("message").map_err(bad)?;
            if sim::set_provider_state(inner, &cid, state, &message) {
                Ok(json!({}))
            } else {
                Err((404, format!("no provider has deal {cid}")))
            }
        }
        ("POST", "/sim/reject") => {
            let fields = Fields::of(&body).map_err(bad)?;
            let (miner, reason) = (fields.text("miner").map_err(bad)?, fields.text("reason").map_err(bad)?);
            sim::reject_next(inner, &miner, &reason);
            Ok(json!({}))
        }
        _ => Err((404, format!("{method} {path} is not part of the control API; see the README"))),
    }
}

fn state_of(fields: Fields<'_>) -> Result<DealState, String> {
    let code = fields.unsigned("state")?;
    DealState::from_code(code).ok_or_else(|| format!("no deal state has the number {code}"))
}

fn read_lost_sight(body: &Value) -> Result<LostSight, String> {
    let fields = Fields::of(body)?;
    let watcher = match fields.text("watcher")?.as_str() {
        "provider" => Watcher::Provider,
        "client" => Watcher::Client,
        "both" | "" => Watcher::Both,
        other => return Err(format!("no watcher is called {other:?}; one of provider, client, both")),
    };
    let at = match fields.text("at")?.as_str() {
        "publishing" => LostAt::Publishing,
        "sealing" | "" => LostAt::Sealing,
        other => return Err(format!("no step is called {other:?}; one of publishing, sealing")),
    };
    let deals = Some(fields.text("deals")?).filter(|deals| !deals.is_empty());
    Ok(LostSight { watcher, at, deals })
}

fn read_fault(body: &Value) -> Result<Fault, String> {
    let fields = Fields::of(body)?;
    let kind = fields.text("kind")?;
    let text = fields.text("text")?;
    let after = Duration::from_millis(fields.unsigned("ms")?);
    let kind = match kind.as_str() {
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
        "wrong-state" => FaultKind::WrongState(state_of(fields)?),
        "null-id-error" => FaultKind::NullIdError,
        "cut-answer" => FaultKind::CutAnswer,
        other => return Err(format!("no fault is of kind {other:?}")),
    };
    let given = |name: &str| fields.text(name).map(|text| Some(text).filter(|text| !text.is_empty()));
    let times = usize::try_from(fields.unsigned("times")?).map_err(|error| error.to_string())?;
    Ok(Fault {
        node: given("node")?.map(|node| NodeName::parse(&node)),
        method: given("method")?,
        params_contain: given("params_contain")?,
        kind,
        times: Some(times).filter(|times| *times > 0),
    })
}
