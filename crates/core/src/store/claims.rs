//! Leases on pending deals: two agents never work on one deal at the same time.
//!
//! A lease is a subdocument `claim { owner, until, n }`. Its times are the server's, so wrong clocks on the
//! agents' machines do no harm; `n` grows with every claim and fences late writers: whoever lost the lease
//! cannot write the outcome any more. (The lease cannot fence the Lotus call itself: the importer reads the
//! deal's state at the node before and after.)

use std::time::Duration;

use bson::{Bson, Document, doc, oid::ObjectId};
use mongodb::options::ReturnDocument;
use tracing::warn;

use super::{Store, bounded::decode, deals::dead_states, error::StoreError};
use crate::model::{DealId, DealStatus, OfflineDealDoc};

const COLLECTION: &str = "offlinedeals";

/// A deal this agent holds the lease of.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The document's id.
    pub id: ObjectId,
    /// The deal as it was when claimed.
    pub deal: OfflineDealDoc,
    owner: String,
    n: i64,
}

/// What one try at a deal came to.
#[derive(Clone, Debug)]
pub enum ImportOutcome {
    /// The provider has the data: the deal is closed (`isdeal` 1).
    Done {
        /// What was handed to the provider; `None` if it had the data already.
        path: Option<String>,
    },
    /// Something is not there yet; no failure.
    Waiting {
        /// What.
        reason: String,
        /// When to look again.
        after: Duration,
    },
    /// A failure that may pass.
    Retrying {
        /// What failed.
        reason: String,
        /// When to try again.
        after: Duration,
    },
    /// Never going to succeed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Pending deals of one miner, by where they stand.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct PendingCounts {
    /// `isdeal` 0, all of them.
    pub pending: u64,
    /// Of those, under a lease right now.
    pub claimed: u64,
    /// Of those, failed for good.
    pub failed: u64,
}

impl Store {
    /// Takes the lease of the most urgent deal of this miner that is due: earliest start epoch first.
    /// `None`: nothing is due. `owner` names this one claim, not only the agent: the fencing number starts
    /// anew once a deal is given back.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadDocument`] for a deal that cannot be read; it is marked failed and does not come
    /// again before somebody asks for another try.
    pub async fn claim_next(
        &self,
        miner: &str,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        self.claim_from(due_filter(&NOW.into()), miner, owner, lease).await
    }

    /// As [`Self::claim_next`], of the deals that were due at `moment` already: a pass that gives every deal
    /// one try.
    pub async fn claim_due_at(
        &self,
        miner: &str,
        owner: &str,
        lease: Duration,
        moment: bson::DateTime,
    ) -> Result<Option<Claim>, StoreError> {
        self.claim_from(due_filter(&moment.into()), miner, owner, lease).await
    }

    async fn claim_from(
        &self,
        mut filter: Document,
        miner: &str,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        filter.insert("miner", miner);
        let update = vec![doc! { "$set": {
            "claim": {
                "owner": { "$literal": owner },
                "until": { "$add": ["$$NOW", lease_millis(lease)] },
                "n": { "$add": [{ "$toLong": { "$ifNull": ["$claim.n", 0_i64] } }, 1_i64] },
            },
            "updatedtime": "$$NOW",
        } }];
        let call = self
            .deals
            .find_one_and_update(filter, update)
            .sort(doc! { "startepoch": 1, "_id": 1 })
            .return_document(ReturnDocument::After);
        let Some(document) = self.bounded("claim", call).await? else { return Ok(None) };
        let Ok(id) = document.get_object_id("_id") else {
            let id = document.get("_id").map(ToString::to_string).unwrap_or_default();
            let source = <bson::error::Error as serde::de::Error>::custom("its _id is no ObjectId");
            return Err(StoreError::BadDocument { collection: COLLECTION, id, source: Box::new(source) });
        };
        let n = document
            .get_document("claim")
            .ok()
            .and_then(|claim| claim.get("n"))
            .and_then(crate::model::stored::integer)
            .unwrap_or(0);
        let claim = |deal| Claim { id, deal, owner: owner.to_owned(), n };
        match decode(COLLECTION, document) {
            Ok(deal) => Ok(Some(claim(deal))),
            Err(error) => {
                let reason = crate::error_chain::ErrorChain(&error).to_string();
                self.finish(&claim(OfflineDealDoc::default()), &ImportOutcome::Failed { reason }).await?;
                Err(error)
            }
        }
    }

