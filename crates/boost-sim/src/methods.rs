//! The JSON-RPC methods of boostd that the simulator has: parameters, permissions, answers.
//!
//! Source: boost v2.5.2 `api/api.go`, `api/api_common.go`, `api/api_net.go`; v2.1.2 `api/api.go` for the
//! legacy market. `Version` and `ActorAddress` exist in no release.

use std::sync::Arc;

use data_encoding::BASE64;
use lotus_sim::Permission;
use serde_json::{Value, json};

use crate::acceptance::accept;
use crate::faults::DealFaultKind;
use crate::graphql::resolve::ASK_EXPIRY;
use crate::import::import;
use crate::inner::Inner;
use crate::params::{deal_params, flag, text, uuid};
use crate::record::{ClientPeer, Record, unread_json};
use crate::reply::{Answer, CallError};
use crate::version::BoostVersion;
use crate::world::World;

/// The import method, which is counted.
pub(crate) const IMPORT: &str = "Filecoin.BoostOfflineDealWithData";

/// A method's number of parameters and its permission.
fn signature(name: &str, version: BoostVersion) -> Option<(usize, Permission)> {
    Some(match name {
        "BoostOfflineDealWithData" => (if version.deletes_after_import() { 3 } else { 2 }, Permission::Admin),
        "BoostDeal" | "BoostDealBySignedProposalCid" | "BoostDummyDeal" | "AuthNew" => (1, Permission::Admin),
        "AuthVerify" => (1, Permission::Read),
        "MarketGetAsk" | "ID" | "NetAddrsListen" => (0, Permission::Read),
        "MarketListIncompleteDeals" if version.has_legacy_market() => (0, Permission::Read),
        "MarketImportDealData" if version.has_legacy_market() => (2, Permission::Write),
        _ => return None,
    })
}

/// Finds a method, checks count of parameters and permission, and calls it.
pub(crate) fn call(inner: &Arc<Inner>, permissions: &[Permission], method: &str, params: &Value) -> Answer {
    let version = inner.config.version;
    let name = method.strip_prefix("Filecoin.").unwrap_or_default();
    let Some((count, needed)) = signature(name, version) else {
        return Err(CallError::protocol(-32601, format!("method '{method}' not found")));
    };
    let params = match params {
        Value::Null => &[][..],
        Value::Array(params) => params.as_slice(),
        _ => {
            let text =
                format!("unmarshaling param array: json: cannot unmarshal object into params of '{method}'");
            return Err(CallError::protocol(-32700, text));
        }
    };
    if params.len() != count {
        let text = format!("wrong param count (method '{method}'): {} != {count}", params.len());
        return Err(CallError::protocol(-32602, text));
    }
    if inner.config.permissions && !permissions.contains(&needed) {
        let text = format!("missing permission to invoke '{name}' (need '{}')", needed.name());
        return Err(CallError::application(text));
    }
    let param = |index: usize| params.get(index).unwrap_or(&Value::Null);
    match name {
        "BoostOfflineDealWithData" => {
            let (uuid, path) = (uuid(method, param(0))?, text(method, param(1))?);
            let delete = count == 3 && flag(method, param(2))?;
            inner.with(|world| import(inner, world, &uuid, path, delete)).map_err(CallError::application)
        }
        "BoostDeal" => {
            let uuid = uuid(method, param(0))?;
            inner.with(|world| deal(world, &uuid, None))
        }
        "BoostDealBySignedProposalCid" => {
            let cid = crate::params::cid(method, param(0))?;
            inner.with(|world| {
                let found = world.store.by_signed_cid(&cid).map(|deal| deal.uuid().to_owned());
                deal(world, &found.unwrap_or_default(), Some(&cid))
            })
        }
        "BoostDummyDeal" => {
            let proposal = deal_params(method, param(0))?;
            let accepted = inner.with(|world| accept(world, &proposal, ClientPeer::Dummy));
            let reason = accepted.err().unwrap_or_default();
            Ok(json!({ "Accepted": reason.is_empty(), "Reason": reason }))
        }
        "AuthNew" => {
            let wanted = param(0).as_array().map(Vec::as_slice).unwrap_or_default();
            let named = |permission: &Permission| wanted.iter().any(|name| name == permission.name());
            let token = inner.secret.token_with(Permission::ALL.into_iter().filter(named));
            Ok(json!(BASE64.encode(token.as_bytes())))
        }
        "AuthVerify" => {
            let verified = inner.secret.verify(text(method, param(0))?);
            let permissions = verified
                .map_err(|error| CallError::application(format!("JWT Verification failed: {error}")))?;
            Ok(permissions.into_iter().map(Permission::name).collect())
        }
        "MarketGetAsk" => Ok(ask(inner)),
        "ID" => Ok(json!(peer_id(inner))),
        "NetAddrsListen" => Ok(json!({ "ID": peer_id(inner), "Addrs": ["/ip4/127.0.0.1/tcp/24001"] })),
        "MarketImportDealData" => {
            Err(CallError::application("failed getting deal: datastore: key not found"))
        }
        // Legacy deals, of which there are none.
        _ => Ok(Value::Null),
    }
}

fn peer_id(inner: &Inner) -> String {
    lotus_sim::peer_id(&inner.config.miner)
}

/// Looks a deal up by its UUID; `wanted` is what the caller asked for, if that is something else.
fn deal(world: &mut World, uuid: &str, wanted: Option<&str>) -> Answer {
    let (version, prefix) = (world.config.version, world.config.network_prefix);
    let fault = world.faults.take_of_deal(uuid, |kind| match kind {
        DealFaultKind::LookupFails => Some(unread_json(version)),
        DealFaultKind::LookupNull => Some(Value::Null),
        _ => None,
    });
    if let Some(answer) = fault {
        return Ok(answer);
    }
    match world.store.by_uuid(uuid) {
        Some(deal @ Record { client_peer: ClientPeer::Dummy, .. }) => Ok(deal.half_read_json(version)),
        Some(deal) => Ok(deal.json(version, prefix)),
        None => {
            let wanted = wanted.unwrap_or(uuid);
            Err(CallError::application(format!("getting deal {wanted}: deal not found")))
        }
    }
}

fn ask(inner: &Inner) -> Value {
    let config = &inner.config;
    let ask = &config.ask;
    let miner = inner.with(|world| world.miner.print(config.network_prefix));
    json!({
        "Ask": {
            "Price": ask.price.to_string(),
            "VerifiedPrice": ask.verified_price.to_string(),
            "MinPieceSize": ask.min_piece_size,
            "MaxPieceSize": ask.max_piece_size,
            "Miner": miner,
            "Timestamp": config.start_epoch,
            "Expiry": ASK_EXPIRY,
            "SeqNo": 0,
        },
        "Signature": { "Type": 2, "Data": BASE64.encode(&[0x80; 96]) },
    })
}
