//! Queries of `offlinedeals` for client-agent: replicas of a payload, deals to track, reports.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use bson::{DateTime, Document, doc};
use mongodb::options::Hint;

use crate::model::address::MinerId;
use crate::model::{
    DealPhase, DealStatus, ImportState, IntentState, OfflineDealDoc, ProposalCid, PublishMethod,
    StatusSource, stored,
};
use crate::store::Store;
use crate::store::bounded::{decode, readable};
use crate::store::error::StoreError;
use crate::store::expr::{PAGE, dead_states, numbers};
use crate::store::pages::{DEALS_AT_ONCE, DealPages};

const COLLECTION: &str = "offlinedeals";

/// A deal, reduced to what planning needs.
#[derive(Clone, Debug)]
pub struct StoredDeal {
    /// Proposal CID.
    pub proposal_cid: String,
    /// Payload CID.
    pub payload_cid: String,
    /// Storage provider.
    pub miner: String,
    /// Deal state; 0 where none is recorded.
    pub status: DealStatus,
    /// Its message.
    pub status_message: Option<String>,
    /// Whether the provider has the data.
    pub imported: bool,
    /// The deal's state at its provider, where miner-agent has seen it.
    pub provider_status: Option<DealStatus>,
    /// The intent it was made from; `None` for deals of the prototype.
    pub intent: Option<String>,
    /// Whether its provider recorded that the start epoch can no longer be met.
    pub missed: bool,
    /// Whether an operator asked that its failure be forgotten; for deals without an intent.
    pub failure_cleared: bool,
    /// Epoch at which it starts.
    pub start_epoch: Option<i64>,
    /// When the record last changed.
    pub updated: Option<DateTime>,
}

impl StoredDeal {
    /// Whether the deal counts as a replica. A client's node may give up a deal that its provider continues
    /// (lotus-contract §4.2): then the provider's state counts.
    pub fn is_live(&self) -> bool {
        let goes_on =
            |status: DealStatus| matches!(status.phase(), DealPhase::Progressing | DealPhase::Active);
        self.status.is_live()
            || (self.status == DealStatus::ERROR && self.provider_status.is_some_and(goes_on))
    }
}

/// Deals of one miner in one state.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DealCounts {
    /// Storage provider.
    pub miner: String,
    /// Deal state number.
    pub status: i64,
    /// Its name, with the provider's message cut off.
    pub statusname: String,
    /// 0 or 1.
    pub isdeal: i64,
    /// How many.
    pub deals: i64,
    /// UNPADDED piece bytes.
    pub bytes: i64,
}

impl Store {
    /// All deals recorded for these payload CIDs. A record whose `dealcid` is no proposal CID is no deal.
    pub async fn deals_of_payloads(&self, payload_cids: &[String]) -> Result<Vec<StoredDeal>, StoreError> {
        let fields = doc! { "dealcid": 1, "filecid": 1, "miner": 1, "status": 1, "statusmsg": 1, "isdeal": 1, "intent": 1, "updatedtime": 1, "provider": 1, "import": 1, "startepoch": 1, "failurecleared": 1 };
        let find = self.deals.find(doc! { "filecid": { "$in": payload_cids } }).projection(fields);
        let cursor = self.bounded("deals find", find).await?;
        Ok(self.drain("deals find", cursor).await?.iter().filter_map(reduce).collect())
    }

    /// Open deals per miner: not imported yet and not dead. What `maxOpenDealsPerMiner` limits.
    pub async fn open_deals_per_miner(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let pipeline = [
            doc! { "$match": {
                "isdeal": 0, "dealcid": proposal_range(), "status": { "$nin": dead_states() }
            } },
            doc! { "$group": { "_id": "$miner", "n": { "$sum": 1_i64 } } },
        ];
        let cursor = self.bounded("open deals", self.deals.aggregate(pipeline)).await?;
        let groups = self.drain("open deals", cursor).await?;
        let mut open = BTreeMap::<String, u64>::new();
        for group in &groups {
            let deals = group.get("n").and_then(stored::integer).and_then(|n| u64::try_from(n).ok());
            if let (Ok(miner), Some(deals)) = (group.get_str("_id"), deals) {
                *open.entry(MinerId::canonical(miner)).or_default() += deals;
            }
        }
        Ok(open.into_iter().collect())
    }

