//! The provider's state machine of a deal: validation, filter, publishing, sealing.
//!
//! What lives here: every step of §3.4 and §4.3. What does not: the import, after which a deal leaves
//! `WaitingForData` (`import`), JSON.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::LotusVersion;
use crate::ids::ATTO_PER_FIL;
use crate::lost_sight::{LostAt, Watcher};
use crate::proposal::Proposal;
use crate::states::DealState;
use crate::world::{ChainDeal, Deal, EPOCHS_PER_DAY, EpochEvent, Event, Miner, ProviderSide, World, signed};

/// Shortest deal in epochs. Source: lotus v1.5.0 `build/params_shared_vals.go`.
const DURATION_MIN: i64 = 518_400;
/// Longest deal in epochs the provider takes. Source: go-fil-markets v1.28.3 at builtin v9.
const DURATION_MAX: i64 = 1_555_200;

impl World {
    /// Handles a proposal at its provider. A known proposal is answered with the deal's present state.
    pub(crate) fn receive_proposal(&mut self, cid: &str) {
        let Some(deal) = self.deals.get_mut(cid) else { return };
        if deal.provider.is_some() {
            self.answer_proposal(cid);
            return;
        }
        deal.provider = Some(ProviderSide {
            state: DealState::Unknown,
            message: String::new(),
            generation: 0,
            created: SystemTime::now(),
            piece_path: None,
            publish_cid: None,
            lost_sight: None,
            deal_id: 0,
            sector: 0,
            slash_epoch: 0,
            machine_ended: false,
            oversize: None,
            waiters: Vec::new(),
        });
        let provider = deal.proposal.provider.as_str().to_owned();
        if let Some(miner) = self.miners.get_mut(&provider) {
            miner.deals.push(cid.to_owned());
        }
        self.provider_enter(cid, DealState::Validating);
    }

    /// Adds a deal that waits for its data; returns its proposal CID.
    pub(crate) fn add_waiting(&mut self, proposal: Proposal) -> String {
        let cid = proposal.cid();
        let (start, end) = (proposal.start_epoch, proposal.end_epoch);
        let created = SystemTime::now();
        let deal = Deal { cid: cid.clone(), proposal, created, client: None, provider: None };
        self.deals.entry(cid.clone()).or_insert(deal);
        self.watch_epochs(&cid, start, end);
        self.receive_proposal(&cid);
        self.provider_enter(&cid, DealState::WaitingForData);
        cid
    }

    /// Moves a deal to a state, sends updates to listeners, and starts the state's timer.
    pub(crate) fn provider_enter(&mut self, cid: &str, state: DealState) {
        let Some(deal) = self.deals.get_mut(cid) else { return };
        let Some(side) = deal.provider.as_mut() else { return };
        side.state = state;
        side.generation += 1;
        if state.is_final() {
            side.machine_ended = true;
        }
        // `CleanupDeal`: the copy is removed when the sector has it, or the deal failed.
        let cleanup = matches!(state, DealState::Finalizing | DealState::Failing);
        let copy: Option<PathBuf> = side.piece_path.clone().filter(|_path| cleanup);
        if deal.client.is_some() {
            self.dirty_clients.insert(cid.to_owned());
        }
        if let Some(copy) = copy {
            std::fs::remove_file(copy).ok();
        }
        if state == DealState::Active {
            self.log.activated(cid);
        }
        self.emit_provider(cid);
        self.provider_arm(cid);
    }

    /// Starts the timer of a deal's state, unless the miner is held at this state.
    pub(crate) fn provider_arm(&mut self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let Some(side) = deal.provider.as_ref() else { return };
        let provider = deal.proposal.provider.as_str().to_owned();
        let (state, generation) = (side.state, side.generation);
        let Some(miner) = self.miners.get(&provider) else { return };
        if miner.config.hold_at == Some(state) {
            return;
        }
        let timings = miner.config.timings.as_ref().unwrap_or(&self.config.timings);
        let after = match state {
            DealState::Validating => timings.validate,
            DealState::AcceptWait => timings.accept,
            DealState::Rejecting => Duration::ZERO,
            DealState::Failing => timings.failing,
            DealState::ReserveProviderFunds => timings.reserve_funds,
            DealState::ProviderFunding => timings.provider_funding,
            DealState::Publishing => timings.publish,
            DealState::Staged => timings.add_piece,
            DealState::AwaitingPreCommit => timings.precommit_wait,
            DealState::Sealing => timings.sealing,
            DealState::Finalizing => timings.finalize,
            DealState::Publish => {
                self.queue_for_publishing(&provider, cid);
                return;
            }
            _ => return,
        };
        self.schedule(after, Event::Provider { cid: cid.to_owned(), generation });
    }

