//! Clears recorded refusals, failures and pauses of deals for the command `client-agent retry`.

use std::collections::HashSet;

use bson::{Bson, Document, doc};
use mongodb::Collection;

use crate::model::address::MinerId;
use crate::model::{DealStatus, IntentState};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, PAGE, numbers};
use crate::store::miners::written_as;

/// Which failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailuresOf<'a> {
    /// Of a CAR, by its payload CID, with all providers.
    Payload(&'a str),
    /// Of all CARs with a provider.
    Miner(&'a str),
    /// Of all CARs with all providers.
    All,
}

/// Where a failure is recorded.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// `_id` in `dealintents`.
    Intent(Bson),
    /// `_id` in `offlinedeals`: a deal of the prototype, which has no intent.
    Deal(Bson),
    /// `_id` in `dealintents`: a proposal whose next call is put off.
    Postponed(Bson),
}

/// A refusal, a deal that failed, or a proposal that is put off, and is not forgotten yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Payload CID.
    pub payload_cid: String,
    /// Storage provider.
    pub miner: String,
    place: Place,
}

impl FailuresOf<'_> {
    fn filter(self) -> Document {
        match self {
            Self::Payload(payload_cid) => doc! { "filecid": payload_cid },
            Self::Miner(miner) => doc! { "miner": written_as(miner) },
            Self::All => Document::new(),
        }
    }
}

impl Store {
    /// Refused proposals and failed deals of every wallet that still count, and proposals whose next call is
    /// put off.
    pub async fn failures(&self, of: FailuresOf<'_>) -> Result<Vec<Failure>, StoreError> {
        let failed = numbers(&DealStatus::FAILED);
        let mut failures = Vec::new();
        // By state, and by the status of deals: each has an index, and `dealintents` holds every deal ever
        // made.
        let mut refused = of.filter();
        refused.extend(doc! { "state": IntentState::Refused });
        let refused = self.intents_with(refused).await?;
        failures.extend(refused.iter().filter_map(|intent| failure(intent, Place::Intent)));
        let mut postponed = of.filter();
        postponed.extend(doc! { "state": IntentState::Intended, "tries": { "$gt": 0 } });
        let postponed = self.intents_with(postponed).await?;
        failures.extend(postponed.iter().filter_map(|intent| failure(intent, Place::Postponed)));
        let mut dead = of.filter();
        let wallets = self.deal_wallets().await?;
        dead.extend(doc! { "wallet": { "$in": wallets }, "status": { "$in": &failed } });
        let fields = doc! { "filecid": 1, "miner": 1, "dealcid": 1, "failurecleared": 1 };
        let cursor = self.bounded("failed deals", self.deals.find(dead).projection(fields)).await?;
        let dead = self.drain("failed deals", cursor).await?;
        for page in dead.chunks(PAGE) {
            let cids: Vec<&str> = page.iter().filter_map(|deal| deal.get_str("dealcid").ok()).collect();
            let intents = self.intents_with(doc! { "dealcid": { "$in": &cids } }).await?;
            let known: HashSet<&str> =
                intents.iter().filter_map(|intent| intent.get_str("dealcid").ok()).collect();
            let of_prototype =
                page.iter().filter(|deal| deal.get_str("dealcid").is_ok_and(|cid| !known.contains(cid)));
            failures.extend(of_prototype.filter_map(|deal| failure(deal, Place::Deal)));
            failures.extend(intents.iter().filter_map(|intent| failure(intent, Place::Intent)));
        }
        Ok(failures)
    }

    /// Clears these failures. Returns how many records changed.
    pub async fn forget_failures(&self, failures: &[Failure]) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        for page in failures.chunks(PAGE) {
            let ids_of = |of: fn(&Place) -> Option<&Bson>| -> Vec<Bson> {
                page.iter().filter_map(|failure| of(&failure.place)).cloned().collect()
            };
            let cleared = || vec![doc! { "$set": { "failurecleared": NOW, "updatedtime": NOW } }];
            let refused = ids_of(|place| if let Place::Intent(id) = place { Some(id) } else { None });
            let filter = doc! { "_id": { "$in": refused }, "failurecleared": null };
            forgotten += self.forget_in(&self.intents, filter, cleared()).await?;
            let old = ids_of(|place| if let Place::Deal(id) = place { Some(id) } else { None });
            let filter = doc! { "_id": { "$in": old }, "failurecleared": null };
            forgotten += self.forget_in(&self.deals, filter, cleared()).await?;
            let postponed = ids_of(|place| if let Place::Postponed(id) = place { Some(id) } else { None });
            let filter = doc! { "_id": { "$in": postponed }, "state": IntentState::Intended };
            let at_once = vec![doc! { "$unset": ["tries", "nexttry"] }];
            forgotten += self.forget_in(&self.intents, filter, at_once).await?;
        }
        Ok(forgotten)
    }

    async fn forget_in(
        &self,
        collection: &Collection<Document>,
        filter: Document,
        update: Vec<Document>,
    ) -> Result<u64, StoreError> {
        let call = collection.update_many(filter, update);
        Ok(self.bounded("failures forgotten", call).await?.modified_count)
    }

    async fn intents_with(&self, filter: Document) -> Result<Vec<Document>, StoreError> {
        let fields = doc! { "filecid": 1, "miner": 1, "dealcid": 1, "failurecleared": 1 };
        let cursor = self.bounded("failed intents", self.intents.find(filter).projection(fields)).await?;
        self.drain("failed intents", cursor).await
    }
}

/// The failure of a record, unless it is forgotten.
fn failure(document: &Document, place: fn(Bson) -> Place) -> Option<Failure> {
    if document.get("failurecleared").is_some_and(|cleared| *cleared != Bson::Null) {
        return None;
    }
    Some(Failure {
        payload_cid: document.get_str("filecid").unwrap_or_default().to_owned(),
        miner: MinerId::canonical(document.get_str("miner").unwrap_or_default()),
        place: place(document.get("_id")?.clone()),
    })
}
