//! Writes the document of a new deal: the agreed terms, which never change.

use bson::{Bson, Document, doc};

use crate::model::{AttoFil, IntentDoc, ProposalCid};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, where_missing};

impl Store {
    /// Writes the document of a made deal, unless it is there.
    pub(super) async fn record_deal(
        &self,
        intent: &IntentDoc,
        deal: &ProposalCid,
        status: i64,
        status_message: &str,
    ) -> Result<(), StoreError> {
        let mut first = first_fields(intent);
        first.insert("isdeal", 0_i32);
        first.insert("status", status);
        first.insert("statusmsg", status_message);
        // Only a new document gets these fields; a repeated call changes nothing.
        let mut set = where_missing(first);
        set.insert("createdtime", doc! { "$ifNull": ["$createdtime", NOW] });
        set.insert("updatedtime", doc! { "$ifNull": ["$updatedtime", NOW] });
        let upsert =
            self.deals.update_one(doc! { "dealcid": deal.as_str() }, vec![doc! { "$set": set }]).upsert(true);
        self.bounded("offlinedeals upsert", upsert).await?;
        Ok(())
    }
}

/// The agreed terms: the fields of a deal's document that never change.
pub(super) fn first_fields(intent: &IntentDoc) -> Document {
    let price = AttoFil::from_lotus(&intent.priceattofil).unwrap_or_default();
    doc! {
        "filecid": &intent.filecid,
        "miner": &intent.miner,
        "price": stored_price(price),
        "duration": intent.duration,
        "wallet": &intent.wallet,
        "piececid": &intent.piececid,
        "dealsizebytes": intent.dealsizebytes,
        "startepoch": intent.startepoch,
        "priceattofil": &intent.priceattofil,
        "providercollateral": &intent.providercollateral,
        "verified": intent.verified,
        "fastretrieval": intent.fastretrieval,
        "method": intent.method,
        "intent": &intent.id,
    }
}

/// The prototype's field `price`: FIL per epoch, as a number where a double holds it exactly (0 above all),
/// else as text. `priceattofil` beside it is always exact.
fn stored_price(price: AttoFil) -> Bson {
    if price.is_zero() {
        return Bson::Int32(0);
    }
    let text = price.to_string();
    let number = text.trim_end_matches(" FIL");
    number.parse::<f64>().map_or_else(|_| Bson::String(number.to_owned()), Bson::Double)
}
