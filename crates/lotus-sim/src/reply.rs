//! What a method of the JSON-RPC API is given and what it returns: caller, reply, error.
//!
//! What lives here: the types that `rpc` and the methods share. What does not: reading requests and writing
//! answers (`rpc`).

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::calls::{NodeName, Transport};
use crate::jwt::Permission;

/// Which of the two APIs of a full node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    V0,
    V1,
}

/// Who calls, and where.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) node: NodeName,
    pub(crate) api: Api,
    pub(crate) transport: Transport,
    pub(crate) permissions: Vec<Permission>,
    /// Cancelled when the caller no longer waits: the context of the request.
    pub(crate) gone: CancellationToken,
}

/// What a method gives.
#[derive(Debug)]
pub(crate) enum Reply {
    Value(Value),
    /// A list that the padding knob makes larger.
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

/// An error in a frame, and the HTTP status it comes with.
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

    /// A parameter that does not decode.
    ///
    /// `go_type` is the parameter's type as Go prints it.
    pub(crate) fn params(method: &str, go_type: &str, error: &str) -> Self {
        let text = format!("unmarshaling params for 'Filecoin.{method}' (param: *{go_type}): {error}");
        Self::protocol(-32700, text)
    }

    /// A nil pointer inside the method.
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
