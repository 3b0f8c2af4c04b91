//! `BoostOfflineDealWithData`: its checks and its answer. What follows is the deal's thread (`execution`).
//!
//! Source: boost v2.5.2 `storagemarket/provider.go` (`ImportOfflineDealData`) and `provider_loop.go`
//! (`processImportOfflineDealData`).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::execution::start_thread;
use crate::faults::DealFaultKind;
use crate::inner::Inner;
use crate::record::{Checkpoint, ClientPeer, DUMMY_PEER};
use crate::world::World;

/// Why a deal's row cannot be read.
pub(crate) const UNREADABLE_ROW: &str = "scanning deal row: database is locked";

/// Answers an import. The file is not touched.
///
/// # Errors
///
/// The text of the call's error.
pub(crate) fn import(
    inner: &Arc<Inner>,
    world: &mut World,
    uuid: &str,
    path: &str,
    delete_after_import: bool,
) -> Result<Value, String> {
    let lookup_fails = world.faults.take_of_deal(uuid, |kind| {
        matches!(kind, DealFaultKind::LookupFails | DealFaultKind::LookupNull).then_some(())
    });
    if lookup_fails.is_some() {
        return Err(format!("getting offline deal {uuid}: {UNREADABLE_ROW}"));
    }
    let Some(deal) = world.store.by_uuid(uuid) else {
        return Err(format!(
            "no pre-existing deal proposal for offline deal {uuid}: scanning deal row: sql: no rows in result set"
        ));
    };
    if deal.client_peer == ClientPeer::Dummy {
        return Err(format!("getting offline deal {uuid}: {DUMMY_PEER}"));
    }
    if !deal.is_offline {
        return Err(format!("deal {uuid} is not an offline deal"));
    }
    if deal.checkpoint > Checkpoint::Accepted {
        let checkpoint = deal.checkpoint.name();
        return Err(format!("deal {uuid} has already been imported and reached checkpoint {checkpoint}"));
    }
    let mut deal = deal.clone();
    path.clone_into(&mut deal.inbound_file_path);
    deal.cleanup_data = delete_after_import;
    if let Some(reason) = tag_funds(world, deal.index, uuid, deal.terms.provider_collateral) {
        // The rows of an earlier import go as well.
        world.funds.untag(deal.index, uuid);
        return Ok(json!({ "Accepted": false, "Reason": reason }));
    }
    world.counts_mut(deal.index).imports += 1;
    // The path of a second import is dropped with its copy of the record while the first one's thread runs.
    start_thread(inner, world, deal);
    Ok(json!({ "Accepted": true, "Reason": "" }))
}

/// Reserves funds; the reason of a refusal.
fn tag_funds(world: &mut World, deal: usize, uuid: &str, collateral: u128) -> Option<&'static str> {
    const INSUFFICIENT: &str = "server error: provider has insufficient funds to accept deal";
    let refused = world.faults.take_of_deal(uuid, |kind| match kind {
        DealFaultKind::InsufficientFunds => Some(INSUFFICIENT),
        DealFaultKind::TagFails => Some("server error: tag funds"),
        _ => None,
    });
    refused.or_else(|| world.funds.tag(deal, uuid, collateral).err().map(|_insufficient| INSUFFICIENT))
}