    pub(crate) fn provider_timer(&mut self, cid: &str, generation: u32) {
        let Some(deal) = self.deals.get(cid) else { return };
        let Some(side) = deal.provider.as_ref().filter(|side| side.generation == generation) else { return };
        let state = side.state;
        let miner = deal.proposal.provider.as_str().to_owned();
        if self.miners.get(&miner).is_some_and(|miner| miner.config.hold_at == Some(state)) {
            return;
        }
        match state {
            DealState::Validating => match self.validate(cid) {
                Ok(()) => self.provider_enter(cid, DealState::AcceptWait),
                Err(reason) => self.reject(cid, &reason),
            },
            DealState::AcceptWait => match self.filter(cid) {
                Ok(()) => {
                    self.provider_enter(cid, DealState::WaitingForData);
                    self.answer_proposal(cid);
                }
                Err(reason) => self.reject(cid, &reason),
            },
            DealState::Rejecting => {
                self.provider_enter(cid, DealState::Failing);
                self.answer_proposal(cid);
            }
            DealState::Failing => self.provider_enter(cid, DealState::Error),
            DealState::ReserveProviderFunds if !self.timings(&miner).provider_funding.is_zero() => {
                self.provider_enter(cid, DealState::ProviderFunding);
            }
            DealState::ReserveProviderFunds | DealState::ProviderFunding => {
                self.provider_enter(cid, DealState::Publish);
            }
            DealState::Publishing if self.loses_sight(cid, Watcher::Provider, LostAt::Publishing) => {
                self.provider_loses_sight(cid, LostAt::Publishing);
            }
            DealState::Publishing => self.published(cid),
            DealState::Staged if self.is_oversize(cid) => self.fail_hand_off(cid),
            DealState::Staged => {
                if let Some(miner) = self.miners.get_mut(&miner) {
                    let sector = miner.next_sector;
                    miner.next_sector += 1;
                    if let Some(side) = self.provider_mut(cid) {
                        side.sector = sector;
                    }
                }
                self.provider_enter(cid, DealState::AwaitingPreCommit);
            }
            DealState::AwaitingPreCommit if self.loses_sight(cid, Watcher::Provider, LostAt::Sealing) => {
                self.provider_loses_sight(cid, LostAt::Sealing);
            }
            DealState::AwaitingPreCommit => self.provider_enter(cid, DealState::Sealing),
            DealState::Sealing => {
                let head = self.head();
                if let Some(chain) = self.chain_of(cid) {
                    chain.sector_start = head;
                }
                self.provider_enter(cid, DealState::Finalizing);
            }
            DealState::Finalizing => self.provider_enter(cid, DealState::Active),
            _ => {}
        }
    }

    /// Handles a height of the chain for a deal at its provider.
    pub(crate) fn provider_epoch(&mut self, cid: &str, event: EpochEvent) {
        let Some(deal) = self.deals.get(cid) else { return };
        let Some(side) = deal.provider.as_ref() else { return };
        let piece_cid = deal.proposal.piece_cid;
        let start = deal.proposal.start_epoch;
        match (event, side.state) {
            (EpochEvent::Started, DealState::Staged | DealState::AwaitingPreCommit | DealState::Sealing) => {
                let deal_id = side.deal_id;
                self.chain.remove(&deal_id);
                self.provider_fail(
                    cid,
                    &format!(
                        "error awaiting deal pre-commit: deal with piece CID {piece_cid} was not activated by \
                         proposed deal start epoch {start}"
                    ),
                );
            }
            (EpochEvent::Started, _) if side.lost_sight.is_some() => {
                let deal_id = side.deal_id;
                if self.chain.get(&deal_id).is_some_and(|chain| chain.sector_start < 0) {
                    self.chain.remove(&deal_id);
                }
            }
            (EpochEvent::Ended, DealState::Active) => self.provider_enter(cid, DealState::Expired),
            _ => {}
        }
    }

