//! The fields client-agent's tracking owns: `status`, `statusmsg`, `dealid`, and their guard in `dealintents`.
//!
//! Every user of the database that may update `offlinedeals` can write any field of it: roles cannot tell rows
//! or fields apart. `dealintents` is client-agent's alone, so what it knows of a deal stands there too, and
//! [`Store::restore_page`] brings records that were changed by others back to it.

use std::collections::HashMap;

use bson::{Bson, Document, doc};

use super::{Store, bounded::decode, error::StoreError, intents::first_fields};
use crate::model::{DealId, DealStatus, IntentDoc, stored};

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
    /// Its words.
    pub message: String,
    /// Number on chain, where it is known.
    pub deal_id: Option<DealId>,
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
    /// Writes a new state, first where only client-agent writes. Nothing happens to a record whose state is
    /// another by now, or final: whoever follows the deal looks again.
    pub async fn record_status(&self, change: &StatusChange) -> Result<(), StoreError> {
        let status = number(change.status);
        if let Some(intent) = &change.intent {
            let update = doc! { "$set": { "dealstatus": status } };
            self.bounded("intent status", self.intents.update_one(doc! { "_id": intent }, update)).await?;
        }
        let mut set = doc! {
            "status": status,
            "statusmsg": { "$literal": &change.message },
            "updatedtime": "$$NOW",
        };
        if let Some(deal_id) = change.deal_id {
            set.insert("dealid", i64::try_from(deal_id.get()).unwrap_or(i64::MAX));
        }
        let finals: Vec<i64> = DealStatus::FINAL.iter().copied().map(number).collect();
        let filter = doc! {
            "dealcid": &change.proposal_cid,
            "$and": [{ "status": change.before }, { "status": { "$nin": finals } }],
        };
        self.bounded("status update", self.deals.update_one(filter, vec![doc! { "$set": set }])).await?;
        Ok(())
    }

    /// Looks at a page of made deals that are not final, after the intent `after`, and brings their records back
    /// to what was agreed and last known. Returns what was restored and where the next page begins.
    pub async fn restore_page(
        &self,
        wallet: &str,
        after: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<Restored>, Option<String>), StoreError> {
        let finals: Vec<i64> = DealStatus::FINAL.iter().copied().map(number).collect();
        let mut filter = doc! {
            "wallet": wallet, "state": "confirmed", "dealcid": { "$type": "string" },
            "dealstatus": { "$nin": finals },
        };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let find = self.intents.find(filter).sort(doc! { "_id": 1 }).limit(limit);
        let cursor = self.bounded("intents page", find).await?;
        let page = self.drain("intents page", cursor).await?;
        let next = page.last().and_then(|last| last.get_str("_id").ok()).map(str::to_owned);
        let intents: Vec<IntentDoc> =
            page.into_iter().filter_map(|document| decode("dealintents", document).ok()).collect();
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
            let record = records.get(proposal_cid);
            if let Some(fields) = self.restore(intent, proposal_cid, record).await? {
                let (proposal_cid, miner) = (proposal_cid.to_owned(), intent.miner.clone());
                restored.push(Restored { proposal_cid, miner, fields });
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
        if !matches!(record.get("isdeal").and_then(stored::integer), Some(0 | 1)) {
            agreed.insert("isdeal", 0_i32);
        }
        let agreed: Document =
            agreed.into_iter().filter(|(name, value)| !same(record.get(name), value)).collect();
        if agreed.is_empty() {
            return Ok(None);
        }
        let fields: Vec<String> = agreed.keys().cloned().collect();
        // Only over what was read: tracking may have written meanwhile.
        let mut filter = doc! { "_id": record.get("_id") };
        filter.extend(
            fields.iter().map(|name| (name.clone(), record.get(name).cloned().unwrap_or(Bson::Null))),
        );
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

/// Whether a stored value says the same, whichever of the numeric types it has.
fn same(found: Option<&Bson>, agreed: &Bson) -> bool {
    let Some(found) = found else { return *agreed == Bson::Null };
    found == agreed
        || matches!((stored::integer(found), stored::integer(agreed)), (Some(one), Some(other)) if one == other)
}
