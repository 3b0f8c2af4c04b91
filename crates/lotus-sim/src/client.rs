//! The client's state machine of a deal that the full node tracks.
//!
//! What lives here: funds, sending the proposal, polling the provider (§4.2). What does not: the provider's
//! state machine, JSON.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::config::LotusVersion;
use crate::lost_sight::{LostAt, Watcher};
use crate::states::DealState;
use crate::world::{ClientSide, EpochEvent, Event, Stage, World};

impl World {
    /// Starts the state machine of a new deal.
    pub(crate) fn client_start(&mut self, cid: &str) {
        let Some(deal) = self.deals.get_mut(cid) else { return };
        let (start, end) = (deal.proposal.start_epoch, deal.proposal.end_epoch);
        deal.client = Some(ClientSide {
            state: DealState::Unknown,
            message: String::new(),
            deal_id: 0,
            stages: Vec::new(),
            generation: 0,
            sending_since: None,
            funds_reserved: false,
        });
        self.watch_epochs(cid, start, end);
        self.client_enter(cid, DealState::ReserveClientFunds, "");
    }

    /// Registers the heights at which a deal's state may change.
    pub(crate) fn watch_epochs(&mut self, cid: &str, start: i64, end: i64) {
        self.at_epoch(start + 1, cid, EpochEvent::Started);
        self.at_epoch(start + 11, cid, EpochEvent::StartedLongAgo);
        self.at_epoch(end, cid, EpochEvent::Ended);
    }

    pub(crate) fn client_timer(&mut self, cid: &str, generation: u32) {
        let Some(side) = self.client_mut(cid).filter(|side| side.generation == generation) else { return };
        match side.state {
            DealState::ReserveClientFunds => self.reserve_client_funds(cid),
            DealState::ClientFunding => self.client_enter(cid, DealState::FundsReserved, ""),
            DealState::FundsReserved => self.send_proposal(cid),
            DealState::StartDataTransfer => self.client_enter(cid, DealState::CheckForAcceptance, ""),
            DealState::Failing => {
                let message = side.message.clone();
                self.client_enter(cid, DealState::Error, &message);
            }
            _ => {}
        }
    }

    /// Handles the provider's answer to a proposal.
    pub(crate) fn proposal_answered(&mut self, cid: &str, state: DealState, message: &str) {
        if self.client_mut(cid).is_none_or(|side| side.state != DealState::FundsReserved) {
            return;
        }
        if state == DealState::WaitingForData {
            self.client_enter(cid, DealState::StartDataTransfer, "");
        } else {
            let text = format!(
                "unexpected deal status while waiting for data request: {} ({}). Provider message: {message}",
                state.code(),
                state.name()
            );
            self.client_fail(cid, &text);
        }
    }

    /// Handles a provider that restarted between receiving a proposal and answering it.
    pub(crate) fn proposal_stream_reset(&mut self, cid: &str) {
        if self.client_mut(cid).is_some_and(|side| side.state == DealState::FundsReserved) {
            self.client_fail(cid, "error reading Response message from provider: stream reset");
        }
    }

    /// Polls every provider. Only changed deals are polled, unless a listener is subscribed: Lotus sends one
    /// event per waiting deal and poll.
    pub(crate) fn poll_providers(&mut self) {
        for cid in std::mem::take(&mut self.dirty_clients) {
            self.poll_provider(&cid);
        }
        if self.client_updates.receiver_count() > 0 {
            let polling: Vec<String> = self.polling_clients.iter().cloned().collect();
            for cid in polling {
                self.emit_client(&cid);
            }
        }
    }

    pub(crate) fn client_epoch(&mut self, cid: &str, event: EpochEvent) {
        let gives_up = self.config.version >= LotusVersion::V1_11;
        let Some(side) = self.client_mut(cid) else { return };
        match (event, side.state) {
            (EpochEvent::StartedLongAgo, DealState::CheckForAcceptance) if gives_up => {
                self.client_fail(cid, "deal failed: (State=13) start epoch already elapsed");
            }
            (EpochEvent::Ended, DealState::Active) => self.client_enter(cid, DealState::Expired, ""),
            _ => {}
        }
    }

