//! Records deals that a miner's market waits for and no client has recorded.

use bson::{Document, doc};

use crate::store::Store;
use crate::store::error::StoreError;

/// A deal that its market waits for the data of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedDeal {
    /// CID of the proposal, as the market names it.
    pub proposal_cid: String,
    /// Payload CID, where the market says one.
    pub payload_cid: Option<String>,
    /// Piece CID.
    pub piece_cid: String,
    /// UNPADDED piece size in bytes.
    pub unpadded_bytes: i64,
    /// Epoch by which the deal must be sealed.
    pub start_epoch: i64,
}

/// Deals in one command. Chosen: some 100 KiB.
const AT_ONCE: usize = 200;

impl Store {
    /// Records those of the deals that are not recorded yet, as pending deals of this miner. Returns how
    /// many.
    pub async fn adopt(&self, miner: &str, deals: &[AdoptedDeal]) -> Result<u64, StoreError> {
        let mut adopted = 0;
        for page in deals.chunks(AT_ONCE) {
            let now = self.server_time().await?;
            let updates: Vec<Document> = page
                .iter()
                .map(|deal| {
                    let record = doc! {
                        "miner": miner, "isdeal": 0_i32, "adopted": true,
                        "filecid": &deal.payload_cid, "piececid": &deal.piece_cid,
                        "dealsizebytes": deal.unpadded_bytes, "startepoch": deal.start_epoch,
                        "createdtime": now, "updatedtime": now,
                    };
                    // The unique index over proposal CIDs keeps two agents from recording one deal twice.
                    doc! {
                        "q": { "dealcid": &deal.proposal_cid }, "u": { "$setOnInsert": record }, "upsert": true,
                    }
                })
                .collect();
            let reply = self.update_deals("adopt", updates).await?;
            let new = reply.get_array("upserted").map_or(0, Vec::len);
            adopted += u64::try_from(new).unwrap_or(u64::MAX);
        }
        Ok(adopted)
    }

    /// Which of these proposal CIDs are recorded, of any miner.
    pub async fn recorded_among(&self, proposal_cids: &[&str]) -> Result<Vec<String>, StoreError> {
        let filter = doc! { "dealcid": { "$in": proposal_cids } };
        let find = self.deals.find(filter).projection(doc! { "_id": 0, "dealcid": 1 });
        let cursor = self.bounded("recorded deals", find).await?;
        let found = self.drain("recorded deals", cursor).await?;
        Ok(found.iter().filter_map(|deal| deal.get_str("dealcid").ok().map(str::to_owned)).collect())
    }
}
