//! Boost: tells of one deal at a time, and takes a file without looking at it (v1.5.0 to v2.5.2).
//!
//! The call that hands a file over is answered before a byte is read. A file that cannot be read kills the
//! deal for good, and a second call while the first file is read tags the collateral twice. So the deal is
//! looked at directly before each call, and the agent has opened the file and read its header.

pub(super) mod checks;
pub(super) mod errors;
pub(super) mod listed;

use std::path::Path;

use carferry_core::boost::Boost;
use carferry_core::boost::api::IMPORT;
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::ProposalCid;
use carferry_core::rpc::{BootInstant, RpcError};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use tracing::debug;

use crate::market::HandOver;
use crate::market::listed_deal::ListedDeal;
use crate::market::listing::Looked;

/// Looks at deals at a time. Chosen: Boost answers each from a database of its own, in milliseconds.
const LOOKS_AT_ONCE: usize = 8;

/// The state of these deals; those that Boost does not have are left out.
pub(super) async fn look(boost: &Boost, deals: &[&str]) -> Result<Vec<(String, Looked)>, RpcError> {
    let deals: Vec<ProposalCid> = deals.iter().filter_map(|deal| deal.parse().ok()).collect();
    let looks = deals.into_iter().map(|deal| {
        let boost = boost.clone();
        async move {
            let looked = match boost.deal_of_proposal(&deal).await {
                Ok(None) => return Ok(None),
                Ok(Some(found)) => Looked::Found(Box::new(ListedDeal::from(found))),
                // Its database failed, or it is of a release that is not known: other deals go on.
                Err(error @ RpcError::Decode { .. }) => {
                    debug!(error = %ErrorChain(&error), "Boost's record of a deal cannot be read");
                    Looked::Unread
                }
                Err(error) => return Err(error),
            };
            Ok::<_, RpcError>(Some((deal.as_str().to_owned(), looked)))
        }
    });
    let found: Vec<_> = futures::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Hands a file over, unless Boost has one already.
pub(super) async fn hand_over(
    boost: &Boost,
    deal: &ProposalCid,
    node_path: &str,
    send_before: BootInstant,
) -> Result<HandOver, RpcError> {
    let refused = |message: String| RpcError::Application { method: IMPORT, code: 1, message };
    if !Path::new(node_path).is_absolute() {
        // Boost would look below its own working folder, find nothing, and end the deal.
        return Err(refused(format!("failed to open {node_path}: the path is not absolute")));
    }
    let found = match boost.deal_of_proposal(deal).await {
        Ok(Some(found)) => found,
        Err(RpcError::Decode { .. }) => {
            return Err(refused(format!(
                "getting offline deal {}: its record cannot be read",
                deal.as_str()
            )));
        }
        Ok(None) => return Err(refused(format!("deal not found: {}", deal.as_str()))),
        Err(error) => return Err(error),
    };
    let uuid = found.deal_uuid.clone();
    if !ListedDeal::from(found).awaits_data() {
        return Ok(HandOver::Scheduled);
    }
    let verdict = boost.import(&uuid, node_path, send_before).await?;
    if verdict.accepted { Ok(HandOver::Scheduled) } else { Err(refused(verdict.reason)) }
}
