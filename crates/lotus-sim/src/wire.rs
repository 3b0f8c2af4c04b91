//! JSON of the answers, field by field from the contract's §1.3.
//!
//! What lives here: `DealInfo`, `MinerDeal`, on-chain deals, asks, miner infos. What does not: the calls that
//! return them. Sizes: `PieceSize` inside a proposal is padded, `Size` and `DataRef.PieceSize` are not.

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::config::{LotusVersion, MinerConfig};
use crate::ids::{cid_json, peer_id, rfc3339};
use crate::lost_sight::LostAt;
use crate::world::{ChainDeal, ClientSide, Deal, Miner, ProviderSide, World};

/// Whether a `DealInfo` has its stages: lists leave them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stages {
    Shown,
    Null,
}

impl World {
    /// `DealInfo` of a deal that the client tracks.
    pub(crate) fn deal_info(&self, deal: &Deal, side: &ClientSide, stages: Stages) -> Value {
        let proposal = &deal.proposal;
        let mut info = json!({
            "ProposalCid": { "/": deal.cid },
            "State": side.state.code(),
            "Message": side.message,
            "Provider": proposal.provider.print(self.config.network_prefix),
            "DataRef": proposal.data_ref(),
            "PieceCID": cid_json(&proposal.piece_cid),
            "Size": proposal.unpadded_piece_size,
            "PricePerEpoch": proposal.epoch_price.to_string(),
            "Duration": proposal.end_epoch - proposal.start_epoch,
            "DealID": side.deal_id,
            "CreationTime": self.time(deal.created),
            "Verified": proposal.verified,
            "TransferChannelID": null,
            "DataTransfer": null,
        });
        if self.config.version >= LotusVersion::V1_11 {
            info["DealStages"] = match stages {
                Stages::Null => Value::Null,
                Stages::Shown => self.deal_stages(side),
            };
        }
        info
    }

    fn deal_stages(&self, side: &ClientSide) -> Value {
        let log = |(text, at): &(String, std::time::SystemTime)| json!({ "Log": text, "UpdatedTime": self.time(*at) });
        let stage = |stage: &crate::world::Stage| {
            json!({
                "Name": stage.state.name(),
                "Description": stage.state.description(),
                "ExpectedDuration": if stage.state == crate::DealState::ReserveClientFunds { "a few minutes" } else { "" },
                "CreatedTime": self.time(stage.created),
                "UpdatedTime": self.time(stage.updated),
                "Logs": stage.logs.iter().map(log).collect::<Vec<_>>(),
            })
        };
        json!({ "Stages": side.stages.iter().map(stage).collect::<Vec<_>>() })
    }

    /// `MinerDeal`: the signed proposal is flattened into it.
    pub(crate) fn miner_deal(&self, deal: &Deal, side: &ProviderSide, miner: &Miner) -> Value {
        let mut value = json!({
            "Proposal": self.proposal_json(deal),
            "ClientSignature": signature(deal),
            "ProposalCid": { "/": deal.cid },
            "AddFundsCid": null,
            "PublishCid": side.publish_cid.as_ref().map(|cid| json!({ "/": cid })),
            "Miner": miner.config.peer_id,
            "Client": client_peer_id(),
            "State": side.state.code(),
            "PiecePath": side.piece_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "MetadataPath": "",
            "SlashEpoch": side.slash_epoch,
            "FastRetrieval": deal.proposal.fast_retrieval,
            "Message": side.message,
            "FundsReserved": "0",
            "Ref": deal.proposal.data_ref(),
            "AvailableForRetrieval": side.state == crate::DealState::Active,
            "DealID": if side.lost_sight == Some(LostAt::Publishing) { 0 } else { side.deal_id },
            "CreationTime": self.time(side.created),
            "TransferChannelId": null,
            "SectorNumber": side.sector,
        });
        if self.config.version == LotusVersion::V1_5 {
            value["StoreID"] = Value::Null;
        } else {
            value["InboundCAR"] = json!("");
        }
        value
    }

    /// `DealProposal` as signed.
    pub(crate) fn proposal_json(&self, deal: &Deal) -> Value {
        let proposal = &deal.proposal;
        json!({
            "PieceCID": cid_json(&proposal.piece_cid),
            "PieceSize": proposal.padded_piece_size,
            "VerifiedDeal": proposal.verified,
            "Client": proposal.client.print(self.config.network_prefix),
            "Provider": proposal.provider.print(self.config.network_prefix),
            "Label": proposal.label,
            "StartEpoch": proposal.start_epoch,
            "EndEpoch": proposal.end_epoch,
            "StoragePricePerEpoch": proposal.epoch_price.to_string(),
            "ProviderCollateral": proposal.provider_collateral.to_string(),
            "ClientCollateral": "0",
        })
    }

