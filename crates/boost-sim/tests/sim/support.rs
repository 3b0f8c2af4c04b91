//! A test client without code of the simulator: HTTP over TCP, and CARs, written by hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boost_sim::{BoostConfig, BoostSim, BoostVersion, DealView, Permission, Proposal, Proposed};
use carferry_car::{NoProgress, PaddedPieceSize, PieceInfo, piece_of};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No condition takes longer than this, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Root of every test CAR: an identity CID of no bytes.
pub(crate) const ROOT: &str = "bafkqaaa";

/// A simulator whose steps take no time.
pub(crate) async fn instant(version: BoostVersion) -> BoostSim {
    boost_sim::start(BoostConfig { version, ..BoostConfig::instant() }).await.unwrap()
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl HttpAnswer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request on a connection of its own; `None` if there is no connection or no answer.
pub(crate) async fn http(
    addr: SocketAddr,
    method: &str,
    path: &str,
    authorization: Option<&str>,
    body: &str,
) -> Option<HttpAnswer> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(HttpAnswer { status, body: body.to_owned() })
}

/// One JSON-RPC call with a token; `None` without an answer.
pub(crate) async fn try_call(
    sim: &BoostSim,
    permission: Permission,
    method: &str,
    params: &Value,
) -> Option<HttpAnswer> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": format!("Filecoin.{method}"), "params": params });
    let bearer = format!("Bearer {}", sim.token(permission));
    http(sim.rpc_addr(), "POST", "/rpc/v0", Some(&bearer), &body.to_string()).await
}

/// The result of a call with an admin token, or its error's text.
pub(crate) async fn call(sim: &BoostSim, method: &str, params: Value) -> Result<Value, String> {
    let answer = try_call(sim, Permission::Admin, method, &params).await.unwrap().json();
    match answer.get("error") {
        Some(error) => Err(error["message"].as_str().unwrap().to_owned()),
        None => Ok(answer["result"].clone()),
    }
}

/// Imports a file; `Accepted` and `Reason`, or the error's text.
pub(crate) async fn import(sim: &BoostSim, uuid: &str, path: &Path) -> Result<(bool, String), String> {
    let answer = call(sim, "BoostOfflineDealWithData", json!([uuid, path, false])).await?;
    Ok((answer["Accepted"].as_bool().unwrap(), answer["Reason"].as_str().unwrap().to_owned()))
}

/// Imports a file, which must be accepted.
pub(crate) async fn must_import(sim: &BoostSim, uuid: &str, path: &Path) {
    assert_eq!(import(sim, uuid, path).await, Ok((true, String::new())));
}

/// The whole answer of a GraphQL request.
pub(crate) async fn graphql(sim: &BoostSim, query: &str) -> Value {
    let body = json!({ "query": query }).to_string();
    http(sim.graphql_addr(), "POST", "/graphql/query", None, &body).await.unwrap().json()
}

/// The data of a GraphQL request, which must have no error.
pub(crate) async fn data(sim: &BoostSim, query: &str) -> Value {
    let answer = graphql(sim, query).await;
    assert_eq!(answer.get("errors"), None, "{query}");
    answer["data"].clone()
}

/// A CAR file and its commitment.
#[derive(Debug)]
pub(crate) struct Car {
    pub(crate) path: PathBuf,
    pub(crate) piece: PieceInfo,
}

/// Bytes of a CAR of one root and one raw block with this content.
pub(crate) fn car_bytes(content: &[u8]) -> Vec<u8> {
    // A header with the root `bafkqaaa` (bytes 01 55 00 00) behind the identity multibase.
    let header = b"\xa2\x65roots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00\x67version\x01";
    let mut bytes = vec![u8::try_from(header.len()).unwrap()];
    bytes.extend_from_slice(header);
    let block = [&[0x01, 0x55, 0x00, u8::try_from(content.len()).unwrap()], content].concat();
    bytes.push(u8::try_from(block.len()).unwrap());
    bytes.extend_from_slice(&block);
    bytes
}

/// Writes a CAR whose content is `name`.
pub(crate) fn car(folder: &Path, name: &str) -> Car {
    let path = folder.join(format!("{name}.car"));
    let mut bytes = car_bytes(name.as_bytes());
    // A few hundred bytes, so that the piece is not smaller than the ask allows.
    while bytes.len() < 200 {
        let block = car_bytes(name.as_bytes());
        bytes.extend_from_slice(&block[usize::from(block[0]) + 1..]);
    }
    std::fs::write(&path, &bytes).unwrap();
    let piece = piece_of(bytes.as_slice(), &NoProgress).unwrap();
    Car { path, piece }
}

/// The proposal of a CAR in a piece of 2 KiB, larger than the CAR's own.
pub(crate) fn proposal(car: &Car) -> Proposal {
    let size = PaddedPieceSize::new(2048).unwrap();
    assert!(car.piece.padded_piece_size < size);
    Proposal::new(car.piece.piece_cid_in(size).to_string(), size.get(), ROOT)
}

/// Proposes the deal of a CAR, which must be accepted.
pub(crate) fn propose(sim: &BoostSim, car: &Car) -> Proposed {
    sim.propose(&proposal(car)).unwrap()
}

/// Waits until a deal is as wanted.
pub(crate) async fn deal_when(sim: &BoostSim, uuid: &str, wanted: impl Fn(&DealView) -> bool) -> DealView {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let deal = sim.deal(uuid).unwrap();
        if wanted(&deal) {
            return deal;
        }
        assert!(tokio::time::Instant::now() < until, "{deal:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until a deal's thread has ended.
pub(crate) async fn rested(sim: &BoostSim, uuid: &str) -> DealView {
    deal_when(sim, uuid, |deal| !deal.is_running).await
}

/// Waits for a condition of the simulator.
pub(crate) async fn wait_until(sim: &BoostSim, what: &str, condition: impl Fn(&BoostSim) -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !condition(sim) {
        assert!(tokio::time::Instant::now() < until, "waited for {what}: {:?}", sim.counters());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
