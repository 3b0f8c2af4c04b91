//! Leases on pending deals: two agents never work on one deal at the same time.
//!
//! A lease is a subdocument `claim { owner, until, n }`. Its times are the server's, so wrong clocks on the
//! agents' machines do no harm; `n` grows with every claim and fences late writers: whoever lost the lease
//! cannot write the outcome any more. (The lease cannot fence the Lotus call itself: the importer reads the
//! deal's state at the node before and after.)

use std::collections::HashSet;
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use crate::model::OfflineDealDoc;
use crate::store::deals::dead_states;
use crate::store::error::StoreError;
use crate::store::miners::{any_of, written_as};
use crate::store::provider_views::ProviderView;
use crate::store::{Store, lenient};

/// A deal this agent holds the lease of.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The document's id.
    pub id: Bson,
    /// The deal as it was when claimed, as far as it can be read.
    pub deal: OfflineDealDoc,
    /// Names of its fields that cannot be read.
    pub unreadable: Vec<String>,
    owner: String,
    n: i64,
}

/// What a lease is known by, without its deal.
#[derive(Clone, Debug)]
pub struct Fence {
    id: Bson,
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
        /// Names of files whose arrival is worth a look before that.
        files: Vec<String>,
    },
    /// A failure that may pass.
    Retrying {
        /// What failed.
        reason: String,
        /// When to try again.
        after: Duration,
        /// Names of files whose arrival is worth a try before that.
        files: Vec<String>,
    },
    /// Failed as often as is allowed: not tried again before a person, or a file that arrives, asks for it.
    SetAside {
        /// The last failure.
        reason: String,
        /// Names of files whose arrival is worth another try.
        files: Vec<String>,
    },
    /// Its start epoch can no longer be met: never going to be imported, and replaced by the client.
    Missed {
        /// Which epoch, by how much.
        reason: String,
    },
    /// Never going to succeed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What becomes of a deal, and what is written beside it.
#[derive(Clone, Debug)]
pub struct Settled {
    /// To be written into the deal.
    pub outcome: ImportOutcome,
    /// What the provider says of the deal, where that is news.
    pub view: Option<ProviderView>,
    /// Whether no import call can be under way any more.
    pub is_answered: bool,
    /// Whether a file in the deal's place is known to be another piece.
    pub is_other_piece: bool,
}

/// Whether an import call was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It may go out.
    Yes,
    /// The client has given the deal up since; the lease still holds.
    GivenUp,
    /// Another agent has the deal.
    LeaseLost,
}

/// Pending deals of one miner, by where they stand.
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
    /// Never looked at, woken, or to be tried again after a failure: the earliest start epoch first.
    pub first: Vec<DueId>,
    /// Looked at before, in vain, and their pause is over: whose was over first comes first.
    pub waits: Vec<Bson>,
}

/// The longest lease and the longest pause an agent may be configured to set.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// See [`LEASE_MAX`].
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// States of `import` in which nothing is tried any more.
pub(super) const RESTING: [&str; 3] = ["failed", "setaside", "missed"];

