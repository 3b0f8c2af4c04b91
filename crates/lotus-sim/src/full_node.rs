//! JSON-RPC methods of the full node.
//!
//! What lives here: chain, wallet, state and client calls. What does not: the states of a deal after the call
//! (`client`, `provider`).

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::config::LotusVersion;
use crate::ids::cid_json;
use crate::inner::Inner;
use crate::json::Fields;
use crate::jwt::Permission;
use crate::params::{address, link, peer, text, unsigned};
use crate::payload::{car_root, commp_of, generate_car, go_open_error};
use crate::provider::collateral_max;
use crate::reply::{Api, Caller, ChannelKind, Reply, RpcError};
use crate::start_deal::{Publication, Refusal, StartDeal, already_tracking};
use crate::states::DealState;
use crate::wire::{Stages, client_peer_id};
use crate::world::{ClientImport, Deal, World};

type Answer = Result<Reply, RpcError>;

/// Answers one call, after the checks of parameter count and permission.
pub(crate) async fn answer(inner: &Arc<Inner>, caller: &Caller, name: &str, params: &[Value]) -> Answer {
    let first = params.first().unwrap_or(&Value::Null);
    match name {
        "ClientStatelessDeal" => stateless_deal(inner, first).await,
        "ClientImport" => import(inner, first).await,
        "ClientGenCar" => gen_car(params).await,
        "ClientCalcCommP" => calc_commp(first).await,
        "ClientDealPieceCID" | "ClientDealSize" => imported_piece(inner, name, first).await,
        "AuthVerify" | "AuthNew" => auth(inner, name, first),
        "ClientQueryAsk" => query_ask(inner, caller.api, params).await,
        _ => inner.with(|world| world.full_answer(caller, name, params)),
    }
}

/// `AuthVerify` and `AuthNew`, which both kinds of nodes have.
pub(crate) fn auth(inner: &Inner, name: &str, param: &Value) -> Answer {
    if name == "AuthNew" {
        let wanted = param.as_array().map(Vec::as_slice).unwrap_or_default();
        let named = |permission: &Permission| wanted.iter().any(|name| name == permission.name());
        let token = inner.secret.token_with(Permission::ALL.into_iter().filter(named));
        return Ok(Reply::Value(json!(data_encoding::BASE64.encode(token.as_bytes()))));
    }
    let token = text("AuthVerify", param)?;
    let permissions = inner
        .secret
        .verify(token)
        .map_err(|error| RpcError::application(format!("JWT Verification failed: {error}")))?;
    Ok(Reply::Value(permissions.into_iter().map(Permission::name).collect()))
}