    /// PADDED bytes of datacap that live verified deals of this wallet will take from it when they are
    /// published: those without a number on chain yet, and intents.
    pub async fn datacap_in_flight(&self, wallet: &str) -> Result<u128, StoreError> {
        let deals = doc! {
            "wallet": wallet, "verified": true, "dealid": null, "status": { "$nin": dead_states() }
        };
        let intents = doc! { "wallet": wallet, "verified": true, "state": IntentState::Intended };
        let mut unpadded = 0_u128;
        // Intents are read first: an intent that is confirmed in between counts twice, and in the other order
        // it would not count at all.
        for (collection, filter) in [(&self.intents, intents), (&self.deals, deals)] {
            let pipeline = [
                doc! { "$match": filter },
                doc! { "$group": { "_id": null, "bytes": { "$sum": "$dealsizebytes" } } },
            ];
            let cursor = self.bounded("datacap in flight", collection.aggregate(pipeline)).await?;
            let sums = self.drain("datacap in flight", cursor).await?;
            let bytes = sums.first().and_then(|sum| sum.get("bytes")).and_then(stored::integer).unwrap_or(0);
            unpadded += u128::try_from(bytes).unwrap_or(0);
        }
        Ok(unpadded / 127 * 128)
    }

    /// How many deals of this payload still wait for its data, intents included. Replacing the CAR would make
    /// them fail.
    pub async fn waiting_deals_of_payload(&self, payload_cid: &str) -> Result<u64, StoreError> {
        let intents = doc! { "filecid": payload_cid, "state": IntentState::Intended };
        let deals = doc! {
            "filecid": payload_cid, "isdeal": 0, "dealcid": proposal_range(), "status": { "$nin": dead_states() }
        };
        // Intents are read first: an intent that is confirmed in between counts twice, and in the other order
        // it would not count at all.
        let on_the_way = self.bounded("intents count", self.intents.count_documents(intents)).await?;
        let waiting = self.bounded("deals count", self.deals.count_documents(deals)).await?;
        Ok(on_the_way.saturating_add(waiting))
    }

    /// Deals of these wallets whose state can still change.
    pub async fn deals_to_track(&self, wallets: &[String]) -> Result<DealPages, StoreError> {
        let find = self.deals.find(tracked(wallets)).projection(tracked_fields()).batch_size(DEALS_AT_ONCE);
        let cursor = self.bounded("deals to track", find).await?;
        Ok(DealPages::new(self, "deals to track", cursor))
    }

    /// Whether any of them is in the list of the node that made it.
    pub async fn tracks_listed_deals(&self, wallets: &[String]) -> Result<bool, StoreError> {
        let mut filter = tracked(wallets);
        filter.insert("method", doc! { "$ne": PublishMethod::Stateless });
        let found = self.deals.find_one(filter).projection(doc! { "_id": 1 });
        Ok(self.bounded("deals to track", found).await?.is_some())
    }

    /// Proposal CIDs of these that are recorded already.
    pub async fn recorded_proposals(&self, proposal_cids: &[String]) -> Result<HashSet<String>, StoreError> {
        let mut recorded = HashSet::new();
        for page in proposal_cids.chunks(PAGE) {
            let find = self.deals.find(doc! { "dealcid": { "$in": page } }).projection(doc! { "dealcid": 1 });
            let cursor = self.bounded("deals find", find).await?;
            let found = self.drain("deals find", cursor).await?;
            recorded.extend(found.iter().filter_map(|d| d.get_str("dealcid").ok().map(str::to_owned)));
        }
        Ok(recorded)
    }