    /// Lengthens a lease. `false`: it was lost; stop working on the deal.
    pub async fn renew(&self, claim: &Claim, lease: Duration) -> Result<bool, StoreError> {
        let update = vec![doc! { "$set": { "claim.until": { "$add": ["$$NOW", lease_millis(lease)] } } }];
        let result = self.bounded("renew", self.deals.update_one(claim.filter(), update)).await?;
        Ok(result.matched_count == 1)
    }

    /// Notes, before the import call goes out, that it does and with which file. `false`: the lease was
    /// lost, do not call.
    pub async fn note_import_call(&self, claim: &Claim, path: &str) -> Result<bool, StoreError> {
        let update = vec![doc! { "$set": {
            "import.path": { "$literal": path },
            "import.calledtime": { "$ifNull": ["$import.calledtime", "$$NOW"] },
            "updatedtime": "$$NOW",
        } }];
        let result = self.bounded("note import call", self.deals.update_one(claim.filter(), update)).await?;
        Ok(result.matched_count == 1)
    }

    /// Writes the outcome and gives the lease back. `false`: the lease was lost, nothing was written.
    pub async fn finish(&self, claim: &Claim, outcome: &ImportOutcome) -> Result<bool, StoreError> {
        let mut set = doc! { "updatedtime": "$$NOW" };
        let mut unset = vec!["claim"];
        match outcome {
            ImportOutcome::Done { path } => {
                set.insert("isdeal", 1_i32);
                set.insert("import.state", "done");
                set.insert("import.importedtime", "$$NOW");
                if let Some(path) = path {
                    set.insert("import.path", doc! { "$literal": path });
                }
                unset.extend(["import.reason", "import.nexttry"]);
            }
            ImportOutcome::Waiting { reason, after } => {
                set.insert("import.state", "waiting");
                set.insert("import.reason", doc! { "$literal": reason });
                set.insert("import.nexttry", doc! { "$add": ["$$NOW", lease_millis(*after)] });
            }
            ImportOutcome::Retrying { reason, after } => {
                set.insert("import.state", "retrying");
                set.insert("import.reason", doc! { "$literal": reason });
                set.insert("import.nexttry", doc! { "$add": ["$$NOW", lease_millis(*after)] });
                set.insert(
                    "import.attempts",
                    doc! { "$add": [{ "$ifNull": ["$import.attempts", 0_i64] }, 1_i64] },
                );
            }
            ImportOutcome::Failed { reason } => {
                set.insert("import.state", "failed");
                set.insert("import.reason", doc! { "$literal": reason });
                unset.push("import.nexttry");
            }
        }
        let update = vec![doc! { "$set": set }, doc! { "$unset": unset }];
        let result = self.bounded("finish", self.deals.update_one(claim.filter(), update)).await?;
        Ok(result.matched_count == 1)
    }