impl World {
    fn full_answer(&mut self, caller: &Caller, name: &str, params: &[Value]) -> Answer {
        let first = params.first().unwrap_or(&Value::Null);
        Ok(Reply::Value(match name {
            "Version" => {
                let api_version = match (self.config.version, caller.api) {
                    (LotusVersion::V1_5, _) => api_version(1, 1, 0),
                    (LotusVersion::V1_11, Api::V0) => api_version(1, 3, 0),
                    (LotusVersion::V1_11, Api::V1) => api_version(2, 1, 0),
                    (_, Api::V0) => api_version(1, 5, 0),
                    (_, Api::V1) => api_version(2, 3, 0),
                };
                self.version_json(api_version)
            }
            "Session" => json!(self.full_node.session),
            "ID" => json!(client_peer_id()),
            "NetPeers" => self.net_peers(),
            "ChainHead" => self.tipset(),
            "ChainNotify" => return Ok(Reply::Channel(ChannelKind::Head)),
            "ClientGetDealUpdates" => return Ok(Reply::Channel(ChannelKind::ClientDeals)),
            "SyncState" => self.sync_state(),
            "StateNetworkName" => json!(self.config.network_name),
            "StateNetworkVersion" => json!(self.network_version()),
            "StateGetNetworkParams" => self.network_params(),
            "WalletDefaultAddress" => match self.wallets.first() {
                Some(wallet) => json!(wallet.address.print(self.config.network_prefix)),
                None => return Err(RpcError::application("failed to get default key: key not found")),
            },
            "WalletList" => {
                self.wallets.iter().map(|wallet| wallet.address.print(self.config.network_prefix)).collect()
            }
            "WalletHas" => {
                let wanted = address(name, first)?;
                json!(self.wallets.iter().any(|wallet| wallet.address == wanted))
            }
            "WalletBalance" => {
                let wallet = self.wallet(&address(name, first)?);
                json!(wallet.map_or(0, |wallet| wallet.balance).to_string())
            }
            "StateMinerInfo" => self.miner_info(self.chain_miner(&address(name, first)?)?),
            "StateMinerProvingDeadline" => self.proving_deadline(&address(name, first)?)?,
            "StateMarketBalance" => {
                let wallet = self.wallet(&address(name, first)?);
                let (escrow, locked) = wallet.map_or((0, 0), |wallet| (wallet.escrow, wallet.locked));
                json!({ "Escrow": escrow.to_string(), "Locked": locked.to_string() })
            }
            "MarketGetReserved" => {
                let wallet = self.wallet(&address(name, first)?);
                json!(wallet.map_or(0, |wallet| wallet.reserved).to_string())
            }
            "StateVerifiedClientStatus" => {
                let wallet = self.wallet(&address(name, first)?);
                wallet.and_then(|wallet| wallet.datacap).map_or(Value::Null, |bytes| json!(bytes.to_string()))
            }
            "StateDealProviderCollateralBounds" => {
                let min = self.collateral_min(unsigned(name, "abi.PaddedPieceSize", first)?);
                json!({ "Min": min.to_string(), "Max": collateral_max().to_string() })
            }
            "StateLookupID" => self.lookup_id(&address(name, first)?)?,
            "StateAccountKey" => self.account_key(&address(name, first)?)?,
            "StateMarketStorageDeal" => self.chain_deal(unsigned(name, "abi.DealID", first)?)?,
            "StateMarketDeals" => {
                let deals = self.chain.iter().filter_map(|(id, chain)| {
                    Some((id.to_string(), self.market_deal(self.deals.get(&chain.cid)?, chain)))
                });
                Value::Object(deals.collect::<Map<_, _>>())
            }
            "ClientStartDeal" => {
                let deal = start_deal_params(name, first)?;
                json!({ "/": self.start_deal(&deal)? })
            }
            "ClientGetDealInfo" => {
                let cid = link(name, first)?.to_string();
                let found = self.deals.get(&cid).and_then(|deal| Some((deal, deal.client.as_ref()?)));
                let (deal, side) = found.ok_or_else(|| {
                    RpcError::application(format!("No state for /{cid}: datastore: key not found"))
                })?;
                self.deal_info(deal, side, Stages::Shown)
            }
            "ClientListDeals" => {
                let tracked = self.deals.values().filter_map(|deal| Some((deal, deal.client.as_ref()?)));
                return Ok(Reply::List(
                    tracked.map(|(deal, side)| self.deal_info(deal, side, Stages::Null)).collect(),
                ));
            }
            "ClientGetDealStatus" => {
                let code = unsigned(name, "uint64", first)?;
                let state = DealState::from_code(code);
                json!(
                    state.ok_or_else(|| RpcError::application(format!("no such deal state {code}")))?.name()
                )
            }
            "ClientListImports" => {
                let imports = self.client_imports.iter();
                return Ok(Reply::List(imports.map(|import| self.client_import(import)).collect()));
            }
            "ClientRemoveImport" => {
                let id = unsigned(name, "imports.ID", first)?;
                self.client_imports.retain(|import| import.id != id);
                return Ok(Reply::Void);
            }
            _ => return Err(RpcError::protocol(-32601, format!("method 'Filecoin.{name}' not found"))),
        }))
    }

    /// The answer of `Version`, with `APIVersion`.
    pub(crate) fn version_json(&self, api_version: u64) -> Value {
        json!({
            "Version": format!("{}+{}+git.lotus-sim", self.config.version.release(), self.config.network_name),
            "APIVersion": api_version,
            "BlockDelay": self.config.block_delay_seconds,
        })
    }

    /// The other nodes of this simulator.
    pub(crate) fn net_peers(&self) -> Value {
        let peers = self.miners.values().filter_map(|miner| miner.config.peer_id.clone());
        peers.map(|id| json!({ "ID": id, "Addrs": ["/ip4/127.0.0.1/tcp/1"] })).collect()
    }

