//! Deals whose CARs a provider's market may still read: those that a locator offers.

use bson::doc;

use crate::model::DealStatus;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::dead_states;
use crate::store::miners::any_of;
use crate::store::pages::{DEALS_AT_ONCE, DealPages};

impl Store {
    /// The deals of these miners that are neither active nor over. Their data is read until the sector is
    /// sealed, hours after the deal counts as imported.
    pub async fn deals_to_offer(&self, miners: &[String]) -> Result<DealPages, StoreError> {
        let mut over = dead_states();
        over.push(DealStatus::ACTIVE.stored());
        let filter = doc! { "miner": any_of(miners), "status": { "$nin": over } };
        let fields = doc! { "dealcid": 1, "filecid": 1, "piececid": 1, "dealsizebytes": 1, "startepoch": 1 };
        let find = self.deals.find(filter).projection(fields).batch_size(DEALS_AT_ONCE);
        let cursor = self.bounded("deals to offer", find).await?;
        Ok(DealPages::new(self, "deals to offer", cursor))
    }
}
