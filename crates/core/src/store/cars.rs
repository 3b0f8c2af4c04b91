//! Queries of `cars`: recording, looking up and checking CARs.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use tracing::warn;

use crate::error_chain::ErrorChain;
use crate::model::{CarDoc, stored};
use crate::runtime::fail_point;
use crate::store::Store;
use crate::store::bounded::{decode, document_of};
use crate::store::error::StoreError;
use crate::store::expr::{NOW, stamped};

const COLLECTION: &str = "cars";

/// Which CARs are due for a check.
#[derive(Clone, Copy, Debug)]
pub struct VerifyDue {
    /// Those that were not checked since.
    pub since: DateTime,
    /// CARs that were found damaged before this run began: the run checks each of them once more.
    pub began: DateTime,
}

/// CARs with one payload CID.
#[derive(Clone, Debug, Default)]
pub struct PayloadCars {
    /// The readable documents, newest first; replaced ones last.
    pub cars: Vec<CarDoc>,
    /// The errors of the unreadable documents.
    pub unreadable: Vec<String>,
}

impl Store {
    /// Records a finished CAR: one document per (source, CAR path, payload CID, host). Repeating it changes
    /// nothing but `updatedtime`. Other CARs that stood under the same path on the same host are marked
    /// replaced: their bytes are gone. They are marked first: a run that is killed in between makes and
    /// records the CAR again.
    ///
    /// A database with the prototype's unique index, which knows no host, keeps one document for hosts with
    /// the same paths and bytes; the last that records it is its host.
    ///
    /// # Errors
    ///
    /// A failed database call.
    pub async fn record_car(&self, car: &CarDoc) -> Result<(), StoreError> {
        let replaced = doc! {
            "outputpath": &car.outputpath,
            "host": &car.host,
            "filecid": { "$ne": &car.filecid },
            "replacedtime": { "$exists": false },
        };
        let mark = vec![doc! { "$set": { "replacedtime": NOW, "updatedtime": NOW } }];
        self.bounded("cars mark replaced", self.cars.update_many(replaced, mark)).await?;
        fail_point("cars.marked");

        let set = stamped(document_of(COLLECTION, "new", car)?, &["_id", "replacedtime"]);
        let update = vec![doc! { "$set": set }, doc! { "$unset": "replacedtime" }];
        let key =
            doc! { "inputpath": &car.inputpath, "outputpath": &car.outputpath, "filecid": &car.filecid };
        let mut own_key = key.clone();
        // A record without a host is the prototype's; this record replaces it.
        own_key.insert("host", doc! { "$in": [&car.host, null] });
        match self.bounded("cars upsert", self.cars.update_one(own_key, update.clone()).upsert(true)).await {
            Err(StoreError::Duplicate { .. }) => {
                self.bounded("cars upsert", self.cars.update_one(key, update).upsert(true)).await?;
            }
            other => {
                other?;
            }
        }
        Ok(())
    }

    /// The CAR that is recorded for this source on this host and not replaced.
    pub async fn car_of_source(
        &self,
        host: &str,
        input: &str,
        output: &str,
    ) -> Result<Option<CarDoc>, StoreError> {
        let filter = doc! {
            "inputpath": input, "outputpath": output, "host": host, "replacedtime": { "$exists": false }
        };
        let found =
            self.bounded("cars find", self.cars.find_one(filter).sort(doc! { "updatedtime": -1 })).await?;
        found.map(|document| decode(COLLECTION, document)).transpose()
    }

    /// All CARs recorded with this payload CID, newest first; replaced ones last. One that cannot be read is
    /// left out, with a warning.
    pub async fn cars_of_payload(&self, payload_cid: &str) -> Result<Vec<CarDoc>, StoreError> {
        let PayloadCars { cars, unreadable } = self.payload_cars(payload_cid).await?;
        for problem in unreadable {
            warn!(problem, "a CAR's document is left out");
        }
        Ok(cars)
    }

    /// The same, with the errors of the unreadable documents.
    pub async fn payload_cars(&self, payload_cid: &str) -> Result<PayloadCars, StoreError> {
        self.cars_that(doc! { "filecid": payload_cid }).await
    }

    /// All CARs recorded with this piece CID, as [`Self::payload_cars`].
    pub async fn piece_cars(&self, piece_cid: &str) -> Result<PayloadCars, StoreError> {
        self.cars_that(doc! { "piececid": piece_cid }).await
    }

    async fn cars_that(&self, filter: Document) -> Result<PayloadCars, StoreError> {
        let order = doc! { "replacedtime": 1, "updatedtime": -1 };
        let cursor = self.bounded("cars find", self.cars.find(filter).sort(order)).await?;
        let mut found = PayloadCars::default();
        for document in self.drain("cars find", cursor).await? {
            match decode(COLLECTION, document) {
                Ok(car) => found.cars.push(car),
                Err(error) => found.unreadable.push(ErrorChain(&error).to_string()),
            }
        }
        Ok(found)
    }

