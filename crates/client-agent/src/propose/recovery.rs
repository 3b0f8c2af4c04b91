//! Recovery of open intents after a crash or a lost answer: each is looked up in the database and in the
//! node's list before its call is repeated.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::model::{DealDuration, IntentDoc, IntentState, PublishMethod};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::node_deals::NodeDeal;
use crate::propose::conditions::NodeFacts;
use crate::propose::miner_queues::Pushed;
use crate::propose::report::{DealLine, DealState, Held, Report};
use crate::propose::{ProposeError, Proposer};

/// How far the node's clock may be behind the database's.
const CLOCK_MARGIN: Duration = Duration::from_secs(3600);

impl Proposer {
    /// Finds out about every intent that a crash or a lost answer left open: first in the node's own list,
    /// then by the same call again.
    pub(super) async fn recover(
        &mut self,
        node: &NodeFacts,
        report: &mut Report,
    ) -> Result<(), ProposeError> {
        let open: Vec<IntentDoc> = self
            .store
            .open_intents(&self.terms.owner)
            .await?
            .into_iter()
            .filter(|intent| !self.queues.has(&intent.id))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        info!(intents = open.len(), "settling proposals that were not confirmed");
        let started: HashSet<&str> = open
            .iter()
            .filter(|intent| intent.method == PublishMethod::Start)
            .map(|intent| intent.filecid.as_str())
            .collect();
        let is_late = open.iter().any(|intent| intent.startepoch <= node.head.get());
        // An intent is given up because it is not in the list: that must be of now.
        let made_after = if is_late { Instant::now() } else { self.queues.last_unsettled() };
        let unrecorded = self.unrecorded_deals(&started, made_after).await?;
        // Every intent that one of those deals may belong to, of all agents and of the queues too; read after
        // the list, so that none is missing.
        let payloads: Vec<String> = started.into_iter().map(str::to_owned).collect();
        let (intents, unreadable) = self.store.intents_of_payloads(&payloads).await?;
        let mut unsettled: HashMap<String, Vec<IntentDoc>> = HashMap::new();
        for intent in intents {
            if intent.state == IntentState::Intended && intent.method == PublishMethod::Start {
                unsettled.entry(intent.filecid.clone()).or_default().push(intent);
            }
        }
        for intent in &open {
            if self.stop.is_cancelled() {
                break;
            }
            // Recorded, and killed before the intent was settled.
            if let Some((recorded, status)) = self.store.recorded_of_intent(&intent.id).await?
                && let Ok(proposal_cid) = recorded.parse()
            {
                self.store.confirm_intent(intent, &proposal_cid, status.get(), &status.name()).await?;
                report.deals.push(DealLine::of(intent, DealState::Settled, Some(recorded)));
                continue;
            }
            let candidates: Vec<&NodeDeal> = match (intent.method, &unrecorded) {
                (PublishMethod::Stateless, _) => Vec::new(),
                (PublishMethod::Start, Some(unrecorded)) => unrecorded
                    .get(&intent.filecid)
                    .into_iter()
                    .flatten()
                    .filter(|deal| is_deal_of(intent, deal))
                    .collect(),
                // Whether the deal is made is not known, and only a list may say that it is not.
                (PublishMethod::Start, None) => {
                    let reason = "the node did not list its deals".to_owned();
                    report.deals.push(DealLine::of(intent, DealState::Unsettled, Some(reason)));
                    continue;
                }
            };
            // The deal may be of another intent, and of any that cannot be read.
            let readable_rivals = unsettled
                .get(&intent.filecid)
                .into_iter()
                .flatten()
                .filter(|other| candidates.first().is_some_and(|deal| is_deal_of(other, deal)))
                .count();
            let rivals = readable_rivals + unreadable.iter().filter(|root| **root == intent.filecid).count();
            if let ([deal], 1) = (candidates.as_slice(), rivals)
                && let Ok(proposal_cid) = deal.proposal_cid.parse()
            {
                let status = deal.status;
                self.store.confirm_intent(intent, &proposal_cid, status.get(), &status.name()).await?;
                info!(deal.proposal_cid = %proposal_cid, payload_cid = %intent.filecid, miner = %intent.miner, "deal of an earlier run found at the node");
                report.deals.push(DealLine::of(intent, DealState::Settled, Some(proposal_cid.to_string())));
            } else if candidates.is_empty() && intent.startepoch <= node.head.get() {
                let reason = format!(
                    "its start epoch {} has passed (head {}) and the node does not know it",
                    intent.startepoch, node.head
                );
                self.store.end_intent(intent, IntentState::Abandoned, &reason).await?;
                warn!(payload_cid = %intent.filecid, miner = %intent.miner, reason = %reason, "proposal abandoned");
                report.deals.push(DealLine::of(intent, DealState::Abandoned, Some(reason)));
            } else if self.queues.push(intent.clone()) == Pushed::QueueIsFull {
                report.hold(Held::Busy);
                report.deals.push(DealLine::of(
                    intent,
                    DealState::Unsettled,
                    Some("its queue is full".to_owned()),
                ));
            }
        }
        Ok(())
    }

