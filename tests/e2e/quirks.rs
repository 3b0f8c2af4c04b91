//! What breaks a plain jsonrpsee client against Lotus, and how `core::rpc` reads the same answers.
//!
//! Each quirk is what go-jsonrpc v0.1.4 (lotus v1.5.0) to v0.3.1 (lotus v1.27.0) does. Carferry
//! speaks HTTP alone: where only WebSocket breaks, the test shows why.

use std::time::{Duration, Instant};

use carferry_core::error_chain::Hint as _;
use carferry_core::lotus::Provider;
use carferry_core::lotus::provider::ImportMethod;
use carferry_core::rpc::{BootInstant, CallTimeouts, Client, RpcError};
use harness::eventually;
use harness::test_env::{MINER, TestEnv};
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder, transport};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{PingConfig, WsClient, WsClientBuilder};
use lotus_sim::{Fault, FaultKind, LotusVersion, NodeName, Permission, Sim, SimConfig, Timings};
use serde_json::{Value, json};

/// Without a result in every release that has the market.
const VOID_METHOD: &str = "Filecoin.MarketPublishPendingDeals";
const ANSWER_BYTES: usize = 11 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn soon() -> BootInstant {
    BootInstant::now().plus(LIMIT)
}

async fn sim(version: LotusVersion) -> Sim {
    lotus_sim::start(SimConfig { version, ..SimConfig::default() }).await.unwrap()
}

/// The address of a node with a token for everything.
fn address(sim: &Sim, node: &NodeName, scheme: &str) -> String {
    let url = match node {
        NodeName::Full => sim.full_node_url(),
        NodeName::Miner(miner) => sim.miner_url(miner),
    };
    format!("{}?token={}", url.replacen("http", scheme, 1), sim.token(Permission::Admin))
}

fn plain_http(sim: &Sim, node: &NodeName) -> HttpClient {
    HttpClientBuilder::default().build(address(sim, node, "http")).unwrap()
}

async fn plain_websocket(sim: &Sim, node: &NodeName) -> WsClient {
    WsClientBuilder::default().build(address(sim, node, "ws")).await.unwrap()
}

fn ours(sim: &Sim, node: &NodeName) -> Client {
    Client::new(&address(sim, node, "http"), None, CallTimeouts::default()).unwrap()
}

fn miner() -> NodeName {
    NodeName::parse(MINER)
}

/// The connection is of no use for anything any more.
async fn assert_dead(client: &WsClient) {
    eventually!(!client.is_connected(), "the client notices that its connection is dead");
    let later = client.request::<Value, _>("Filecoin.Version", rpc_params![]).await;
    assert!(matches!(later, Err(ClientError::RestartNeeded(_))), "{later:?}");
}

#[tokio::test]
async fn void_answer_is_unreadable_to_a_plain_http_client_and_done_to_ours() {
    let sim = sim(LotusVersion::V1_23).await;
    let plain = plain_http(&sim, &miner()).request::<Option<Value>, _>(VOID_METHOD, rpc_params![]).await;
    let Err(ClientError::ParseError(error)) = plain else { panic!("{plain:?}") };
    assert!(error.to_string().contains("missing field"), "{error}");
    let own: Value = ours(&sim, &miner()).call(VOID_METHOD, vec![], LIMIT).await.unwrap();
    assert_eq!(own, Value::Null);
    assert_eq!(sim.count(VOID_METHOD), 2, "both calls did their work");
}

#[tokio::test]
async fn void_answer_of_an_import_is_success_to_ours() {
    let env = TestEnv::open().await.unwrap();
    let (car, deal) = env.proposed("void").await.unwrap();
    let provider = Provider::new(ours(&env.sim, &miner()));
    let path = car.path.to_str().unwrap();
    provider.import(ImportMethod::default(), &deal.parse().unwrap(), path, soon()).await.unwrap();
    let counts = env.sim.import_counts(&deal);
    assert_eq!((counts.started, counts.effective), (1, 1), "{counts:?}");
}

