//! `CurioWeb`: JSON-RPC of Curio's web interface, which asks for no credentials. Reads alone.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::curio::nullable::lenient;
use crate::rpc::{CallTimeouts, Client, RpcError};

/// Where the calls are answered. Source: curio v1.28.4 `web/api/webrpc/routes.go:26-42`.
const PATH: &str = "/api/webrpc/v0";
/// Deals in one answer, at most. Source: `GetMK12DealPipelines`.
pub const PIPELINES_MAX: u32 = 100;
/// What an unknown deal is answered with. Source: curio v1.28.4 `web/api/webrpc/market.go:201-376`.
const NO_SUCH_DEAL: &str = "No such deal found in database";

/// One deal as `CurioWeb.StorageDealInfo` tells it. Every field may be absent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CurioDeal {
    /// UUID of the deal.
    #[serde(deserialize_with = "lenient")]
    pub id: Option<String>,
    /// The miner's address.
    #[serde(deserialize_with = "lenient")]
    pub miner: Option<String>,
    /// Sector that holds it.
    #[serde(deserialize_with = "lenient")]
    pub sector: Option<i64>,
    /// CID of the signed proposal.
    #[serde(deserialize_with = "lenient")]
    pub signed_proposal_cid: Option<String>,
    /// Whether its data comes offline.
    #[serde(deserialize_with = "lenient")]
    pub offline: Option<bool>,
    /// Epoch at which it starts.
    #[serde(deserialize_with = "lenient")]
    pub start_epoch: Option<i64>,
    /// Number on chain.
    #[serde(deserialize_with = "lenient")]
    pub chain_deal_id: Option<i64>,
    /// CID of the message that published it.
    #[serde(deserialize_with = "lenient")]
    pub publish_cid: Option<String>,
    /// Piece CID, version 1.
    #[serde(deserialize_with = "lenient")]
    pub piece_cid: Option<String>,
    /// PADDED piece size in bytes.
    #[serde(deserialize_with = "lenient")]
    pub piece_size: Option<i64>,
    /// Bytes of the CAR, once a locator told them.
    #[serde(rename = "RawSize", deserialize_with = "lenient")]
    pub raw_size: Option<i64>,
    /// Where it is read from, once a locator had it.
    #[serde(deserialize_with = "lenient")]
    pub url: Option<String>,
    /// Why it was given up.
    #[serde(deserialize_with = "lenient")]
    pub error: Option<String>,
    /// Whether it is indexed: the last step.
    #[serde(deserialize_with = "lenient")]
    pub indexed: Option<bool>,
}

/// One deal on its way, as `CurioWeb.GetMK12DealPipelines` tells it. Every field may be absent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CurioPipeline {
    /// UUID of the deal.
    #[serde(deserialize_with = "lenient")]
    pub uuid: Option<String>,
    /// Whether its data was found.
    #[serde(deserialize_with = "lenient")]
    pub started: Option<bool>,
    /// Bytes of the CAR, once a locator told them.
    #[serde(deserialize_with = "lenient")]
    pub raw_size: Option<i64>,
    /// Where it is read from.
    #[serde(deserialize_with = "lenient")]
    pub url: Option<String>,
    /// The task that computes its piece CID; stays set for ever after three failures.
    #[serde(deserialize_with = "lenient")]
    pub commp_task_id: Option<i64>,
    /// Whether its piece CID was found right.
    #[serde(deserialize_with = "lenient")]
    pub after_commp: Option<bool>,
    /// Whether the message that publishes it was sent.
    #[serde(deserialize_with = "lenient")]
    pub after_psd: Option<bool>,
    /// Whether it was found on chain.
    #[serde(deserialize_with = "lenient")]
    pub after_find_deal: Option<bool>,
    /// Its sector.
    #[serde(deserialize_with = "lenient")]
    pub sector: Option<i64>,
    /// Whether nothing is left to be done.
    #[serde(deserialize_with = "lenient")]
    pub complete: Option<bool>,
}

