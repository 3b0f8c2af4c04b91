//! The import queue of a miner: which pending deals are due, claiming one of them, and making deals due
//! early.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use crate::model::{ImportState, OfflineDealDoc, stored};
use crate::store::error::StoreError;
use crate::store::expr::{
    NOW, dead_states, from_now, import_goes_on, import_is_final, millis, object_or_nothing, one_more,
};
use crate::store::leases::{Claim, fencing_number, lease_holds};
use crate::store::miners::{any_of, written_as};
use crate::store::{Store, lenient};

/// Pending deals of one miner, counted by state.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct PendingCounts {
    /// `isdeal` 0, all of them.
    pub pending: u64,
    /// Of those, under a lease right now.
    pub claimed: u64,
    /// Of those, set aside after too many failures.
    pub set_aside: u64,
    /// Of those, failed for good.
    pub failed: u64,
    /// Of those, too late for their start epoch.
    pub missed: u64,
}

/// A deal that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct DueId {
    /// The document's id.
    pub id: Bson,
    /// Whether its last try failed.
    pub is_retry: bool,
}

/// Ids of deals that are due.
#[derive(Clone, Debug, Default)]
pub struct DueIds {
    /// New, made due early, or to be retried after a failure: the earliest start epoch first.
    pub first: Vec<DueId>,
    /// Tried before without success, and their pause is over: the earliest end of a pause first.
    pub waits: Vec<Bson>,
}

impl Store {
    /// Deals of this miner that are due at `moment` (without one: now), at most `limit` of each class. Claims
    /// none: two agents may read the same list, and [`Self::claim`] decides.
    pub async fn due_ids(
        &self,
        miner: &str,
        moment: Option<bson::DateTime>,
        limit: i64,
    ) -> Result<DueIds, StoreError> {
        let moment = moment.map_or_else(|| NOW.into(), Bson::from);
        let find = async |class: Document, order: &str| {
            let mut filter = due_filter(&moment);
            filter.insert("miner", written_as(miner));
            filter.extend(class);
            let find = self.deals.find(filter).sort(doc! { order: 1 }).limit(limit);
            let cursor = self.bounded("due ids", find.projection(doc! { "_id": 1, "startepoch": 1 })).await?;
            self.drain("due ids", cursor).await
        };
        // Each query uses an index of its own, which holds little besides the result (`indexes`).
        let (new, retries, waits) = tokio::try_join!(
            find(doc! { "import.nexttry": null }, "startepoch"),
            find(
                doc! {
                    "import.state": ImportState::Retrying, "import.nexttry": { "$ne": null },
                    "import.awaitedfiles": { "$exists": false },
                },
                "startepoch"
            ),
            find(
                doc! {
                    "import.nexttry": { "$ne": null },
                    "$or": [
                        { "import.state": { "$ne": ImportState::Retrying } },
                        { "import.awaitedfiles": { "$exists": true } },
                    ],
                },
                "import.nexttry"
            ),
        )?;
        let (new, retries) =
            (new.into_iter().map(|deal| (deal, false)), retries.into_iter().map(|deal| (deal, true)));
        let mut first: Vec<(Document, bool)> = new.chain(retries).collect();
        first.sort_by_key(|(deal, _)| deal.get("startepoch").and_then(stored::integer));
        first.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let id = |(mut deal, is_retry): (Document, bool)| Some(DueId { id: deal.remove("_id")?, is_retry });
        Ok(DueIds {
            first: first.into_iter().filter_map(id).collect(),
            waits: waits.into_iter().filter_map(|mut deal| deal.remove("_id")).collect(),
        })
    }

    /// Takes the lease of a deal that is still due. `owner` must be unique to this claim, not only to the
    /// agent: the fencing number starts at 1 again after a release.
    ///
    /// An unreadable field counts as missing, and the claim names it.
    ///
    /// # Errors
    ///
    /// A failed database call.
    pub async fn claim(
        &self,
        id: &Bson,
        miner: &str,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        let mut filter = due_filter(&NOW.into());
        filter.insert("_id", id);
        filter.insert("miner", written_as(miner));
        let update = vec![doc! { "$set": {
            // One value, which replaces the whole field.
            "claim": { "$mergeObjects": [{
                "owner": { "$literal": owner },
                "until": from_now(lease),
                "n": one_more("$claim.n"),
            }] },
            "import": object_or_nothing("$import"),
            "provider": object_or_nothing("$provider"),
            "updatedtime": NOW,
        } }];
        let call = self.deals.find_one_and_update(filter, update).return_document(ReturnDocument::After);
        let Some(document) = self.bounded("claim", call).await? else { return Ok(None) };
        let n = fencing_number(&document).unwrap_or(0);
        let (deal, unreadable) = lenient::deal(document);
        Ok(Some(Claim { id: id.clone(), deal, unreadable, owner: owner.to_owned(), n }))
    }

