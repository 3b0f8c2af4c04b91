//! Calls to a storage provider's market: a lotus-miner or its markets node.

use serde_json::{Value, json};

use crate::lotus::Api;
use crate::lotus::wire::{CidLink, MinerDeal};
use crate::model::ProposalCid;
use crate::rpc::error::RpcError;
use crate::rpc::send_deadline::{BootInstant, with_send_deadline};

/// Which of the two equal import methods is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportMethod {
    /// `MarketImportDealData`: needs a `write` token in every version.
    #[default]
    Market,
    /// `DealsImportData`, what the command line calls: needs `admin` since v1.9.0.
    Deals,
}

impl ImportMethod {
    /// Full method name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Market => "Filecoin.MarketImportDealData",
            Self::Deals => "Filecoin.DealsImportData",
        }
    }
}

/// A storage provider's market API, `/rpc/v0`.
pub type Provider = Api<Market>;

/// A storage provider's market, as a kind of [`Api`].
#[derive(Clone, Copy, Debug)]
pub enum Market {}

impl Api<Market> {
    /// The miner this node works for (permission `read`).
    pub async fn actor_address(&self) -> Result<String, RpcError> {
        self.client.call("Filecoin.ActorAddress", vec![], self.client.timeouts.quick).await
    }

    /// Every deal in the market's own store, finished ones included; the call has no paging (permission
    /// `read`). `MarketListDeals` is never called: it downloads the market state of the whole chain.
    pub async fn list_deals(&self) -> Result<Vec<MinerDeal>, RpcError> {
        self.client.call_list("Filecoin.MarketListIncompleteDeals", vec![], self.client.timeouts.list).await
    }

    /// Imports a CAR: the market copies the file and computes its commitment before it answers.
    ///
    /// Success proves only that the bytes fit the deal. The deal's state shows whether it moved on: in any
    /// state but "waiting for data" the same call succeeds without effect (lotus-contract §3.2).
    ///
    /// Nothing is sent after `send_deadline`, when the caller's lease may have ended.
    pub async fn import(
        &self,
        method: ImportMethod,
        deal: &ProposalCid,
        path: &str,
        send_deadline: BootInstant,
    ) -> Result<(), RpcError> {
        let name = method.name();
        let link = serde_json::to_value(CidLink::new(deal.as_str())).unwrap_or(Value::Null);
        let client = self.client.on_new_connection(name)?;
        let call = client.call(name, vec![link, json!(path)], client.timeouts.import);
        let _void: Value = with_send_deadline(send_deadline, call).await?;
        Ok(())
    }
}
