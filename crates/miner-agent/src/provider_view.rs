//! The provider's view of the deals, recorded beside the client's.

use carferry_core::{
    error_chain::ErrorChain,
    lotus::{LotusError, wire::MinerDeal},
    model::ProviderViewDoc,
    store::StoreError,
    telemetry::fields,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::import::{Importer, record_view};

/// Why a poll did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The market did not list its deals.
    #[error("the market does not list its deals")]
    Market(#[from] LotusError),
    /// The database did not answer.
    #[error("the provider's view cannot be recorded")]
    Store(#[from] StoreError),
}

/// Polls until the stop.
pub async fn follow(importer: &Importer, stop: &CancellationToken) {
    let interval = importer.setting.provider_poll_interval;
    let mut identified = false;
    while !stop.is_cancelled() {
        // The worker finds out whether the node is the right one.
        identified = importer.market.is_identified();
        let pause = if identified {
            interval.mul_f64(0.9 + fastrand::f64() / 5.0)
        } else {
            interval.min(UNIDENTIFIED)
        };
        let poll = async {
            if identified && let Err(error) = poll_once(importer).await {
                warn!({ fields::MINER } = importer.market.miner(), error = %ErrorChain(&error), "poll failed");
            }
            sleep(pause).await;
        };
        stop.run_until_cancelled(poll).await;
    }
    debug!(identified, "provider view ends");
}

/// How soon it is asked again whether the node has answered yet.
const UNIDENTIFIED: std::time::Duration = std::time::Duration::from_secs(1);

/// Records what changed since the last time; says how many deals did.
///
/// # Errors
///
/// [`PollError`]; the next poll makes up for it.
pub async fn poll_once(importer: &Importer) -> Result<usize, PollError> {
    let followed = importer.store.provider_followed(importer.market.miner()).await?;
    if followed.is_empty() {
        return Ok(0);
    }
    let listing = importer.market.recent_listing().await?;
    let mut changed = 0;
    for deal in &followed {
        let seen = deal.dealcid.as_deref().and_then(|proposal_cid| listing.deal(proposal_cid));
        if let Some(seen) = seen
            && differs(deal.provider.as_ref(), seen)
        {
            record_view(&importer.store, seen).await?;
            changed += 1;
        }
    }
    debug!(
        { fields::MINER } = importer.market.miner(),
        followed = followed.len(),
        changed,
        "provider view recorded"
    );
    Ok(changed)
}

fn differs(recorded: Option<&ProviderViewDoc>, seen: &MinerDeal) -> bool {
    let number = |recorded: Option<i64>| recorded.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    recorded.is_none_or(|recorded| {
        recorded.status.is_none()
            || number(recorded.status) != seen.state
            || recorded.message.as_deref().unwrap_or_default() != seen.message
            || number(recorded.dealid) != seen.deal_id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: u64, message: &str, deal_id: u64) -> MinerDeal {
        serde_json::from_value(serde_json::json!({
            "Proposal": {"PieceCID": null, "PieceSize": 128, "Provider": "f01", "StartEpoch": 9, "EndEpoch": 10},
            "ProposalCid": {"/": "bafyrei"}, "State": state, "Message": message, "DealID": deal_id,
        }))
        .unwrap()
    }

    #[test]
    fn only_changes_are_recorded() {
        let recorded = ProviderViewDoc {
            status: Some(18),
            message: Some(String::new()),
            dealid: None,
            ..ProviderViewDoc::default()
        };
        for (deal, changed) in [
            (seen(18, "", 0), false),
            (seen(20, "", 0), true),
            (seen(18, "x", 0), true),
            (seen(18, "", 7), true),
        ] {
            assert_eq!(differs(Some(&recorded), &deal), changed, "{deal:?}");
        }
        assert!(differs(None, &seen(18, "", 0)));
        assert!(differs(Some(&ProviderViewDoc::default()), &seen(0, "", 0)), "an empty view is no view");
    }
}
