//! Calls to a Lotus full node: chain, wallet, deals and imports. client-agent makes most of them, miner-agent
//! reads the head of the chain.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::lotus::Api;
use crate::lotus::wire::{
    CidLink, CollateralBounds, ImportEntry, ListedDeal, MarketBalance, MarketDeal, MinerInfo,
    StartDealParams, StorageAsk, TipSet, read_deals,
};
use crate::model::{AttoFil, DealId, PublishMethod};
use crate::rpc::error::{INVALID_PARAMS, RpcError};
use crate::rpc::go_values::BigInt;
use crate::rpc::send_deadline::{BootInstant, with_send_deadline};

/// A Lotus full node, API v0.
pub type FullNode = Api<Full>;

/// A full node, as a kind of [`Api`].
#[derive(Clone, Copy, Debug)]
pub enum Full {}

/// "Heaviest tipset", where a call takes a tipset key.
fn head() -> Value {
    json!([])
}

impl Api<Full> {
    /// The head of the chain as the node knows it (permission `read`).
    pub async fn chain_head(&self) -> Result<TipSet, RpcError> {
        self.client.call("Filecoin.ChainHead", vec![], self.client.timeouts.quick).await
    }

    /// Whether the node holds the key of this wallet (permission `write`).
    pub async fn wallet_has(&self, wallet: &str) -> Result<bool, RpcError> {
        self.client.call("Filecoin.WalletHas", vec![json!(wallet)], self.client.timeouts.quick).await
    }

    /// The balance of the wallet itself (permission `read`).
    pub async fn wallet_balance(&self, wallet: &str) -> Result<AttoFil, RpcError> {
        let params = vec![json!(wallet)];
        let balance: BigInt =
            self.client.call("Filecoin.WalletBalance", params, self.client.timeouts.quick).await?;
        Ok(AttoFil::new(balance.0))
    }

