//! The fields client-agent's tracking owns: `status`, `statusby`, `statusmsg`, `dealid`, and their guard in
//! `dealintents`.
//!
//! Every user of the database that may update `offlinedeals` can write any field of it: roles cannot tell
//! rows or fields apart. `dealintents` is client-agent's alone, so what it knows of a deal stands there too,
//! and [`Store::restore_page`] brings records that were changed by others back to it.

use std::collections::HashMap;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use tracing::warn;

use crate::error_chain::ErrorChain;
use crate::model::address::MinerId;
use crate::model::{DealId, DealPhase, DealStatus, IntentDoc, OfflineDealDoc, Refusal, StatusSource, stored};
use crate::store::Store;
use crate::store::bounded::readable;
use crate::store::deals::{numbers, proposal_range, tracked_fields};
use crate::store::error::StoreError;
use crate::store::intents::first_fields;

/// Documents asked for in one call.
pub(super) const PAGE: usize = 1000;

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
    /// Who says so.
    pub source: StatusSource,
    /// Its words.
    pub message: String,
    /// What becomes of the recorded number on chain.
    pub deal_id: NumberChange,
}

/// What becomes of a deal's recorded number on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberChange {
    /// It stays as it is.
    Kept,
    /// The deal has this number.
    Known(DealId),
    /// The recorded number is another deal's.
    Wrong,
}

/// A record that did not say what client-agent knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Proposal CID.
    pub proposal_cid: String,
    /// Storage provider.
    pub miner: String,
    /// What differed; empty if the whole record was gone.
    pub fields: Vec<String>,
}