/// Curio's web interface.
#[derive(Clone, Debug)]
pub struct CurioWeb {
    client: Client,
    limit: Duration,
}

impl CurioWeb {
    /// A client for `http://host:4701`. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`RpcError::Transport`] for a URL that cannot be called at all.
    pub fn new(url: &str, limit: Duration) -> Result<Self, RpcError> {
        let url = url.trim_end_matches('/');
        let url = if url.ends_with(PATH) { url.to_owned() } else { format!("{url}{PATH}") };
        Ok(Self { client: Client::new(&url, None, CallTimeouts::default())?, limit })
    }

    /// The release: `1.28.4+mainnet+git…`.
    ///
    /// # Errors
    ///
    /// See [`RpcError`].
    pub async fn version(&self) -> Result<String, RpcError> {
        self.client.call("CurioWeb.Version", Vec::new(), self.limit).await
    }

    /// One deal; `None` if Curio does not know it.
    ///
    /// # Errors
    ///
    /// See [`RpcError`].
    pub async fn deal(&self, uuid: &str) -> Result<Option<CurioDeal>, RpcError> {
        match self.client.call("CurioWeb.StorageDealInfo", vec![json!(uuid)], self.limit).await {
            Err(error) if error.message().is_some_and(|message| message.contains(NO_SUCH_DEAL)) => Ok(None),
            answer => answer,
        }
    }

    /// Deals on their way, the newest first: at most [`PIPELINES_MAX`] after the first `offset`.
    ///
    /// # Errors
    ///
    /// See [`RpcError`].
    pub async fn pipelines(&self, offset: u32) -> Result<Vec<CurioPipeline>, RpcError> {
        let params = vec![json!(PIPELINES_MAX), json!(offset)];
        self.client.call_list("CurioWeb.GetMK12DealPipelines", params, self.limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deal_is_read_whatever_form_its_nulls_have() {
        // The forms of curio v1.28.4 `web/api/webrpc/market.go`.
        let deal: CurioDeal = serde_json::from_value(json!({
            "id": "b2c1", "sp_id": 1000, "sector": null, "created_at": "2026-01-01T00:00:00Z",
            "signed_proposal_cid": "bafyrei", "offline": true, "verified": false, "start_epoch": 9, "end_epoch": 10,
            "chain_deal_id": null, "publish_cid": null, "piece_cid": "baga", "piece_size": 2048,
            "RawSize": {"Int64": 1500, "Valid": true}, "url": null, "error": null,
            "indexed": {"Bool": false, "Valid": false}, "is_ddo": false, "piece_cid_v2": "", "miner": "f01000",
        }))
        .unwrap();
        assert_eq!((deal.raw_size, deal.sector, deal.indexed), (Some(1500), None, None));
        assert_eq!((deal.piece_size, deal.miner.as_deref()), (Some(2048), Some("f01000")));
        let other: CurioDeal = serde_json::from_value(json!({
            "sector": {"Int64": 7, "Valid": true}, "RawSize": 1500, "indexed": true, "piece_size": "2048",
        }))
        .unwrap();
        assert_eq!((other.sector, other.raw_size, other.indexed), (Some(7), Some(1500), Some(true)));
        assert_eq!(other.piece_size, None, "a text is no number, and hides nothing else");
    }

    #[test]
    fn a_pipeline_is_read_with_its_null_types() {
        let pipeline: CurioPipeline = serde_json::from_value(json!({
            "uuid": "b2c1", "started": true, "raw_size": {"Int64": 5, "Valid": true},
            "url": {"String": "http://x/piece?id=baga", "Valid": true}, "commp_task_id": {"Int64": 0, "Valid": false},
            "after_commp": true, "after_psd": false, "sector": {"Int64": 0, "Valid": false}, "complete": false,
        }))
        .unwrap();
        assert_eq!((pipeline.raw_size, pipeline.commp_task_id, pipeline.sector), (Some(5), None, None));
        assert_eq!(pipeline.url.as_deref(), Some("http://x/piece?id=baga"));
    }
}
