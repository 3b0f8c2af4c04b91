//! A real Lotus: a full node and a miner with its market, in a process of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{env, fs};

use carferry_core::rpc::{CallTimeouts, Client};
use harness::{child_guard, eventually};
use serde::Deserialize;
use serde_json::{Value, json};

/// Names the binary.
pub(crate) const BINARY_VARIABLE: &str = "CARFERRY_LOTUS_ITEST";
const READY_WITHIN: Duration = Duration::from_secs(900);
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
    process: Child,
}

impl Node {
    /// Starts the nodes, which keep everything in this folder, and lets the market take free deals.
    pub(crate) async fn start(folder: &Path) -> Self {
        let binary = PathBuf::from(env::var_os(BINARY_VARIABLE).unwrap_or_else(|| {
            panic!("{BINARY_VARIABLE} names no real Lotus; hint: tests/real/README.md tells how to build one")
        }));
        let told = folder.join("info.json");
        let log = fs::File::create(folder.join("lotus.log")).unwrap();
        let mut command = child_guard::command(&binary).unwrap();
        command
            .args(["-test.run", "TestCarferry$", "-test.timeout", "0"])
            // The sources of the tests are looked for where it runs.
            .current_dir(binary.parent().unwrap().join("lotus/itests"))
            .env("CARFERRY_OUT", &told)
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut process = child_guard::spawn(command).unwrap();
        eventually!(
            within READY_WITHIN,
            {
                let ended = process.try_wait().unwrap();
                assert!(ended.is_none(), "Lotus ended: {}", fs::read_to_string(folder.join("lotus.log")).unwrap());
                told.exists()
            },
            "Lotus is ready"
        );
        let info: Info = serde_json::from_slice(&fs::read(&told).unwrap()).unwrap();
        let client = |url: &str, token: &str| {
            Client::new(&format!("{url}/rpc/v0"), Some(token), CallTimeouts::default()).unwrap()
        };
        let (full, miner) = (client(&info.full, &info.full_token), client(&info.miner, &info.miner_token));
        let node = Self { info, full, miner, process };
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

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
