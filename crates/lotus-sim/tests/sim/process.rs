//! The program `lotus-sim`: output, files, control API.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{Car, MINER, Node, eventually, http, import};

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn spawn(arguments: &[&str]) -> (Process, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lotus-sim"))
        .args(arguments)
        .arg("--json")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Process(child), serde_json::from_str(&line).unwrap())
}

fn node(endpoints: &Value, url: &str) -> Node {
    let addr = url.trim_start_matches("http://").trim_end_matches("/rpc/v0").parse().unwrap();
    let token = endpoints["tokens"]["admin"].as_str().unwrap().to_owned();
    Node { addr, token: Some(token), path: "/rpc/v0" }
}

#[tokio::test]
async fn a_process_serves_and_is_steered() {
    let dir = tempdir().unwrap();
    let repo = dir.path().join("repo");
    let car = Car::write(dir.path(), 1, 100);
    let arguments = [
        "--miner",
        "f01000",
        "--miner",
        "f01001",
        "--speed",
        "50",
        "--epoch-ms",
        "0",
        "--repo",
        repo.to_str().unwrap(),
    ];
    let (mut process, endpoints) = spawn(&arguments);
    let full = node(&endpoints, endpoints["full_node"]["url"].as_str().unwrap());
    let miner = node(&endpoints, endpoints["miners"]["f01000"]["url"].as_str().unwrap());
    assert_eq!(endpoints["miners"].as_object().unwrap().len(), 2);

    let api = std::fs::read_to_string(repo.join("lotus/api")).unwrap();
    assert_eq!(api, format!("/ip4/127.0.0.1/tcp/{}/http", full.addr.port()));
    let token = std::fs::read_to_string(repo.join("f01000/token")).unwrap();
    assert_eq!(
        endpoints["miners"]["f01000"]["api_info"],
        format!("{token}:/ip4/127.0.0.1/tcp/{}/http", miner.addr.port())
    );
    let mode = std::fs::metadata(repo.join("lotus/token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let cid = full.ok("ClientStatelessDeal", json!([car.deal(5000)])).await;
    let cid = cid["/"].as_str().unwrap().to_owned();
    let control = async |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http(full.addr, method, path, None, &body).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    };
    let fault = json!({ "method": "Filecoin.MarketImportDealData", "kind": "application-error", "text": "no", "times": 1 });
    control("POST", "/sim/faults", fault).await;
    let refused = miner.error("MarketImportDealData", import(&cid, car.path())).await;
    assert_eq!(refused.1, "no");
    miner.ok("MarketImportDealData", import(&cid, car.path())).await;
    eventually("the deal is active", async || {
        let deals = control("GET", "/sim/deals", Value::Null).await;
        (deals[0]["provider"]["state"] == "StorageDealActive").then_some(())
    })
    .await;
    let calls = control("GET", "/sim/calls?since=1", Value::Null).await;
    assert_eq!(calls[0]["method"], "Filecoin.MarketImportDealData");
    assert_eq!((&calls[0]["node"], &calls[0]["transport"]), (&json!("f01000"), &json!("http")));
    assert_eq!(control("POST", "/sim/epoch", json!({ "advance": 10 })).await["height"], 1_000_010);
    let session = miner.ok("Session", json!([])).await;
    control("POST", "/sim/restart", json!({ "node": MINER })).await;
    assert_ne!(miner.ok("Session", json!([])).await, session);
    control("POST", "/sim/deal", json!({ "cid": cid, "state": 9, "message": "slashed" })).await;
    let state = control("GET", "/sim/state", Value::Null).await;
    assert_eq!(state["miners"]["f01000"], json!({ "StorageDealSlashed": 1 }));
    control("DELETE", "/sim/faults", Value::Null).await;
    let answer = http(full.addr, "POST", "/sim/faults", None, r#"{"kind":"melt"}"#).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (400, "no fault is of kind \"melt\"\n"));

    let id = process.0.id().to_string();
    assert!(Command::new("kill").arg(&id).status().unwrap().success());
    eventually("it stops and removes its api files", async || {
        (!repo.join("lotus/api").exists()).then_some(())
    })
    .await;
    assert!(repo.join("lotus/token").exists());
    let status = eventually("it ends", async || process.0.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}