    /// Deals of these payloads that the node follows and no document has, by payload, from a list that was
    /// begun after this moment; `None` if the node does not list them now.
    async fn unrecorded_deals(
        &mut self,
        payloads: &HashSet<&str>,
        made_after: Instant,
    ) -> Result<Option<HashMap<String, Vec<NodeDeal>>>, ProposeError> {
        if payloads.is_empty() {
            return Ok(Some(HashMap::new()));
        }
        let listed = match self.node_deals.of_payloads(payloads, made_after).await {
            Ok(listed) => listed,
            Err(error) => {
                if !std::mem::replace(&mut self.list_fails, true) {
                    warn!(reason = %ErrorChain(&error), "the node does not list its deals: proposals of ClientStartDeal that were not confirmed wait for it");
                }
                return Ok(None);
            }
        };
        self.list_fails = false;
        let cids: Vec<String> = listed.iter().map(|deal| deal.proposal_cid.clone()).collect();
        let recorded = self.store.recorded_proposals(&cids).await?;
        let mut unrecorded: HashMap<String, Vec<NodeDeal>> = HashMap::new();
        for deal in listed {
            if !recorded.contains(&deal.proposal_cid) {
                unrecorded.entry(deal.payload_cid.clone()).or_default().push(deal);
            }
        }
        Ok(Some(unrecorded))
    }
}

/// Whether a deal that the node follows is the one that this intent wanted, as far as the node's list tells:
/// it shows neither wallet nor start epoch.
fn is_deal_of(intent: &IntentDoc, deal: &NodeDeal) -> bool {
    let stretch = deal.duration - intent.duration;
    let is_newer = intent.createdtime.zip(deal.created).is_none_or(|(intended, created)| {
        created.to_system_time() + CLOCK_MARGIN >= intended.to_system_time()
    });
    deal.payload_cid == intent.filecid
        && deal.piece_cid.as_ref() == Some(&intent.piececid)
        && deal.miner == intent.miner
        && deal.epoch_price == intent.priceattofil
        && deal.verified == intent.verified
        && (0..=DealDuration::ALIGNMENT_MAX).contains(&stretch)
        && is_newer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propose::test_intent::intent_of_tests;

    const CID: &str = "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta";

    #[test]
    fn the_nodes_list_is_matched_by_everything_it_shows() {
        let listed = |change: fn(&mut serde_json::Value)| {
            let mut value = serde_json::json!({
                "ProposalCid": {"/": CID}, "State": 13, "Message": "", "Provider": "t01000",
                "DataRef": {"TransferType": "manual", "Root": {"/": "bafykroot"}, "PieceCid": null, "PieceSize": 2032},
                "PieceCID": {"/": "bagapiece"}, "PricePerEpoch": "0", "Duration": 521_279, "DealID": 0,
                "CreationTime": "2023-08-10T08:15:30.123456789+08:00", "Verified": false
            });
            change(&mut value);
            NodeDeal::of_json(value)
        };
        let wanted = intent_of_tests();
        assert!(is_deal_of(&wanted, &listed(|_| {})));
        for change in [
            (|v| v["Provider"] = "f01001".into()) as fn(&mut serde_json::Value),
            |v| v["PieceCID"]["/"] = "other".into(),
            |v| v["DataRef"]["Root"]["/"] = "other".into(),
            |v| v["PricePerEpoch"] = "1".into(),
            |v| v["Duration"] = 530_000.into(),
            |v| v["Verified"] = true.into(),
        ] {
            assert!(!is_deal_of(&wanted, &listed(change)));
        }
    }
}
