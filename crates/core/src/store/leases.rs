//! Leases on pending deals, renewed in groups: two agents never import one deal at the same time.
//!
//! A lease is the subdocument `claim { owner, until, n }`. Its times are the server's, so wrong clocks on the
//! agents' machines do no harm. `n` grows with every claim and is the fencing number: an agent that lost the
//! lease cannot write the outcome any more. The number does not reach Lotus, so the importer reads the deal's
//! state at the market before and after its call.

use std::collections::HashSet;
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::model::{OfflineDealDoc, stored};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, from_now};
use crate::store::miners::written_as;

/// The longest lease an agent may be configured to set.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// The longest pause an agent may be configured to set.
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A deal whose lease this agent holds.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The document's id.
    pub id: Bson,
    /// The deal as it was when claimed, as far as it can be read.
    pub deal: OfflineDealDoc,
    /// Names of its fields that cannot be read.
    pub unreadable: Vec<String>,
    pub(super) owner: String,
    pub(super) n: i64,
}

/// The identity of a lease, without its deal.
#[derive(Clone, Debug)]
pub struct Fence {
    id: Bson,
    owner: String,
    n: i64,
}

impl Store {
    /// Renews a lease. Returns `false` if it was lost and the work on the deal must stop.
    pub async fn renew(&self, fence: &Fence, lease: Duration) -> Result<bool, StoreError> {
        let renewed = self.deals.update_one(fence.filter(), renewal(lease));
        Ok(self.bounded("renew", renewed).await?.matched_count == 1)
    }

    /// Renews some hundred leases with one command, each guarded by its own fencing number. Returns the
    /// indexes of those that were lost.
    ///
    /// With thousands of claimed deals, one write and one majority wait per lease would be most of the
    /// database's work. Only if fewer leases matched than were sent, the records are read to find out which:
    /// a deal that was finished meanwhile is one of them, so they are read before any is renewed alone.
    pub async fn renew_many(&self, fences: &[Fence], lease: Duration) -> Result<Vec<usize>, StoreError> {
        let what = "renew many";
        let update = renewal(lease);
        let updates: Vec<Document> =
            fences.iter().map(|fence| doc! { "q": fence.filter(), "u": &update }).collect();
        let reply = self.update_deals(what, updates).await?;
        if reply.contains_key("writeConcernError") {
            // Written, but not yet by a majority: neither renewed nor lost.
            return Err(StoreError::Timeout { what, seconds: self.call_timeout.as_secs() });
        }
        let matched = reply.get("n").and_then(stored::integer);
        if matched.is_some_and(|matched| usize::try_from(matched) == Ok(fences.len())) {
            return Ok(Vec::new());
        }
        let ids: Vec<&Bson> = fences.iter().map(|fence| &fence.id).collect();
        let find = self.deals.find(doc! { "_id": { "$in": ids }, "isdeal": 0 });
        let cursor = self.bounded(what, find.projection(doc! { "claim": 1 })).await?;
        let held: HashSet<(String, i64)> =
            self.drain(what, cursor).await?.iter().filter_map(holder).collect();
        let have_failed = reply.contains_key("writeErrors");
        let mut lost = Vec::new();
        for (place, fence) in fences.iter().enumerate() {
            let is_renewed = !have_failed && held.contains(&(fence.owner.clone(), fence.n));
            // A lease that cannot be renewed now is not lost, and does not keep others from being renewed.
            if !is_renewed && matches!(self.renew(fence, lease).await, Ok(false)) {
                lost.push(place);
            }
        }
        Ok(lost)
    }

    /// Frees deals whose lease or pause ends later than any agent sets it. Such times were written under a
    /// server's clock that was far ahead, or by another user of the database in any type; values that sort
    /// below every date have ended anyway. Returns how many.
    pub async fn release_impossible(&self, miner: &str) -> Result<u64, StoreError> {
        let mut released = 0;
        // One query per field, because each field has its own index.
        for (time, limit) in [("claim.until", LEASE_MAX), ("import.nexttry", PAUSE_MAX)] {
            let filter = doc! {
                "miner": written_as(miner), "isdeal": 0, time: { "$exists": true },
                "$expr": { "$gt": [format!("${time}"), from_now(limit * 2)] },
            };
            let update =
                vec![doc! { "$set": { "updatedtime": NOW } }, doc! { "$unset": ["claim", "import.nexttry"] }];
            released += self.bounded("release", self.deals.update_many(filter, update)).await?.modified_count;
        }
        Ok(released)
    }
}

impl Claim {
    /// The lease's fencing number.
    pub fn n(&self) -> i64 {
        self.n
    }

    /// The process that holds it: the owner's name up to the part that identifies the claim.
    pub fn caller(&self) -> &str {
        self.owner.split('#').next().unwrap_or_default()
    }

    /// The identity of the lease, which renews it.
    pub fn fence(&self) -> Fence {
        Fence { id: self.id.clone(), owner: self.owner.clone(), n: self.n }
    }

    pub(super) fn filter(&self) -> Document {
        self.fence().filter()
    }
}

impl Fence {
    fn filter(&self) -> Document {
        doc! { "_id": &self.id, "isdeal": 0, "claim.owner": &self.owner, "claim.n": self.n }
    }
}

fn renewal(lease: Duration) -> Vec<Document> {
    vec![doc! { "$set": { "claim.until": from_now(lease) } }]
}

/// The owner and the fencing number of a record's lease.
fn holder(record: &Document) -> Option<(String, i64)> {
    let owner = record.get_document("claim").ok()?.get_str("owner").ok()?;
    Some((owner.to_owned(), fencing_number(record)?))
}

/// The fencing number of a record's lease.
pub(super) fn fencing_number(record: &Document) -> Option<i64> {
    record.get_document("claim").ok()?.get("n").and_then(stored::integer)
}

/// Whether a lease that an agent may have written has not ended.
pub(super) fn lease_holds() -> Document {
    doc! { "$and": [
        { "$eq": [{ "$type": "$claim.until" }, "date"] },
        { "$gt": ["$claim.until", NOW] },
        { "$lte": ["$claim.until", from_now(LEASE_MAX * 2)] },
    ] }
}