    /// A page of CARs that are not replaced, in the order of their ids, after `after`. Unreadable documents
    /// are errors beside the readable ones; the next page begins after the last of either.
    pub async fn cars_page(
        &self,
        after: Option<ObjectId>,
        limit: i64,
    ) -> Result<Vec<(Option<ObjectId>, Result<CarDoc, StoreError>)>, StoreError> {
        let mut filter = doc! { "replacedtime": { "$exists": false } };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let find = self.cars.find(filter).sort(doc! { "_id": 1 }).limit(limit);
        let cursor = self.bounded("cars page", find).await?;
        let found = self.drain("cars page", cursor).await?;
        let read = |document: Document| (document.get_object_id("_id").ok(), decode(COLLECTION, document));
        Ok(found.into_iter().map(read).collect())
    }

    /// How many CARs of this host stand.
    pub async fn standing_cars_of(&self, host: &str) -> Result<u64, StoreError> {
        let filter = doc! { "host": host, "replacedtime": { "$exists": false } };
        self.bounded("cars count", self.cars.count_documents(filter)).await
    }

    /// How many CARs stand whose records name no host, as the prototype wrote them.
    pub async fn standing_cars_without_host(&self) -> Result<u64, StoreError> {
        let filter = doc! { "host": null, "replacedtime": { "$exists": false } };
        self.bounded("cars count", self.cars.count_documents(filter)).await
    }

    /// How many CARs of this host are to be checked, and their bytes.
    pub async fn cars_to_verify(&self, host: &str, due: VerifyDue) -> Result<(u64, i64), StoreError> {
        let pipeline = [
            doc! { "$match": to_verify(host, due) },
            doc! { "$group": { "_id": null, "n": { "$sum": 1 }, "bytes": { "$sum": "$carsizebytes" } } },
        ];
        let cursor = self.bounded("cars to verify", self.cars.aggregate(pipeline)).await?;
        let totals = self.drain("cars to verify", cursor).await?;
        let read =
            |name: &str| totals.first().and_then(|d| d.get(name)).and_then(stored::integer).unwrap_or(0);
        Ok((u64::try_from(read("n")).unwrap_or(0), read("bytes")))
    }

    /// Some of them, those never checked first. Documents that cannot be read are left out, with a warning.
    pub async fn cars_to_verify_page(
        &self,
        host: &str,
        due: VerifyDue,
        limit: i64,
    ) -> Result<Vec<(Bson, CarDoc)>, StoreError> {
        let order = doc! { "verifiedtime": 1, "_id": 1 };
        let find = self.cars.find(to_verify(host, due)).sort(order).limit(limit);
        let cursor = self.bounded("cars to verify", find).await?;
        let found = self.drain("cars to verify", cursor).await?;
        let read = |document: Document| {
            let id = document.get("_id").cloned().unwrap_or(Bson::Null);
            // One that cannot be read is marked by its check, like one without a piece CID.
            (id, decode(COLLECTION, document).unwrap_or_default())
        };
        Ok(found.into_iter().map(read).collect())
    }

    /// Writes that a CAR was checked, and what was wrong with it.
    pub async fn record_verified(
        &self,
        id: &Bson,
        is_good: bool,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let set = doc! { "$set": {
            "verifiedtime": NOW,
            "verifiedgood": is_good,
            "verifiedreason": { "$literal": reason },
        } };
        self.bounded("cars verified", self.cars.update_one(doc! { "_id": id }, vec![set])).await?;
        Ok(())
    }

    /// How many CARs stand, and the bytes of their padded pieces.
    pub async fn car_totals(&self) -> Result<(u64, i64), StoreError> {
        let pipeline = [
            doc! { "$match": { "replacedtime": { "$exists": false } } },
            doc! { "$group": { "_id": null, "n": { "$sum": 1 }, "bytes": { "$sum": "$piecesizebytes" } } },
        ];
        let cursor = self.bounded("cars totals", self.cars.aggregate(pipeline)).await?;
        let totals = self.drain("cars totals", cursor).await?;
        let read =
            |name: &str| totals.first().and_then(|d| d.get(name)).and_then(stored::integer).unwrap_or(0);
        Ok((u64::try_from(read("n")).unwrap_or(0), read("bytes")))
    }
}

fn to_verify(host: &str, due: VerifyDue) -> Document {
    let VerifyDue { since, began } = due;
    doc! {
        "host": host,
        "replacedtime": { "$exists": false },
        "$or": [
            { "verifiedtime": { "$exists": false } },
            { "verifiedtime": { "$lt": since } },
            { "verifiedtime": { "$lt": began }, "verifiedgood": false },
        ],
    }
}