impl Store {
    /// Deals of this miner that are due at `moment` (now, without one), at most `limit` of each class; takes
    /// nothing. Two agents may read the same list: [`Self::claim`] decides.
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
        // Each by an index of its own, which holds little beside what is read (`indexes`).
        let (new, retries, waits) = tokio::try_join!(
            find(doc! { "import.nexttry": null }, "startepoch"),
            find(
                doc! {
                    "import.state": "retrying", "import.nexttry": { "$ne": null },
                    "import.awaitedfiles": { "$exists": false },
                },
                "startepoch"
            ),
            find(
                doc! {
                    "import.nexttry": { "$ne": null },
                    "$or": [
                        { "import.state": { "$ne": "retrying" } },
                        { "import.awaitedfiles": { "$exists": true } },
                    ],
                },
                "import.nexttry"
            ),
        )?;
        let (new, retries) =
            (new.into_iter().map(|deal| (deal, false)), retries.into_iter().map(|deal| (deal, true)));
        let mut first: Vec<(Document, bool)> = new.chain(retries).collect();
        first.sort_by_key(|(deal, _)| deal.get("startepoch").and_then(crate::model::stored::integer));
        first.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let id = |(mut deal, is_retry): (Document, bool)| Some(DueId { id: deal.remove("_id")?, is_retry });
        Ok(DueIds {
            first: first.into_iter().filter_map(id).collect(),
            waits: waits.into_iter().filter_map(|mut deal| deal.remove("_id")).collect(),
        })
    }

    /// Takes the lease of a deal, if it is still due. `owner` names this one claim, not only the agent: the
    /// fencing number starts anew once a deal is given back.
    ///
    /// A field that cannot be read counts as missing, and is named in the claim.
    ///
    /// # Errors
    ///
    /// What kept the database from answering.
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
        let n = doc! { "$mod": [count_of("$claim.n"), N_MAX] };
        let update = vec![doc! { "$set": {
            // One value, which takes the place of whatever stands there.
            "claim": { "$mergeObjects": [{
                "owner": { "$literal": owner },
                "until": { "$add": ["$$NOW", lease_millis(lease)] },
                "n": { "$add": [n, 1_i64] },
            }] },
            "import": object_or_nothing("$import"),
            "provider": object_or_nothing("$provider"),
            "updatedtime": "$$NOW",
        } }];
        let call = self.deals.find_one_and_update(filter, update).return_document(ReturnDocument::After);
        let Some(document) = self.bounded("claim", call).await? else { return Ok(None) };
        let n = document
            .get_document("claim")
            .ok()
            .and_then(|claim| claim.get("n"))
            .and_then(crate::model::stored::integer)
            .unwrap_or(0);
        let (deal, unreadable) = lenient::deal(document);
        Ok(Some(Claim { id: id.clone(), deal, unreadable, owner: owner.to_owned(), n }))
    }

    /// Lengthens a lease. `false`: it was lost; stop working on the deal.
    pub async fn renew(&self, fence: &Fence, lease: Duration) -> Result<bool, StoreError> {
        let renewed = self.deals.update_one(fence.filter(), renewal(lease));
        Ok(self.bounded("renew", renewed).await?.matched_count == 1)
    }

    /// Lengthens some hundred leases with one command, each behind its own fence; says which were lost, by
    /// their places.
    ///
    /// One write for each, and one wait for a majority each, would be most of what a database does for
    /// thousands of deals in hand. Only where fewer matched than were sent, it is found out which: a deal
    /// that was finished meanwhile is one of them, so they are read before any is renewed alone.
    pub async fn renew_many(&self, fences: &[Fence], lease: Duration) -> Result<Vec<usize>, StoreError> {
        let what = "renew many";
        let update = renewal(lease);
        let updates: Vec<Document> =
            fences.iter().map(|fence| doc! { "q": fence.filter(), "u": &update }).collect();
        let command = doc! {
            "update": self.deals.name(), "updates": updates, "ordered": false,
            "writeConcern": { "w": "majority", "wtimeout": lease_millis(self.call_timeout) },
        };
        let reply = self.bounded(what, self.database.run_command(command)).await?;
        if reply.contains_key("writeConcernError") {
            // Written, and not by a majority yet: neither renewed nor lost.
            return Err(StoreError::Timeout { what, seconds: self.call_timeout.as_secs() });
        }
        let matched = reply.get("n").and_then(crate::model::stored::integer);
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
            // One that cannot be renewed now is not lost, and keeps no other from being renewed.
            if !is_renewed && matches!(self.renew(fence, lease).await, Ok(false)) {
                lost.push(place);
            }
        }
        Ok(lost)
    }

    /// Notes, before the import call goes out, that it does and with which file; lengthens the lease.
    pub async fn note_import_call(
        &self,
        claim: &Claim,
        path: &str,
        lease: Duration,
    ) -> Result<Noted, StoreError> {
        let update = vec![doc! { "$set": {
            "claim.until": { "$add": ["$$NOW", lease_millis(lease)] },
            "import.path": { "$literal": path },
            "import.calledtime": { "$ifNull": ["$import.calledtime", "$$NOW"] },
            "import.pendingcall": "$$NOW",
            "import.caller": { "$literal": claim.caller() },
            "updatedtime": "$$NOW",
        } }];
        let mut filter = claim.filter();
        filter.insert("status", doc! { "$nin": dead_states() });
        let what = "note import call";
        if self.bounded(what, self.deals.update_one(filter, update)).await?.matched_count == 1 {
            return Ok(Noted::Yes);
        }
        let held = self.bounded(what, self.deals.count_documents(claim.filter())).await?;
        Ok(if held == 0 { Noted::LeaseLost } else { Noted::GivenUp })
    }

    /// Writes what became of a deal and gives the lease back. `false`: the lease was lost, nothing was
    /// written.
    pub async fn finish(&self, claim: &Claim, settled: &Settled) -> Result<bool, StoreError> {
        let Settled { outcome, view, is_answered, is_other_piece } = settled;
        let mut set = doc! { "updatedtime": "$$NOW" };
        let mut unset = vec!["claim"];
        if *is_answered {
            unset.extend(["import.pendingcall", "import.caller"]);
        }
        let state = match outcome {
            ImportOutcome::Done { path } => {
                set.insert("isdeal", 1_i32);
                set.insert("import.importedtime", "$$NOW");
                if let Some(path) = path {
                    set.insert("import.path", doc! { "$literal": path });
                }
                unset.extend(["import.reason", "import.piecemismatch"]);
                "done"
            }
            ImportOutcome::Waiting { .. } => "waiting",
            ImportOutcome::Retrying { .. } => "retrying",
            ImportOutcome::SetAside { .. } => "setaside",
            ImportOutcome::Missed { .. } => "missed",
            ImportOutcome::Failed { .. } => "failed",
        };
        set.insert("import.state", state);
        if *is_other_piece {
            set.insert("import.piecemismatch", true);
        }
        if let Some(reason) = outcome.reason() {
            set.insert("import.reason", doc! { "$literal": reason });
        }
        // A wrong file is no failure of the deal: another one may come.
        if let ImportOutcome::Retrying { .. } | ImportOutcome::SetAside { .. } = outcome
            && outcome.awaited_files().is_empty()
        {
            let failures = doc! { "$add": [{ "$mod": [count_of("$import.attempts"), N_MAX] }, 1_i64] };
            set.insert("import.attempts", failures);
        }
        match outcome {
            // Due at once, and not one of those that have waited.
            ImportOutcome::Waiting { after: Duration::ZERO, .. } => unset.push("import.nexttry"),
            ImportOutcome::Waiting { after, .. } | ImportOutcome::Retrying { after, .. } => {
                set.insert("import.nexttry", doc! { "$add": ["$$NOW", lease_millis(*after)] });
            }
            _ => unset.push("import.nexttry"),
        }
        match outcome.awaited_files() {
            [] => unset.push("import.awaitedfiles"),
            files => {
                set.insert("import.awaitedfiles", doc! { "$literal": files });
            }
        }
        if let Some(view) = view {
            set.insert("provider", view.document());
        }
        let update = vec![doc! { "$set": set }, doc! { "$unset": unset }];
        let result = self.bounded("finish", self.deals.update_one(claim.filter(), update)).await?;
        Ok(result.matched_count == 1)
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

    /// How long until the next deal of this miner comes due, be it that its pause or that another agent's
    /// lease ends; `None` if none is waiting for its time.
    pub async fn next_due(&self, miner: &str) -> Result<Option<Duration>, StoreError> {
        let mut first = None;
        for time in ["import.nexttry", "claim.until"] {
            let pipeline = [
                doc! { "$match": {
                    "miner": written_as(miner), "isdeal": 0,
                    "import.state": { "$nin": RESTING.to_vec() },
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
            let wait = found.first().and_then(|d| d.get("wait")).and_then(crate::model::stored::integer);
            let wait = wait.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
            first = first.into_iter().chain(wait).min();
        }
        Ok(first)
    }

    /// Frees deals whose lease or pause ends later than any agent sets it: written under a server's clock
    /// that was far ahead, or by another user of the database, in whatever type: those that sort below
    /// every date have ended anyway. Returns how many.
    pub async fn release_impossible(&self, miner: &str) -> Result<u64, StoreError> {
        let mut released = 0;
        // One after the other: each goes by its own index.
        for (time, limit) in [("claim.until", LEASE_MAX), ("import.nexttry", PAUSE_MAX)] {
            let beyond = doc! { "$add": [NOW, lease_millis(limit * 2)] };
            let filter = doc! {
                "miner": written_as(miner), "isdeal": 0, time: { "$exists": true },
                "$expr": { "$gt": [format!("${time}"), beyond] },
            };
            let update = vec![
                doc! { "$set": { "updatedtime": "$$NOW" } },
                doc! { "$unset": ["claim", "import.nexttry"] },
            ];
            released += self.bounded("release", self.deals.update_many(filter, update)).await?.modified_count;
        }
        Ok(released)
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
            claimed: count(doc! { "$expr": { "$gt": ["$claim.until", "$$NOW"] } }).await?,
            set_aside: count(doc! { "import.state": "setaside" }).await?,
            failed: count(doc! { "import.state": "failed" }).await?,
            missed: count(doc! { "import.state": "missed" }).await?,
        })
    }

    /// Pending deals of these miners with why they wait: those that may be imported, most urgent first, then
    /// those that are over; at most so many.
    pub async fn pending_deals(
        &self,
        miners: &[String],
        limit: i64,
    ) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let over = || {
            vec![
                doc! { "import.state": { "$in": RESTING.to_vec() } },
                doc! { "status": { "$in": dead_states() } },
            ]
        };
        let mut deals = Vec::new();
        for class in [doc! { "$nor": over() }, doc! { "$or": over() }] {
            let left = limit.saturating_sub(i64::try_from(deals.len()).unwrap_or(i64::MAX));
            if left <= 0 {
                // To the database 0 is no limit.
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

    /// The deal with this proposal CID, of any miner; beside it the names of its fields that cannot be read.
    pub async fn deal_by_cid(
        &self,
        proposal_cid: &str,
    ) -> Result<Option<(OfflineDealDoc, Vec<String>)>, StoreError> {
        let found = self.bounded("deal", self.deals.find_one(doc! { "dealcid": proposal_cid })).await?;
        Ok(found.map(lenient::deal))
    }

    /// Asks for another try now: of one deal, or of all that wait or failed; not of those whose start is
    /// missed. Also ends leases and pauses that no agent wrote. Returns how many.
    pub async fn retry_imports(&self, miners: &[String], deal: Option<&str>) -> Result<u64, StoreError> {
        let mut filter = doc! {
            "miner": any_of(miners),
            "isdeal": 0,
            "$or": [
                { "import.state": { "$in": ["waiting", "retrying", "setaside", "failed"] } },
                { "import.state": { "$exists": false }, "import.nexttry": { "$exists": true } },
                { "import.state": { "$ne": "missed" }, "claim": { "$exists": true }, "$expr": { "$not": [lease_holds()] } },
            ],
        };
        if let Some(deal) = deal {
            filter.insert("dealcid", deal);
        }
        let update = vec![
            doc! { "$set": { "import": object_or_nothing("$import") } },
            doc! { "$set": {
                "import.state": "waiting", "updatedtime": "$$NOW",
                "claim": { "$cond": [lease_holds(), "$claim", "$$REMOVE"] },
            } },
            doc! { "$unset": ["import.nexttry", "import.attempts"] },
        ];
        Ok(self.bounded("retry imports", self.deals.update_many(filter, update)).await?.modified_count)
    }

    /// Makes deals due that wait for a file with one of these names; without names, for any file. Returns how
    /// many.
    pub async fn wake_awaiting(
        &self,
        miners: &[String],
        files: Option<&[String]>,
    ) -> Result<u64, StoreError> {
        let awaited = files.map_or_else(|| doc! { "$exists": true }, |files| doc! { "$in": files });
        let filter = doc! {
            "miner": any_of(miners),
            "isdeal": 0,
            "import.awaitedfiles": awaited,
            "import.state": { "$in": ["waiting", "retrying", "setaside"] },
        };
        let update = vec![
            doc! { "$set": { "import.state": "waiting", "updatedtime": "$$NOW" } },
            doc! { "$unset": ["import.nexttry", "import.attempts"] },
        ];
        Ok(self.bounded("wake awaiting", self.deals.update_many(filter, update)).await?.modified_count)
    }
}

impl DueIds {
    /// All of them, those that have waited last.
    pub fn into_ids(self) -> impl Iterator<Item = Bson> {
        self.first.into_iter().map(|due| due.id).chain(self.waits)
    }
}

impl ImportOutcome {
    /// Why the deal is not imported; `None` if it is.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Done { .. } => None,
            Self::Waiting { reason, .. }
            | Self::Retrying { reason, .. }
            | Self::SetAside { reason, .. }
            | Self::Missed { reason }
            | Self::Failed { reason } => Some(reason),
        }
    }

    /// Whether nothing is tried any more, and the deal is not imported.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::SetAside { .. } | Self::Missed { .. } | Self::Failed { .. })
    }

    /// Names of files whose arrival changes the matter.
    pub fn awaited_files(&self) -> &[String] {
        match self {
            Self::Waiting { files, .. } | Self::Retrying { files, .. } | Self::SetAside { files, .. } => {
                files
            }
            Self::Done { .. } | Self::Missed { .. } | Self::Failed { .. } => &[],
        }
    }
}