impl Store {
    /// Writes a new state, first where only client-agent writes. `false`: nothing happened, because the
    /// record's state is another by now, or final; the next pass looks at the deal again.
    ///
    /// A final state stays, except that the chain overrules an end that it did not say itself.
    pub async fn record_status(&self, change: &StatusChange) -> Result<bool, StoreError> {
        let status = number(change.status);
        let source = change.source.as_str();
        if change.intent.is_some() {
            let mut set = doc! { "dealstatus": status, "dealstatusby": source };
            if change.status.phase() == DealPhase::Failed {
                set.insert("refusal", Refusal::of_words(&change.message).as_str());
            }
            let mut unset = doc! {};
            match change.deal_id {
                NumberChange::Kept => {}
                NumberChange::Known(deal_id) => {
                    set.insert("dealid", number_on_chain(deal_id));
                }
                NumberChange::Wrong => {
                    unset.insert("dealid", "");
                }
            }
            let mut update = doc! { "$set": set };
            if !unset.is_empty() {
                update.insert("$unset", unset);
            }
            // By the proposal, not by the intent that the record names; and a final state is final here too.
            let mut filter = doc! { "dealcid": &change.proposal_cid };
            filter.extend(not_final(change.source, "dealstatus", "dealstatusby"));
            self.bounded("intent status", self.intents.update_one(filter, update)).await?;
        }
        let mut set = doc! {
            "status": status,
            "statusby": source,
            "statusmsg": { "$literal": &change.message },
            "updatedtime": "$$NOW",
        };
        match change.deal_id {
            NumberChange::Kept => {}
            NumberChange::Known(deal_id) => {
                set.insert("dealid", number_on_chain(deal_id));
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

    /// Notes that a provider alone says of these deals that they are at their end; the first such note
    /// stands.
    pub async fn note_ends_seen(&self, proposal_cids: &[String]) -> Result<(), StoreError> {
        let update = vec![doc! { "$set": { "endseen": { "$ifNull": ["$endseen", "$$NOW"] } } }];
        for page in proposal_cids.chunks(PAGE) {
            let filter = doc! { "dealcid": { "$in": page } };
            self.bounded("ends seen", self.intents.update_many(filter, update.clone())).await?;
        }
        Ok(())
    }

    /// Forgets that a provider said so: these deals go on.
    pub async fn forget_ends_seen(&self, proposal_cids: &[String]) -> Result<(), StoreError> {
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
            "wallet": { "$in": wallets }, "status": number(DealStatus::ERROR), "dealcid": proposal_range(),
            "statusby": { "$ne": StatusSource::Chain.as_str() },
            "$or": [{ "dealid": { "$gt": 0 } }, { "provider.dealid": { "$gt": 0 } }],
        };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let find = self.deals.find(filter).sort(doc! { "_id": 1 }).limit(limit).projection(tracked_fields());
        let cursor = self.bounded("failed deals", find).await?;
        Ok(readable("offlinedeals", self.drain("failed deals", cursor).await?))
    }

    /// What was agreed on and is known of these deals, by proposal CID; nothing of the prototype's.
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

    /// Looks at a page of made deals that are not final, after the intent `after`, and brings their records
    /// back to what was agreed and last known. Returns what was restored and where the next page begins.
    pub async fn restore_page(
        &self,
        after: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<Restored>, Option<String>), StoreError> {
        let finals = numbers(&DealStatus::FINAL);
        let mut filter = doc! {
            "state": "confirmed", "dealcid": { "$type": "string" },
            "dealstatus": { "$nin": finals },
        };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let find = self.intents.find(filter).sort(doc! { "_id": 1 }).limit(limit);
        let cursor = self.bounded("intents page", find).await?;
        let page = self.drain("intents page", cursor).await?;
        let next = page.last().and_then(|last| last.get_str("_id").ok()).map(str::to_owned);
        let intents: Vec<IntentDoc> = readable("dealintents", page);
        let cids: Vec<&str> = intents.iter().filter_map(|intent| intent.dealcid.as_deref()).collect();
        let cursor = self.bounded("deals find", self.deals.find(doc! { "dealcid": { "$in": cids } })).await?;
        let records: HashMap<String, Document> = self
            .drain("deals find", cursor)
            .await?
            .into_iter()
            .filter_map(|record| Some((record.get_str("dealcid").ok()?.to_owned(), record)))
            .collect();
        let mut restored = Vec::new();
        for intent in &intents {
            let Some(proposal_cid) = intent.dealcid.as_deref() else { continue };
            match self.restore(intent, proposal_cid, records.get(proposal_cid)).await {
                Ok(None) => {}
                Ok(Some(fields)) => {
                    let (proposal_cid, miner) = (proposal_cid.to_owned(), intent.miner.clone());
                    restored.push(Restored { proposal_cid, miner, fields });
                }
                Err(error @ (StoreError::Unreachable { .. } | StoreError::Timeout { .. })) => {
                    return Err(error);
                }
                // One record must not keep the others from being followed.
                Err(error) => {
                    warn!(deal.proposal_cid = proposal_cid, error = %ErrorChain(&error), "record not restored");
                }
            }
        }
        Ok((restored, next))
    }

    /// The fields that were restored; `None` if the record was right.
    async fn restore(
        &self,
        intent: &IntentDoc,
        proposal_cid: &str,
        record: Option<&Document>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let mut agreed = first_fields(intent);
        let Some(record) = record else {
            let status = intent.dealstatus.unwrap_or(0);
            let words = DealStatus::from_lotus(u64::try_from(status).unwrap_or(0)).name();
            if let Ok(deal) = proposal_cid.parse() {
                self.record_deal(intent, &deal, status, &words).await?;
            }
            return Ok(Some(Vec::new()));
        };
        if let Some(status) = intent.dealstatus {
            agreed.insert("status", status);
        }
        if let Some(number) = intent.dealid {
            agreed.insert("dealid", number);
        }
        // What no query for 0 or 1 finds.
        let isdeal =
            record.get("isdeal").filter(|value| !matches!(value, Bson::String(_) | Bson::Boolean(_)));
        if !matches!(isdeal.and_then(stored::integer), Some(0 | 1)) {
            agreed.insert("isdeal", 0_i32);
        }
        let is_false = |name: &str, value: &Bson| {
            let found = record.get(name);
            match name {
                "isdeal" => true,
                "miner" => !names_the_miner(found, &intent.miner),
                _ => !same(found, value),
            }
        };
        let agreed: Document = agreed.into_iter().filter(|(name, value)| is_false(name, value)).collect();
        if agreed.is_empty() {
            return Ok(None);
        }
        // Tracking writes here first: what was read before the record may be older than it.
        let known = self.intents.find_one(doc! { "_id": &intent.id }).projection(doc! { "dealstatus": 1 });
        let known = self.bounded("intent find", known).await?;
        let status = known.as_ref().and_then(|known| known.get("dealstatus")).and_then(stored::integer);
        if status != intent.dealstatus {
            return Ok(None);
        }
        let fields: Vec<String> = agreed.keys().cloned().collect();
        // Only over what was read: tracking may have written meanwhile.
        let mut filter = doc! { "_id": record.get("_id") };
        filter.extend(fields.iter().map(|name| {
            let found = record.get(name).cloned().unwrap_or(Bson::Null);
            (name.clone(), doc! { "$eq": found }.into())
        }));
        let mut set: Document =
            agreed.into_iter().map(|(name, value)| (name, doc! { "$literal": value }.into())).collect();
        set.insert("updatedtime", "$$NOW");
        let update = vec![doc! { "$set": set }];
        let result = self.bounded("deal restore", self.deals.update_one(filter, update)).await?;
        Ok((result.modified_count == 1).then_some(fields))
    }
}

fn number(status: DealStatus) -> i64 {
    i64::try_from(status.get()).unwrap_or(i64::MAX)
}

/// A record that spells the miner otherwise is right.
fn names_the_miner(found: Option<&Bson>, agreed: &str) -> bool {
    found.and_then(Bson::as_str).is_some_and(|found| MinerId::canonical(found) == agreed)
}

fn number_on_chain(deal_id: DealId) -> i64 {
    i64::try_from(deal_id.get()).unwrap_or(i64::MAX)
}

/// Matches what this source may still change: no final state, or with the chain's word one that the chain did
/// not say.
fn not_final(source: StatusSource, status: &str, by: &str) -> Document {
    let open = doc! { status: { "$nin": numbers(&DealStatus::FINAL) } };
    match source {
        StatusSource::Node | StatusSource::Provider => open,
        StatusSource::Chain => doc! { "$or": [open, { by: { "$ne": StatusSource::Chain.as_str() } }] },
    }
}

/// Whether a stored value says the same, whichever of the numeric types it has.
fn same(found: Option<&Bson>, agreed: &Bson) -> bool {
    let Some(found) = found else { return *agreed == Bson::Null };
    found == agreed
        || matches!((stored::integer(found), stored::integer(agreed)), (Some(one), Some(other)) if one == other)
}
