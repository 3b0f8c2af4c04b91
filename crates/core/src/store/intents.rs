//! Queries of `dealintents`: writing, reading, postponing and ending intents of proposals.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::doc;
use tracing::warn;

use crate::error_chain::ErrorChain;
use crate::model::{IntentDoc, IntentState, ProposalCid, Refusal};
use crate::runtime::fail_point;
use crate::store::bounded::{decode, document_of, readable};
use crate::store::error::StoreError;
use crate::store::expr::{NOW, PAGE, ago, from_now, stamped};
use crate::store::{LeaseState, Store};

const COLLECTION: &str = "dealintents";
/// Open intents read at a time, some 10 MB: far more than the queues of all providers hold.
const OPEN_MAX: i64 = 10_000;
/// The longest pause of an intent. A later time was written under a server's clock that was ahead, and is
/// ignored.
pub const INTENT_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// What became of an intent that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Inserted {
    /// It stands.
    Written,
    /// Another agent took its number: it planned at the same moment, and the caller must read and decide
    /// again.
    NumberTaken,
}

impl Store {
    /// Every intent ever written for these payload CIDs, and the payload CIDs of unreadable intents. The
    /// meaning of an unreadable intent is unknown, so nothing may be proposed for its CAR.
    pub async fn intents_of_payloads(
        &self,
        payload_cids: &[String],
    ) -> Result<(Vec<IntentDoc>, Vec<String>), StoreError> {
        let (mut intents, mut unreadable) = (Vec::new(), Vec::new());
        // Without duplicates: a payload CID in two pages would have every intent twice.
        let payload_cids: Vec<&String> = BTreeSet::from_iter(payload_cids).into_iter().collect();
        for page in payload_cids.chunks(PAGE) {
            let find = self.intents.find(doc! { "filecid": { "$in": page } }).sort(doc! { "_id": 1 });
            let cursor = self.bounded("intents find", find).await?;
            for document in self.drain("intents find", cursor).await? {
                let payload_cid = document.get_str("filecid").unwrap_or_default().to_owned();
                match decode(COLLECTION, document) {
                    Ok(intent) => intents.push(intent),
                    Err(error) => {
                        warn!(payload_cid, error = %ErrorChain(&error), "an intent cannot be read; nothing is proposed for this CAR");
                        unreadable.push(payload_cid);
                    }
                }
            }
        }
        Ok((intents, unreadable))
    }

    /// Writes an intent; its times are the server's.
    pub async fn insert_intent(&self, intent: &IntentDoc) -> Result<Inserted, StoreError> {
        let others = ["_id", "dealstatus", "dealstatusby", "endseen", "dealid", "tries", "nexttry"];
        let set = stamped(document_of(COLLECTION, &intent.id, intent)?, &others);
        // An upsert instead of an insert, because only a pipeline knows the server's time. It must create the
        // document and never change one: the filter matches the id only together with this writer.
        let filter = doc! {
            "_id": &intent.id,
            "owner": &intent.owner,
            "miner": &intent.miner,
            "startepoch": intent.startepoch,
            "state": IntentState::Intended,
            // Never true of a stored intent, so a number that is taken is a duplicate key.
            "createdtime": { "$exists": false },
        };
        let update = vec![doc! { "$set": set }];
        match self.bounded("intent insert", self.intents.update_one(filter, update).upsert(true)).await {
            Ok(_) => Ok(Inserted::Written),
            Err(StoreError::Duplicate { .. }) => Ok(Inserted::NumberTaken),
            Err(error) => Err(error),
        }
    }

    /// The oldest open intents that are due, at most `OPEN_MAX` of each wallet: this owner's, and those of
    /// other agents that have not changed for an hour. Those agents are gone, and recovering an intent twice
    /// is harmless because its parameters are fixed.
    pub async fn open_intents(&self, owner: &str) -> Result<Vec<IntentDoc>, StoreError> {
        const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
        let pauses = doc! { "$and": [
            { "$eq": [{ "$type": "$nexttry" }, "date"] },
            { "$gt": ["$nexttry", NOW] },
            { "$lte": ["$nexttry", from_now(INTENT_PAUSE_MAX)] },
        ] };
        let mut intents = Vec::new();
        for wallet in self.wallets_of_open_intents().await? {
            let filter = doc! {
                "state": IntentState::Intended,
                "wallet": wallet,
                "$or": [
                    { "owner": owner },
                    { "$expr": { "$lt": ["$updatedtime", ago(ABANDONED_AFTER)] } },
                ],
                "$expr": { "$not": [&pauses] },
            };
            let find = self.intents.find(filter).sort(doc! { "createdtime": 1 }).limit(OPEN_MAX);
            let cursor = self.bounded("intents find", find).await?;
            intents.extend(readable(COLLECTION, self.drain("intents find", cursor).await?));
        }
        Ok(intents)
    }

