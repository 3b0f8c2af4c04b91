//! JSON-RPC calls in the format of go-jsonrpc (§5.2): reads a request, injects faults, writes the answer.
//!
//! What lives here: requests, permissions, faults, the text of an answer. What does not: sockets (`http`,
//! `ws`), the methods (`full_node`, `miner_node`).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::calls::{NodeName, Outcome, Transport};
use crate::faults::FaultKind;
use crate::inner::Inner;
use crate::methods::{Method, Side};
use crate::reply::{Caller, Reply, RpcError};
use crate::states::DealState;
use crate::world::World;

/// A parsed request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: Option<Value>,
    pub(crate) method: String,
    pub(crate) params: Value,
}

/// How a call is answered.
#[derive(Debug)]
pub(crate) enum Handled {
    Answer(Result<Reply, RpcError>),
    /// Sends the first half of this answer, then closes the connection.
    CutAnswer(Result<Reply, RpcError>),
    /// An error that names no request.
    NullId,
    /// 401.
    Unauthorized,
    /// The connection closes.
    Close,
    /// Never answers.
    Never,
}

/// Why a frame is not a request.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// Not JSON, or not an object with the fields of a request.
    Parse,
    /// An id of a wrong type.
    Invalid,
}

impl Request {
    /// Reads one request object. `string_ids`: whether this release accepts ids that are not integers.
    pub(crate) fn read(value: &Value, string_ids: bool) -> Result<Self, Unreadable> {
        let object = value.as_object().ok_or(Unreadable::Parse)?;
        let id = object.get("id").filter(|id| !id.is_null());
        let id = match id {
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() || string_ids => {
                Some(Value::Number(number.clone()))
            }
            Some(Value::String(text)) if string_ids => Some(Value::String(text.clone())),
            Some(_other) if string_ids => return Err(Unreadable::Invalid),
            Some(_other) => return Err(Unreadable::Parse),
            None => None,
        };
        let method = match object.get("method") {
            Some(Value::String(method)) => method.clone(),
            None => String::new(),
            Some(_other) => return Err(Unreadable::Parse),
        };
        let params = object.get("params").cloned().unwrap_or(Value::Null);
        Ok(Self { id, method, params })
    }
}

/// Records the outcome of a call, also if its task is dropped because the caller went away.
struct Record<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Record<'_> {
    fn end(&self, outcome: Outcome) {
        self.inner.with(|world| world.log.end(self.number, outcome));
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}

impl World {
    /// Takes the first fault that concerns a call, and counts it.
    fn take_fault(&mut self, node: &NodeName, method: &str, params: &Value) -> Option<FaultKind> {
        let index = self.faults.iter().position(|fault| {
            fault.node.as_ref().is_none_or(|wanted| wanted == node)
                && fault.method.as_ref().is_none_or(|wanted| wanted == method)
                && fault.params_contain.as_ref().is_none_or(|text| params.to_string().contains(text))
        })?;
        let fault = self.faults.get_mut(index)?;
        let kind = fault.kind.clone();
        if let Some(times) = fault.times.as_mut() {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.faults.remove(index);
            }
        }
        Some(kind)
    }
}

/// Handles a call: log, fault, work.
pub(crate) async fn handle(inner: &Arc<Inner>, caller: &Caller, request: &Request) -> Handled {
    let (number, fault) = inner.with(|world| {
        let number = world.log.begin(caller.node.clone(), caller.transport, &request.method, &request.params);
        (number, world.take_fault(&caller.node, &request.method, &request.params))
    });
    let record = Record { inner, number };
    match &fault {
        Some(FaultKind::Delay(delay)) => tokio::time::sleep(*delay).await,
        Some(FaultKind::DropBefore) => {
            record.end(Outcome::Withheld);
            return Handled::Close;
        }
        Some(FaultKind::Unauthorized) => {
            record.end(Outcome::Withheld);
            return Handled::Unauthorized;
        }
        Some(FaultKind::NullIdError) => {
            record.end(Outcome::Withheld);
            return Handled::NullId;
        }
        Some(FaultKind::Hang) => {
            record.end(Outcome::Withheld);
            return Handled::Never;
        }
        _ => {}
    }
    let mut result = match &fault {
        Some(FaultKind::Http500) => Err(RpcError::protocol(0, "fatal error: injected")),
        Some(FaultKind::ApplicationError(text)) => Err(RpcError::application(text.clone())),
        _ => work(inner, caller, request).await,
    };
    let mut withhold = None;
    match fault {
        Some(FaultKind::DelayAnswer(delay)) => tokio::time::sleep(delay).await,
        Some(FaultKind::ApplicationErrorAfterWork(text)) => result = Err(RpcError::application(text)),
        Some(FaultKind::WrongState(state)) => {
            if let Ok(Reply::Value(value) | Reply::List(value)) = &mut result {
                replace_state(value, state);
            }
        }
        Some(FaultKind::DropAfterWork) => withhold = Some(Handled::Close),
        Some(FaultKind::HangAfterWork) => withhold = Some(Handled::Never),
        Some(FaultKind::CutAnswer) => {
            record.end(Outcome::Withheld);
            return Handled::CutAnswer(result);
        }
        _ => {}
    }
    if let Some(handled) = withhold {
        record.end(Outcome::Withheld);
        return handled;
    }
    record.end(match &result {
        Ok(_reply) => Outcome::Answered,
        Err(error) => Outcome::Error { code: error.code, message: error.message.clone() },
    });
    Handled::Answer(result)
}

