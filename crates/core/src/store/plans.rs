//! Queries of `packplans`, `packpieces` and `packfiles`: writing a plan once, then claiming its pieces.
//!
//! Every id follows from the content, so a write that was cut short is simply repeated. Pieces can be claimed
//! only when the whole plan is written.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::options::ReturnDocument;
use serde::Serialize;

use crate::model::{PackFilesDoc, PackPieceDoc, PieceState, PlanDoc, PlanKey, PlanSeen, PlanState};
use crate::store::bounded::{decode, document_of, readable};
use crate::store::error::StoreError;
use crate::store::expr::{NOW, from_now, one_more, where_missing};
use crate::store::leases::fencing_number;
use crate::store::{LeaseState, Store};

/// A piece this agent holds the lease of.
#[derive(Clone, Debug)]
pub struct PieceClaim {
    /// The piece.
    pub piece: PackPieceDoc,
    owner: String,
    n: i64,
}

/// Pieces of a plan, counted by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PieceCounts {
    /// To be made, those under a lease included.
    pub open: u64,
    /// Of those, under a lease right now.
    pub claimed: u64,
    /// On disk and recorded.
    pub done: u64,
    /// Whose sources are not what they were.
    pub failed: u64,
}

impl PieceClaim {
    fn filter(&self) -> Document {
        doc! { "_id": &self.piece.id, "state": PieceState::Open, "claim.owner": &self.owner, "claim.n": self.n }
    }
}

impl Store {
    /// Plans with this key that are complete, the oldest first.
    pub async fn plans_of(&self, key: &PlanKey) -> Result<Vec<PlanDoc>, StoreError> {
        let mut filter = document_of("packplans", "key", key)?;
        filter.insert("state", doc! { "$in": [PlanState::Ready, PlanState::Ended] });
        let find = self.plans.find(filter).sort(doc! { "createdtime": 1, "_id": 1 });
        let cursor = self.bounded("plans find", find).await?;
        self.drain("plans find", cursor).await?.into_iter().map(|plan| decode("packplans", plan)).collect()
    }

    /// A plan by its id.
    pub async fn plan(&self, id: &str) -> Result<Option<PlanDoc>, StoreError> {
        let found = self.bounded("plan find", self.plans.find_one(doc! { "_id": id })).await?;
        found.map(|plan| decode("packplans", plan)).transpose()
    }

    /// Begins to write a plan; a plan that exists stays as it is.
    pub async fn begin_plan(&self, plan: &PlanDoc) -> Result<(), StoreError> {
        let mut first = document_of("packplans", &plan.id, plan)?;
        first.remove("_id");
        first.insert("state", PlanState::Writing);
        let mut set = where_missing(first);
        set.insert("createdtime", doc! { "$ifNull": ["$createdtime", NOW] });
        let upsert = self.plans.update_one(doc! { "_id": &plan.id }, vec![doc! { "$set": set }]).upsert(true);
        self.bounded("plan upsert", upsert).await?;
        Ok(())
    }

    /// Writes some of the entries of a plan's pieces.
    pub async fn add_pack_files(&self, files: &PackFilesDoc) -> Result<(), StoreError> {
        let document = document_of("packfiles", &files.id, files)?;
        self.insert_once("pack files insert", &self.files, document).await
    }

    /// Writes a piece of a plan; a piece that exists stays as it is.
    pub async fn add_pack_piece(&self, piece: &PackPieceDoc) -> Result<(), StoreError> {
        let document = document_of("packpieces", &piece.id, piece)?;
        self.insert_once("pack piece insert", &self.pieces, document).await
    }