    fn start_deal(&mut self, deal: &StartDeal) -> Result<String, RpcError> {
        let proposal = self
            .build_proposal(deal, Publication::Tracked)
            .map_err(|error| refused("ClientStartDeal", error))?;
        let cid = proposal.cid();
        if let Some(side) = self.deals.get(&cid).and_then(|deal| deal.client.as_ref()) {
            return Err(RpcError::application(already_tracking(&cid, side.state)));
        }
        self.log.proposed(proposal.root.to_string(), proposal.provider.as_str().to_owned());
        let created = SystemTime::now();
        self.deals.entry(cid.clone()).or_insert(Deal {
            cid: cid.clone(),
            proposal,
            created,
            client: None,
            provider: None,
        });
        self.client_start(&cid);
        Ok(cid)
    }

    fn client_import(&self, import: &ClientImport) -> Value {
        let mut value = json!({
            "Key": import.id, "Err": "", "Root": cid_json(&import.root), "Source": "import",
            "FilePath": import.path,
        });
        if self.config.version >= LotusVersion::V1_11 {
            value["CARPath"] = json!(import.car_path);
        }
        value
    }
}

fn api_version(major: u64, minor: u64, patch: u64) -> u64 {
    major << 16 | minor << 8 | patch
}

fn start_deal_params(method: &str, param: &Value) -> Result<StartDeal, RpcError> {
    StartDeal::read(param).map_err(|error| RpcError::params(method, "*api.StartDealParams", &error))
}

fn refused(method: &str, refusal: Refusal) -> RpcError {
    match refusal {
        Refusal::Application(text) => RpcError::application(text),
        Refusal::Panic => RpcError::nil_pointer(method),
    }
}

/// `ClientQueryAsk`. For an unreachable miner the call fails after the configured dial time.
async fn query_ask(inner: &Arc<Inner>, api: Api, params: &[Value]) -> Answer {
    let name = "ClientQueryAsk";
    let peer = peer(name, params.first().unwrap_or(&Value::Null))?;
    let miner = address(name, params.get(1).unwrap_or(&Value::Null))?;
    let ask = inner.with(|world| {
        let state = world.chain_miner(&miner).map_err(|error| {
            RpcError::application(format!("failed getting miner info: {}", error.message))
        })?;
        if state.config.peer_id.as_deref() != Some(peer) || !world.is_reachable(miner.as_str()) {
            return Ok(Err(world.config.timings.ask_dial));
        }
        Ok::<_, RpcError>(Ok(world.storage_ask(state)))
    })?;
    match ask {
        Ok(ask) => {
            let v1 = api == Api::V1 && inner.config.version.has_newer_jsonrpc();
            let wrapped = |ask| json!({ "Response": ask, "DealProtocols": ["/fil/storage/mk/1.1.0"] });
            Ok(Reply::Value(if v1 { wrapped(ask) } else { ask }))
        }
        Err(dial) => {
            tokio::time::sleep(dial).await;
            Err(RpcError::application(format!("failed to open stream to miner: failed to dial {peer}")))
        }
    }
}

/// `ClientStatelessDeal` (§2.6): sends the proposal and waits for the provider's answer; the client keeps no
/// deal.
async fn stateless_deal(inner: &Arc<Inner>, param: &Value) -> Answer {
    let name = "ClientStatelessDeal";
    let deal = start_deal_params(name, param)?;
    let (cid, miner, peer, limit, poll) = inner.with(|world| {
        let proposal =
            world.build_proposal(&deal, Publication::Stateless).map_err(|error| refused(name, error))?;
        let cid = proposal.cid();
        let miner = proposal.provider.as_str().to_owned();
        let peer =
            world.miners.get(&miner).and_then(|miner| miner.config.peer_id.clone()).unwrap_or_default();
        let (start, end) = (proposal.start_epoch, proposal.end_epoch);
        if !world.deals.contains_key(&cid) {
            world.log.proposed(proposal.root.to_string(), miner.clone());
            let created = SystemTime::now();
            let deal = Deal { cid: cid.clone(), proposal, created, client: None, provider: None };
            world.deals.insert(cid.clone(), deal);
            world.watch_epochs(&cid, start, end);
        }
        let timings = &world.config.timings;
        Ok((cid, miner, peer, timings.client_send_limit, timings.client_poll))
    })?;
    let give_up = tokio::time::Instant::now() + limit;
    let answer = loop {
        let sent = inner.with(|world| {
            if !world.is_reachable(&miner) {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            let known = world.provider_mut(&cid).is_some();
            if !known {
                world.receive_proposal(&cid);
            }
            world.provider_mut(&cid)?.waiters.push(sender);
            if known {
                world.receive_proposal(&cid);
            }
            Some(receiver)
        });
        match sent {
            Some(receiver) => break receiver.await,
            None if tokio::time::Instant::now() >= give_up => {
                return Err(RpcError::application(format!(
                    "opening dealstream to {miner}/{peer} failed: exhausted 15 attempts but failed to open stream"
                )));
            }
            None => tokio::time::sleep(poll.max(std::time::Duration::from_millis(1))).await,
        }
    };
    match answer {
        Ok((DealState::WaitingForData, _message)) => Ok(Reply::Value(json!({ "/": cid }))),
        Ok((state, message)) => Err(RpcError::application(format!(
            "provider returned unexpected state {} for proposal {cid}, with message: {message}",
            state.code()
        ))),
        Err(_closed) => Err(RpcError::application("reading proposal response failed: stream reset")),
    }
}

/// `ClientImport`. Reads only the header of a CAR; packs any other file into a CAR, whose DAG is that of
/// `ClientGenCar` (§6.1).
async fn import(inner: &Arc<Inner>, param: &Value) -> Answer {
    let (path, is_car) = file_ref("ClientImport", param)?;
    let made = inner.own_path(&format!("imports/{:x}.car", crate::ids::random_u64()));
    let read = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            if is_car {
                return car_root(Path::new(&path)).map(|root| (root, path));
            }
            generate_car(Path::new(&path), &made).map(|root| (root, made.display().to_string()))
        })
        .await
    };
    let (root, car_path) =
        read.unwrap_or_else(|error| Err(error.to_string())).map_err(RpcError::application)?;
    let id = inner.with(|world| {
        let id = world.client_imports.last().map_or(1, |import| import.id + 1);
        world.client_imports.push(ClientImport { id, root, path, car_path });
        id
    });
    Ok(Reply::Value(json!({ "Root": cid_json(&root), "ImportID": id })))
}

