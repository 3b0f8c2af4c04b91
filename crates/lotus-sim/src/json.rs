//! Reads JSON as Go's decoder does.
//!
//! What lives here: fields by name in any case, zero for missing ones, amounts as decimal strings. What does
//! not: the parameters of single calls.

use serde_json::{Map, Value};

use crate::ids::{Cid, cid_from_json};

/// The fields of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(format!("json: cannot unmarshal {} into Go value of type struct", kind(other))),
        }
    }

    /// Finds a field by its name, else by its name in another case.
    pub(crate) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).or_else(|| {
            self.0.iter().find(|(key, _value)| key.eq_ignore_ascii_case(name)).map(|(_key, value)| value)
        })
    }

    pub(crate) fn text(self, name: &str) -> Result<String, String> {
        match self.present(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(mismatch(other, name, "string")),
        }
    }

    pub(crate) fn cid(self, name: &str) -> Result<Option<Cid>, String> {
        self.present(name).map_or(Ok(None), cid_from_json)
    }

    pub(crate) fn unsigned(self, name: &str) -> Result<u64, String> {
        match self.present(name) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| mismatch(value, name, "uint64")),
        }
    }

    pub(crate) fn epoch(self, name: &str) -> Result<i64, String> {
        match self.present(name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| mismatch(value, name, "abi.ChainEpoch")),
        }
    }

    pub(crate) fn flag(self, name: &str, missing: bool) -> Result<bool, String> {
        match self.present(name) {
            None => Ok(missing),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(mismatch(other, name, "bool")),
        }
    }

    /// attoFIL: a decimal string, never a number.
    pub(crate) fn amount(self, name: &str) -> Result<i128, String> {
        match self.present(name) {
            None => Ok(0),
            Some(Value::String(text)) => {
                text.parse().map_err(|_error| format!("failed to parse string as a big int: {text}"))
            }
            Some(other) => Err(mismatch(other, name, "string")),
        }
    }

    fn present(self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|value| !value.is_null())
    }
}

/// Converts an unsigned number of epochs to the signed type of calculations.
pub(crate) fn signed(value: u64) -> Result<i64, String> {
    i64::try_from(value).map_err(|_error| format!("number {value} is too large"))
}

fn mismatch(value: &Value, field: &str, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go struct field .{field} of type {wanted}", kind(value))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