    /// Deals of these miners that would be claimed now, most urgent first; takes nothing.
    pub async fn due_deals(&self, miners: &[String], limit: i64) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let mut filter = due_filter(&NOW.into());
        filter.insert("miner", any_of(miners));
        let find = self.deals.find(filter).sort(doc! { "startepoch": 1, "_id": 1 }).limit(limit);
        let cursor = self.bounded("due deals", find).await?;
        let found = self.drain("due deals", cursor).await?;
        Ok(found.into_iter().map(|deal| lenient::deal(deal).0).collect())
    }

    /// How long until the next deal of this miner comes due, because its pause or another agent's lease ends.
    /// `None` if no deal waits for a time.
    pub async fn next_due(&self, miner: &str) -> Result<Option<Duration>, StoreError> {
        let mut first = None;
        for time in ["import.nexttry", "claim.until"] {
            let pipeline = [
                doc! { "$match": {
                    "miner": written_as(miner), "isdeal": 0,
                    "import.state": import_goes_on(),
                    "status": { "$nin": dead_states() },
                    time: { "$type": "date" },
                    "$expr": { "$gt": [format!("${time}"), NOW] },
                } },
                doc! { "$sort": { time: 1 } },
                doc! { "$limit": 1 },
                doc! { "$project": { "wait": { "$subtract": [format!("${time}"), NOW] } } },
            ];
            let cursor = self.bounded("next due", self.deals.aggregate(pipeline)).await?;
            let found = self.drain("next due", cursor).await?;
            let wait = found.first().and_then(|d| d.get("wait")).and_then(stored::integer);
            let wait = wait.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
            first = first.into_iter().chain(wait).min();
        }
        Ok(first)
    }

    /// Pending deals of one miner, counted.
    pub async fn pending_counts(&self, miner: &str) -> Result<PendingCounts, StoreError> {
        let count = async |extra: Document| {
            let mut filter = doc! { "miner": written_as(miner), "isdeal": 0 };
            filter.extend(extra);
            self.bounded("count", self.deals.count_documents(filter)).await
        };
        Ok(PendingCounts {
            pending: count(doc! {}).await?,
            claimed: count(doc! { "$expr": { "$gt": ["$claim.until", NOW] } }).await?,
            set_aside: count(doc! { "import.state": ImportState::SetAside }).await?,
            failed: count(doc! { "import.state": ImportState::Failed }).await?,
            missed: count(doc! { "import.state": ImportState::Missed }).await?,
        })
    }

    /// Pending deals of these miners with the reason why they wait, at most `limit`: first those that may be
    /// imported, most urgent first, then those that are over.
    pub async fn pending_deals(
        &self,
        miners: &[String],
        limit: i64,
    ) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let over =
            || vec![doc! { "import.state": import_is_final() }, doc! { "status": { "$in": dead_states() } }];
        let mut deals = Vec::new();
        for class in [doc! { "$nor": over() }, doc! { "$or": over() }] {
            let left = limit.saturating_sub(i64::try_from(deals.len()).unwrap_or(i64::MAX));
            if left <= 0 {
                // MongoDB reads a limit of 0 as no limit.
                break;
            }
            let mut filter = doc! { "miner": any_of(miners), "isdeal": 0 };
            filter.extend(class);
            let find = self.deals.find(filter).sort(doc! { "startepoch": 1, "_id": 1 }).limit(left);
            let cursor = self.bounded("pending deals", find).await?;
            let found = self.drain("pending deals", cursor).await?;
            deals.extend(found.into_iter().map(|deal| lenient::deal(deal).0));
        }
        Ok(deals)
    }

    /// The deal with this proposal CID, of any miner, and the names of its unreadable fields.
    pub async fn deal_by_cid(
        &self,
        proposal_cid: &str,
    ) -> Result<Option<(OfflineDealDoc, Vec<String>)>, StoreError> {
        let found = self.bounded("deal", self.deals.find_one(doc! { "dealcid": proposal_cid })).await?;
        Ok(found.map(lenient::deal))
    }

    /// Makes one deal due, or all that wait or failed, except those whose start is missed. Also removes
    /// leases and pauses that no agent wrote. Returns how many.
    pub async fn retry_imports(&self, miners: &[String], deal: Option<&str>) -> Result<u64, StoreError> {
        let mut filter = doc! {
            "miner": any_of(miners),
            "isdeal": 0,
            "$or": [
                { "import.state": { "$in": [ImportState::Waiting, ImportState::Retrying, ImportState::SetAside, ImportState::Failed] } },
                { "import.state": { "$exists": false }, "import.nexttry": { "$exists": true } },
                { "import.state": { "$ne": ImportState::Missed }, "claim": { "$exists": true }, "$expr": { "$not": [lease_holds()] } },
            ],
        };
        if let Some(deal) = deal {
            filter.insert("dealcid", deal);
        }
        let update = vec![
            doc! { "$set": { "import": object_or_nothing("$import") } },
            doc! { "$set": {
                "import.state": ImportState::Waiting, "updatedtime": NOW,
                "claim": { "$cond": [lease_holds(), "$claim", "$$REMOVE"] },
            } },
            doc! { "$unset": ["import.nexttry", "import.attempts"] },
        ];
        Ok(self.bounded("retry imports", self.deals.update_many(filter, update)).await?.modified_count)
    }

    /// Makes deals due that wait for a file with one of these names; without names, for any file. Returns how
    /// many.
    pub async fn make_due_awaiting(
        &self,
        miners: &[String],
        files: Option<&[String]>,
    ) -> Result<u64, StoreError> {
        let awaited = files.map_or_else(|| doc! { "$exists": true }, |files| doc! { "$in": files });
        let filter = doc! {
            "miner": any_of(miners),
            "isdeal": 0,
            "import.awaitedfiles": awaited,
            "import.state": { "$in": [ImportState::Waiting, ImportState::Retrying, ImportState::SetAside] },
        };
        let update = vec![
            doc! { "$set": { "import.state": ImportState::Waiting, "updatedtime": NOW } },
            doc! { "$unset": ["import.nexttry", "import.attempts"] },
        ];
        Ok(self.bounded("wake awaiting", self.deals.update_many(filter, update)).await?.modified_count)
    }

    /// Makes deals in a final state of import due at a random time within `spread`: their market has the data
    /// after all, or another user of the database may have written that state. They queue with the deals that
    /// have waited. Returns how many.
    pub async fn make_due_final(
        &self,
        miner: &str,
        deals: &[&str],
        spread: Duration,
    ) -> Result<u64, StoreError> {
        let filter = doc! {
            "dealcid": { "$in": deals }, "miner": written_as(miner), "isdeal": 0,
            "import.state": import_is_final(),
        };
        let after = doc! { "$toLong": { "$multiply": [{ "$rand": {} }, millis(spread)] } };
        let update = vec![doc! { "$set": {
            "import.state": ImportState::Waiting,
            "import.nexttry": { "$add": [NOW, after] },
            "updatedtime": NOW,
        } }];
        Ok(self.bounded("wake resting", self.deals.update_many(filter, update)).await?.modified_count)
    }

    /// Makes deals due that waited for their provider's acceptance. A deal that waits for a file goes on
    /// waiting. Returns how many.
    pub async fn make_due_accepted(&self, miner: &str, deals: &[&str]) -> Result<u64, StoreError> {
        let filter = doc! {
            "dealcid": { "$in": deals }, "miner": written_as(miner), "isdeal": 0,
            "import.state": ImportState::Waiting, "import.awaitedfiles": { "$exists": false },
        };
        let update = vec![doc! { "$set": { "updatedtime": NOW } }, doc! { "$unset": "import.nexttry" }];
        Ok(self.bounded("wake accepted", self.deals.update_many(filter, update)).await?.modified_count)
    }
}

/// Matches pending deals without a lease, not in a final state, and without a pause that ends after `moment`
/// (a date or [`NOW`]). A missing date compares lower than any date inside `$expr`, so documents of the
/// prototype are free and due.
fn due_filter(moment: &Bson) -> Document {
    doc! {
        "isdeal": 0,
        "import.state": import_goes_on(),
        // The client gave this deal up and may have replaced it: an import would store both.
        "status": { "$nin": dead_states() },
        "$expr": { "$and": [
            { "$lt": ["$claim.until", NOW] },
            { "$lte": ["$import.nexttry", moment] },
        ] },
    }
}
