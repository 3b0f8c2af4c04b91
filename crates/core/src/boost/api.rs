//! Calls to a storage provider's Boost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::boost::wire::{BoostDeal, SignedAsk, Verdict};
use crate::lotus::wire::CidLink;
use crate::model::ProposalCid;
use crate::rpc::client::Client;
use crate::rpc::error::{INVALID_PARAMS, RpcError};
use crate::rpc::send_deadline::{BootInstant, with_send_deadline};

/// A storage provider's Boost, `/rpc/v0`.
#[derive(Clone, Debug)]
pub struct Boost {
    client: Client,
    /// Whether the import call takes two parameters, as before v1.7.0.
    takes_two: Arc<AtomicBool>,
}

/// The method that hands a file over.
pub const IMPORT: &str = "Filecoin.BoostOfflineDealWithData";
const DEAL_BY_UUID: &str = "Filecoin.BoostDeal";
const DEAL_BY_PROPOSAL: &str = "Filecoin.BoostDealBySignedProposalCid";
/// What Boost says of a deal that it does not have. Source: boost v2.5.2 `storagemarket/provider.go`.
const NOT_FOUND: &str = "deal not found";
/// A uuid that no client makes: all bits are one.
const ABSENT_DEAL: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";
/// The uuid of a record that was never filled.
const NO_DEAL: &str = "00000000-0000-0000-0000-000000000000";

impl Boost {
    /// Calls through this client.
    pub fn new(client: Client) -> Self {
        Self { client, takes_two: Arc::default() }
    }

    /// Its URL.
    pub fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    /// The miner this node works for, as its ask says (permission `read`). Boost has no other call that says
    /// it to a token without `admin`.
    pub async fn miner(&self) -> Result<String, RpcError> {
        let ask: SignedAsk =
            self.client.call("Filecoin.MarketGetAsk", vec![], self.client.timeouts.quick).await?;
        Ok(ask.ask.miner)
    }

    /// Whether the token may hand over data: a deal that cannot exist is asked for.
    ///
    /// # Errors
    ///
    /// [`RpcError::Permission`] or [`RpcError::Unauthorized`] where it may not.
    pub async fn try_token(&self) -> Result<(), RpcError> {
        self.deal(DEAL_BY_UUID, json!(ABSENT_DEAL)).await.map(|_none| ())
    }

    /// The deal with this signed proposal CID; `None` if Boost does not have it (permission `admin`).
    ///
    /// # Errors
    ///
    /// [`RpcError`]. Boost answers `null`, or a record of zeros, where its database fails: that is
    /// [`RpcError::Decode`], never "does not have it".
    pub async fn deal_of_proposal(&self, proposal_cid: &ProposalCid) -> Result<Option<BoostDeal>, RpcError> {
        let link = serde_json::to_value(CidLink::new(proposal_cid.as_str())).unwrap_or(Value::Null);
        self.deal(DEAL_BY_PROPOSAL, link).await
    }

    async fn deal(&self, method: &'static str, key: Value) -> Result<Option<BoostDeal>, RpcError> {
        match self.client.call::<BoostDeal>(method, vec![key], self.client.timeouts.quick).await {
            // Where its database fails, Boost answers with a record of zeros (boost v2.5.2
            // `storagemarket/provider.go`).
            Ok(deal) if deal.deal_uuid == NO_DEAL => Err(RpcError::Decode {
                method,
                endpoint: self.client.endpoint().to_owned(),
                source: "it is a record of zeros: Boost's database has failed".into(),
            }),
            Ok(deal) => Ok(Some(deal)),
            Err(RpcError::Application { message, .. }) if message.contains(NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a file over (permission `admin`). The answer comes before a byte of the file is read.
    ///
    /// A second call while Boost reads the file of the first is accepted as well, and tags the collateral
    /// twice: the caller looks at the deal first.
    ///
    /// Nothing is sent after `send_deadline`, when the caller's lease may have ended.
    pub async fn import(
        &self,
        uuid: &str,
        path: &str,
        send_deadline: BootInstant,
    ) -> Result<Verdict, RpcError> {
        let client = self.client.on_new_connection(IMPORT)?;
        let send = async |params: Vec<Value>| {
            with_send_deadline(send_deadline, client.call(IMPORT, params, client.timeouts.quick)).await
        };
        // Files are the operator's: none is deleted after it is in a sector.
        let three = || vec![json!(uuid), json!(path), json!(false)];
        let two = || vec![json!(uuid), json!(path)];
        if self.takes_two.load(Ordering::Relaxed) {
            return send(two()).await;
        }
        match send(three()).await {
            // Nothing was done: the parameters were counted first. Source: go-jsonrpc v0.10.1 `handler.go`.
            Err(RpcError::Application { code: INVALID_PARAMS, message, .. })
                if message.contains("wrong param count") =>
            {
                self.takes_two.store(true, Ordering::Relaxed);
                send(two()).await
            }
            answer => answer,
        }
    }
}
