//! Adoption of deals that come without a record: a miner's market waits for their data, and their client does
//! not use this database.
//!
//! Such a deal is recorded as a pending deal of the miner, and imported by the same rules as any other, but
//! for the CAR: it is found by its piece CID, and its piece commitment is computed before it is handed over.

use std::collections::HashSet;
use std::sync::Arc;

use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::rpc::RpcError;
use carferry_core::runtime::Backoff;
use carferry_core::store::{AdoptedDeal, StoreError};
use carferry_core::telemetry::fields;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::import::ImportContext;
use crate::market::UNIDENTIFIED;

/// Why no deals could be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The market did not list what it waits for.
    #[error("the market does not list the deals that wait for data")]
    Market(#[from] Arc<RpcError>),
    /// The database did not answer.
    #[error("the deals that the market waits for cannot be recorded")]
    Store(#[from] StoreError),
}

impl Hint for AdoptError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Market(error) if error.is_about_the_node() => Some(
                "Boost lists them over GraphQL (port 8080, on its own machine only unless configured otherwise): set \
                 miners[].graphql to its URL"
                    .to_owned(),
            ),
            Self::Market(error) => error.hint(),
            Self::Store(error) => error.hint(),
        }
    }
}

/// Deals that the market waits for and that are not recorded.
///
/// # Errors
///
/// [`AdoptError`].
pub async fn unrecorded(context: &ImportContext) -> Result<Vec<AdoptedDeal>, AdoptError> {
    let waiting = context.market.waiting().await?;
    let mut unrecorded = Vec::new();
    for page in waiting.chunks(PAGE) {
        let cids: Vec<&str> = page.iter().map(|deal| deal.proposal_cid.as_str()).collect();
        let recorded: HashSet<String> = context.store.recorded_among(&cids).await?.into_iter().collect();
        unrecorded.extend(page.iter().filter(|deal| !recorded.contains(&deal.proposal_cid)).cloned());
    }
    Ok(unrecorded)
}

/// Proposal CIDs in one query. Chosen: some 100 KiB.
const PAGE: usize = 1000;

/// Records the deals that the market waits for and that are not recorded. Returns how many were new.
///
/// # Errors
///
/// [`AdoptError`].
pub async fn adopt(context: &ImportContext) -> Result<u64, AdoptError> {
    let miner = context.market.miner();
    let deals = unrecorded(context).await?;
    let adopted = context.store.adopt(miner, &deals).await?;
    if adopted > 0 {
        info!({ fields::MINER } = miner, deals = adopted, "deals that the market waits for are recorded now");
    }
    Ok(adopted)
}

/// Adopts again and again until the stop; notifies `wake` when there are new deals.
pub async fn keep_adopting(context: &ImportContext, wake: &Notify, stop: &CancellationToken) {
    let work = async {
        loop {
            if context.market.is_identified() {
                match adopt(context).await {
                    Ok(0) => {}
                    Ok(_) => wake.notify_one(),
                    Err(error) => warn!(
                        { fields::MINER } = context.market.miner(),
                        error = %ErrorChain(&error), hint = error.hint().unwrap_or_default(),
                        "deals without a record are not looked for now"
                    ),
                }
                sleep(Backoff::jitter(context.setting.provider_poll_interval)).await;
            } else {
                sleep(context.setting.scan_interval.min(UNIDENTIFIED)).await;
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
