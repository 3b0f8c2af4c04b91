//! Decodes parameters of calls with the error texts of Go.

use data_encoding::BASE64;
use serde_json::Value;

use crate::proposal::Proposal;
use crate::reply::CallError;

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

fn mismatch(method: &str, go_type: &str, value: &Value) -> CallError {
    let text = format!("json: cannot unmarshal {} into Go value of type {go_type}", kind(value));
    CallError::param(method, go_type, text)
}

/// A UUID in its canonical form; `null` is the UUID of zeros.
pub(crate) fn uuid(method: &str, value: &Value) -> Result<String, CallError> {
    const GO_TYPE: &str = "uuid.UUID";
    match value {
        Value::Null => Ok("00000000-0000-0000-0000-000000000000".to_owned()),
        Value::String(text) => {
            crate::uuid::parse(text).map_err(|error| CallError::param(method, GO_TYPE, error))
        }
        // Go names the type that decodes texts, which is the pointer's.
        other => {
            let text = format!("json: cannot unmarshal {} into Go value of type *{GO_TYPE}", kind(other));
            Err(CallError::param(method, GO_TYPE, text))
        }
    }
}

/// A text; `null` is empty.
pub(crate) fn text<'a>(method: &str, value: &'a Value) -> Result<&'a str, CallError> {
    match value {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text),
        other => Err(mismatch(method, "string", other)),
    }
}

/// A flag; `null` is false.
pub(crate) fn flag(method: &str, value: &Value) -> Result<bool, CallError> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        other => Err(mismatch(method, "bool", other)),
    }
}

/// `{"/": "baf…"}` in its canonical text; `null` is the undefined CID, which Go prints as `b`.
pub(crate) fn cid(method: &str, value: &Value) -> Result<String, CallError> {
    const GO_TYPE: &str = "cid.Cid";
    /// Go prints the structure that it decodes a link into.
    const LINK: &str = r#"struct { CidTarget string "json:\"/\"" }"#;
    let invalid = |text: String| CallError::param(method, GO_TYPE, format!("invalid cid: {text}"));
    let link = match value {
        Value::Null => return Ok("b".to_owned()),
        Value::Object(fields) => fields.get("/").and_then(Value::as_str).unwrap_or_default(),
        other => {
            return Err(invalid(format!(
                "json: cannot unmarshal {} into Go value of type {LINK}",
                kind(other)
            )));
        }
    };
    if link.is_empty() {
        return Err(invalid("cid was incorrectly formatted".to_owned()));
    }
    // The words for other texts that are no CID are not Go's.
    link.parse::<cid::CidGeneric<128>>()
        .map(|cid| cid.to_string())
        .map_err(|error| invalid(error.to_string()))
}

/// `types.DealParams`: missing fields are zero.
pub(crate) fn deal_params(method: &str, value: &Value) -> Result<Proposal, CallError> {
    const GO_TYPE: &str = "types.DealParams";
    let fields = value.as_object().ok_or_else(|| mismatch(method, GO_TYPE, value))?;
    let signed = fields.get("ClientDealProposal").unwrap_or(&Value::Null);
    let proposal = signed.get("Proposal").unwrap_or(&Value::Null);
    let link = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(link) => cid(method, link),
    };
    let text = |name: &str| proposal.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let epoch = |name: &str| proposal.get(name).and_then(Value::as_i64).unwrap_or_default();
    let amount = |name: &str| match text(name).as_str() {
        "" => Ok(0),
        digits => digits.parse::<u128>().map_err(|_error| {
            CallError::param(method, GO_TYPE, format!("failed to parse big string: {digits:?}"))
        }),
    };
    let set = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or_default();
    let signature = signed.get("ClientSignature").and_then(|signature| signature.get("Data"));
    let signature = signature.and_then(Value::as_str).unwrap_or_default();
    Ok(Proposal {
        piece_cid: link(proposal.get("PieceCID"))?,
        piece_size: proposal.get("PieceSize").and_then(Value::as_u64).unwrap_or_default(),
        payload_cid: link(fields.get("DealDataRoot"))?,
        car_size: fields
            .get("Transfer")
            .and_then(|transfer| transfer.get("Size")?.as_u64())
            .unwrap_or_default(),
        label: text("Label"),
        client: text("Client"),
        provider: Some(text("Provider")),
        start_epoch: epoch("StartEpoch"),
        end_epoch: epoch("EndEpoch"),
        verified: proposal.get("VerifiedDeal").and_then(Value::as_bool).unwrap_or_default(),
        price_per_epoch: amount("StoragePricePerEpoch")?,
        provider_collateral: amount("ProviderCollateral")?,
        is_offline: set("IsOffline"),
        fast_retrieval: !set("RemoveUnsealedCopy"),
        announce: !set("SkipIPNIAnnounce"),
        uuid: Some(uuid(method, fields.get("DealUUID").unwrap_or(&Value::Null))?),
        signature: Some(
            BASE64
                .decode(signature.as_bytes())
                .map_err(|_error| CallError::param(method, GO_TYPE, "illegal base64 data at input byte 0"))?,
        ),
    })
}
