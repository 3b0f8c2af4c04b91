//! What a crash or a lost answer left open is found out before anything is sent again.

use carferry_core::{
    lotus::wire::DealInfo,
    model::{IntentDoc, IntentState, PublishMethod},
};
use tracing::{info, warn};

use super::{
    DealState, ProposeError, Proposer, Report, line_of,
    preflight::{NodeFacts, PreflightError},
    publish,
};

impl Proposer {
    /// Finds out about every intent that a crash or a lost answer left open: first in the node's own list,
    /// then by the same call again.
    pub(super) async fn settle(&mut self, node: &NodeFacts, report: &mut Report) -> Result<(), ProposeError> {
        let open: Vec<IntentDoc> = self
            .store
            .open_intents(&self.terms.wallet, &self.terms.owner)
            .await?
            .into_iter()
            .filter(|intent| !self.lanes.has(&intent.id))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        info!(intents = open.len(), "settling proposals that were not confirmed");
        let unrecorded = if open.iter().any(|intent| intent.method == PublishMethod::Start) {
            self.unrecorded_deals().await?
        } else {
            Vec::new()
        };
        // Every intent that one of those deals may belong to, of all agents and of our lanes too; read after
        // the list, so that none is missing.
        let payloads: Vec<String> = open.iter().map(|intent| intent.filecid.clone()).collect();
        let (mut unsettled, _unreadable) = self.store.intents_of_payloads(&payloads).await?;
        unsettled
            .retain(|intent| intent.state == IntentState::Intended && intent.method == PublishMethod::Start);
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
            let candidates: Vec<&DealInfo> = if intent.method == PublishMethod::Start {
                unrecorded.iter().filter(|deal| publish::is_deal_of(intent, deal)).collect()
            } else {
                Vec::new()
            };
            let rivals = unsettled
                .iter()
                .filter(|other| candidates.first().is_some_and(|deal| publish::is_deal_of(other, deal)))
                .count();
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
                report.deals.push(line_of(intent, DealState::Unsettled, Some("its lane is full".to_owned())));
            }
        }
        Ok(())
    }

    /// Deals the node follows that no document has.
    async fn unrecorded_deals(&self) -> Result<Vec<DealInfo>, ProposeError> {
        let listed = self.node.list_deals().await.map_err(PreflightError::Lotus)?;
        let cids: Vec<String> = listed.iter().map(|deal| deal.proposal_cid.cid.clone()).collect();
        let recorded = self.store.recorded_proposals(&cids).await?;
        Ok(listed.into_iter().filter(|deal| !recorded.contains(&deal.proposal_cid.cid)).collect())
    }
}
