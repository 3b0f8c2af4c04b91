//! What a crash or a lost answer left open is found out before anything is sent again.

use std::collections::{HashMap, HashSet};

use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::wire::DealInfo;
use carferry_core::model::{IntentDoc, IntentState, PublishMethod};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::propose::lotus::preflight::NodeFacts;
use crate::propose::lotus::publish;
use crate::propose::report::BUSY;
use crate::propose::{DealState, ProposeError, Proposer, Report, line_of};

impl Proposer {
    /// Finds out about every intent that a crash or a lost answer left open: first in the node's own list,
    /// then by the same call again.
    pub(super) async fn settle(&mut self, node: &NodeFacts, report: &mut Report) -> Result<(), ProposeError> {
        let open: Vec<IntentDoc> = self
            .store
            .open_intents(&self.terms.owner)
            .await?
            .into_iter()
            .filter(|intent| !self.lanes.has(&intent.id))
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
        let made_after = if is_late { Instant::now() } else { self.lanes.last_unsettled() };
        let unrecorded = self.unrecorded_deals(&started, made_after).await?;
        // Every intent that one of those deals may belong to, of all agents and of our lanes too; read after
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
                report.deals.push(line_of(intent, DealState::Settled, Some(recorded)));
                continue;
            }
            let candidates: Vec<&DealInfo> = match (intent.method, &unrecorded) {
                (PublishMethod::Stateless, _) => Vec::new(),
                (PublishMethod::Start, Some(unrecorded)) => unrecorded
                    .get(&intent.filecid)
                    .into_iter()
                    .flatten()
                    .filter(|deal| publish::is_deal_of(intent, deal))
                    .collect(),
                // Whether the deal is made is not known, and only a list may say that it is not.
                (PublishMethod::Start, None) => {
                    let reason = "the node did not list its deals".to_owned();
                    report.deals.push(line_of(intent, DealState::Unsettled, Some(reason)));
                    continue;
                }
            };
            // The deal may be of another intent, and of any that cannot be read.
            let readable_rivals = unsettled
                .get(&intent.filecid)
                .into_iter()
                .flatten()
                .filter(|other| candidates.first().is_some_and(|deal| publish::is_deal_of(other, deal)))
                .count();
            let rivals = readable_rivals + unreadable.iter().filter(|root| **root == intent.filecid).count();
            if let ([deal], 1) = (candidates.as_slice(), rivals)
                && let Ok(proposal_cid) = deal.proposal_cid.cid.parse()
            {
                let status = carferry_core::model::DealStatus::from_lotus(deal.state);
                self.store.confirm_intent(intent, &proposal_cid, status.get(), &status.name()).await?;
                info!(deal.proposal_cid = %proposal_cid, payload_cid = %intent.filecid, miner = %intent.miner, "deal of an earlier run found at the node");
                report.deals.push(line_of(intent, DealState::Settled, Some(proposal_cid.to_string())));
            } else if candidates.is_empty() && intent.startepoch <= node.head.get() {
                let reason = format!(
                    "its start epoch {} has passed (head {}) and the node does not know it",
                    intent.startepoch, node.head
                );
                self.store.end_intent(intent, IntentState::Abandoned, &reason).await?;
                warn!(payload_cid = %intent.filecid, miner = %intent.miner, reason = %reason, "proposal abandoned");
                report.deals.push(line_of(intent, DealState::Abandoned, Some(reason)));
            } else if !self.lanes.push(intent.clone()) {
                *report.held.entry(BUSY).or_insert(0) += 1;
                report.deals.push(line_of(intent, DealState::Unsettled, Some("its lane is full".to_owned())));
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
    ) -> Result<Option<HashMap<String, Vec<DealInfo>>>, ProposeError> {
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
        let root_of = |deal: &DealInfo| deal.data_ref.as_ref().map(|data| data.root.cid.clone());
        let cids: Vec<String> = listed.iter().map(|deal| deal.proposal_cid.cid.clone()).collect();
        let recorded = self.store.recorded_proposals(&cids).await?;
        let mut unrecorded: HashMap<String, Vec<DealInfo>> = HashMap::new();
        for deal in listed {
            if let Some(root) = root_of(&deal)
                && !recorded.contains(&deal.proposal_cid.cid)
            {
                unrecorded.entry(root).or_default().push(deal);
            }
        }
        Ok(Some(unrecorded))
    }
}
