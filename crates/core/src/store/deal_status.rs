//! Records the state of deals for client-agent's tracking: `status`, `statusby`, `statusmsg` and `dealid` of
//! `offlinedeals`, and their copies in `dealintents`, where only client-agent writes.

use std::collections::HashMap;

use bson::oid::ObjectId;
use bson::{Document, doc};

use crate::model::{DealId, DealPhase, DealStatus, IntentDoc, OfflineDealDoc, Refusal, StatusSource};
use crate::store::Store;
use crate::store::bounded::readable;
use crate::store::deals::{proposal_range, tracked_fields};
use crate::store::error::StoreError;
use crate::store::expr::{NOW, PAGE, numbers};

/// A new state of a deal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// Proposal CID.
    pub proposal_cid: String,
    /// The intent it was made from, unless it is the prototype's.
    pub intent: Option<String>,
    /// The state that was recorded when this one was found.
    pub before: Option<i64>,
    /// State.
    pub status: DealStatus,
    /// The source of the state.
    pub source: StatusSource,
    /// Its message.
    pub message: String,
    /// The change of the recorded number on chain.
    pub deal_id: NumberChange,
}

/// The change of a deal's recorded number on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberChange {
    /// It stays as it is.
    Kept,
    /// The deal has this number.
    Known(DealId),
    /// The recorded number is another deal's.
    Wrong,
}

impl Store {
    /// Writes a new state, first to `dealintents`. Returns `false` if the recorded state is another one or
    /// final by now; the next pass reads the deal again.
    ///
    /// A final state stays, except that the chain overrules a final state of another source.
    pub async fn record_status(&self, change: &StatusChange) -> Result<bool, StoreError> {
        let status = change.status.stored();
        let source = change.source;
        if change.intent.is_some() {
            let mut set = doc! { "dealstatus": status, "dealstatusby": source };
            if change.status.phase() == DealPhase::Failed {
                set.insert("refusal", Refusal::of_words(&change.message));
            }
            let mut unset = doc! {};
            match change.deal_id {
                NumberChange::Kept => {}
                NumberChange::Known(deal_id) => {
                    set.insert("dealid", deal_id.stored());
                }
                NumberChange::Wrong => {
                    unset.insert("dealid", "");
                }
            }
            let mut update = doc! { "$set": set };
            if !unset.is_empty() {
                update.insert("$unset", unset);
            }
            // The filter names the proposal, not the intent that the record names. A final state is final
            // here too.
            let mut filter = doc! { "dealcid": &change.proposal_cid };
            filter.extend(not_final(change.source, "dealstatus", "dealstatusby"));
            self.bounded("intent status", self.intents.update_one(filter, update)).await?;
        }
        let mut set = doc! {
            "status": status,
            "statusby": source,
            "statusmsg": { "$literal": &change.message },
            "updatedtime": NOW,
        };
        match change.deal_id {
            NumberChange::Kept => {}
            NumberChange::Known(deal_id) => {
                set.insert("dealid", deal_id.stored());
            }
            NumberChange::Wrong => {
                set.insert("dealid", "$$REMOVE");
            }
        }
        let filter = doc! {
            "dealcid": &change.proposal_cid,
            "$and": [{ "status": change.before }, not_final(change.source, "status", "statusby")],
        };
        let update = self.deals.update_one(filter, vec![doc! { "$set": set }]);
        Ok(self.bounded("status update", update).await?.matched_count == 1)
    }

    /// Records when the provider alone first reported these deals as ended.
    pub async fn record_ends_seen(&self, proposal_cids: &[String]) -> Result<(), StoreError> {
        let update = vec![doc! { "$set": { "endseen": { "$ifNull": ["$endseen", NOW] } } }];
        for page in proposal_cids.chunks(PAGE) {
            let filter = doc! { "dealcid": { "$in": page } };
            self.bounded("ends seen", self.intents.update_many(filter, update.clone())).await?;
        }
        Ok(())
    }

    /// Removes that record: these deals go on.
    pub async fn clear_ends_seen(&self, proposal_cids: &[String]) -> Result<(), StoreError> {
        for page in proposal_cids.chunks(PAGE) {
            let filter = doc! { "dealcid": { "$in": page } };
            let update = doc! { "$unset": { "endseen": "" } };
            self.bounded("ends forgotten", self.intents.update_many(filter, update)).await?;
        }
        Ok(())
    }

    /// Every wallet that deals are recorded for.
    pub async fn deal_wallets(&self) -> Result<Vec<String>, StoreError> {
        let found = self.bounded("wallets", self.deals.distinct("wallet", doc! {})).await?;
        Ok(found.iter().filter_map(|wallet| wallet.as_str().map(str::to_owned)).collect())
    }

    /// Deals that are recorded as failed, whose number on chain is known and whose end the chain has not
    /// confirmed, after the record `after`; at most `limit`.
    pub async fn unconfirmed_failures(
        &self,
        wallets: &[String],
        after: Option<ObjectId>,
        limit: i64,
    ) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let mut filter = doc! {
            "wallet": { "$in": wallets }, "status": DealStatus::ERROR.stored(), "dealcid": proposal_range(),
            "statusby": { "$ne": StatusSource::Chain },
            "$or": [{ "dealid": { "$gt": 0 } }, { "provider.dealid": { "$gt": 0 } }],
        };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let find = self.deals.find(filter).sort(doc! { "_id": 1 }).limit(limit).projection(tracked_fields());
        let cursor = self.bounded("failed deals", find).await?;
        Ok(readable("offlinedeals", self.drain("failed deals", cursor).await?))
    }

    /// The intents of these deals, by proposal CID. Deals of the prototype have none.
    pub async fn agreed_terms(
        &self,
        proposal_cids: &[&str],
    ) -> Result<HashMap<String, IntentDoc>, StoreError> {
        let mut terms = HashMap::with_capacity(proposal_cids.len());
        for page in proposal_cids.chunks(PAGE) {
            let find = self.intents.find(doc! { "dealcid": { "$in": page } });
            let cursor = self.bounded("intents find", find).await?;
            let page = self.drain("intents find", cursor).await?;
            let intents = readable::<IntentDoc>("dealintents", page);
            terms.extend(intents.into_iter().filter_map(|intent| Some((intent.dealcid.clone()?, intent))));
        }
        Ok(terms)
    }
}

/// Matches the states that this source may change: states that are not final, and for the chain also final
/// states of another source.
fn not_final(source: StatusSource, status: &str, by: &str) -> Document {
    let open = doc! { status: { "$nin": numbers(&DealStatus::FINAL) } };
    match source {
        StatusSource::Node | StatusSource::Provider => open,
        StatusSource::Chain => doc! { "$or": [open, { by: { "$ne": StatusSource::Chain } }] },
    }
}