    /// The proposal CID that is recorded for an intent, with the deal's state.
    pub async fn recorded_of_intent(&self, intent: &str) -> Result<Option<(String, DealStatus)>, StoreError> {
        let find =
            self.deals.find_one(doc! { "intent": intent }).projection(doc! { "dealcid": 1, "status": 1 });
        let found = self.bounded("deals find", find).await?;
        Ok(found.and_then(|found| {
            let status = found.get("status").and_then(stored::integer).and_then(|n| u64::try_from(n).ok());
            Some((found.get_str("dealcid").ok()?.to_owned(), DealStatus::from_lotus(status.unwrap_or(0))))
        }))
    }

    /// Deals counted by miner, state and `isdeal`.
    pub async fn deal_counts(&self) -> Result<Vec<DealCounts>, StoreError> {
        let pipeline = [
            doc! { "$match": { "dealcid": proposal_range() } },
            doc! { "$group": {
                "_id": { "miner": "$miner", "status": { "$ifNull": ["$status", 0] }, "isdeal": "$isdeal" },
                "deals": { "$sum": 1_i64 },
                "bytes": { "$sum": "$dealsizebytes" },
            } },
            doc! { "$sort": { "_id.miner": 1, "_id.isdeal": 1, "_id.status": 1 } },
        ];
        // All documents are read; by the index of `dealcid` each of them would be fetched separately.
        let natural = Hint::Keys(doc! { "$natural": 1 });
        let cursor = self.bounded("deal counts", self.deals.aggregate(pipeline).hint(natural)).await?;
        let groups = self.drain("deal counts", cursor).await?;
        Ok(by_miner(groups.iter().map(count_of)))
    }

    /// Deals that need a person: import failed for good, or the deal itself failed, newest first.
    pub async fn troubled_deals(&self, limit: i64) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let is_active = doc! { "status": DealStatus::ACTIVE.stored(), "statusby": StatusSource::Chain };
        let troubled = [ImportState::FINAL.as_slice(), &[ImportState::Retrying]].concat();
        let filter = doc! {
            "dealcid": proposal_range(),
            "$or": [
                {
                    "isdeal": 0, "import.state": { "$in": troubled },
                    // Its import is done; miner-agent records that with its next look.
                    "$nor": [is_active],
                },
                { "status": { "$in": numbers(&DealStatus::FAILED) } },
            ],
        };
        let find = self.deals.find(filter).sort(doc! { "updatedtime": -1 }).limit(limit);
        let cursor = self.bounded("troubled deals", find).await?;
        Ok(readable(COLLECTION, self.drain("troubled deals", cursor).await?))
    }

    /// Records whose `dealcid` is no proposal CID: their number, and some of the values.
    pub async fn no_deals(&self, samples_max: i64) -> Result<(u64, Vec<String>), StoreError> {
        let filter = doc! { "dealcid": { "$not": proposal_range() } };
        let count = self.bounded("no deals", self.deals.count_documents(filter.clone())).await?;
        let find = self.deals.find(filter).sort(doc! { "_id": 1 }).limit(samples_max);
        let cursor = self.bounded("no deals", find.projection(doc! { "dealcid": 1 })).await?;
        let found = self.drain("no deals", cursor).await?;
        let shown = |document: &Document| {
            let text = document
                .get("dealcid")
                .map(|found| found.as_str().map_or_else(|| found.to_string(), str::to_owned));
            text.unwrap_or_else(|| "nothing".to_owned())
        };
        Ok((count, found.iter().map(shown).collect()))
    }

    /// Every deal, for reports and the demo's summary; bounded.
    pub async fn all_deals(&self, limit: i64) -> Result<Vec<OfflineDealDoc>, StoreError> {
        let find = self.deals.find(doc! {}).sort(doc! { "_id": 1 }).limit(limit);
        let cursor = self.bounded("all deals", find).await?;
        self.drain("all deals", cursor).await?.into_iter().map(|d| decode(COLLECTION, d)).collect()
    }
}