/// Finds the method, checks parameter count and permission, and calls it.
async fn work(inner: &Arc<Inner>, caller: &Caller, request: &Request) -> Result<Reply, RpcError> {
    let version = inner.config.version;
    let side = if caller.node == NodeName::Full { Side::Full } else { Side::Miner };
    let name = request.method.strip_prefix("Filecoin.").unwrap_or_default();
    let Some(method) = Method::find(name, side, version) else {
        return Err(RpcError::protocol(-32601, format!("method '{}' not found", request.method)));
    };
    if method.channel && caller.transport == Transport::Http {
        return Err(RpcError::protocol(
            -32601,
            format!("method '{}' not supported in this mode (no out channel support)", request.method),
        ));
    }
    let params = match &request.params {
        Value::Null => &[][..],
        Value::Array(params) => params.as_slice(),
        _ => {
            return Err(RpcError::protocol(
                -32700,
                format!(
                    "unmarshaling param array: json: cannot unmarshal object into params of '{}'",
                    request.method
                ),
            ));
        }
    };
    if params.len() != method.params {
        return Err(RpcError::protocol(
            -32602,
            format!("wrong param count (method '{}'): {} != {}", request.method, params.len(), method.params),
        ));
    }
    let needed = method.permission(version);
    if inner.config.permissions && !caller.permissions.contains(&needed) {
        return Err(RpcError::application(format!(
            "missing permission to invoke '{name}' (need '{}')",
            needed.name()
        )));
    }
    match &caller.node {
        NodeName::Full => crate::full_node::answer(inner, caller, name, params).await,
        NodeName::Miner(miner) => crate::miner_node::answer(inner, caller, miner, name, params).await,
    }
}

/// The text of an answer, with the final newline of Go's encoder. Empty for a request without an id.
pub(crate) fn answer_text(inner: &Inner, id: Option<&Value>, result: &Result<Reply, RpcError>) -> String {
    let Some(id) = id else { return String::new() };
    let id = print_id(id);
    match result {
        Err(error) => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{}}}\n", error.json()),
        Ok(Reply::Void) if inner.config.version >= crate::LotusVersion::V1_27_1 => {
            format!("{{\"id\":{id},\"jsonrpc\":\"2.0\",\"result\":null}}\n")
        }
        Ok(Reply::Void) => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id}}}\n"),
        Ok(Reply::Value(value)) => format!("{{\"jsonrpc\":\"2.0\",\"result\":{value},\"id\":{id}}}\n"),
        Ok(Reply::List(value)) => {
            let padding = " ".repeat(inner.with(|world| world.list_padding));
            let text = value.to_string();
            let text = match text.strip_suffix(']') {
                Some(open) if !padding.is_empty() => format!("{open}{padding}]"),
                _ => text,
            };
            format!("{{\"jsonrpc\":\"2.0\",\"result\":{text},\"id\":{id}}}\n")
        }
        // The connection replaces `null` by the channel's number.
        Ok(Reply::Channel(_kind)) => format!("{{\"jsonrpc\":\"2.0\",\"result\":null,\"id\":{id}}}\n"),
    }
}

/// Numbers pass through a float64 in go-jsonrpc.
fn print_id(id: &Value) -> String {
    match id.as_f64() {
        Some(number) if id.as_i64().is_none() && id.as_u64().is_none() => format!("{number}"),
        _ => id.to_string(),
    }
}

/// Replaces the state in every deal of an answer.
fn replace_state(value: &mut Value, state: DealState) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace_state(item, state)),
        Value::Object(fields) if fields.contains_key("ProposalCid") => {
            fields.insert("State".to_owned(), json!(state.code()));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Request, Unreadable, print_id};

    #[test]
    fn ids_are_integers_until_strings_came() {
        assert!(matches!(Request::read(&json!({"id": "a", "method": "x"}), false), Err(Unreadable::Parse)));
        let request = Request::read(&json!({"id": "a", "method": "x"}), true).unwrap();
        assert_eq!(request.id, Some(json!("a")));
        assert_eq!(print_id(&json!(0)), "0");
        assert_eq!(print_id(&json!(7.0)), "7");
    }
}