    /// Marks all deals of a miner for the next poll, after its reachability changed.
    pub(crate) fn miner_reachability_changed(&mut self, miner_id: &str) {
        let cids = self.miners.get(miner_id).map(|miner| miner.deals.clone()).unwrap_or_default();
        for cid in cids {
            if self.client_mut(&cid).is_some() {
                self.dirty_clients.insert(cid);
            }
        }
    }

    pub(crate) fn client_enter(&mut self, cid: &str, state: DealState, message: &str) {
        let timings = self.config.timings.clone();
        let Some(side) = self.client_mut(cid) else { return };
        side.state = state;
        message.clone_into(&mut side.message);
        side.generation += 1;
        let generation = side.generation;
        let now = SystemTime::now();
        let logs = match state {
            DealState::FundsReserved => vec![("funds reserved, amount <0>".to_owned(), now)],
            _ if message.is_empty() => Vec::new(),
            _ => vec![(message.to_owned(), now)],
        };
        side.stages.push(Stage { state, created: now, updated: now, logs });
        if state == DealState::CheckForAcceptance {
            self.polling_clients.insert(cid.to_owned());
            self.dirty_clients.insert(cid.to_owned());
        } else {
            self.polling_clients.remove(cid);
        }
        let after = match state {
            DealState::ReserveClientFunds | DealState::ClientFunding => Some(timings.client_funds),
            DealState::FundsReserved | DealState::StartDataTransfer => Some(Duration::ZERO),
            DealState::Failing => Some(timings.failing),
            _ => None,
        };
        if let Some(after) = after {
            self.schedule(after, Event::Client { cid: cid.to_owned(), generation });
        }
        self.emit_client(cid);
    }

    fn client_fail(&mut self, cid: &str, message: &str) {
        self.release_reserved(cid);
        self.client_enter(cid, DealState::Failing, message);
    }

    /// Releases the funds reserved for a deal: they are free again, or locked on chain.
    fn release_reserved(&mut self, cid: &str) {
        let Some(deal) = self.deals.get_mut(cid) else { return };
        let total = deal.proposal.total_price();
        let client = deal.proposal.client.clone();
        let reserved = deal.client.as_mut().is_some_and(|side| std::mem::take(&mut side.funds_reserved));
        if let Some(wallet) = self.wallet_mut(&client).filter(|_wallet| reserved) {
            wallet.reserved -= total;
        }
    }

    fn client_mut(&mut self, cid: &str) -> Option<&mut ClientSide> {
        self.deals.get_mut(cid)?.client.as_mut()
    }

    fn reserve_client_funds(&mut self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let (client, total) = (deal.proposal.client.clone(), deal.proposal.total_price());
        let Some(wallet) = self.wallet_mut(&client) else { return };
        let short = (wallet.reserved + total - (wallet.escrow - wallet.locked)).max(0);
        if short > wallet.balance {
            let balance = wallet.balance;
            let text =
                format!("adding market funds failed: not enough funds: balance {balance}, needed {short}");
            self.client_fail(cid, &text);
            return;
        }
        wallet.balance -= short;
        wallet.escrow += short;
        wallet.reserved += total;
        if let Some(side) = self.client_mut(cid) {
            side.funds_reserved = true;
        }
        let next = if short > 0 { DealState::ClientFunding } else { DealState::FundsReserved };
        self.client_enter(cid, next, "");
    }

    fn send_proposal(&mut self, cid: &str) {
        let limit = self.config.timings.client_send_limit;
        let Some(deal) = self.deals.get(cid) else { return };
        let provider = deal.proposal.provider.as_str().to_owned();
        if self.is_reachable(&provider) {
            self.receive_proposal(cid);
            return;
        }
        let retry = self.config.timings.client_poll.max(Duration::from_millis(1));
        let Some(side) = self.client_mut(cid) else { return };
        let since = *side.sending_since.get_or_insert_with(Instant::now);
        let generation = side.generation;
        if since.elapsed() >= limit {
            self.client_fail(
                cid,
                "sending proposal to storage provider failed: exhausted 15 attempts but failed to open stream",
            );
        } else {
            self.schedule(retry, Event::Client { cid: cid.to_owned(), generation });
        }
    }