/// `ClientGenCar`, which returns no value. A failed call leaves the bytes that it has written (§6.1).
async fn gen_car(params: &[Value]) -> Answer {
    let name = "ClientGenCar";
    let (path, _is_car) = file_ref(name, params.first().unwrap_or(&Value::Null))?;
    let output = text(name, params.get(1).unwrap_or(&Value::Null))?.to_owned();
    let work = tokio::task::spawn_blocking(move || generate_car(Path::new(&path), Path::new(&output)));
    work.await.unwrap_or_else(|error| Err(error.to_string())).map_err(RpcError::application)?;
    Ok(Reply::Void)
}

/// `FileRef`.
fn file_ref(name: &str, param: &Value) -> Result<(String, bool), RpcError> {
    let read = || {
        let fields = Fields::of(param)?;
        Ok((fields.text("Path")?, fields.flag("IsCAR", false)?))
    };
    read().map_err(|error: String| RpcError::params(name, "api.FileRef", &error))
}

async fn calc_commp(param: &Value) -> Answer {
    let path = text("ClientCalcCommP", param)?.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let path = Path::new(&path);
        if let Err(error) = std::fs::File::open(path) {
            return Err(go_open_error(path, &error));
        }
        car_root(path).map_err(|error| format!("not a car file: {error}"))?;
        commp_of(path).map_err(|error| format!("computing commP failed: {error}"))
    });
    let piece = work.await.unwrap_or_else(|error| Err(error.to_string())).map_err(RpcError::application)?;
    Ok(Reply::Value(json!({ "Root": cid_json(&piece.cid), "Size": piece.unpadded_size() })))
}

/// `ClientDealPieceCID` and `ClientDealSize`: padded sizes, of an imported root.
async fn imported_piece(inner: &Arc<Inner>, name: &str, param: &Value) -> Answer {
    let root = link(name, param)?;
    let path = inner.with(|world| {
        let import = world.client_imports.iter().find(|import| import.root == root);
        import.map(|import| import.car_path.clone())
    });
    let path = path.ok_or_else(|| {
        RpcError::application(format!(
            "no import found for root {root}: no client blockstore for root {root}"
        ))
    })?;
    let work = tokio::task::spawn_blocking(move || {
        commp_of(Path::new(&path)).map_err(|error| format!("failed to read imported CAR {path}: {error}"))
    });
    let piece = work.await.unwrap_or_else(|error| Err(error.to_string())).map_err(RpcError::application)?;
    let mut value = json!({ "PayloadSize": piece.payload_size, "PieceSize": piece.padded_size });
    if name == "ClientDealPieceCID" {
        value["PieceCID"] = cid_json(&piece.cid);
    }
    Ok(Reply::Value(value))
}