    pub(crate) fn provider_fail(&mut self, cid: &str, message: &str) {
        if let Some(side) = self.provider_mut(cid) {
            message.clone_into(&mut side.message);
        }
        self.provider_enter(cid, DealState::Failing);
    }

    /// Handles a restart of the process: deals under decision fail, deals that wait for data keep waiting
    /// (§4.3).
    pub(crate) fn restart_provider_machines(&mut self, miner_id: &str) {
        let cids = self.miners.get(miner_id).map(|miner| miner.deals.clone()).unwrap_or_default();
        for cid in cids {
            let Some(side) = self.provider_mut(&cid) else { continue };
            side.machine_ended = false;
            side.waiters.clear();
            if matches!(side.state, DealState::Validating | DealState::AcceptWait | DealState::Rejecting) {
                self.provider_enter(&cid, DealState::Error);
                self.proposal_stream_reset(&cid);
            }
        }
    }

    pub(crate) fn provider_mut(&mut self, cid: &str) -> Option<&mut ProviderSide> {
        self.deals.get_mut(cid)?.provider.as_mut()
    }

    fn miner_of(&self, deal: &Deal) -> Option<&Miner> {
        self.miners.get(deal.proposal.provider.as_str())
    }

    pub(crate) fn chain_of(&mut self, cid: &str) -> Option<&mut ChainDeal> {
        let deal_id = self.deals.get(cid)?.provider.as_ref()?.deal_id;
        self.chain.get_mut(&deal_id)
    }

    fn reject(&mut self, cid: &str, reason: &str) {
        if let Some(side) = self.provider_mut(cid) {
            side.message = format!("deal rejected: {reason}");
        }
        self.provider_enter(cid, DealState::Rejecting);
    }

    /// Sends the deal's state to the proposing client.
    fn answer_proposal(&mut self, cid: &str) {
        let Some(side) = self.provider_mut(cid) else { return };
        let (state, message) = (side.state, side.message.clone());
        for waiter in std::mem::take(&mut side.waiters) {
            waiter.send((state, message.clone())).ok();
        }
        self.proposal_answered(cid, state, &message);
    }

    /// Validates a proposal. Source of the order and the texts: go-fil-markets v1.28.3
    /// `provider_states.go:66-183`.
    fn validate(&self, cid: &str) -> Result<(), String> {
        let Some(deal) = self.deals.get(cid) else { return Ok(()) };
        let Some(miner) = self.miner_of(deal) else { return Err("incorrect provider for deal".to_owned()) };
        let Proposal { padded_piece_size: padded, start_epoch: start, end_epoch: end, .. } = deal.proposal;
        let head = self.head();
        if deal.proposal.label.len() > 256 {
            return Err(format!("deal label can be at most 256 bytes, is {}", deal.proposal.label.len()));
        }
        if padded < 128 {
            return Err("proposal piece size is invalid: minimum piece size is 128 bytes".to_owned());
        }
        if !padded.is_power_of_two() {
            return Err("proposal piece size is invalid: padded piece size must be a power of 2".to_owned());
        }
        let piece = &deal.proposal.piece_cid;
        if piece.codec() != 0xf101 || piece.hash().code() != 0x1012 || piece.hash().size() != 32 {
            return Err("proposal PieceCID had wrong prefix".to_owned());
        }
        if end <= start {
            return Err("proposal end before proposal start".to_owned());
        }
        if head > start {
            return Err("deal start epoch has already elapsed".to_owned());
        }
        let duration = end - start;
        if !(DURATION_MIN..=DURATION_MAX).contains(&duration) {
            return Err(format!(
                "deal duration out of bounds (min, max, provided): {DURATION_MIN}, {DURATION_MAX}, {duration}"
            ));
        }
        if self.config.version >= LotusVersion::V1_11 && end > head + DURATION_MAX {
            return Err(format!(
                "invalid deal end epoch {end}: cannot be more than {DURATION_MAX} past current epoch {head}"
            ));
        }
        // `DealProviderCollateralBounds` of lotus v1.23.3 `markets/storageadapter/provider.go`: not the
        // network's maximum.
        let min = self.collateral_min(padded);
        let max = min * i128::from(miner.config.collateral_multiplier_max);
        let collateral = deal.proposal.provider_collateral;
        if collateral < min {
            return Err(format!("proposed provider collateral below minimum: {collateral} < {min}"));
        }
        if collateral > max {
            return Err(format!("proposed provider collateral above maximum: {collateral} > {max}"));
        }
        let ask = &miner.config.ask;
        let asked = signed(if deal.proposal.verified { ask.verified_price } else { ask.price });
        let price_min = asked * i128::from(padded) / (1 << 30);
        if deal.proposal.epoch_price < price_min {
            return Err(format!(
                "storage price per epoch less than asking price: {} < {price_min}",
                deal.proposal.epoch_price
            ));
        }
        if padded < ask.min_piece_size {
            return Err(format!(
                "piece size less than minimum required size: {padded} < {}",
                ask.min_piece_size
            ));
        }
        let size_max = ask.max_piece_size.unwrap_or(miner.config.sector_size);
        if padded > size_max {
            return Err(format!("piece size more than maximum allowed size: {padded} > {size_max}"));
        }
        let wallet = self.wallet(&deal.proposal.client);
        let available = wallet.map_or(0, |wallet| wallet.escrow - wallet.locked);
        if available < deal.proposal.total_price() {
            return Err(format!(
                "clientMarketBalance.Available too small: {available} < {}",
                deal.proposal.total_price()
            ));
        }
        if deal.proposal.verified {
            let Some(datacap) = wallet.and_then(|wallet| wallet.datacap) else {
                return Err("node error fetching verified data cap: data cap missing -- client not verified"
                    .to_owned());
            };
            if datacap < i128::from(padded) {
                return Err("verified deal DataCap too small for proposed piece size".to_owned());
            }
        }
        Ok(())
    }

