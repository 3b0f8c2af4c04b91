//! Deals whose market was given the data and has not decided yet: which of them are due for a look, and what
//! the look found.
//!
//! No lease protects such a deal, because nothing is called for it. What a look found is written only while
//! the deal is still as the look read it; two agents that look at one deal write the same.

use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::model::{ImportState, OfflineDealDoc, stored};
use crate::store::error::StoreError;
use crate::store::expr::NOW;
use crate::store::import_outcome::{Settled, update_of};
use crate::store::miners::written_as;
use crate::store::{Store, lenient};

/// A deal that was handed over, as it was read.
#[derive(Clone, Debug)]
pub struct HandedDeal {
    /// The deal, as far as it can be read.
    pub deal: OfflineDealDoc,
    /// The time since it was handed over, by the server's clock; `None` where no agent recorded one.
    pub age: Option<Duration>,
    id: Bson,
    handed_time: Bson,
}

/// What a miner's market was given and has not decided on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedTotals {
    /// Deals.
    pub deals: u64,
    /// PADDED bytes of their pieces.
    pub bytes: u64,
}

/// Deals in one page, and outcomes in one command. Chosen: a command of some 200 KiB.
const AT_ONCE: i64 = 500;

impl Store {
    /// Handed deals of this miner that are due for a look, those that have waited longest first.
    pub async fn handed_due(&self, miner: &str) -> Result<Vec<HandedDeal>, StoreError> {
        let pipeline = [
            doc! { "$match": {
                "miner": written_as(miner), "isdeal": 0, "import.state": ImportState::Handed,
                // A missing date compares lower than any date inside of `$expr`.
                "$expr": { "$lte": ["$import.nexttry", NOW] },
            } },
            doc! { "$sort": { "import.nexttry": 1 } },
            doc! { "$limit": AT_ONCE },
            doc! { "$addFields": { "handedage": { "$cond": [
                { "$eq": [{ "$type": "$import.handedtime" }, "date"] },
                { "$subtract": [NOW, "$import.handedtime"] },
                null,
            ] } } },
        ];
        let cursor = self.bounded("handed deals", self.deals.aggregate(pipeline)).await?;
        let found = self.drain("handed deals", cursor).await?;
        Ok(found.into_iter().filter_map(HandedDeal::read).collect())
    }

    /// How long until the next handed deal of this miner is due for a look; `None` if there is none.
    pub async fn next_handed(&self, miner: &str) -> Result<Option<Duration>, StoreError> {
        let pipeline = [
            doc! { "$match": {
                "miner": written_as(miner), "isdeal": 0, "import.state": ImportState::Handed,
            } },
            doc! { "$sort": { "import.nexttry": 1 } },
            doc! { "$limit": 1 },
            doc! { "$project": { "wait": { "$cond": [
                { "$eq": [{ "$type": "$import.nexttry" }, "date"] },
                { "$subtract": ["$import.nexttry", NOW] },
                0_i64,
            ] } } },
        ];
        let cursor = self.bounded("next handed deal", self.deals.aggregate(pipeline)).await?;
        let found = self.drain("next handed deal", cursor).await?;
        let wait = found.first().and_then(|deal| deal.get("wait")).and_then(stored::integer);
        Ok(wait.map(|wait| Duration::from_millis(u64::try_from(wait).unwrap_or(0))))
    }

    /// How much this miner's market was given and has not decided on.
    pub async fn handed_totals(&self, miner: &str) -> Result<HandedTotals, StoreError> {
        let pipeline = [
            doc! { "$match": {
                "miner": written_as(miner), "isdeal": 0, "import.state": ImportState::Handed,
            } },
            doc! { "$group": {
                "_id": null, "deals": { "$sum": 1_i64 }, "bytes": { "$sum": "$import.handedbytes" },
            } },
        ];
        let cursor = self.bounded("handed totals", self.deals.aggregate(pipeline)).await?;
        let found = self.drain("handed totals", cursor).await?;
        let Some(totals) = found.first() else { return Ok(HandedTotals::default()) };
        let number = |name: &str| {
            totals.get(name).and_then(stored::integer).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
        };
        Ok(HandedTotals { deals: number("deals"), bytes: number("bytes") })
    }

    /// Writes what looks at handed deals found, many in one command, where the deals are still as they were
    /// read. Returns the places of those that the database did not take.
    pub async fn settle_handed(&self, settled: &[(&HandedDeal, Settled)]) -> Result<Vec<usize>, StoreError> {
        let what = "handed deals settled";
        let page_size = usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
        let mut unwritten = Vec::new();
        for (page, start) in settled.chunks(page_size).zip((0..).step_by(page_size)) {
            let updates: Vec<Document> = page
                .iter()
                .map(|(deal, settled)| doc! { "q": deal.filter(), "u": update_of(settled) })
                .collect();
            let reply = self.update_deals(what, updates).await?;
            if reply.contains_key("writeConcernError") {
                // Written, but not yet by a majority: the same again finds what is left to be written.
                return Err(StoreError::Timeout { what, seconds: self.call_timeout.as_secs() });
            }
            let failed = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
            let places = failed.iter().filter_map(|error| error.as_document()?.get("index"));
            let places = places.filter_map(stored::integer).filter_map(|place| usize::try_from(place).ok());
            unwritten.extend(places.map(|place: usize| start + place));
        }
        Ok(unwritten)
    }

    /// The same for one deal, with the error of the database that does not take it.
    pub async fn settle_handed_deal(&self, deal: &HandedDeal, settled: &Settled) -> Result<(), StoreError> {
        let update = self.deals.update_one(deal.filter(), update_of(settled));
        self.bounded("handed deal settled", update).await.map(|_result| ())
    }
}

impl HandedDeal {
    fn read(mut document: Document) -> Option<Self> {
        let id = document.get("_id")?.clone();
        let age = document.remove("handedage").as_ref().and_then(stored::integer);
        let handed_time = document
            .get_document("import")
            .ok()
            .and_then(|import| import.get("handedtime"))
            .cloned()
            .unwrap_or(Bson::Null);
        let (deal, _unreadable) = lenient::deal(document);
        let age = age.map(|age| Duration::from_millis(u64::try_from(age).unwrap_or(0)));
        Some(Self { deal, age, id, handed_time })
    }

    fn filter(&self) -> Document {
        doc! {
            "_id": &self.id, "isdeal": 0, "import.state": ImportState::Handed,
            "import.handedtime": &self.handed_time,
        }
    }
}