    /// The funds of wallet and escrow that the node reserves for unpublished deals (permission `sign`).
    /// `None` where the node has no such method or the token may not call it.
    pub async fn market_reserved(&self, wallet: &str) -> Result<Option<AttoFil>, RpcError> {
        let params = vec![json!(wallet)];
        let answer: Result<BigInt, RpcError> =
            self.client.call("Filecoin.MarketGetReserved", params, self.client.timeouts.quick).await;
        match answer {
            Ok(reserved) => Ok(Some(AttoFil::new(reserved.0))),
            Err(RpcError::MethodNotFound { .. } | RpcError::Permission { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Name of the node's network: `mainnet`, `calibrationnet`, or what a test network calls itself
    /// (permission `read`).
    pub async fn network_name(&self) -> Result<String, RpcError> {
        self.client.call("Filecoin.StateNetworkName", vec![], self.client.timeouts.quick).await
    }

    /// The balance in the market actor's escrow (permission `read`).
    pub async fn market_balance(&self, wallet: &str) -> Result<MarketBalance, RpcError> {
        let params = vec![json!(wallet), head()];
        self.client.call("Filecoin.StateMarketBalance", params, self.client.timeouts.quick).await
    }

    /// Bytes of datacap left; `None` for a client that has none (permission `read`).
    pub async fn datacap(&self, wallet: &str) -> Result<Option<u128>, RpcError> {
        let params = vec![json!(wallet), head()];
        let left: Option<BigInt> = self
            .client
            .call("Filecoin.StateVerifiedClientStatus", params, self.client.timeouts.quick)
            .await?;
        Ok(left.map(|left| left.0))
    }

    /// On-chain facts of a miner (permission `read`).
    pub async fn miner_info(&self, miner: &str) -> Result<MinerInfo, RpcError> {
        let params = vec![json!(miner), head()];
        self.client.call("Filecoin.StateMinerInfo", params, self.client.timeouts.quick).await
    }

    /// The provider's ask, fetched from the provider (permission `read`).
    pub async fn query_ask(&self, peer_id: &str, miner: &str) -> Result<StorageAsk, RpcError> {
        let params = vec![json!(peer_id), json!(miner)];
        self.client.call("Filecoin.ClientQueryAsk", params, self.client.timeouts.quick).await
    }

    /// What the network allows as provider collateral (permission `read`).
    pub async fn collateral_bounds(
        &self,
        padded_size: u64,
        verified: bool,
    ) -> Result<CollateralBounds, RpcError> {
        let params = vec![json!(padded_size), json!(verified), head()];
        self.client
            .call("Filecoin.StateDealProviderCollateralBounds", params, self.client.timeouts.quick)
            .await
    }

    /// Whether the node has a method that publishes deals. No deal is published: a call without parameters is
    /// refused for its parameters where the method exists.
    ///
    /// # Errors
    ///
    /// Any other failure (no connection, a wrong token). A missing permission is none: the method exists, and
    /// publishing reports the permission.
    pub async fn has_method(&self, method: PublishMethod) -> Result<bool, RpcError> {
        let answer: Result<Value, RpcError> =
            self.client.call(publish_method_name(method), vec![], self.client.timeouts.quick).await;
        match answer {
            Err(RpcError::MethodNotFound { .. }) => Ok(false),
            Ok(_) | Err(RpcError::Application { code: INVALID_PARAMS, .. } | RpcError::Permission { .. }) => {
                Ok(true)
            }
            Err(other) => Err(other),
        }
    }

    /// Makes a deal; the answer is its proposal CID. `ClientStartDeal` needs `admin` and answers before
    /// the provider knows; `ClientStatelessDeal` needs `write` and answers when the provider waits for data.
    ///
    /// Nothing is sent after `send_deadline`, when another agent may recover the same proposal.
    pub async fn publish(
        &self,
        method: PublishMethod,
        params: &StartDealParams,
        send_deadline: BootInstant,
    ) -> Result<CidLink, RpcError> {
        let name = publish_method_name(method);
        let value = serde_json::to_value(params).map_err(|source| RpcError::Decode {
            method: name,
            endpoint: self.endpoint().to_owned(),
            source: source.into(),
        })?;
        with_send_deadline(send_deadline, self.client.call(name, vec![value], self.client.timeouts.publish))
            .await
    }

    /// The states of all deals the node follows, and all fields of the deals with these payloads (permission
    /// `write`).
    pub async fn list_deals(&self, payloads: Arc<HashSet<String>>) -> Result<Vec<ListedDeal>, RpcError> {
        let (method, limit) = ("Filecoin.ClientListDeals", self.client.timeouts.list);
        self.client.call_list_by(method, vec![], limit, move |text| read_deals(text, &payloads)).await
    }

    /// A deal on chain (permission `read`).
    pub async fn market_deal(&self, deal_id: DealId) -> Result<MarketDeal, RpcError> {
        let params = vec![json!(deal_id.get()), head()];
        self.client.call("Filecoin.StateMarketStorageDeal", params, self.client.timeouts.quick).await
    }

    /// Roots the node has imported (permission `write`).
    pub async fn list_imports(&self) -> Result<Vec<ImportEntry>, RpcError> {
        self.client.call_list("Filecoin.ClientListImports", vec![], self.client.timeouts.list).await
    }

    /// Imports a CAR on the node's own disk: the node reads only its header (permission `admin`).
    pub async fn import_car(&self, path: &str) -> Result<(), RpcError> {
        let params = vec![json!({"Path": path, "IsCAR": true})];
        let _imported: Value =
            self.client.call("Filecoin.ClientImport", params, self.client.timeouts.list).await?;
        Ok(())
    }
}

fn publish_method_name(method: PublishMethod) -> &'static str {
    match method {
        PublishMethod::Start => "Filecoin.ClientStartDeal",
        PublishMethod::Stateless => "Filecoin.ClientStatelessDeal",
    }
}
