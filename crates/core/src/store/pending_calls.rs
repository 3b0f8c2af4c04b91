//! Reads import calls that were recorded and have no recorded answer: they may still be under way at the
//! market.

use std::time::Duration;

use bson::doc;

use crate::model::stored;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, ago};
use crate::store::miners::written_as;

/// An import call of another agent, or of this agent before it was restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCall {
    /// Proposal CID of its deal.
    pub dealcid: String,
    /// The time since it was recorded, by the server's clock.
    pub age: Duration,
    /// UNPADDED piece size by the deal's record, which any provider's user may have written.
    pub recorded_size: Option<u64>,
}

/// Most calls that are read. Chosen: a miner imports some tens of CARs at a time.
const CALLS_MAX: i64 = 1000;

impl Store {
    /// Calls for this miner's pending deals that other processes than `caller` recorded at most `longest`
    /// ago.
    pub async fn pending_calls(
        &self,
        miner: &str,
        caller: &str,
        longest: Duration,
    ) -> Result<Vec<PendingCall>, StoreError> {
        let pipeline = [
            doc! { "$match": {
                "miner": written_as(miner), "isdeal": 0,
                "import.pendingcall": { "$exists": true, "$type": "date" },
                "import.caller": { "$ne": caller },
                // A time in the future is a value that no agent wrote.
                "$expr": { "$and": [
                    { "$gt": ["$import.pendingcall", ago(longest)] },
                    { "$lte": ["$import.pendingcall", NOW] },
                ] },
            } },
            doc! { "$limit": CALLS_MAX },
            doc! { "$project": {
                "dealcid": 1, "dealsizebytes": 1,
                "age": { "$subtract": [NOW, "$import.pendingcall"] },
            } },
        ];
        let cursor = self.bounded("pending calls", self.deals.aggregate(pipeline)).await?;
        let found = self.drain("pending calls", cursor).await?;
        let number = |value| stored::integer(value).and_then(|number| u64::try_from(number).ok());
        let read = found.iter().filter_map(|deal| {
            Some(PendingCall {
                dealcid: deal.get_str("dealcid").ok()?.to_owned(),
                age: Duration::from_millis(deal.get("age").and_then(number)?),
                recorded_size: deal.get("dealsizebytes").and_then(number),
            })
        });
        Ok(read.collect())
    }
}
