//! Restores records of `offlinedeals` that another user of the database changed.
//!
//! Every user that may update `offlinedeals` can write any field of it: MongoDB's roles tell neither rows nor
//! fields apart. Only client-agent writes `dealintents`, so what was agreed on and what is known of a deal
//! stands there too, and [`Store::restore_page`] writes it back.

use std::collections::HashMap;

use bson::{Bson, Document, doc};
use tracing::warn;

use crate::error_chain::ErrorChain;
use crate::model::address::MinerId;
use crate::model::{DealStatus, IntentDoc, IntentState, stored};
use crate::store::Store;
use crate::store::bounded::readable;
use crate::store::deal_terms::first_fields;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, numbers};

/// A record that was restored.
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
    /// Reads a page of made deals that are not final, after the intent `after`, and restores their records to
    /// the agreed terms and the last known state. Returns the restored records and the start of the next
    /// page.
    pub async fn restore_page(
        &self,
        after: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<Restored>, Option<String>), StoreError> {
        let finals = numbers(&DealStatus::FINAL);
        let mut filter = doc! {
            "state": IntentState::Confirmed, "dealcid": { "$type": "string" },
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
                // An unrestored record does not keep the others from being tracked.
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
        // A value that no query for 0 or 1 finds is replaced.
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
        // Tracking writes to the intent first: the intent that was read before the record may be outdated.
        let known = self.intents.find_one(doc! { "_id": &intent.id }).projection(doc! { "dealstatus": 1 });
        let known = self.bounded("intent find", known).await?;
        let status = known.as_ref().and_then(|known| known.get("dealstatus")).and_then(stored::integer);
        if status != intent.dealstatus {
            return Ok(None);
        }
        let fields: Vec<String> = agreed.keys().cloned().collect();
        // The record is written only if it is unchanged: tracking may have written meanwhile.
        let mut filter = doc! { "_id": record.get("_id") };
        filter.extend(fields.iter().map(|name| {
            let found = record.get(name).cloned().unwrap_or(Bson::Null);
            (name.clone(), doc! { "$eq": found }.into())
        }));
        let mut set: Document =
            agreed.into_iter().map(|(name, value)| (name, doc! { "$literal": value }.into())).collect();
        set.insert("updatedtime", NOW);
        let update = vec![doc! { "$set": set }];
        let result = self.bounded("deal restore", self.deals.update_one(filter, update)).await?;
        Ok((result.modified_count == 1).then_some(fields))
    }
}

/// Whether a record names the agreed miner, in any spelling.
fn names_the_miner(found: Option<&Bson>, agreed: &str) -> bool {
    found.and_then(Bson::as_str).is_some_and(|found| MinerId::canonical(found) == agreed)
}

/// Whether a stored value equals the agreed one, in any numeric type.
fn same(found: Option<&Bson>, agreed: &Bson) -> bool {
    let Some(found) = found else { return *agreed == Bson::Null };
    found == agreed
        || matches!((stored::integer(found), stored::integer(agreed)), (Some(one), Some(other)) if one == other)
}
