//! A test client without code of the simulator: HTTP and WebSocket over TCP, and CARs, written by hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carferry_car::{NoProgress, piece_of};
use lotus_sim::{LotusVersion, MinerConfig, Permission, Sim, SimConfig, TimeScale, WalletConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No condition takes longer than this, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const WALLET: &str = "f1djcw6gt533u2bdzckvtcui6hmmuzpu3mykxkunq";
pub(crate) const MINER: &str = "f01000";

/// A configuration whose epochs pass only on request.
pub(crate) fn config(version: LotusVersion) -> SimConfig {
    SimConfig { version, time: TimeScale { epoch: Duration::ZERO }, ..SimConfig::default() }
}

pub(crate) fn miner() -> MinerConfig {
    MinerConfig::new(MINER)
}

pub(crate) async fn start(version: LotusVersion) -> Sim {
    lotus_sim::start(config(version)).await.unwrap()
}

pub(crate) fn wallet_with(balance: u128, datacap: Option<u128>) -> WalletConfig {
    WalletConfig { balance, datacap, ..WalletConfig::default() }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpAnswer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request on a connection of its own; `None` if the server closed it without an answer.
pub(crate) async fn http(
    addr: SocketAddr,
    method: &str,
    path: &str,
    authorization: Option<&str>,
    body: &str,
) -> Option<HttpAnswer> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
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
    Some(HttpAnswer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A node to call with a token.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) addr: SocketAddr,
    pub(crate) token: Option<String>,
    pub(crate) path: &'static str,
}

impl Node {
    pub(crate) fn full(sim: &Sim) -> Self {
        Self { addr: sim.full_node_addr(), token: Some(sim.token(Permission::Admin)), path: "/rpc/v0" }
    }

    pub(crate) fn miner(sim: &Sim, id: &str) -> Self {
        Self { addr: sim.miner_addr(id), token: Some(sim.token(Permission::Admin)), path: "/rpc/v0" }
    }

    pub(crate) fn with(&self, token: Option<String>) -> Self {
        Self { token, ..self.clone() }
    }

    pub(crate) async fn send(&self, body: &str) -> Option<HttpAnswer> {
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        http(self.addr, "POST", self.path, authorization.as_deref(), body).await
    }

    pub(crate) async fn raw(&self, method: &str, params: Value) -> HttpAnswer {
        self.send(&request(method, &params)).await.expect("an answer")
    }

    /// The whole answer frame.
    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        self.raw(method, params).await.json()
    }

    /// The result of a call that must succeed.
    pub(crate) async fn ok(&self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params).await;
        assert_eq!(answer.get("error"), None, "{method}");
        answer.get("result").cloned().unwrap_or(Value::Null)
    }

    /// Code and text of a call that must fail.
    pub(crate) async fn error(&self, method: &str, params: Value) -> (i64, String) {
        let answer = self.call(method, params).await;
        let error = answer.get("error").unwrap_or_else(|| panic!("{method} succeeded: {answer}"));
        (error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned())
    }
}

pub(crate) fn request(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": format!("Filecoin.{method}"), "params": params }).to_string()
}

/// Waits until a condition holds, asking again and again.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let probing = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, probing).await.unwrap_or_else(|_elapsed| panic!("never: {what}"))
}

/// Waits for anything that must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_elapsed| panic!("never: {what}"))
}

/// A CAR on disk and the terms of a deal for it.
#[derive(Debug)]
pub(crate) struct Car {
    pub(crate) path: PathBuf,
    pub(crate) root: String,
    pub(crate) piece_cid: String,
    pub(crate) unpadded: u64,
}

