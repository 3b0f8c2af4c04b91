//! The program, steered over its control API.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Car, car, http, proposal};

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn spawn() -> (Process, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_boost-sim"))
        .args(["--json", "--step-ms", "0", "--epoch-ms", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Process(child), serde_json::from_str(&line).unwrap())
}

fn address(url: &Value) -> SocketAddr {
    let rest = url.as_str().unwrap().strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

struct Steered {
    endpoints: Value,
}

impl Steered {
    async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let address = address(&self.endpoints["control"]);
        let answer = http(address, method, &format!("/sim/{path}"), None, &body).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    async fn propose(&self, car: &Car) -> String {
        let terms = proposal(car);
        let body = json!({
            "piece_cid": terms.piece_cid, "piece_size": terms.piece_size, "payload_cid": terms.payload_cid,
            "price_per_epoch": "5",
        });
        self.control("POST", "propose", body).await["uuid"].as_str().unwrap().to_owned()
    }

    async fn import(&self, uuid: &str, car: &Car) -> Option<Value> {
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "Filecoin.BoostOfflineDealWithData",
            "params": [uuid, car.path, false],
        });
        let bearer = format!("Bearer {}", self.endpoints["tokens"]["admin"].as_str().unwrap());
        let address = address(&self.endpoints["rpc"]);
        Some(http(address, "POST", "/rpc/v0", Some(&bearer), &body.to_string()).await?.json())
    }

    async fn checkpoint(&self, uuid: &str, wanted: &str) -> Value {
        for _attempt in 0..3000 {
            let deals = self.control("GET", &format!("deals?uuid={uuid}"), Value::Null).await;
            if deals[0]["checkpoint"] == wanted {
                return deals[0].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{uuid} did not reach {wanted}");
    }
}

#[tokio::test]
async fn a_process_serves_and_is_steered() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "process");
    let (_process, endpoints) = spawn();
    let sim = Steered { endpoints };
    let uuid = sim.propose(&car).await;
    sim.control("POST", "hold", json!({ "step": "confirm" })).await;
    assert_eq!(sim.import(&uuid, &car).await.unwrap()["result"], json!({ "Accepted": true, "Reason": "" }));
    sim.checkpoint(&uuid, "Published").await;
    sim.control("POST", "restart", Value::Null).await;
    sim.control("POST", "release", json!({ "step": "confirm" })).await;
    let deal = sim.checkpoint(&uuid, "IndexedAndAnnounced").await;
    assert_eq!((&deal["chain_deal_id"], &deal["threads"]), (&json!(1), &json!(2)));
    let state = sim.control("GET", "state", Value::Null).await;
    assert_eq!(state["checkpoints"]["IndexedAndAnnounced"], 1);
    assert_eq!(state["counters"]["imports"]["ever"], 1);
    let funds = sim.control("GET", "funds", Value::Null).await;
    assert_eq!(funds.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn faults_epochs_and_listeners_are_steered() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "steered");
    let (_process, endpoints) = spawn();
    let sim = Steered { endpoints };
    let uuid = sim.propose(&car).await;
    let fault = json!({ "kind": "drop-before", "endpoint": "rpc", "method": "Filecoin.BoostOfflineDealWithData", "times": 1 });
    sim.control("POST", "faults", fault).await;
    assert!(sim.import(&uuid, &car).await.is_none());
    let fault = json!({ "kind": "insufficient-funds", "uuid": uuid, "times": 1 });
    sim.control("POST", "deal-faults", fault).await;
    assert_eq!(sim.import(&uuid, &car).await.unwrap()["result"]["Accepted"], false);
    sim.control("POST", "down", json!({ "endpoint": "rpc" })).await;
    assert!(sim.import(&uuid, &car).await.is_none());
    sim.control("POST", "up", json!({ "endpoint": "rpc" })).await;
    assert_eq!(sim.control("POST", "epoch", json!({ "advance": 20_000 })).await["height"], 1_020_000);
    assert_eq!(sim.import(&uuid, &car).await.unwrap()["result"]["Accepted"], true);
    let deal = sim.checkpoint(&uuid, "Complete").await;
    assert_eq!(deal["retry"], "fatal");
    let calls = sim.control("GET", "calls?since=1", Value::Null).await;
    assert_eq!(calls.as_array().unwrap().len(), 2, "the refused connection reached nothing");
    sim.control("POST", "kill", Value::Null).await;
    assert_eq!(sim.control("GET", "state", Value::Null).await["running"], false);
    sim.control("POST", "start", Value::Null).await;
    let address = address(&sim.endpoints["control"]);
    let answer = http(address, "GET", "/sim/nonsense", None, "").await.unwrap();
    assert_eq!(answer.status, 404);
}
