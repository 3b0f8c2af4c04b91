//! `dealintents`: proposals about to be made.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Document, doc};
use tracing::warn;

use crate::error_chain::ErrorChain;
use crate::model::{IntentDoc, IntentState, ProposalCid, Refusal};
use crate::runtime::fail_point;
use crate::store::Store;
use crate::store::bounded::{decode, readable};
use crate::store::error::StoreError;
use crate::store::expr::{NOW, PAGE, ago, from_now};

const COLLECTION: &str = "dealintents";
/// Open intents read at a time, some 10 MB: far more than the queues of all providers hold.
const OPEN_MAX: i64 = 10_000;
/// The longest pause of an intent. A later time is of a server whose clock was ahead: it counts for nothing.
pub const INTENT_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// An intent to be written; times are added by the server.
#[derive(Clone, Debug)]
pub struct NewIntent(pub IntentDoc);

impl Store {
    /// Every intent ever written for these payload CIDs, and the payload CIDs of those that cannot be read:
    /// what these stand for is unknown, so nothing may be proposed for their CARs.
    pub async fn intents_of_payloads(
        &self,
        payload_cids: &[String],
    ) -> Result<(Vec<IntentDoc>, Vec<String>), StoreError> {
        let (mut intents, mut unreadable) = (Vec::new(), Vec::new());
        // Each once: one that is asked for with two pages would have every intent twice.
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

    /// Writes an intent. `false`: another agent took this number, so it planned at the same moment; read
    /// again and decide anew.
    pub async fn insert_intent(&self, intent: &NewIntent) -> Result<bool, StoreError> {
        let mut document =
            bson::serialize_to_document(&intent.0).map_err(|source| StoreError::BadDocument {
                collection: COLLECTION,
                id: intent.0.id.clone(),
                source: Box::new(source),
            })?;
        let managed = [
            "_id",
            "createdtime",
            "updatedtime",
            "dealstatus",
            "dealstatusby",
            "endseen",
            "dealid",
            "tries",
            "nexttry",
        ];
        for managed in managed {
            document.remove(managed);
        }
        // An upsert instead of an insert, because only a pipeline knows the server's time. It must create
        // the document, never touch one: the filter matches the id only together with this very writer.
        let literal: Document =
            document.into_iter().map(|(name, value)| (name, doc! { "$literal": value }.into())).collect();
        let mut set = literal;
        set.insert("createdtime", doc! { "$ifNull": ["$createdtime", NOW] });
        set.insert("updatedtime", NOW);
        let filter = doc! {
            "_id": &intent.0.id,
            "owner": &intent.0.owner,
            "miner": &intent.0.miner,
            "startepoch": intent.0.startepoch,
            "state": IntentState::Intended,
            // Never true of a stored intent: a number that is taken, by whomever, is a duplicate key.
            "createdtime": { "$exists": false },
        };
        let update = vec![doc! { "$set": set }];
        match self.bounded("intent insert", self.intents.update_one(filter, update).upsert(true)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Duplicate { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The oldest intents that wait to be settled and are due, so many as one pass may look into, of every
    /// wallet that has any: this owner's, and those of others that have not moved for an hour (their
    /// agent is gone; settling twice is harmless because the parameters are the intent's).
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

    /// The wallets of all intents that wait to be settled: beside the configured one, those of earlier
    /// configurations.
    async fn wallets_of_open_intents(&self) -> Result<Vec<bson::Bson>, StoreError> {
        let distinct = self.intents.distinct("wallet", doc! { "state": IntentState::Intended });
        self.bounded("wallets of intents", distinct).await
    }

    /// Notes that a call settled nothing and when the next one is due. The intent goes on to count as a
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

    /// Brings a made deal into the open: first into `offlinedeals` (one document per proposal CID, however
    /// often this is repeated), then marks the intent confirmed.
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
        self.settle_intent(intent, IntentState::Confirmed, Some((deal, status)), None).await
    }

    /// Ends an intent that made no deal.
    pub async fn end_intent(
        &self,
        intent: &IntentDoc,
        state: IntentState,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.settle_intent(intent, state, None, Some(reason)).await
    }

    async fn settle_intent(
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

    /// Intents of this wallet that wait to be settled or are under way, of all agents.
    pub async fn intended(&self, wallet: &str) -> Result<Vec<IntentDoc>, StoreError> {
        let find = self.intents.find(doc! { "state": IntentState::Intended, "wallet": wallet });
        let cursor = self.bounded("intents find", find).await?;
        Ok(readable(COLLECTION, self.drain("intents find", cursor).await?))
    }

    /// How many of them wait for their next call, after one that settled nothing.
    pub async fn postponed_intent_count(&self) -> Result<u64, StoreError> {
        let postponed = doc! { "state": IntentState::Intended, "tries": { "$gt": 0 } };
        self.bounded("intents count", self.intents.count_documents(postponed)).await
    }

    /// How many intents wait to be settled, of all agents.
    pub async fn open_intent_count(&self) -> Result<u64, StoreError> {
        self.bounded("intents count", self.intents.count_documents(doc! { "state": IntentState::Intended }))
            .await
    }

    /// Notes that an intent is still being worked on, so that no other agent takes it for abandoned. `false`:
    /// it is settled already, by whomever, and nothing may be sent for it any more.
    pub async fn touch_intent(&self, intent: &IntentDoc) -> Result<bool, StoreError> {
        let filter = doc! { "_id": &intent.id, "state": IntentState::Intended };
        let update = vec![doc! { "$set": { "updatedtime": NOW } }];
        let result = self.bounded("intent touch", self.intents.update_one(filter, update)).await?;
        Ok(result.matched_count == 1)
    }
}