    /// Polls the provider of one deal. A deal that is not final stays marked.
    fn poll_provider(&mut self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let (Some(client), Some(provider)) = (deal.client.as_ref(), deal.provider.as_ref()) else { return };
        let (state, seen, deal_id) = (client.state, provider.state, provider.deal_id);
        let told = provider.message.clone();
        let reachable = self.is_reachable(deal.proposal.provider.as_str());
        // If only the provider lost sight of the deal, the client sees it on chain.
        let is_sealed = self.is_sealed_on_chain(deal);
        let is_lost = provider.lost_sight.is_some();
        let has_failed = seen.means_failed() && !is_lost;
        match state {
            DealState::CheckForAcceptance if !reachable => self.client_says(cid, DealState::Unknown),
            DealState::CheckForAcceptance if seen.means_accepted() => {
                self.client_enter(cid, DealState::ProposalAccepted, "");
                self.dirty_clients.insert(cid.to_owned());
            }
            DealState::CheckForAcceptance if seen.means_failed() => {
                self.client_fail(cid, &format!("deal failed: (State={}) {told}", seen.code()));
            }
            DealState::CheckForAcceptance => self.client_says(cid, seen),
            DealState::ProposalAccepted if self.loses_sight(cid, Watcher::Client, LostAt::Publishing) => {
                let text = self.client_lost_sight_text(cid, LostAt::Publishing);
                self.client_fail(cid, &text);
            }
            DealState::ProposalAccepted => {
                self.release_reserved(cid);
                if let Some(side) = self.client_mut(cid) {
                    side.deal_id = deal_id;
                }
                self.client_enter(cid, DealState::AwaitingPreCommit, "");
                self.dirty_clients.insert(cid.to_owned());
            }
            DealState::AwaitingPreCommit if self.loses_sight(cid, Watcher::Client, LostAt::Sealing) => {
                let text = self.client_lost_sight_text(cid, LostAt::Sealing);
                self.client_enter(cid, DealState::Error, &text);
            }
            DealState::AwaitingPreCommit if seen.is_past_precommit() || is_sealed => {
                self.client_enter(cid, DealState::Sealing, "");
                self.dirty_clients.insert(cid.to_owned());
            }
            DealState::AwaitingPreCommit if has_failed => {
                let cause = told.split_once(": ").map_or(told.as_str(), |(_context, cause)| cause);
                self.client_fail(cid, &format!("error waiting for deal pre-commit: {cause}"));
            }
            DealState::Sealing if has_failed => {
                let cause = told.split_once(": ").map_or(told.as_str(), |(_context, cause)| cause);
                self.client_fail(cid, &format!("error in deal activation: {cause}"));
            }
            DealState::Sealing
                if matches!(seen, DealState::Active | DealState::Expired | DealState::Slashed)
                    || (is_sealed && is_lost) =>
            {
                self.client_enter(cid, DealState::Active, "");
                self.dirty_clients.insert(cid.to_owned());
            }
            DealState::Active if matches!(seen, DealState::Expired | DealState::Slashed) => {
                self.client_enter(cid, seen, "");
            }
            _ => {}
        }
    }

    fn client_says(&mut self, cid: &str, seen: DealState) {
        let message = format!("Provider state: {}", seen.name());
        let Some(side) = self.client_mut(cid) else { return };
        if side.message == message {
            return;
        }
        let now = SystemTime::now();
        if let Some(stage) = side.stages.last_mut() {
            stage.updated = now;
            stage.logs.push((message.clone(), now));
        }
        side.message = message;
        // With a listener the poll sends the update.
    }
}
