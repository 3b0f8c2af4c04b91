//! Deals that can never become active: their start epoch has passed, and the chain does not have them as
//! active.
//!
//! The network activates no deal after its start epoch. What is left to find out is whether the deal became
//! active unseen, so the margins are long where the one who would tell may merely be silent.

use carferry_core::model::chain::EPOCHS_PER_DAY;
use carferry_core::model::{ChainEpoch, DealPhase, DealStatus, StatusSource};
use carferry_core::store::NumberChange;

use crate::track::reconcile::{FollowedDeal, NodeWord, OUT_OF_SIGHT, OnChain, Word, has_data, words};

/// Epochs past the start after which a view of the provider cannot be merely old.
const VIEW_MARGIN: i64 = 60;
/// Epochs past the start after which a deal that chain, node or provider say is not active never becomes so:
/// a day.
const MARGIN: i64 = EPOCHS_PER_DAY;
/// The same where the one who would know may merely be silent: seven days.
const SILENCE_MARGIN: i64 = 7 * EPOCHS_PER_DAY;

/// Whether a deal's start has passed for so long that it ends unless the chain has it as active.
pub(super) fn is_past_hope(followed: &FollowedDeal, head: ChainEpoch) -> bool {
    followed.deal.startepoch.is_some_and(|start| head > ChainEpoch::new(start).plus(MARGIN))
}

/// Whether a deal that the client's node follows is late enough for the chain to be asked.
pub(super) fn is_late(followed: &FollowedDeal, head: ChainEpoch) -> bool {
    is_past_hope(followed, head) && !is_over(followed)
}

/// Whether the deal was seen active, or ended.
fn is_over(followed: &FollowedDeal) -> bool {
    let settled = |status: DealStatus| {
        matches!(status.phase(), DealPhase::Active | DealPhase::Expired | DealPhase::Failed)
    };
    followed.recorded_status().is_some_and(settled) || followed.node_status().is_some_and(settled)
}

/// The end of a deal that the chain does not have; `None`: it is not at its end, as far as its start epoch
/// tells.
pub(super) fn end(followed: &FollowedDeal, on_chain: &OnChain, head: ChainEpoch) -> Option<Word> {
    let start = ChainEpoch::new(followed.deal.startepoch?);
    let late_by = head.since(start);
    let is_failed_at_provider =
        followed.provider_status().is_some_and(|status| status.phase() == DealPhase::Failed);
    if late_by <= VIEW_MARGIN || is_over(followed) || is_failed_at_provider {
        return None;
    }
    let lacks_data =
        followed.deal.isdeal != Some(1) && followed.provider_status().is_some_and(|status| !has_data(status));
    let is_listed = matches!(followed.node, NodeWord::Says(_));
    let message = if lacks_data && !is_listed {
        // The provider would wait for ever, and could not publish the deal any more.
        "the start epoch has passed without the data".to_owned()
    } else if late_by > margin(followed, on_chain, lacks_data) {
        let why = if followed.is_out_of_sight(head) { OUT_OF_SIGHT } else { "not found on chain" };
        format!("not active by its start epoch {start} (head {head}): {why}")
    } else {
        return None;
    };
    let source = if is_listed { StatusSource::Node } else { StatusSource::Provider };
    let message = words(DealStatus::ERROR, &message);
    Some(Word { status: DealStatus::ERROR, source, message, number: NumberChange::Kept })
}

fn margin(followed: &FollowedDeal, on_chain: &OnChain, lacks_data: bool) -> i64 {
    let is_silent = match &followed.node {
        // The node hears of a provider's progress only from the provider.
        NodeWord::Says(info) => {
            let unreached = DealStatus::UNKNOWN.name();
            followed.deal.isdeal == Some(1) || info.message.contains(&unreached)
        }
        NodeWord::Unlisted | NodeWord::NotFollowed => true,
    };
    let is_told = lacks_data || matches!(on_chain, OnChain::Gone);
    if is_told || !is_silent { MARGIN } else { SILENCE_MARGIN }
}