    /// Deals of these miners that would be claimed now, most urgent first; takes nothing.
    pub async fn due_deals(&self, miners: &[String], limit: i64) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let mut filter = due_filter(&NOW.into());
        filter.insert("miner", doc! { "$in": miners });
        let find = self.deals.find(filter).sort(doc! { "startepoch": 1, "_id": 1 }).limit(limit);
        let cursor = self.bounded("due deals", find).await?;
        Ok(readable(self.drain("due deals", cursor).await?))
    }

    /// How long until the next deal of this miner comes due; `None` if none is waiting for its time.
    pub async fn next_due(&self, miner: &str) -> Result<Option<Duration>, StoreError> {
        let pipeline = [
            doc! { "$match": {
                "miner": miner, "isdeal": 0, "import.state": { "$ne": "failed" }, "status": { "$nin": dead_states() },
            } },
            doc! { "$project": { "due": { "$max": ["$import.nexttry", "$claim.until"] } } },
            doc! { "$match": { "due": { "$type": "date" } } },
            doc! { "$group": { "_id": null, "due": { "$min": "$due" } } },
            doc! { "$project": { "wait": { "$subtract": ["$due", "$$NOW"] } } },
        ];
        let cursor = self.bounded("next due", self.deals.aggregate(pipeline)).await?;
        let found = self.drain("next due", cursor).await?;
        Ok(found
            .first()
            .and_then(|d| d.get("wait"))
            .and_then(crate::model::stored::integer)
            .map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
    }

    /// Pending deals of one miner, counted.
    pub async fn pending_counts(&self, miner: &str) -> Result<PendingCounts, StoreError> {
        let count = async |extra: Document| {
            let mut filter = doc! { "miner": miner, "isdeal": 0 };
            filter.extend(extra);
            self.bounded("count", self.deals.count_documents(filter)).await
        };
        Ok(PendingCounts {
            pending: count(doc! {}).await?,
            claimed: count(doc! { "$expr": { "$gt": ["$claim.until", "$$NOW"] } }).await?,
            failed: count(doc! { "import.state": "failed" }).await?,
        })
    }

    /// Pending deals of these miners with why they wait, most urgent first.
    pub async fn pending_deals(
        &self,
        miners: &[String],
        limit: i64,
    ) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let filter = doc! { "miner": { "$in": miners }, "isdeal": 0 };
        let find = self.deals.find(filter).sort(doc! { "startepoch": 1, "_id": 1 }).limit(limit);
        let cursor = self.bounded("pending deals", find).await?;
        Ok(readable(self.drain("pending deals", cursor).await?))
    }

    /// Asks for another try now: of one deal, or of all that wait or failed. Returns how many.
    pub async fn retry_imports(&self, miners: &[String], deal: Option<&str>) -> Result<u64, StoreError> {
        let mut filter = doc! {
            "miner": { "$in": miners },
            "isdeal": 0,
            "import.state": { "$in": ["waiting", "retrying", "failed"] },
        };
        if let Some(deal) = deal {
            filter.insert("dealcid", deal);
        }
        let update = vec![
            doc! { "$set": { "import.state": "waiting", "updatedtime": "$$NOW" } },
            doc! { "$unset": ["import.nexttry", "import.attempts"] },
        ];
        Ok(self.bounded("retry imports", self.deals.update_many(filter, update)).await?.modified_count)
    }

    /// Closed deals of this miner whose provider still works on them: proposal CIDs with what was last
    /// recorded of the provider's view.
    pub async fn provider_followed(&self, miner: &str) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let finals: Vec<i64> =
            DealStatus::FINAL.iter().map(|status| i64::try_from(status.get()).unwrap_or(0)).collect();
        let filter =
            doc! { "miner": miner, "dealcid": { "$type": "string" }, "provider.status": { "$nin": finals } };
        let fields = doc! { "dealcid": 1, "provider": 1, "isdeal": 1 };
        let cursor = self.bounded("provider deals", self.deals.find(filter).projection(fields)).await?;
        Ok(readable(self.drain("provider deals", cursor).await?))
    }

    /// Records what the provider says of a deal.
    pub async fn record_provider_view(
        &self,
        deal: &str,
        status: DealStatus,
        message: &str,
        deal_id: Option<DealId>,
    ) -> Result<(), StoreError> {
        let set = doc! { "provider": {
            "status": i64::try_from(status.get()).unwrap_or(i64::MAX),
            "statusname": { "$literal": status.name() },
            "message": { "$literal": message },
            "dealid": deal_id.map(|id| i64::try_from(id.get()).unwrap_or(i64::MAX)),
            "updatedtime": "$$NOW",
        } };
        let filter = doc! { "dealcid": deal };
        self.bounded("provider view", self.deals.update_one(filter, vec![doc! { "$set": set }])).await?;
        Ok(())
    }
}

impl Claim {
    /// The lease's fencing number.
    pub fn n(&self) -> i64 {
        self.n
    }

    fn filter(&self) -> Document {
        doc! { "_id": self.id, "isdeal": 0, "claim.owner": &self.owner, "claim.n": self.n }
    }
}

/// The server's clock, in an expression.
const NOW: &str = "$$NOW";

/// Pending, not under a lease, not failed for good, and not waiting for a try later than `moment` (a date or
/// [`NOW`]). A missing date compares lower than any date inside `$expr`, so documents of the prototype are
/// free and due.
fn due_filter(moment: &Bson) -> Document {
    doc! {
        "isdeal": 0,
        "import.state": { "$ne": "failed" },
        // Given up by the client: it may have been replaced already, and importing it would store both.
        "status": { "$nin": dead_states() },
        "$expr": { "$and": [
            { "$lt": ["$claim.until", NOW] },
            { "$lte": ["$import.nexttry", moment] },
        ] },
    }
}

/// What can be read of these documents: one that cannot must not hide the others.
fn readable(documents: Vec<Document>) -> Vec<OfflineDealDoc> {
    let mut deals = Vec::with_capacity(documents.len());
    for document in documents {
        match decode(COLLECTION, document) {
            Ok(deal) => deals.push(deal),
            Err(error) => warn!(error = %crate::error_chain::ErrorChain(&error), "left out"),
        }
    }
    deals
}

fn lease_millis(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
}
