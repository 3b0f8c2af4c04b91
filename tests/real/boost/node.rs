//! A real Boost over a real Lotus, in a process of their own, with a client that makes deals over libp2p.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use carferry_core::rpc::{CallTimeouts, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::boost::call_counter::CallCounter;
use crate::boost::{BINARY_VARIABLE, http};
use crate::process::NodeProcess;
use crate::setup::Car;

const CALL_WITHIN: Duration = Duration::from_secs(120);
/// Where Boost's GraphQL listens. Source: boost v2.5.2 `node/config/def.go`.
pub(crate) const GRAPHQL: &str = "http://127.0.0.1:8080/graphql/query";
/// What the log of funds says once for each hand-over. Source: boost v2.5.2 `fundmanager/fundmanager.go`.
const TAGGED: &str = "Tag funds for collateral";
/// Checkpoint of a deal whose piece is in a sector, and the one of a deal that has failed. Source: boost
/// v2.5.2 `storagemarket/types/dealcheckpoints/checkpoints.go`.
pub(crate) const ACCEPTED: i64 = 0;
pub(crate) const ADDED_PIECE: i64 = 4;
pub(crate) const COMPLETE: i64 = 6;

/// What the binary tells once it is ready.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    full: String,
    boost: String,
    pub(crate) boost_token: String,
    helper: String,
    pub(crate) miner_addr: String,
    pub(crate) wallet: String,
}

/// A deal that the client made.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    pub(crate) uuid: String,
    /// CID of the signed proposal.
    pub(crate) signed_cid: String,
}

/// The nodes; they end with it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) info: Info,
    /// What the agents call.
    pub(crate) door: CallCounter,
    full: Client,
    boost: Client,
    _process: NodeProcess,
}

impl Node {
    /// Starts the nodes, which keep everything in this folder, and lets Boost take free deals.
    pub(crate) async fn start(folder: &Path) -> Self {
        let (process, info) = NodeProcess::start::<Info>(BINARY_VARIABLE, "boost/itests", folder).await;
        let client = |url: &str, token: Option<&str>| {
            Client::new(&format!("{url}/rpc/v0"), token, CallTimeouts::default()).unwrap()
        };
        let full = client(&info.full, None);
        let boost = client(&info.boost, Some(&info.boost_token));
        let door = CallCounter::before(&info.boost).await;
        let node = Self { info, door, full, boost, _process: process };
        node.graphql("mutation { storageAskUpdate(update: {Price: \"0\", VerifiedPrice: \"0\"}) }").await;
        node
    }

    /// URL of the full node, which asks for no token.
    pub(crate) fn full_url(&self) -> &str {
        &self.info.full
    }

    /// The client makes a free offline deal about a CAR, signs it and sends it to Boost over libp2p.
    pub(crate) async fn make(&self, car: &Car, start: i64) -> Made {
        let url = format!(
            "{}/make?piece={}&size={}&root={}&car={}&start={start}&price=0&send=p2p",
            self.info.helper, car.piece_cid, car.piece_bytes, car.payload_cid, car.payload_bytes
        );
        let (status, body) = http::request(&url, None).await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["result"]["Accepted"], true, "{}: {}", answer["result"], answer["error"]);
        serde_json::from_value(answer).unwrap()
    }

    /// What GraphQL answers.
    pub(crate) async fn graphql(&self, query: &str) -> Value {
        let (status, body) = http::request(GRAPHQL, Some(&json!({ "query": query }))).await;
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        assert!(status == 200 && answer["errors"].is_null(), "{query}: {status} {answer}");
        answer["data"].take()
    }

    /// A deal as Boost has it.
    pub(crate) async fn deal(&self, made: &Made) -> Value {
        call(&self.boost, "Filecoin.BoostDeal", json!([made.uuid])).await
    }

    /// Hands a file over as an operator does.
    pub(crate) async fn import_by_hand(&self, made: &Made, path: &Path) {
        let params = json!([made.uuid, path.to_str().unwrap(), false]);
        let verdict = call(&self.boost, "Filecoin.BoostOfflineDealWithData", params).await;
        assert_eq!(verdict["Accepted"], true, "{verdict}");
    }

    /// How often Boost set collateral aside, by deal: once for each call that it took.
    pub(crate) async fn tags(&self) -> BTreeMap<String, usize> {
        let data =
            self.graphql("{ fundsLogs(limit: 100000) { totalCount more logs { DealUUID Text } } }").await;
        assert_eq!(data["fundsLogs"]["more"], false);
        let mut tags = BTreeMap::new();
        for line in data["fundsLogs"]["logs"].as_array().unwrap() {
            if line["Text"] == TAGGED {
                *tags.entry(line["DealUUID"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        tags
    }

    /// Height of the chain.
    pub(crate) async fn height(&self) -> i64 {
        call(&self.full, "Filecoin.ChainHead", json!([])).await["Height"].as_i64().unwrap()
    }

    /// A deal on chain.
    pub(crate) async fn on_chain(&self, id: i64) -> Value {
        call(&self.full, "Filecoin.StateMarketStorageDeal", json!([id, []])).await
    }
}

async fn call(client: &Client, method: &'static str, params: Value) -> Value {
    let Value::Array(params) = params else { panic!("{method}: {params}") };
    client.call(method, params, CALL_WITHIN).await.unwrap()
}