impl Claim {
    /// The lease's fencing number.
    pub fn n(&self) -> i64 {
        self.n
    }

    /// The process that holds it; the rest of the owner's name tells its claims apart.
    pub fn caller(&self) -> &str {
        self.owner.split('#').next().unwrap_or_default()
    }

    /// What renews it.
    pub fn fence(&self) -> Fence {
        Fence { id: self.id.clone(), owner: self.owner.clone(), n: self.n }
    }

    fn filter(&self) -> Document {
        self.fence().filter()
    }
}

impl Fence {
    fn filter(&self) -> Document {
        doc! { "_id": &self.id, "isdeal": 0, "claim.owner": &self.owner, "claim.n": self.n }
    }
}

fn renewal(lease: Duration) -> Vec<Document> {
    vec![doc! { "$set": { "claim.until": { "$add": ["$$NOW", lease_millis(lease)] } } }]
}

/// Who has the lease of a deal, and with which number.
fn holder(deal: &Document) -> Option<(String, i64)> {
    let claim = deal.get_document("claim").ok()?;
    let n = claim.get("n").and_then(crate::model::stored::integer)?;
    Some((claim.get_str("owner").ok()?.to_owned(), n))
}

/// Counters stay far below what a number holds, whatever somebody writes there.
const N_MAX: i64 = 1 << 52;

