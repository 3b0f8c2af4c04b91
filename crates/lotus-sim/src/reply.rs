//! Caller, reply and error of a JSON-RPC method.
//!
//! What lives here: the types that `rpc` and the methods share. What does not: reading requests and writing
//! answers (`rpc`).

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::calls::{NodeName, Transport};
use crate::jwt::Permission;

/// Version of the full node's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    V0,
    V1,
}

/// The caller of a method, and the called node.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) node: NodeName,
    pub(crate) api: Api,
    pub(crate) transport: Transport,
    pub(crate) permissions: Vec<Permission>,
    /// Cancelled when the caller goes away: the context of the request.
    pub(crate) gone: CancellationToken,
}

/// The result of a method.
#[derive(Debug)]
pub(crate) enum Reply {
    Value(Value),
    /// A list, which [`Sim::pad_lists`](crate::Sim::pad_lists) may enlarge.
    List(Value),
    Void,
    Channel(ChannelKind),
}

/// A stream of values over WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelKind {
    ClientDeals,
    ProviderDeals,
    Head,
}

/// An error of a frame, and its HTTP status.
#[derive(Debug, Clone)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) meta: Option<Value>,
    pub(crate) status: u16,
}

impl RpcError {
    pub(crate) fn application(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), meta: None, status: 200 }
    }

    pub(crate) fn protocol(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), meta: None, status: 500 }
    }

    /// The error of a parameter that does not decode.
    ///
    /// `go_type` is the parameter's type as Go prints it.
    pub(crate) fn params(method: &str, go_type: &str, error: &str) -> Self {
        let text = format!("unmarshaling params for 'Filecoin.{method}' (param: *{go_type}): {error}");
        Self::protocol(-32700, text)
    }

    /// The error of a nil pointer inside the method.
    pub(crate) fn nil_pointer(method: &str) -> Self {
        Self::protocol(
            0,
            format!(
                "fatal error calling 'Filecoin.{method}': panic in rpc method 'Filecoin.{method}': runtime error: \
                 invalid memory address or nil pointer dereference"
            ),
        )
    }

    /// The error as the member of an answer.
    pub(crate) fn json(&self) -> Value {
        let mut value = json!({ "code": self.code, "message": self.message });
        if let Some(meta) = &self.meta {
            value["meta"] = meta.clone();
        }
        value
    }
}