    /// The wallets of all open intents: the configured one, and those of earlier configurations.
    async fn wallets_of_open_intents(&self) -> Result<Vec<bson::Bson>, StoreError> {
        let distinct = self.intents.distinct("wallet", doc! { "state": IntentState::Intended });
        self.bounded("wallets of intents", distinct).await
    }

    /// Records a call without a definite answer and when the next one is due. The intent still counts as a
    /// replica.
    pub async fn postpone_intent(
        &self,
        intent: &IntentDoc,
        pause: Duration,
        reason: &str,
    ) -> Result<(), StoreError> {
        let tries = intent.tries.unwrap_or(0).max(0).saturating_add(1);
        let set = doc! {
            "tries": tries,
            "nexttry": from_now(pause.min(INTENT_PAUSE_MAX)),
            "reason": { "$literal": reason },
            "updatedtime": NOW,
        };
        let filter = doc! { "_id": &intent.id, "state": IntentState::Intended };
        self.bounded("intent postpone", self.intents.update_one(filter, vec![doc! { "$set": set }])).await?;
        Ok(())
    }

    /// Records a made deal: first in `offlinedeals` (one document per proposal CID, also when repeated), then
    /// in the intent, which becomes confirmed.
    pub async fn confirm_intent(
        &self,
        intent: &IntentDoc,
        deal: &ProposalCid,
        status: u64,
        status_message: &str,
    ) -> Result<(), StoreError> {
        let status = i64::try_from(status).unwrap_or(i64::MAX);
        self.record_deal(intent, deal, status, status_message).await?;
        fail_point("publish.recorded");
        self.close_intent(intent, IntentState::Confirmed, Some((deal, status)), None).await
    }

    /// Ends an intent that made no deal.
    pub async fn end_intent(
        &self,
        intent: &IntentDoc,
        state: IntentState,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.close_intent(intent, state, None, Some(reason)).await
    }

    async fn close_intent(
        &self,
        intent: &IntentDoc,
        state: IntentState,
        deal: Option<(&ProposalCid, i64)>,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut set = doc! {
            "state": state,
            "dealcid": { "$literal": deal.map(|(cid, _)| cid.as_str()) },
            "dealstatus": { "$ifNull": ["$dealstatus", { "$literal": deal.map(|(_, status)| status) }] },
            "reason": { "$literal": reason },
            "updatedtime": NOW,
        };
        if state == IntentState::Refused {
            set.insert("refusal", Refusal::of_words(reason.unwrap_or_default()));
        }
        let filter = doc! { "_id": &intent.id, "state": IntentState::Intended };
        let update = vec![doc! { "$set": set }, doc! { "$unset": ["tries", "nexttry"] }];
        self.bounded("intent settle", self.intents.update_one(filter, update)).await?;
        Ok(())
    }

    /// Open intents of this wallet, of all agents.
    pub async fn intended(&self, wallet: &str) -> Result<Vec<IntentDoc>, StoreError> {
        let find = self.intents.find(doc! { "state": IntentState::Intended, "wallet": wallet });
        let cursor = self.bounded("intents find", find).await?;
        Ok(readable(COLLECTION, self.drain("intents find", cursor).await?))
    }

    /// How many open intents wait for their next call, after one without a definite answer.
    pub async fn postponed_intent_count(&self) -> Result<u64, StoreError> {
        let postponed = doc! { "state": IntentState::Intended, "tries": { "$gt": 0 } };
        self.bounded("intents count", self.intents.count_documents(postponed)).await
    }

    /// How many intents are open, of all agents.
    pub async fn open_intent_count(&self) -> Result<u64, StoreError> {
        self.bounded("intents count", self.intents.count_documents(doc! { "state": IntentState::Intended }))
            .await
    }

    /// Records that the agent still works on an intent, so that no other agent recovers it. It is lost if it
    /// is no longer open: nothing may be sent for it.
    pub async fn touch_intent(&self, intent: &IntentDoc) -> Result<LeaseState, StoreError> {
        let filter = doc! { "_id": &intent.id, "state": IntentState::Intended };
        let update = vec![doc! { "$set": { "updatedtime": NOW } }];
        let result = self.bounded("intent touch", self.intents.update_one(filter, update)).await?;
        Ok(LeaseState::of(&result))
    }
}