    /// The deal filter of lotus v1.23.3 `node/modules/storageminer.go:532-652`, and rejections that a test
    /// asks for.
    fn filter(&mut self, cid: &str) -> Result<(), String> {
        let head = self.head();
        let Some(deal) = self.deals.get(cid) else { return Ok(()) };
        let provider = deal.proposal.provider.as_str().to_owned();
        let start = deal.proposal.start_epoch;
        let (verified, piece_cid) = (deal.proposal.verified, deal.proposal.piece_cid.to_string());
        let window = if self.config.version >= LotusVersion::V1_23 { 15 } else { 8 } * EPOCHS_PER_DAY;
        let Some(miner) = self.miners.get_mut(&provider) else { return Ok(()) };
        if let Some(reason) = miner.reject_next.pop_front().or_else(|| miner.config.reject.clone()) {
            return Err(reason);
        }
        if !miner.config.accepts_offline {
            return Err("miner is not accepting offline storage deals".to_owned());
        }
        if verified && !miner.config.accepts_verified {
            return Err("miner is not accepting verified storage deals".to_owned());
        }
        if !verified && !miner.config.accepts_unverified {
            return Err("miner is not accepting unverified storage deals".to_owned());
        }
        if miner.config.blocklist.contains(&piece_cid) {
            return Err(format!("miner has blocklisted piece CID {piece_cid}"));
        }
        if start < head + miner.config.start_epoch_min {
            return Err(format!("cannot seal a sector before {start}"));
        }
        let latest = head + miner.config.start_epoch_max.unwrap_or(window);
        if start > latest {
            return Err(format!("deal start epoch is too far in the future: {start} > {latest}"));
        }
        Ok(())
    }

    fn is_oversize(&self, cid: &str) -> bool {
        self.deals
            .get(cid)
            .and_then(|deal| deal.provider.as_ref())
            .is_some_and(|side| side.oversize.is_some())
    }

    /// A file larger than the deal's piece passes the import and fails here (§3.1).
    fn fail_hand_off(&mut self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let unpadded = deal.proposal.unpadded_piece_size;
        let Some(side) = deal.provider.as_ref() else { return };
        let path = side.piece_path.clone().unwrap_or_default();
        let size = side.oversize.unwrap_or(0);
        let message = format!(
            "error handing off deal: packing piece at path {}: supplied readerTotalSize {size} is larger than the \
             target PieceSize {unpadded}",
            path.display()
        );
        self.provider_fail(cid, &message);
    }
}

/// Upper bound of a provider's collateral: the whole supply of FIL.
pub(crate) fn collateral_max() -> i128 {
    signed(2_000_000_000 * ATTO_PER_FIL)
}
