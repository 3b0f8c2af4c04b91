//! A real Lotus: a full node and a miner with its market, in a process of their own.

use std::path::Path;
use std::time::Duration;

use carferry_core::rpc::{CallTimeouts, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process::NodeProcess;

/// Names the binary.
pub(crate) const BINARY_VARIABLE: &str = "CARFERRY_LOTUS_ITEST";
const CALL_WITHIN: Duration = Duration::from_secs(120);
/// attoFIL per GiB and epoch, twice; how long the ask holds; bytes of the smallest and the largest piece.
const FREE: [u64; 2] = [0, 0];
const ASK_EPOCHS: u64 = 1_000_000;
const PIECE_MIN: u64 = 256;
const PIECE_MAX: u64 = 8 << 20;

/// What the binary tells once it is ready.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    pub(crate) full: String,
    pub(crate) miner: String,
    pub(crate) full_token: String,
    miner_token: String,
    pub(crate) miner_write_token: String,
    pub(crate) wallet: String,
    pub(crate) miner_addr: String,
}

/// Both nodes; they end with it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) info: Info,
    full: Client,
    miner: Client,
    _process: NodeProcess,
}

impl Node {
    /// Starts the nodes, which keep everything in this folder, and lets the market take free deals.
    pub(crate) async fn start(folder: &Path) -> Self {
        let (process, info) = NodeProcess::start::<Info>(BINARY_VARIABLE, "lotus/itests", folder).await;
        let client = |url: &str, token: &str| {
            Client::new(&format!("{url}/rpc/v0"), Some(token), CallTimeouts::default()).unwrap()
        };
        let (full, miner) = (client(&info.full, &info.full_token), client(&info.miner, &info.miner_token));
        let node = Self { info, full, miner, _process: process };
        let [price, verified_price] = FREE.map(|price| price.to_string());
        let ask = json!([price, verified_price, ASK_EPOCHS, PIECE_MIN, PIECE_MAX]);
        node.of_miner("Filecoin.MarketSetAsk", ask).await;
        node
    }

    /// What the full node answers.
    pub(crate) async fn of_full_node(&self, method: &'static str, params: Value) -> Value {
        call(&self.full, method, params).await
    }

    /// What the miner answers.
    pub(crate) async fn of_miner(&self, method: &'static str, params: Value) -> Value {
        call(&self.miner, method, params).await
    }
}

async fn call(client: &Client, method: &'static str, params: Value) -> Value {
    let Value::Array(params) = params else { panic!("{method}: {params}") };
    client.call(method, params, CALL_WITHIN).await.unwrap()
}