/// A stored counter; what is none counts as 0.
pub(super) fn count_of(field: &str) -> Document {
    doc! { "$convert": { "input": field, "to": "long", "onError": 0_i64, "onNull": 0_i64 } }
}

/// A stored subdocument as it is; anything else under its name goes.
pub(super) fn object_or_nothing(field: &str) -> Document {
    doc! { "$cond": [{ "$eq": [{ "$type": field }, "object"] }, field, "$$REMOVE"] }
}

/// The server's clock, in an expression.
const NOW: &str = "$$NOW";

/// Whether a lease that an agent may have written has not ended.
fn lease_holds() -> Document {
    doc! { "$and": [
        { "$eq": [{ "$type": "$claim.until" }, "date"] },
        { "$gt": ["$claim.until", NOW] },
        { "$lte": ["$claim.until", { "$add": [NOW, lease_millis(LEASE_MAX * 2)] }] },
    ] }
}

/// Pending, not under a lease, not resting, and not waiting for a try later than `moment` (a date or
/// [`NOW`]). A missing date compares lower than any date inside `$expr`, so documents of the prototype are
/// free and due.
fn due_filter(moment: &Bson) -> Document {
    doc! {
        "isdeal": 0,
        "import.state": { "$nin": RESTING.to_vec() },
        // Given up by the client: it may have been replaced already, and importing it would store both.
        "status": { "$nin": dead_states() },
        "$expr": { "$and": [
            { "$lt": ["$claim.until", NOW] },
            { "$lte": ["$import.nexttry", moment] },
        ] },
    }
}

pub(super) fn lease_millis(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
}
