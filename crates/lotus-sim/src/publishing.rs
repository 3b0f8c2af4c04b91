//! Publishing deals on chain in batches, with funds and `DataCap`.
//!
//! What lives here: the batch queue, the publish message, deal IDs (§3.4). What does not: the steps before
//! and after (`provider`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::config::LotusVersion;
use crate::ids::made_up_cid;
use crate::states::DealState;
use crate::world::{ChainDeal, Event, World};

/// `StartEpochSealingBuffer`. Source: lotus v1.23.3 `dealpublisher.go`.
const SEALING_BUFFER: i64 = 480;

impl World {
    /// Publishes the batch of a miner: the deals that pass the checks go on chain.
    pub(crate) fn publish_now(&mut self, miner_id: &str) {
        let Some(miner) = self.miners.get_mut(miner_id) else { return };
        miner.publish_batch += 1;
        miner.publish_since = None;
        let batch = std::mem::take(&mut miner.publish_queue);
        let can_pay = miner.config.can_pay_publish;
        let head = self.head();
        let buffer = if self.config.version >= LotusVersion::V1_23 { SEALING_BUFFER } else { 0 };
        let mut ready = Vec::new();
        for cid in batch {
            let Some(deal) = self.deals.get(&cid) else { continue };
            if deal.provider.as_ref().is_none_or(|side| side.state != DealState::Publish) {
                continue;
            }
            let (piece_cid, start) = (deal.proposal.piece_cid, deal.proposal.start_epoch);
            if head + buffer > start {
                self.provider_fail(
                    &cid,
                    &format!(
                        "error calling node: publishing deal: publish validation failed: cannot publish deal \
                         with piece CID {piece_cid}: current epoch {head} has passed deal proposal start epoch \
                         {start}"
                    ),
                );
            } else {
                ready.push(cid);
            }
        }
        if ready.is_empty() {
            return;
        }
        if !can_pay {
            // go-fil-markets v1.28.3 keeps the deal in 24 until `MarketRetryPublishDeal`; v1.1.9 fails it.
            if self.config.version == LotusVersion::V1_5 {
                for cid in ready {
                    self.provider_fail(
                        &cid,
                        "error calling node: publishing deal: not enough funds to execute transaction",
                    );
                }
            }
            return;
        }
        if !self.spend_datacap(&ready) {
            for cid in ready {
                self.provider_fail(
                    &cid,
                    "error calling node: publishing deal: simulating deal publish message: non-zero exitcode 16; \
                     message: failed to add verified deal for client: insufficient datacap",
                );
            }
            return;
        }
        let message = made_up_cid(&format!("publish {miner_id} {}", ready.join(" ")));
        for cid in ready {
            if let Some(side) = self.provider_mut(&cid) {
                side.publish_cid = Some(message.clone());
            }
            self.provider_enter(&cid, DealState::Publishing);
        }
    }

    /// Puts a deal that is stuck in `Publish` into the queue again.
    pub(crate) fn retry_publish(&mut self, miner_id: &str, cid: &str) -> Result<(), String> {
        let state = self.deals.get(cid).and_then(|deal| deal.provider.as_ref()).map(|side| side.state);
        match state {
            None => Err(format!("failed getting deal {cid}: No state for /{cid}: datastore: key not found")),
            Some(DealState::Publish) => {
                self.queue_for_publishing(miner_id, cid);
                Ok(())
            }
            Some(_other) => Ok(()),
        }
    }

    pub(crate) fn queue_for_publishing(&mut self, miner_id: &str, cid: &str) {
        let period = self.timings(miner_id).publish_period;
        let Some(miner) = self.miners.get_mut(miner_id) else { return };
        if !miner.publish_queue.iter().any(|queued| queued == cid) {
            miner.publish_queue.push(cid.to_owned());
        }
        if miner.publish_queue.len() >= miner.config.max_deals_per_publish {
            self.publish_now(miner_id);
        } else if miner.publish_since.is_none() {
            miner.publish_since = Some(SystemTime::now());
            let batch = miner.publish_batch;
            self.schedule(period, Event::Publish { miner: miner_id.to_owned(), batch });
        }
    }

    /// Changes the chain to agree with a state that a test sets.
    pub(crate) fn put_on_chain(&mut self, cid: &str, state: DealState) {
        let head = self.head();
        let published = state == DealState::Staged || state == DealState::AwaitingPreCommit;
        let Some(side) = self.provider_mut(cid) else { return };
        if state == DealState::Publishing {
            side.publish_cid.get_or_insert_with(|| made_up_cid(&format!("publish {cid}")));
        }
        if (published || state.is_past_precommit()) && side.deal_id == 0 {
            self.assign_deal_id(cid);
        }
        if let Some(chain) = self.chain_of(cid) {
            if matches!(state, DealState::Finalizing | DealState::Active) && chain.sector_start < 0 {
                chain.sector_start = head;
            }
            if state == DealState::Slashed {
                chain.slash_epoch = head;
            }
        }
        if let Some(side) = self.provider_mut(cid).filter(|_side| state == DealState::Slashed) {
            side.slash_epoch = head;
        }
    }

    /// Handles the landed publish message: the deal gets its ID.
    pub(crate) fn published(&mut self, cid: &str) {
        self.assign_deal_id(cid);
        self.provider_enter(cid, DealState::Staged);
    }

    /// Assigns the deal ID, after the publish message has landed.
    pub(crate) fn assign_deal_id(&mut self, cid: &str) {
        self.lock_funds(cid);
        let deal_id = self.next_deal_id;
        self.next_deal_id += 1;
        if let Some(side) = self.provider_mut(cid) {
            side.deal_id = deal_id;
            side.publish_cid.get_or_insert_with(|| made_up_cid(&format!("publish {cid}")));
        }
        self.chain.insert(deal_id, ChainDeal { cid: cid.to_owned(), sector_start: -1, slash_epoch: -1 });
    }

    /// Spends the `DataCap` of a whole batch, or of no deal.
    fn spend_datacap(&mut self, batch: &[String]) -> bool {
        let mut wanted: BTreeMap<String, i128> = BTreeMap::new();
        for deal in batch.iter().filter_map(|cid| self.deals.get(cid)) {
            if deal.proposal.verified {
                let client = deal.proposal.client.as_str().to_owned();
                *wanted.entry(client).or_default() += i128::from(deal.proposal.padded_piece_size);
            }
        }
        let left = |world: &Self, client: &str| {
            let wallet = world.wallets.iter().find(|wallet| wallet.address.as_str() == client);
            wallet.and_then(|wallet| wallet.datacap).unwrap_or(0)
        };
        if wanted.iter().any(|(client, bytes)| left(self, client) < *bytes) {
            return false;
        }
        for wallet in &mut self.wallets {
            if let Some(bytes) = wanted.get(wallet.address.as_str()) {
                // A client without `DataCap` is no longer a verified client.
                wallet.datacap = wallet.datacap.map(|datacap| datacap - bytes).filter(|left| *left > 0);
            }
        }
        true
    }

    fn lock_funds(&mut self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let total = deal.proposal.total_price();
        let client = deal.proposal.client.clone();
        if let Some(wallet) = self.wallet_mut(&client) {
            wallet.locked += total;
        }
    }
}