    /// `MarketDeal`: a deal on chain, in which the client is an ID address.
    pub(crate) fn market_deal(&self, deal: &Deal, chain: &ChainDeal) -> Value {
        let mut proposal = self.proposal_json(deal);
        if let Some(wallet) = self.wallet(&deal.proposal.client) {
            proposal["Client"] = json!(wallet.id.print(self.config.network_prefix));
        }
        let mut state = json!({
            "SectorStartEpoch": chain.sector_start,
            "LastUpdatedEpoch": chain.sector_start,
            "SlashEpoch": chain.slash_epoch,
        });
        if self.config.version >= LotusVersion::V1_23 {
            state["VerifiedClaim"] = json!(0);
        }
        json!({ "Proposal": proposal, "State": state })
    }

    /// `StorageAsk`.
    pub(crate) fn storage_ask(&self, miner: &Miner) -> Value {
        let ask = &miner.config.ask;
        json!({
            "Price": ask.price.to_string(),
            "VerifiedPrice": ask.verified_price.to_string(),
            "MinPieceSize": ask.min_piece_size,
            "MaxPieceSize": ask.max_piece_size.unwrap_or(miner.config.sector_size),
            "Miner": miner.address.print(self.config.network_prefix),
            "Timestamp": self.config.start_epoch,
            "Expiry": self.config.start_epoch + 1_000_000,
            "SeqNo": 3,
        })
    }

    /// `MinerInfo`.
    pub(crate) fn miner_info(&self, miner: &Miner) -> Value {
        let number: u64 = miner.address.as_str()[2..].parse().unwrap_or(0);
        let prefix = self.config.network_prefix;
        let key = |offset: u64| format!("{prefix}0{}", number.wrapping_add(100_000 + offset));
        let mut info = json!({
            "Owner": key(0),
            "Worker": key(1),
            "NewWorker": "<empty>",
            "ControlAddresses": miner.config.has_addresses.then(|| [key(2)]),
            "WorkerChangeEpoch": -1,
            "PeerId": miner.config.peer_id,
            "Multiaddrs": miner.config.has_addresses.then_some(["BH8AAAEGBNI="]),
            "WindowPoStProofType": proof_type(&miner.config),
            "SectorSize": miner.config.sector_size,
            "WindowPoStPartitionSectors": 2349,
            "ConsensusFaultElapsed": -1,
        });
        if self.config.version >= LotusVersion::V1_23 {
            info["PendingOwnerAddress"] = Value::Null;
            info["Beneficiary"] = json!(key(0));
            info["BeneficiaryTerm"] = json!({ "Quota": "0", "UsedQuota": "0", "Expiration": 0 });
            info["PendingBeneficiaryTerm"] = Value::Null;
        }
        info
    }

    pub(crate) fn time(&self, time: std::time::SystemTime) -> String {
        rfc3339(time, self.config.utc_offset_minutes)
    }

    /// Sends a deal's update to the listeners of `ClientGetDealUpdates`.
    pub(crate) fn emit_client(&self, cid: &str) {
        if self.client_updates.receiver_count() == 0 {
            return;
        }
        let Some(deal) = self.deals.get(cid) else { return };
        if let Some(side) = deal.client.as_ref() {
            let text = self.deal_info(deal, side, Stages::Shown).to_string();
            self.client_updates.send(text.into()).ok();
        }
    }

    /// Sends a deal's update to the listeners of `MarketGetDealUpdates`.
    pub(crate) fn emit_provider(&self, cid: &str) {
        let Some(deal) = self.deals.get(cid) else { return };
        let Some(miner) = self.miners.get(deal.proposal.provider.as_str()) else { return };
        if miner.updates.receiver_count() == 0 {
            return;
        }
        if let Some(side) = deal.provider.as_ref() {
            miner.updates.send(self.miner_deal(deal, side, miner).to_string().into()).ok();
        }
    }
}

/// Placeholder of the client's signature.
pub(crate) fn signature(deal: &Deal) -> Value {
    let kind = if deal.proposal.client.protocol() == '3' { 2 } else { 1 };
    json!({ "Type": kind, "Data": BASE64.encode(&deal.proposal.signature()) })
}

/// The full node's peer id.
pub(crate) fn client_peer_id() -> String {
    peer_id("lotus-sim full node")
}

/// Window proof types by sector size (go-state-types `abi/sector.go`).
fn proof_type(miner: &MinerConfig) -> u64 {
    match miner.sector_size {
        2048 => 5,
        0x80_0000 => 6,
        0x2000_0000 => 7,
        0x10_0000_0000 => 9,
        _ => 8,
    }
}
