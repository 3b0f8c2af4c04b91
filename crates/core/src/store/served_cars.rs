//! Queries of `cars` for servers of CARs: what stands on a host, and where a piece is.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use tracing::warn;

use crate::error_chain::ErrorChain;
use crate::model::CarDoc;
use crate::store::Store;
use crate::store::bounded::decode;
use crate::store::error::StoreError;

const COLLECTION: &str = "cars";

/// A CAR of a host, with the time of the last statement about its bytes.
#[derive(Clone, Debug)]
pub struct StandingCar {
    /// Its record.
    pub car: CarDoc,
    /// When it was recorded or verified last, whichever is later.
    pub stated: Option<DateTime>,
}

/// Some of a host's CARs.
#[derive(Clone, Debug, Default)]
pub struct StandingCars {
    /// Those that can be read.
    pub cars: Vec<StandingCar>,
    /// The last document of the page, readable or not; the next page begins after it. `None` at the end.
    pub last: Option<ObjectId>,
}

impl Store {
    /// A page of the CARs of this host that stand and were not found damaged, in the order of their ids,
    /// after `after`. Documents that cannot be read are left out, with a warning.
    pub async fn standing_cars_page(
        &self,
        host: &str,
        after: Option<ObjectId>,
        limit: i64,
    ) -> Result<StandingCars, StoreError> {
        let mut filter = standing(host);
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        self.standing_cars(filter, limit).await
    }

    /// The CARs of this host with this piece CID.
    pub async fn standing_cars_of_piece(
        &self,
        host: &str,
        piece_cid: &str,
    ) -> Result<Vec<StandingCar>, StoreError> {
        let mut filter = standing(host);
        filter.insert("piececid", piece_cid);
        Ok(self.standing_cars(filter, CARS_OF_PIECE_MAX).await?.cars)
    }

    async fn standing_cars(&self, filter: Document, limit: i64) -> Result<StandingCars, StoreError> {
        let fields = doc! {
            "outputpath": 1, "piececid": 1, "filecid": 1, "carsizebytes": 1, "updatedtime": 1, "verifiedtime": 1
        };
        let find = self.cars.find(filter).projection(fields).sort(doc! { "_id": 1 }).limit(limit);
        let cursor = self.bounded("standing cars", find).await?;
        let mut page = StandingCars::default();
        for document in self.drain("standing cars", cursor).await? {
            page.last = document.get_object_id("_id").ok().or(page.last);
            let stated = ["updatedtime", "verifiedtime"].into_iter();
            let stated = stated.filter_map(|name| document.get_datetime(name).ok().copied()).max();
            match decode(COLLECTION, document) {
                Ok(car) => page.cars.push(StandingCar { car, stated }),
                Err(error) => warn!(problem = %ErrorChain(&error), "a CAR's document is left out"),
            }
        }
        Ok(page)
    }
}

/// Files of one piece that are looked at. Chosen: a piece lies in one file, or in a few copies.
const CARS_OF_PIECE_MAX: i64 = 16;

fn standing(host: &str) -> Document {
    doc! { "host": host, "replacedtime": { "$exists": false }, "verifiedgood": { "$ne": false } }
}