#[tokio::test]
async fn void_answer_kills_a_plain_websocket_connection() {
    let sim = sim(LotusVersion::V1_23).await;
    let client = plain_websocket(&sim, &miner()).await;
    client.request::<Value, _>("Filecoin.Version", rpc_params![]).await.unwrap();
    let void = client.request::<Option<Value>, _>(VOID_METHOD, rpc_params![]).await;
    assert!(matches!(void, Err(ClientError::RestartNeeded(_))), "{void:?}");
    assert_dead(&client).await;
}

#[tokio::test]
async fn reason_of_a_protocol_error_is_lost_to_a_plain_http_client_and_kept_by_ours() {
    let sim = sim(LotusVersion::V1_27_1).await;
    let method = "Filecoin.ClientStatelessDeal";
    let plain = plain_http(&sim, &NodeName::Full).request::<Value, _>(method, rpc_params![{}]).await;
    let Err(ClientError::Transport(lost)) = plain else { panic!("{plain:?}") };
    let rejected = lost.downcast_ref::<transport::Error>();
    assert!(matches!(rejected, Some(transport::Error::Rejected { status_code: 500 })), "{lost:?}");

    let own = ours(&sim, &NodeName::Full);
    let error = own.call::<Value>(method, vec![json!({})], LIMIT).await.unwrap_err();
    assert!(matches!(error, RpcError::MethodNotFound { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("v1.27.1"), "{error:?}");
    let error = own.call::<Value>("Filecoin.ChainHead", vec![json!(1)], LIMIT).await.unwrap_err();
    let RpcError::Application { code, message, .. } = error else { panic!("{error:?}") };
    assert_eq!((code, message.contains("wrong param count")), (-32602, true), "{message}");
}

#[tokio::test]
async fn error_with_meta_is_unreadable_to_a_plain_client_and_read_by_ours() {
    let sim = sim(LotusVersion::V1_23).await;
    let method = "Filecoin.StateAccountKey";
    let nobody = || rpc_params!["f0777", json!([])];
    let plain = plain_http(&sim, &NodeName::Full).request::<Value, _>(method, nobody()).await;
    assert!(matches!(plain, Err(ClientError::ParseError(_))), "{plain:?}");

    let params = vec![json!("f0777"), json!([])];
    let error = ours(&sim, &NodeName::Full).call::<Value>(method, params, LIMIT).await.unwrap_err();
    let RpcError::Application { code, message, .. } = error else { panic!("{error:?}") };
    assert_eq!((code, message.as_str()), (3, "actor not found"));

    let client = plain_websocket(&sim, &NodeName::Full).await;
    let over_websocket = client.request::<Value, _>(method, nobody()).await;
    assert!(!matches!(over_websocket, Err(ClientError::Call(_))), "{over_websocket:?}");
}

#[tokio::test]
async fn answer_over_10_mib_is_refused_by_a_plain_http_client_and_read_by_ours() {
    let sim = sim(LotusVersion::V1_23).await;
    sim.pad_lists(ANSWER_BYTES);
    let method = "Filecoin.ClientListDeals";
    let plain = plain_http(&sim, &NodeName::Full).request::<Vec<Value>, _>(method, rpc_params![]).await;
    let Err(ClientError::Transport(error)) = plain else { panic!("{plain:?}") };
    assert!(format!("{error:?}").contains("TooLarge"), "{error:?}");
    let own: Vec<Value> = ours(&sim, &NodeName::Full).call(method, vec![], LIMIT).await.unwrap();
    assert!(own.is_empty());
}

#[tokio::test]
async fn answer_over_10_mib_in_fragments_is_silence_to_a_plain_websocket_client() {
    let sim = sim(LotusVersion::V1_23).await;
    sim.pad_lists(ANSWER_BYTES);
    let method = "Filecoin.ClientListDeals";
    let limit = Duration::from_millis(2500);
    let url = address(&sim, &NodeName::Full, "ws");
    let client = WsClientBuilder::default().request_timeout(limit).build(&url).await.unwrap();
    let asked = Instant::now();
    let silence = client.request::<Vec<Value>, _>(method, rpc_params![]).await;
    assert!(matches!(silence, Err(ClientError::RequestTimeout)), "{silence:?}");
    assert!(asked.elapsed() >= limit && client.is_connected(), "nothing but the limit ends it");

    // The same answer comes through where it is allowed to be that long.
    let patient = WsClientBuilder::default().max_response_size(64 << 20).build(&url).await.unwrap();
    assert!(patient.request::<Vec<Value>, _>(method, rpc_params![]).await.unwrap().is_empty());
}

#[tokio::test]
async fn error_without_an_id_kills_a_plain_websocket_connection() {
    let sim = sim(LotusVersion::V1_23).await;
    let client = plain_websocket(&sim, &NodeName::Full).await;
    client.request::<Value, _>("Filecoin.Session", rpc_params![]).await.unwrap();
    sim.inject(Fault::on("Filecoin.Session", FaultKind::NullIdError).times(1));
    let error = client.request::<Value, _>("Filecoin.Session", rpc_params![]).await.unwrap_err();
    assert!(matches!(error, ClientError::RestartNeeded(_)), "{error:?}");
    assert_dead(&client).await;
}

#[tokio::test]
async fn pings_that_are_never_answered_disconnect_a_plain_websocket_client() {
    // The young server pings itself, which the client does not count as a sign of life.
    let timings = Timings { websocket_ping: Duration::from_millis(50), ..Timings::default() };
    let young = SimConfig { version: LotusVersion::V1_23, timings, ..SimConfig::default() };
    let young = lotus_sim::start(young).await.unwrap();
    let old = sim(LotusVersion::V1_5).await;
    let connect = async |sim: &Sim| {
        let pings = PingConfig::new()
            .ping_interval(Duration::from_millis(100))
            .inactive_limit(Duration::from_millis(700))
            .max_failures(1);
        let url = address(sim, &NodeName::Full, "ws");
        WsClientBuilder::default().enable_ws_ping(pings).build(url).await.unwrap()
    };
    let ponged = connect(&old).await;
    let ignored = connect(&young).await;
    eventually!(!ignored.is_connected(), "the client takes the young server for dead");
    assert!(ponged.is_connected(), "the old server answers pings");
    ponged.request::<Value, _>("Filecoin.Version", rpc_params![]).await.unwrap();
    // Over HTTP there is nothing to keep alive.
    ours(&young, &NodeName::Full).call::<Value>("Filecoin.Version", vec![], LIMIT).await.unwrap();
}

#[tokio::test]
async fn empty_list_is_null_on_the_wire_and_empty_to_ours() {
    let sim = sim(LotusVersion::V1_23).await;
    let method = "Filecoin.MarketListIncompleteDeals";
    let plain = plain_http(&sim, &miner()).request::<Vec<Value>, _>(method, rpc_params![]).await;
    assert!(matches!(plain, Err(ClientError::ParseError(_))), "{plain:?}");
    assert!(Provider::new(ours(&sim, &miner())).list_deals().await.unwrap().is_empty());
}

#[tokio::test]
async fn missing_permission_is_told_apart_with_the_token_to_make() {
    let env = TestEnv::open().await.unwrap();
    let (car, deal) = env.proposed("no permission").await.unwrap();
    let token = env.sim.token(Permission::Read);
    let client = Client::new(&env.sim.miner_url(MINER), Some(&token), CallTimeouts::default()).unwrap();
    let (provider, proposal) = (Provider::new(client), deal.parse().unwrap());
    let path = car.path.to_str().unwrap();
    let error = provider.import(ImportMethod::default(), &proposal, path, soon()).await.unwrap_err();
    assert!(matches!(error, RpcError::Permission { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--perm write"), "{error:?}");
    assert!(!error.effect_is_unknown() && error.is_about_the_node());
    assert_eq!(env.sim.imports_for(&deal), 0);
}

#[tokio::test]
async fn refused_token_is_told_apart_and_never_shown() {
    let sim = sim(LotusVersion::V1_23).await;
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJBbGxvdyI6WyJyZWFkIl19.bm9uc2Vuc2U";
    let client = Client::new(&sim.full_node_url(), Some(token), CallTimeouts::default()).unwrap();
    let error = client.call::<Value>("Filecoin.Version", vec![], LIMIT).await.unwrap_err();
    assert!(matches!(error, RpcError::Unauthorized { status: 401, .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("`lotus auth create-token --perm"), "{error:?}");
    assert!(!format!("{error:?} {error}").contains(token), "{error:?}");
}
