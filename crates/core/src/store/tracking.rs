//! The fields client-agent's tracking owns: `status`, `statusmsg`, `dealid`.

use bson::doc;

use super::{Store, error::StoreError};
use crate::model::{DealId, DealStatus};

/// A new state of a deal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// Proposal CID.
    pub proposal_cid: String,
    /// State.
    pub status: DealStatus,
    /// Its words.
    pub message: String,
    /// Number on chain, where it is known.
    pub deal_id: Option<DealId>,
}

impl Store {
    /// Writes a new state. Repeating it changes nothing but `updatedtime`.
    pub async fn record_status(&self, change: &StatusChange) -> Result<(), StoreError> {
        let mut set = doc! {
            "status": i64::try_from(change.status.get()).unwrap_or(i64::MAX),
            "statusmsg": { "$literal": &change.message },
            "updatedtime": "$$NOW",
        };
        if let Some(deal_id) = change.deal_id {
            set.insert("dealid", i64::try_from(deal_id.get()).unwrap_or(i64::MAX));
        }
        let filter = doc! { "dealcid": &change.proposal_cid };
        self.bounded("status update", self.deals.update_one(filter, vec![doc! { "$set": set }])).await?;
        Ok(())
    }
}
