//! Records deals as their provider sees them: the field `offlinedeals.provider`, written by miner-agent only.

use bson::{Document, doc};

use crate::model::{DealId, DealStatus};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, numbers};
use crate::store::miners::written_as;
use crate::store::pages::{DEALS_AT_ONCE, DealPages};

/// A deal as its provider sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderView {
    /// State.
    pub status: DealStatus,
    /// The market's own word for the state, where it is not Lotus'.
    pub name: Option<&'static str>,
    /// Its message.
    pub message: String,
    /// Number on chain, once published.
    pub deal_id: Option<DealId>,
}

impl ProviderView {
    /// As stored.
    pub(super) fn document(&self) -> Document {
        doc! {
            "status": self.status.stored(),
            "statusname": { "$literal": self.name.map_or_else(|| self.status.name(), str::to_owned) },
            "message": { "$literal": &self.message },
            "dealid": self.deal_id.map(DealId::stored),
            "updatedtime": NOW,
        }
    }
}

/// A new view to be recorded.
#[derive(Clone, Debug)]
pub struct NewView<'a> {
    /// Proposal CID.
    pub deal: &'a str,
    /// The state that was recorded when the deal was read.
    pub was: Option<i64>,
    /// The new view.
    pub view: ProviderView,
}

/// Views in one command. Chosen: a command of some 50 KiB.
const VIEWS_AT_ONCE: usize = 200;

/// Which deals a poll of the provider's view reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollScope {
    /// All deals that are not over.
    All,
    /// All of these except deals that are closed and active at the provider: such deals stay so for years,
    /// and a large provider has a million of them.
    Changing,
    /// Deals that are closed and not yet in a sector, at a market that is asked for one deal at a time.
    Publishing,
}

/// The filter of [`PollScope::Changing`], as ranges of the index `carferry_followed`, so that nothing else is
/// read: of 20 000 deals with 2000 matches, 2010 keys and 2000 documents.
fn moving() -> Document {
    let (finals, still) = (numbers(&DealStatus::FINAL), numbers(&[DealStatus::ACTIVE]));
    let both = [finals.clone(), still].concat();
    let open_by_client = doc! { "$nin": &finals };
    doc! { "$or": [
        { "isdeal": { "$ne": 1 }, "provider.status": { "$nin": &finals } },
        { "isdeal": { "$ne": 1 }, "provider.status": { "$in": &finals }, "status": &open_by_client },
        { "isdeal": 1, "provider.status": { "$nin": both } },
        { "isdeal": 1, "provider.status": { "$in": &finals }, "status": open_by_client },
    ] }
}

/// Deals that are closed, and whose provider has not said that they are in a sector.
fn without_sector() -> Document {
    let settled = [DealStatus::FINAL.as_slice(), &[DealStatus::ACTIVE, DealStatus::SEALING]].concat();
    doc! { "isdeal": 1, "provider.status": { "$nin": numbers(&settled) } }
}

impl Store {
    /// How many of this miner's deals are imported and not in a sector yet, by the provider's recorded views.
    pub async fn waiting_for_sector(&self, miner: &str) -> Result<u64, StoreError> {
        let mut filter = without_sector();
        filter.insert("miner", written_as(miner));
        self.bounded("waiting for a sector", self.deals.count_documents(filter)).await
    }

    /// This miner's deals whose state at the provider or at the client can still change. Both are tested,
    /// because another user of the database may have written a final state.
    pub async fn provider_followed(&self, miner: &str, which: PollScope) -> Result<DealPages, StoreError> {
        let filter = match which {
            PollScope::All => doc! { "$or": [
                { "provider.status": { "$nin": numbers(&DealStatus::FINAL) } },
                { "status": { "$nin": numbers(&DealStatus::FINAL) } },
            ] },
            PollScope::Changing => moving(),
            PollScope::Publishing => {
                let settled =
                    [DealStatus::FINAL.as_slice(), &[DealStatus::ACTIVE, DealStatus::SEALING]].concat();
                doc! { "isdeal": 1, "provider.status": { "$nin": numbers(&settled) } }
            }
        };
        let mut all = doc! { "miner": written_as(miner), "dealcid": { "$type": "string" } };
        all.extend(filter);
        let fields = doc! {
            "dealcid": 1, "provider": 1, "isdeal": 1, "import.state": 1, "import.reason": 1, "intent": 1,
            "status": 1, "statusby": 1, "dealid": 1,
            "filecid": 1, "startepoch": 1,
        };
        let find = self.deals.find(all).projection(fields).batch_size(DEALS_AT_ONCE);
        let cursor = self.bounded("provider deals", find).await?;
        Ok(DealPages::new(self, "provider deals", cursor))
    }

    /// Records the provider's views of deals whose recorded view is still the one that was read: another
    /// agent of the miner may have recorded a newer one.
    ///
    /// Many in one command: the first poll of a market with 100 000 deals would otherwise take as many round
    /// trips. The driver has no bulk updates for servers before 8.0, so this is the server's own command.
    /// Updates that it refuses are tried one by one.
    pub async fn record_provider_views(&self, miner: &str, views: &[NewView<'_>]) -> Result<(), StoreError> {
        let filter = |new: &NewView<'_>| {
            // A value that is no number was written by another user of the database, and is replaced.
            let no_number = doc! { "provider.status": { "$not": { "$type": "number" } } };
            let as_read = match new.was {
                Some(status) => vec![doc! { "provider.status": status }, no_number],
                None => vec![no_number],
            };
            doc! { "dealcid": new.deal, "miner": written_as(miner), "$or": as_read }
        };
        let update = |view: &ProviderView| vec![doc! { "$set": { "provider": view.document() } }];
        for page in views.chunks(VIEWS_AT_ONCE) {
            let updates: Vec<Document> =
                page.iter().map(|new| doc! { "q": filter(new), "u": update(&new.view) }).collect();
            let reply = self.update_deals("provider views", updates).await?;
            if reply.contains_key("writeErrors") || reply.contains_key("writeConcernError") {
                for new in page {
                    let one = self.deals.update_one(filter(new), update(&new.view));
                    self.bounded("provider view", one).await?;
                }
            }
        }
        Ok(())
    }
}