impl Car {
    /// One raw block of this many bytes made from a seed, under a sha2-256 root.
    pub(crate) fn write(folder: &Path, seed: u8, length: usize) -> Self {
        use sha2::Digest;
        let block: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect();
        let mut root = vec![0x01, 0x55, 0x12, 0x20];
        root.extend_from_slice(&sha2::Sha256::digest(&block));
        let path = folder.join(format!("{seed}-{length}.car"));
        std::fs::write(&path, car_bytes(&root, &block)).unwrap();
        let piece = piece_of(std::fs::File::open(&path).unwrap(), &NoProgress).unwrap();
        let root = format!("b{}", data_encoding::BASE32_NOPAD.encode(&root).to_ascii_lowercase());
        Self {
            path,
            root,
            piece_cid: piece.piece_cid.to_string(),
            unpadded: piece.padded_piece_size.get() / 128 * 127,
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// `StartDealParams` with everything explicit, start in `start` epochs' time.
    pub(crate) fn deal(&self, start: i64) -> Value {
        json!({
            "Data": {
                "TransferType": "manual",
                "Root": { "/": self.root },
                "PieceCid": { "/": self.piece_cid },
                "PieceSize": self.unpadded,
                "RawBlockSize": 0,
            },
            "Wallet": WALLET,
            "Miner": MINER,
            "EpochPrice": "0",
            "MinBlocksDuration": 518_400,
            "ProviderCollateral": collateral(self.unpadded).to_string(),
            "DealStartEpoch": 1_000_000 + start,
            "FastRetrieval": true,
            "VerifiedDeal": false,
        })
    }
}

/// 1.2 times the least collateral of a piece, as Lotus offers by itself.
fn collateral(unpadded: u64) -> u128 {
    let padded = u128::from(unpadded) * 128 / 127;
    SimConfig::default().collateral_per_gib * padded / (1 << 30) * 12 / 10
}

/// CARv1: header, one section.
pub(crate) fn car_bytes(root: &[u8], block: &[u8]) -> Vec<u8> {
    let mut header = b"\xa2\x65roots\x81\xd8\x2a".to_vec();
    let length = u8::try_from(root.len() + 1).unwrap();
    if length < 24 {
        header.push(0x40 | length);
    } else {
        header.extend_from_slice(&[0x58, length]);
    }
    header.push(0);
    header.extend_from_slice(root);
    header.extend_from_slice(b"\x67version\x01");
    let mut car = varint(header.len());
    car.extend_from_slice(&header);
    car.extend_from_slice(&varint(root.len() + block.len()));
    car.extend_from_slice(root);
    car.extend_from_slice(block);
    car
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// Imports the root and proposes the deal; its proposal CID.
pub(crate) async fn propose(sim: &Sim, car: &Car) -> String {
    let full = Node::full(sim);
    full.ok("ClientImport", json!([{ "Path": car.path(), "IsCAR": true }])).await;
    let cid = full.ok("ClientStartDeal", json!([car.deal(5000)])).await;
    cid["/"].as_str().unwrap().to_owned()
}

/// The same, and waits until the provider waits for the data.
pub(crate) async fn propose_and_wait(sim: &Sim, car: &Car) -> String {
    let cid = propose(sim, car).await;
    provider_reaches(sim, &cid, 18).await;
    cid
}

pub(crate) async fn provider_reaches(sim: &Sim, cid: &str, state: u64) {
    eventually(&format!("provider state {state}"), async || {
        (provider_state(sim, cid) == Some(state)).then_some(())
    })
    .await;
}

pub(crate) async fn client_reaches(sim: &Sim, cid: &str, state: u64) -> Value {
    let full = Node::full(sim);
    eventually(&format!("client state {state}"), async || {
        let info = full.ok("ClientGetDealInfo", json!([{ "/": cid }])).await;
        (info["State"] == state).then_some(info)
    })
    .await
}

pub(crate) fn provider_state(sim: &Sim, cid: &str) -> Option<u64> {
    sim.deal(cid)?.provider.map(|side| side.state.code())
}

/// Parameters of an import.
pub(crate) fn import(cid: &str, path: &str) -> Value {
    json!([{ "/": cid }, path])
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// A WebSocket client without any library.
#[derive(Debug)]
pub(crate) struct Ws {
    stream: TcpStream,
}

impl Ws {
    pub(crate) async fn connect(node: &Node) -> Self {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        let authorization =
            node.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{authorization}\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            node.path
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Self { stream }
    }

    pub(crate) async fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 0x7e);
                frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn send(&mut self, id: u64, method: &str, params: Value) {
        let frame =
            json!({ "jsonrpc": "2.0", "id": id, "method": format!("Filecoin.{method}"), "params": params });
        self.send_frame(1, frame.to_string().as_bytes()).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<RawFrame> {
        let first = self.stream.read_u8().await.ok()?;
        let length = match self.stream.read_u8().await.ok()? {
            126 => usize::from(self.stream.read_u16().await.ok()?),
            127 => usize::try_from(self.stream.read_u64().await.ok()?).unwrap(),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(RawFrame { fin: first & 0x80 != 0, opcode: first & 0x0f, payload })
    }

    /// The next whole message, control frames left out, and how many frames it was.
    pub(crate) async fn message(&mut self) -> Option<(String, usize)> {
        let (mut bytes, mut frames) = (Vec::new(), 0);
        loop {
            let frame = self.frame().await?;
            if frame.opcode >= 8 {
                continue;
            }
            frames += 1;
            bytes.extend_from_slice(&frame.payload);
            if frame.fin {
                return Some((String::from_utf8(bytes).unwrap(), frames));
            }
        }
    }

    pub(crate) async fn json(&mut self) -> Value {
        let (text, _frames) = soon("a message", self.message()).await.expect("an open connection");
        serde_json::from_str(&text).unwrap()
    }
}