fn reduce(document: &Document) -> Option<StoredDeal> {
    let proposal_cid: ProposalCid = document.get_str("dealcid").ok()?.parse().ok()?;
    let text = |name: &str| document.get_str(name).unwrap_or_default().to_owned();
    let number = |name: &str| document.get(name).and_then(stored::integer);
    Some(StoredDeal {
        proposal_cid: proposal_cid.to_string(),
        payload_cid: text("filecid"),
        miner: MinerId::canonical(&text("miner")),
        status: DealStatus::from_lotus(
            number("status").and_then(|status| u64::try_from(status).ok()).unwrap_or(0),
        ),
        status_message: document.get_str("statusmsg").ok().map(str::to_owned),
        imported: number("isdeal") == Some(1),
        provider_status: document
            .get_document("provider")
            .ok()
            .and_then(|view| view.get("status"))
            .and_then(stored::integer)
            .and_then(|status| u64::try_from(status).ok())
            .map(DealStatus::from_lotus),
        intent: document.get_str("intent").ok().map(str::to_owned),
        missed: document
            .get_document("import")
            .is_ok_and(|import| import.get("state") == Some(&ImportState::Missed.into())),
        failure_cleared: document.get_datetime("failurecleared").is_ok(),
        start_epoch: number("startepoch"),
        updated: document.get_datetime("updatedtime").ok().copied(),
    })
}

fn count_of(group: &Document) -> DealCounts {
    let key = group.get_document("_id").ok();
    let number = |name: &str| group.get(name).and_then(stored::integer).unwrap_or(0);
    let key_number = |name: &str| key.and_then(|k| k.get(name)).and_then(stored::integer).unwrap_or(0);
    let status = key_number("status");
    DealCounts {
        miner: MinerId::canonical(key.and_then(|k| k.get_str("miner").ok()).unwrap_or("?")),
        status,
        statusname: DealStatus::from_lotus(u64::try_from(status).unwrap_or(0)).name(),
        isdeal: key_number("isdeal"),
        deals: number("deals"),
        bytes: number("bytes"),
    }
}

/// One line for a miner, a state and `isdeal`; records may spell the same miner differently.
fn by_miner(counts: impl Iterator<Item = DealCounts>) -> Vec<DealCounts> {
    let mut merged = BTreeMap::<(String, i64, i64), DealCounts>::new();
    for count in counts {
        let key = (count.miner.clone(), count.isdeal, count.status);
        match merged.entry(key) {
            Entry::Vacant(new) => {
                new.insert(count);
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.deals += count.deals;
                known.bytes += count.bytes;
            }
        }
    }
    merged.into_values().collect()
}

/// Deals that are not final.
fn tracked(wallets: &[String]) -> Document {
    doc! {
        "wallet": { "$in": wallets }, "dealcid": proposal_range(),
        "status": { "$nin": numbers(&DealStatus::FINAL) },
    }
}

/// The fields that tracking reads.
pub(super) fn tracked_fields() -> Document {
    doc! {
        "dealcid": 1, "miner": 1, "filecid": 1, "status": 1, "statusby": 1, "statusmsg": 1, "method": 1, "dealid": 1,
        "startepoch": 1, "duration": 1, "isdeal": 1, "provider": 1, "intent": 1, "piececid": 1,
        "dealsizebytes": 1, "createdtime": 1,
    }
}

/// Texts that a proposal CID can be. The prototype recorded failed proposals with Lotus' error text as
/// `dealcid`: these records are no deals. A range, so that an index of `dealcid` answers it.
pub(super) fn proposal_range() -> Document {
    doc! { "$gte": "bafyrei", "$lt": "bafyrej" }
}