    async fn insert_once(
        &self,
        what: &'static str,
        collection: &mongodb::Collection<Document>,
        document: Document,
    ) -> Result<(), StoreError> {
        match self.bounded(what, collection.insert_one(document)).await {
            // Another run or another machine wrote it: the same id has the same content.
            Ok(_) | Err(StoreError::Duplicate { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens a plan for claims if it is complete. Returns `false` if something is missing and must be written
    /// again.
    pub async fn plan_is_written(&self, plan: &PlanDoc) -> Result<bool, StoreError> {
        let of_plan = doc! { "plan": &plan.id };
        let pieces = self.bounded("pieces count", self.pieces.count_documents(of_plan.clone())).await?;
        let chunks = self.bounded("pack files count", self.files.count_documents(of_plan)).await?;
        if i64::try_from(pieces) != Ok(plan.pieces) || i64::try_from(chunks) != Ok(plan.chunks) {
            return Ok(false);
        }
        self.set_plan_state(&plan.id, PlanState::Writing, PlanState::Ready).await?;
        Ok(true)
    }

    /// Opens an ended plan again, and its failed pieces: the same content was planned again, so its sources
    /// are usable again.
    pub async fn reopen_plan(&self, plan: &str, seen: Option<&PlanSeen>) -> Result<(), StoreError> {
        if let Some(PlanSeen { host, changednanos }) = seen {
            let seen = doc! { "host": { "$literal": host }, "changednanos": changednanos };
            let ended = doc! { "_id": plan, "state": PlanState::Ended };
            let set = vec![doc! { "$set": { "seen": seen } }];
            self.bounded("plan seen", self.plans.update_one(ended, set)).await?;
        }
        // Pieces are written first: a run that is cut short in between repeats both steps.
        let again = vec![
            doc! { "$set": { "state": PieceState::Open, "updatedtime": NOW } },
            doc! { "$unset": ["reason", "claim"] },
        ];
        let failed = doc! { "plan": plan, "state": PieceState::Failed };
        self.bounded("reopen pieces", self.pieces.update_many(failed, again)).await?;
        self.set_plan_state(plan, PlanState::Ended, PlanState::Ready).await
    }

    /// Closes a plan if no piece of it is open any more.
    pub async fn end_plan(&self, plan: &str) -> Result<bool, StoreError> {
        let open = doc! { "plan": plan, "state": PieceState::Open };
        if self.bounded("pieces find", self.pieces.find_one(open)).await?.is_some() {
            return Ok(false);
        }
        self.set_plan_state(plan, PlanState::Ready, PlanState::Ended).await?;
        Ok(true)
    }

    async fn set_plan_state(&self, plan: &str, from: PlanState, to: PlanState) -> Result<(), StoreError> {
        let update = vec![doc! { "$set": { "state": to, "updatedtime": NOW } }];
        let call = self.plans.update_one(doc! { "_id": plan, "state": from }, update);
        self.bounded("plan state", call).await?;
        Ok(())
    }

    /// Takes the lease of the first open piece without one. `owner` must be unique to this claim.
    pub async fn claim_piece(
        &self,
        plan: &str,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<PieceClaim>, StoreError> {
        let filter = doc! {
            "plan": plan,
            "state": PieceState::Open,
            "$or": [
                { "claim": { "$exists": false } },
                { "$expr": { "$lt": ["$claim.until", NOW] } },
                // A lease that ends later than any machine sets was written under a server's clock that was
                // ahead.
                { "$expr": { "$gt": ["$claim.until", from_now(lease * 2)] } },
            ],
        };
        let update = vec![doc! { "$set": {
            "claim": {
                "owner": { "$literal": owner },
                "until": from_now(lease),
                "n": one_more("$claim.n"),
            },
            "updatedtime": NOW,
        } }];
        let call = self
            .pieces
            .find_one_and_update(filter, update)
            .sort(doc! { "index": 1 })
            .return_document(ReturnDocument::After);
        let Some(document) = self.bounded("claim piece", call).await? else { return Ok(None) };
        let n = fencing_number(&document).unwrap_or(0);
        let id = document.get("_id").cloned();
        match decode("packpieces", document) {
            Ok(piece) => Ok(Some(PieceClaim { piece, owner: owner.to_owned(), n })),
            Err(error) => {
                // An unreadable piece would be claimed again and again, and the plan would never end.
                let reason = crate::error_chain::ErrorChain(&error).to_string();
                let failed =
                    vec![doc! { "$set": { "state": PieceState::Failed, "reason": { "$literal": reason } } }];
                self.bounded("fail piece", self.pieces.update_one(doc! { "_id": id }, failed)).await?;
                Err(error)
            }
        }
    }

    /// Renews a lease. Once it is lost, the work on the piece must stop.
    pub async fn renew_piece(&self, claim: &PieceClaim, lease: Duration) -> Result<LeaseState, StoreError> {
        let set = doc! { "claim.until": from_now(lease) };
        self.change_piece("renew piece", claim, doc! { "$set": set }, None).await
    }

    /// Releases all pieces whose owner's name begins with this prefix. Returns their number.
    pub async fn release_pieces_of(&self, plan: &str, owner_prefix: &str) -> Result<u64, StoreError> {
        let starts = doc! { "$eq": [
            { "$indexOfBytes": ["$claim.owner", { "$literal": owner_prefix }] },
            0,
        ] };
        let filter =
            doc! { "plan": plan, "state": PieceState::Open, "claim": { "$exists": true }, "$expr": starts };
        let update = vec![doc! { "$unset": "claim" }];
        let result = self.bounded("release pieces", self.pieces.update_many(filter, update)).await?;
        Ok(result.modified_count)
    }

    /// Releases a piece unchanged.
    pub async fn release_piece(&self, claim: &PieceClaim) -> Result<LeaseState, StoreError> {
        self.change_piece("release piece", claim, doc! { "$unset": "claim" }, None).await
    }

    /// Writes that a piece is done; nothing, if the lease was lost.
    pub async fn finish_piece(
        &self,
        claim: &PieceClaim,
        payload_cid: &str,
        piece_cid: &str,
        car: &str,
        host: &str,
    ) -> Result<LeaseState, StoreError> {
        let set = doc! {
            "state": PieceState::Done,
            "filecid": { "$literal": payload_cid },
            "piececid": { "$literal": piece_cid },
            "outputpath": { "$literal": car },
            "host": { "$literal": host },
            "updatedtime": NOW,
        };
        self.change_piece("finish piece", claim, doc! { "$set": set }, Some(doc! { "$unset": "claim" })).await
    }

    /// Writes that a piece cannot be made; nothing, if the lease was lost.
    pub async fn fail_piece(&self, claim: &PieceClaim, reason: &str) -> Result<LeaseState, StoreError> {
        let set = doc! { "state": PieceState::Failed, "reason": { "$literal": reason }, "updatedtime": NOW };
        self.change_piece("fail piece", claim, doc! { "$set": set }, Some(doc! { "$unset": "claim" })).await
    }

    async fn change_piece(
        &self,
        what: &'static str,
        claim: &PieceClaim,
        first: Document,
        then: Option<Document>,
    ) -> Result<LeaseState, StoreError> {
        let update: Vec<Document> = [first].into_iter().chain(then).collect();
        let result = self.bounded(what, self.pieces.update_one(claim.filter(), update)).await?;
        Ok(LeaseState::of(&result))
    }

    /// The pieces of a plan, counted by state.
    pub async fn piece_counts(&self, plan: &str) -> Result<PieceCounts, StoreError> {
        let count =
            async |filter: Document| self.bounded("pieces count", self.pieces.count_documents(filter)).await;
        let under_lease = doc! { "$expr": { "$gte": ["$claim.until", NOW] } };
        Ok(PieceCounts {
            open: count(doc! { "plan": plan, "state": PieceState::Open }).await?,
            claimed: count(doc! { "$and": [{ "plan": plan, "state": PieceState::Open }, under_lease] })
                .await?,
            done: count(doc! { "plan": plan, "state": PieceState::Done }).await?,
            failed: count(doc! { "plan": plan, "state": PieceState::Failed }).await?,
        })
    }

    /// A plan's pieces in order; unreadable ones are left out, with a warning.
    pub async fn pack_pieces(&self, plan: &str) -> Result<Vec<PackPieceDoc>, StoreError> {
        let find = self.pieces.find(doc! { "plan": plan }).sort(doc! { "index": 1 });
        let cursor = self.bounded("pieces find", find).await?;
        Ok(readable("packpieces", self.drain("pieces find", cursor).await?))
    }

    /// A piece of a plan.
    pub async fn pack_piece_of(&self, plan: &str, index: i64) -> Result<Option<PackPieceDoc>, StoreError> {
        let id = PlanDoc::piece_id(plan, index);
        let found = self.bounded("piece find", self.pieces.find_one(doc! { "_id": id })).await?;
        found.map(|piece| decode("packpieces", piece)).transpose()
    }

    /// One chunk of a piece's entries, counted from 0; `None` after the last.
    pub async fn pack_files(
        &self,
        plan: &str,
        piece: i64,
        chunk: i64,
    ) -> Result<Option<PackFilesDoc>, StoreError> {
        let filter = doc! { "plan": plan, "piece": piece, "chunk": chunk };
        let found = self.bounded("pack files find", self.files.find_one(filter)).await?;
        found.map(|files| decode("packfiles", files)).transpose()
    }
}
