//! Deals whose watchers fail while the chain publishes and seals them.
//!
//! What lives here: the failure of a loaded Lotus whose event handlers no longer find the publish message,
//! and the chain's states of such a deal from published to active. What does not: failures of calls
//! (`faults`).
//!
//! Such a deal stays in `StorageDealError` at the node whose watcher failed, while the chain shows it as
//! published, then sealed. Source of the texts: go-fil-markets v1.28.3 `provider_fsm.go` and `client_fsm.go`,
//! lotus v1.23.3 `ondealsectorcommitted.go` and `current_deal_info.go`, and a real v1.23.3 under load.

use crate::ids::made_up_cid;
use crate::lost_sight::{LostAt, LostSight, Watcher};
use crate::states::DealState;
use crate::world::{Deal, Event, World};

impl World {
    /// Whether a side's watcher fails for a deal at a step. `side` is not [`Watcher::Both`].
    pub(crate) fn loses_sight(&self, cid: &str, side: Watcher, at: LostAt) -> bool {
        let Some(deal) = self.deals.get(cid) else { return false };
        self.lost_sight.iter().any(|lost| {
            (lost.watcher == side || lost.watcher == Watcher::Both) && lost.at == at && concerns(lost, deal)
        })
    }

    /// Fails the provider's watcher of a deal. The chain continues by its own timers.
    pub(crate) fn provider_loses_sight(&mut self, cid: &str, at: LostAt) {
        let (context, not_found) = match at {
            LostAt::Publishing => (
                "PublishStorageDeal error: WaitForPublishDeals getting deal info errored",
                self.publish_message_not_found(cid),
            ),
            LostAt::Sealing => ("error awaiting deal pre-commit", self.no_called_handler(cid)),
        };
        if let Some(side) = self.provider_mut(cid) {
            side.lost_sight = Some(at);
        }
        if at == LostAt::Publishing {
            self.assign_deal_id(cid);
        }
        self.provider_fail(cid, &format!("{context}: {not_found}"));
        self.arm_chain(cid);
    }

    /// The client node's message for a deal whose watcher failed.
    pub(crate) fn client_lost_sight_text(&self, cid: &str, at: LostAt) -> String {
        match at {
            LostAt::Publishing => {
                format!("error validating deal published: {}", self.publish_message_not_found(cid))
            }
            LostAt::Sealing => format!(
                "error waiting for deal pre-commit message to appear on chain: {}",
                self.no_called_handler(cid)
            ),
        }
    }

    fn no_called_handler(&self, cid: &str) -> String {
        format!(
            "failed to set up called handler: called check error (h: {}): failed to look up deal on chain: {}",
            self.head(),
            self.publish_message_not_found(cid)
        )
    }

    fn publish_message_not_found(&self, cid: &str) -> String {
        let message = self.deals.get(cid).and_then(|deal| deal.provider.as_ref()?.publish_cid.clone());
        let message = message.unwrap_or_else(|| made_up_cid(&format!("publish {cid}")));
        format!("looking for publish deal message {message}: not found")
    }

    /// Starts the timer after which the chain shows the sector of a deal whose provider's watcher failed,
    /// unless the miner is held before that.
    pub(crate) fn arm_chain(&mut self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let Some(at) = deal.provider.as_ref().and_then(|side| side.lost_sight) else { return };
        let miner = deal.proposal.provider.as_str().to_owned();
        let timings = self.timings(&miner);
        let handed_off = match at {
            LostAt::Publishing => timings.add_piece + timings.precommit_wait,
            LostAt::Sealing => timings.precommit_wait,
        };
        self.schedule(handed_off + timings.sealing, Event::ChainSeals { cid: cid.to_owned() });
    }

    /// Shows the sector of a deal on chain whose provider's watcher failed.
    pub(crate) fn chain_seals(&mut self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let held = self.miners.get(deal.proposal.provider.as_str()).and_then(|miner| miner.config.hold_at);
        if held.is_some_and(holds_the_chain) {
            return;
        }
        let head = self.head();
        let has_client = deal.client.is_some();
        if let Some(chain) = self.chain_of(cid).filter(|chain| chain.sector_start < 0) {
            chain.sector_start = head;
        }
        if has_client {
            self.dirty_clients.insert(cid.to_owned());
        }
    }

    /// Whether the chain shows the sector of a deal.
    pub(crate) fn is_sealed_on_chain(&self, deal: &Deal) -> bool {
        let id = deal.provider.as_ref().map_or(0, |side| side.deal_id);
        self.chain.get(&id).is_some_and(|chain| chain.sector_start >= 0)
    }
}

/// Whether a failure concerns a deal.
fn concerns(lost: &LostSight, deal: &Deal) -> bool {
    lost.deals.as_deref().is_none_or(|wanted| {
        let proposal = &deal.proposal;
        [&deal.cid, &proposal.piece_cid.to_string(), &proposal.root.to_string()]
            .into_iter()
            .any(|text| text == wanted)
            || proposal.provider.as_str() == wanted
    })
}

/// Whether a miner that is held at a state never proves its sectors.
fn holds_the_chain(state: DealState) -> bool {
    matches!(state, DealState::Staged | DealState::AwaitingPreCommit | DealState::Sealing)
}
