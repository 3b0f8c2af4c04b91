//! Decodes parameters of calls, with the error texts of go-jsonrpc.

use serde_json::Value;

use crate::ids::{Address, Cid, cid_from_json};
use crate::reply::RpcError;

/// Decodes a string parameter.
pub(crate) fn text<'a>(method: &str, param: &'a Value) -> Result<&'a str, RpcError> {
    text_of_type(method, "string", param)
}

/// Decodes a peer ID.
pub(crate) fn peer<'a>(method: &str, param: &'a Value) -> Result<&'a str, RpcError> {
    text_of_type(method, "peer.ID", param)
}

fn text_of_type<'a>(method: &str, go_type: &str, param: &'a Value) -> Result<&'a str, RpcError> {
    param.as_str().ok_or_else(|| {
        RpcError::params(method, go_type, "json: cannot unmarshal into Go value of type string")
    })
}

/// Decodes a CID parameter.
pub(crate) fn link(method: &str, param: &Value) -> Result<Cid, RpcError> {
    cid_from_json(param)
        .and_then(|cid| cid.ok_or_else(|| "cid was incorrectly formatted".to_owned()))
        .map_err(|error| RpcError::params(method, "cid.Cid", &error))
}

/// Decodes an address parameter.
pub(crate) fn address(method: &str, param: &Value) -> Result<Address, RpcError> {
    const GO_TYPE: &str = "address.Address";
    Address::parse(text_of_type(method, GO_TYPE, param)?)
        .map_err(|error| RpcError::params(method, GO_TYPE, error))
}

/// Decodes an unsigned parameter; `go_type` is its type in Lotus.
pub(crate) fn unsigned(method: &str, go_type: &str, param: &Value) -> Result<u64, RpcError> {
    param.as_u64().ok_or_else(|| {
        RpcError::params(method, go_type, &format!("json: cannot unmarshal into Go value of type {go_type}"))
    })
}

/// Decodes a boolean parameter.
pub(crate) fn flag(method: &str, param: &Value) -> Result<bool, RpcError> {
    param
        .as_bool()
        .ok_or_else(|| RpcError::params(method, "bool", "json: cannot unmarshal into Go value of type bool"))
}
