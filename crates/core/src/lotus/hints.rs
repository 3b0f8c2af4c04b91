//! What an operator can do about a failed call to a Lotus or Boost node: which token, which release, which
//! address.

use crate::error_chain::Hint;
use crate::rpc::RpcError;

/// The program that makes tokens for the node of a method, and the permission that the agents need there.
fn token_maker(method: &str) -> (&'static str, &'static str) {
    let name = method.strip_prefix("Filecoin.").unwrap_or(method);
    match name {
        "ActorAddress" | "MarketListIncompleteDeals" | "MarketImportDealData" => ("lotus-miner", "write"),
        "DealsImportData" => ("lotus-miner", "admin"),
        "MarketGetAsk" => ("boostd", "admin"),
        boost if boost.starts_with("Boost") => ("boostd", "admin"),
        _ => ("lotus", "admin"),
    }
}

impl Hint for RpcError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Transport { endpoint, .. } | Self::Timeout { endpoint, .. } => Some(format!(
                "is the node at {endpoint} running and reachable? check lotus.endpoint or the API_INFO variable"
            )),
            Self::WebPage { endpoint, .. } => Some(format!(
                "a proxy or another server answers at {endpoint}: is the address the node's own, and does the proxy pass \
                 POST requests to /rpc/v0 while the node runs?"
            )),
            Self::Unauthorized { method, .. } => {
                let (program, permission) = token_maker(method);
                Some(format!(
                    "the token is wrong or of another node; `{program} auth create-token --perm {permission}` makes one"
                ))
            }
            Self::Permission { method, message, .. } => {
                let (program, _) = token_maker(method);
                let permission = message.split("need '").nth(1).and_then(|rest| rest.split('\'').next());
                Some(match permission {
                    Some(permission) => {
                        format!("make a token with `{program} auth create-token --perm {permission}`")
                    }
                    None => "the token lacks a permission".to_owned(),
                })
            }
            Self::MethodNotFound { method, .. } if token_maker(method).0 == "boostd" => Some(
                "is that address the JSON-RPC of boostd (port 1288), and its release v1.5.0 or later?"
                    .to_owned(),
            ),
            Self::MethodNotFound { .. } => Some(
                "Lotus removed its storage market in v1.27.1; the last release with it is v1.27.0".to_owned(),
            ),
            // Source: lotus v1.23.3 chain/types/actor.go.
            Self::Application { message, .. } if message.contains("actor not found") => {
                Some("is that address right, and the node on the same network?".to_owned())
            }
            Self::Application { .. } | Self::Decode { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_program_of_the_node() {
        let endpoint = || "http://127.0.0.1:2345/rpc/v0".to_owned();
        for (method, command) in [
            ("Filecoin.ActorAddress", "`lotus-miner auth create-token --perm write`"),
            ("Filecoin.MarketListIncompleteDeals", "`lotus-miner auth create-token --perm write`"),
            ("Filecoin.DealsImportData", "`lotus-miner auth create-token --perm admin`"),
            ("Filecoin.ClientListDeals", "`lotus auth create-token --perm admin`"),
            ("Filecoin.BoostOfflineDealWithData", "`boostd auth create-token --perm admin`"),
        ] {
            let hint = RpcError::Unauthorized { method, endpoint: endpoint(), status: 401 }.hint();
            assert!(hint.as_deref().is_some_and(|hint| hint.contains(command)), "{method}: {hint:?}");
        }
        let message = "missing permission to invoke 'MarketImportDealData' (need 'write')".to_owned();
        let method = "Filecoin.MarketImportDealData";
        let hint = RpcError::Permission { method, endpoint: endpoint(), message }.hint();
        assert_eq!(hint.as_deref(), Some("make a token with `lotus-miner auth create-token --perm write`"));
    }
}
