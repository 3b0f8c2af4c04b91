//! JSON-RPC methods of a miner (or its markets process).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::config::LotusVersion;
use crate::full_node::auth;
use crate::inner::Inner;
use crate::params::{flag, link, text};
use crate::reply::{Caller, ChannelKind, Reply, RpcError};
use crate::states::DealState;
use crate::wire::signature;
use crate::world::World;

type Answer = Result<Reply, RpcError>;

/// Answers one call, after the checks of parameter count and permission.
pub(crate) async fn answer(
    inner: &Arc<Inner>,
    caller: &Caller,
    miner: &str,
    name: &str,
    params: &[Value],
) -> Answer {
    let first = params.first().unwrap_or(&Value::Null);
    match name {
        "DealsImportData" | "MarketImportDealData" => {
            let cid = link(name, first)?.to_string();
            let path = text(name, params.get(1).unwrap_or(&Value::Null))?;
            crate::import::import_data(inner, caller, miner, name, &cid, path).await
        }
        "AuthVerify" | "AuthNew" => auth(inner, name, first),
        "MarketListIncompleteDeals" => Ok(Reply::List(local_deals(inner, miner).await)),
        _ => inner.with(|world| world.miner_answer(miner, name, first)),
    }
}

/// All deals that the provider has seen; `null` if there are none, which is a nil slice in Go. The list is
/// built page by page: 100 000 deals take seconds, and other calls are answered meanwhile.
async fn local_deals(inner: &Inner, id: &str) -> Value {
    let cids = inner.with(|world| world.miners.get(id).map(|miner| miner.deals.clone())).unwrap_or_default();
    let mut listed = Vec::with_capacity(cids.len());
    for page in cids.chunks(500) {
        inner.with(|world| {
            let Some(miner) = world.miners.get(id) else { return };
            listed.extend(page.iter().filter_map(|cid| {
                let deal = world.deals.get(cid)?;
                Some(world.miner_deal(deal, deal.provider.as_ref()?, miner))
            }));
        });
        tokio::task::yield_now().await;
    }
    if listed.is_empty() { Value::Null } else { Value::Array(listed) }
}

impl World {
    fn miner_answer(&mut self, id: &str, name: &str, param: &Value) -> Answer {
        let prefix = self.config.network_prefix;
        let Some(miner) = self.miners.get_mut(id) else {
            return Err(RpcError::protocol(-32601, format!("method 'Filecoin.{name}' not found")));
        };
        Ok(Reply::Value(match name {
            "Version" => {
                let api_version = match self.config.version {
                    LotusVersion::V1_5 => 65_537,
                    LotusVersion::V1_11 => 66_048,
                    LotusVersion::V1_23 | LotusVersion::V1_27_1 => 66_816,
                };
                self.version_json(api_version)
            }
            "Session" => json!(miner.node.session),
            "ID" => json!(miner.config.peer_id),
            "NetPeers" => self.net_peers(),
            "ActorAddress" => json!(miner.address.print(prefix)),
            "DealsList" | "MarketListDeals" => return Ok(Reply::List(self.chain_deals(id))),
            "MarketGetDealUpdates" => return Ok(Reply::Channel(ChannelKind::ProviderDeals)),
            "MarketGetAsk" => {
                let signature = json!({ "Type": 2, "Data": "U2lnbmF0dXJlIG9mIG5vYm9keQ==" });
                let ask = self.miners.get(id).map(|miner| self.storage_ask(miner));
                json!({ "Ask": ask, "Signature": signature })
            }
            "SectorsSummary" => self.sectors_summary(id),
            "MarketPendingDeals" => self.pending_deals(id),
            "MarketPublishPendingDeals" => {
                self.publish_now(id);
                return Ok(Reply::Void);
            }
            "MarketRetryPublishDeal" => {
                let cid = link(name, param)?.to_string();
                self.retry_publish(id, &cid).map_err(RpcError::application)?;
                return Ok(Reply::Void);
            }
            "DealsConsiderOfflineStorageDeals" => json!(miner.config.accepts_offline),
            "DealsSetConsiderOfflineStorageDeals" => {
                miner.config.accepts_offline = flag(name, param)?;
                return Ok(Reply::Void);
            }
            _ => return Err(RpcError::protocol(-32601, format!("method 'Filecoin.{name}' not found"))),
        }))
    }

    fn chain_deals(&self, id: &str) -> Value {
        let deals: Vec<Value> = self
            .chain
            .values()
            .filter_map(|chain| {
                let deal = self.deals.get(&chain.cid)?;
                (deal.proposal.provider.as_str() == id).then(|| self.market_deal(deal, chain))
            })
            .collect();
        if deals.is_empty() { Value::Null } else { Value::Array(deals) }
    }

    /// Number of sectors by state, one sector per deal.
    fn sectors_summary(&self, id: &str) -> Value {
        let mut summary = BTreeMap::<&str, usize>::new();
        for (state, count) in self.provider_states(id) {
            let sector = match state {
                DealState::AwaitingPreCommit => "WaitDeals",
                DealState::Sealing => "PreCommit1",
                DealState::Finalizing => "FinalizeSector",
                DealState::Active | DealState::Expired => "Proving",
                _ => continue,
            };
            *summary.entry(sector).or_default() += count;
        }
        json!(summary)
    }

    fn pending_deals(&self, id: &str) -> Value {
        let Some(miner) = self.miners.get(id) else { return Value::Null };
        let deals: Vec<Value> = miner
            .publish_queue
            .iter()
            .filter_map(|cid| self.deals.get(cid))
            .map(|deal| json!({ "Proposal": self.proposal_json(deal), "ClientSignature": signature(deal) }))
            .collect();
        let period = self.timings(id).publish_period;
        json!({
            "Deals": deals,
            "PublishPeriodStart": self.time(miner.publish_since.unwrap_or(SystemTime::UNIX_EPOCH)),
            "PublishPeriod": u64::try_from(period.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}
