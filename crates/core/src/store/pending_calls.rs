//! Import calls that were noted and whose answer is not recorded: they may still be under way at the market.

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
    /// Since when it is noted, by the server's clock.
    pub age: Duration,
    /// UNPADDED piece size by the deal's record, which any provider's user may have written.
    pub recorded_size: Option<u64>,
}

/// Calls that are read at most. Source: a miner imports some tens of CARs at a time.
const CALLS_MAX: i64 = 1000;

impl Store {
    /// Calls for this miner's pending deals that were noted at most `longest` ago by other processes than
    /// `caller`.
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
                // A call of the future is a value that no agent wrote.
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
