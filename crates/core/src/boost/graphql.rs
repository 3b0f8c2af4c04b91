//! Boost's GraphQL: the offline deals that wait for their data, by the page. It takes no token, and
//! listens on the provider's own machine unless it is configured otherwise.
//!
//! Source: boost v2.5.2 `gql/schema.graphql`; the shapes of numbers as a running v2.5.2 wrote them.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use url::Url;

use crate::boost::wire::{BoostDeal, Checkpoint, ClientDealProposal, Proposal, Retry};
use crate::lotus::wire::CidLink;
use crate::rpc::error::RpcError;
use crate::rpc::go_values::null_is_empty;

/// Deals in one page. Chosen: some 300 KiB of answer.
const PAGE: u64 = 500;
/// The largest answer that is read. Chosen: a hundred times a page.
const ANSWER_BYTES_MAX: usize = 32 << 20;
const METHOD: &str = "GraphQL deals";
const ACCEPTED: &str = "Accepted";
const FILTER: &str = "filter:{Checkpoint:Accepted,IsOffline:true},";

/// Boost's GraphQL endpoint.
#[derive(Clone, Debug)]
pub struct Graphql {
    url: Url,
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// An offline deal that waits for its data, with the signed proposal CID that names it.
#[derive(Clone, Debug)]
pub struct WaitingDeal {
    /// CID of the signed proposal.
    pub proposal_cid: String,
    /// The deal.
    pub deal: BoostDeal,
}

impl Graphql {
    /// Calls this URL, whose path is `/graphql/query` where none is given. Does not connect yet.
    pub fn new(mut url: Url, timeout: Duration) -> Self {
        if matches!(url.path(), "" | "/") {
            url.set_path("/graphql/query");
        }
        Self { url, client: Client::builder(TokioExecutor::new()).build_http(), timeout }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &str {
        self.url.as_str()
    }

    /// Every offline deal that Boost has accepted and has no verified data of: what waits, what is being
    /// read, and what was refused.
    ///
    /// # Errors
    ///
    /// [`RpcError`].
    pub async fn waiting(&self) -> Result<Vec<WaitingDeal>, RpcError> {
        match self.pages(FILTER).await {
            // v1.5.0 has no filter: all its deals are read.
            Err(RpcError::Application { message, .. }) if message.contains("filter") => self.pages("").await,
            found => found,
        }
    }

    async fn pages(&self, filter: &str) -> Result<Vec<WaitingDeal>, RpcError> {
        let (mut found, mut read) = (Vec::new(), 0_usize);
        // Pages begin behind the first page's first deal, so that new deals move none of them.
        let mut cursor = String::new();
        loop {
            let query = format!(
                "{{deals({filter}{cursor}offset:{read},limit:{PAGE}){{totalCount more deals{{ID IsOffline Checkpoint \
                 CreatedAt PieceCid PieceSize StartEpoch DealDataRoot SignedProposalCid InboundFilePath \
                 ProviderAddress Err Retry}}}}}}"
            );
            let page = self.query(&query).await?;
            if cursor.is_empty()
                && let Some(first) = page.deals.first()
            {
                cursor = format!("cursor:{},", json!(first.id));
            }
            let is_last = !page.more || page.deals.is_empty();
            read += page.deals.len();
            let waits = |row: &Row| row.is_offline && row.checkpoint == ACCEPTED;
            found.extend(page.deals.into_iter().filter(waits).map(WaitingDeal::from));
            if is_last {
                return Ok(found);
            }
        }
    }

    async fn query(&self, query: &str) -> Result<DealPage, RpcError> {
        let lost = |source: Box<dyn std::error::Error + Send + Sync>| RpcError::Transport {
            method: METHOD,
            endpoint: self.url.to_string(),
            source,
        };
        let body = Full::new(Bytes::from(json!({ "query": query }).to_string()));
        let request = Request::post(self.url.as_str()).header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(body).map_err(|error| lost(error.into()))?;
        let answer = async {
            let answer = self.client.request(request).await.map_err(|error| lost(error.into()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(lost)?;
            Ok((status, body.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(self.timeout, answer).await.map_err(|_elapsed| {
            let (endpoint, seconds) = (self.url.to_string(), self.timeout.as_secs());
            RpcError::Timeout { method: METHOD, endpoint, seconds }
        })??;
        if !status.is_success() {
            return Err(lost(format!("HTTP status {status}").into()));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|source| RpcError::Decode {
            method: METHOD,
            endpoint: self.url.to_string(),
            source: source.into(),
        })?;
        match (answer.data, answer.errors.first()) {
            (Some(data), None) => Ok(data.deals),
            (_, Some(error)) => {
                Err(RpcError::Application { method: METHOD, code: 1, message: error.message.clone() })
            }
            (None, None) => Ok(DealPage::default()),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Option<Data>,
    #[serde(default, deserialize_with = "null_is_empty")]
    errors: Vec<GraphqlError>,
}

#[derive(Debug, Deserialize)]
struct GraphqlError {
    message: String,
}

#[derive(Debug, Deserialize)]
struct Data {
    deals: DealPage,
}

#[derive(Debug, Default, Deserialize)]
struct DealPage {
    #[serde(default)]
    more: bool,
    #[serde(deserialize_with = "null_is_empty")]
    deals: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    is_offline: bool,
    checkpoint: String,
    created_at: String,
    piece_cid: String,
    piece_size: Number,
    start_epoch: Number,
    deal_data_root: String,
    signed_proposal_cid: String,
    inbound_file_path: String,
    provider_address: String,
    err: String,
    retry: Retry,
}

impl From<Row> for WaitingDeal {
    fn from(row: Row) -> Self {
        Self {
            proposal_cid: row.signed_proposal_cid,
            deal: BoostDeal {
                deal_uuid: row.id,
                created_at: row.created_at,
                client_deal_proposal: ClientDealProposal {
                    proposal: Proposal {
                        piece_cid: Some(CidLink::new(row.piece_cid)),
                        piece_size: row.piece_size.0,
                        provider: row.provider_address,
                        start_epoch: i64::try_from(row.start_epoch.0).unwrap_or(i64::MAX),
                    },
                },
                is_offline: true,
                deal_data_root: Some(CidLink::new(row.deal_data_root)),
                inbound_file_path: row.inbound_file_path,
                chain_deal_id: 0,
                checkpoint: Checkpoint::Accepted,
                err: row.err,
                retry: row.retry,
            },
        }
    }
}

/// A whole number as Boost's GraphQL writes it: `{"__typename":"BigInt","n":"7"}`, a text or a number.
#[derive(Debug)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
            Object { n: String },
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => return Ok(Self(number)),
            Written::Text(text) | Written::Object { n: text } => text,
        };
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_boost_writes_it() {
        let number = |n: &str| json!({ "__typename": "BigInt", "n": n });
        let answer = json!({ "data": { "deals": { "totalCount": 1, "more": false, "deals": [{
            "ID": "07070707-0707-0707-0707-070707070707", "IsOffline": true, "Checkpoint": "Accepted", "CreatedAt": "2026-01-01T00:00:00Z",
            "PieceCid": "baga6ea4seaq", "PieceSize": number("2048"), "StartEpoch": number("77"),
            "DealDataRoot": "bafy", "SignedProposalCid": "bafyrei", "InboundFilePath": "", "ProviderAddress": "t01000",
            "Err": "", "Retry": "auto",
        }] } } });
        let answer: Answer = serde_json::from_value(answer).unwrap();
        let deals = answer.data.unwrap().deals.deals;
        let deal = WaitingDeal::from(deals.into_iter().next().unwrap());
        assert_eq!(deal.proposal_cid, "bafyrei");
        let terms = deal.deal.client_deal_proposal.proposal;
        assert_eq!((terms.piece_size, terms.start_epoch), (2048, 77));
    }
}
