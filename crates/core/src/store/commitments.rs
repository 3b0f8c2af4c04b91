//! Money that unpublished deals will still take from their wallet.

use std::time::Duration;

use bson::{Document, doc};

use crate::model::{AttoFil, DealDuration, IntentState, PublishMethod, stored};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{ago, dead_states};

/// Time after which the client's node has reserved the money of a deal: the message that moves it into escrow
/// has landed. Chosen; blocks come every 30 s, and a congested chain takes minutes.
const RESERVED_WITHIN: Duration = Duration::from_secs(3600);

/// The maximum cost of all deals of `ClientStartDeal` that are recorded and have no number on chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpublished {
    /// All of them.
    pub all: AttoFil,
    /// Those recorded within the last hour: the node may not have reserved their money yet.
    pub lately: AttoFil,
}

impl Store {
    /// The cost of this wallet's live deals without a number on chain. Read from `dealintents`, where
    /// providers cannot write.
    pub async fn unpublished_cost(&self, wallet: &str) -> Result<Unpublished, StoreError> {
        let pipeline = [
            doc! { "$match": {
                "wallet": wallet, "dealid": null, "method": PublishMethod::Start, "priceattofil": { "$gt": "0" },
                "state": IntentState::Confirmed, "dealstatus": { "$nin": dead_states() },
            } },
            doc! { "$group": {
                "_id": { "price": "$priceattofil", "duration": "$duration" },
                "all": { "$sum": 1_i64 },
                "lately": { "$sum": { "$cond": [
                    { "$gt": ["$updatedtime", ago(RESERVED_WITHIN)] }, 1_i64, 0_i64,
                ] } },
            } },
        ];
        let cursor = self.bounded("unpublished deals", self.intents.aggregate(pipeline)).await?;
        let groups = self.drain("unpublished deals", cursor).await?;
        Ok(groups.iter().fold(Unpublished::default(), |sum, group| {
            let one = cost_of(group);
            let times = |name: &str| group.get(name).and_then(stored::integer).unwrap_or(0);
            let cost = |name: &str| one.times(u128::try_from(times(name)).unwrap_or(0));
            Unpublished { all: sum.all.plus(cost("all")), lately: sum.lately.plus(cost("lately")) }
        }))
    }
}

/// The maximum cost of one deal of a group.
fn cost_of(group: &Document) -> AttoFil {
    let terms = group.get_document("_id").ok();
    let price = terms.and_then(|terms| terms.get_str("price").ok());
    let duration = terms.and_then(|terms| terms.get("duration")).and_then(stored::integer);
    let price = price.and_then(|price| AttoFil::from_lotus(price).ok()).unwrap_or_default();
    DealDuration::from_stored(duration.unwrap_or(0)).cost_max(price)
}
