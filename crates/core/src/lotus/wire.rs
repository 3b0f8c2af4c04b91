//! JSON shapes of the calls that the agents make, with Lotus' field names.
//!
//! Only the fields that the agents use are read; Lotus adds others between versions. Sources: lotus v1.5.0
//! `api/api_full.go`, v1.23.3 `api/types.go`, go-fil-markets v1.1.9 and v1.28.3 `storagemarket/types.go`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::rpc::go_values::{BigInt, EachEntry, null_is_empty, read_each_by};

/// A CID: `{"/": "bafy…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidLink {
    /// The CID's text.
    #[serde(rename = "/")]
    pub cid: String,
}

impl CidLink {
    /// A link to this CID.
    pub fn new(cid: impl Into<String>) -> Self {
        Self { cid: cid.into() }
    }
}

/// Answer of `Version`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    /// For example `1.23.3+mainnet+git.7bb1f98ac`.
    pub version: String,
    /// Seconds an epoch takes on the node's network; 0 where the node does not say.
    #[serde(default)]
    pub block_delay: u64,
}

/// Answer of `ChainHead`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TipSet {
    /// Epoch.
    pub height: i64,
    /// Headers; one to a few.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub blocks: Vec<BlockHeader>,
}

/// A block header.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockHeader {
    /// Unix seconds.
    #[serde(default)]
    pub timestamp: i64,
}

/// How the data of a deal gets to the provider (`DataRef`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DataRef {
    /// `manual` for offline deals.
    pub transfer_type: String,
    /// Payload CID.
    pub root: CidLink,
    /// Piece CID.
    pub piece_cid: Option<CidLink>,
    /// UNPADDED piece size.
    pub piece_size: u64,
    /// Unused for manual deals; sent as 0 as the command line does.
    #[serde(default)]
    pub raw_block_size: u64,
}

/// Parameter of `ClientStartDeal` and `ClientStatelessDeal`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StartDealParams {
    /// What is stored.
    pub data: DataRef,
    /// Who pays.
    pub wallet: String,
    /// Who stores.
    pub miner: String,
    /// attoFIL per epoch for the whole piece.
    pub epoch_price: String,
    /// Epochs.
    pub min_blocks_duration: i64,
    /// attoFIL.
    pub provider_collateral: String,
    /// Never -1: with an explicit epoch a repeated call makes the same deal.
    pub deal_start_epoch: i64,
    /// Whether the provider keeps an unsealed copy.
    pub fast_retrieval: bool,
    /// Whether it spends datacap.
    pub verified_deal: bool,
}

/// A deal as the client's node sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DealInfo {
    /// The deal's key.
    pub proposal_cid: CidLink,
    /// State number.
    pub state: u64,
    /// State's message, for example `Provider state: StorageDealWaitingForData`.
    #[serde(default)]
    pub message: String,
    /// Storage provider.
    pub provider: String,
    /// What is stored.
    pub data_ref: Option<DataRef>,
    /// Piece CID.
    #[serde(rename = "PieceCID")]
    pub piece_cid: Option<CidLink>,
    /// attoFIL per epoch.
    #[serde(default)]
    pub price_per_epoch: String,
    /// End minus start epoch.
    #[serde(default)]
    pub duration: i64,
    /// 0 until published.
    #[serde(default, rename = "DealID")]
    pub deal_id: u64,
    /// RFC 3339 with the node's zone.
    #[serde(default)]
    pub creation_time: String,
    /// Whether it spends datacap.
    #[serde(default)]
    pub verified: bool,
}

/// The fields of a `ClientListDeals` entry that tracking needs: a node lists every deal it ever made.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DealState {
    /// The deal's key.
    pub proposal_cid: CidLink,
    /// State number.
    pub state: u64,
    /// State's message, for example `Provider state: StorageDealWaitingForData`.
    #[serde(default)]
    pub message: String,
    /// 0 until published.
    #[serde(default, rename = "DealID")]
    pub deal_id: u64,
}

/// An entry of `ClientListDeals`: its state, and all fields if its payload was asked for.
#[derive(Clone, Debug)]
pub struct ListedDeal {
    /// The fields that tracking needs.
    pub state: DealState,
    /// All fields, if its payload was asked for.
    pub info: Option<Box<DealInfo>>,
}

/// What a deal is of.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DealSource {
    data_ref: Option<DataRef>,
}

/// Reads `ClientListDeals`.
pub(super) fn read_deals(
    text: &str,
    payloads: &HashSet<String>,
) -> serde_json::Result<EachEntry<ListedDeal>> {
    read_each_by(text, |entry| {
        let state = serde_json::from_str(entry)?;
        let is_asked_for = || {
            let source = serde_json::from_str::<DealSource>(entry).ok();
            source
                .and_then(|source| source.data_ref)
                .is_some_and(|data| payloads.contains(data.root.cid.as_str()))
        };
        let info =
            if !payloads.is_empty() && is_asked_for() { serde_json::from_str(entry).ok() } else { None };
        Ok(ListedDeal { state, info })
    })
}

/// Answer of `StateMinerInfo`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerInfo {
    /// libp2p peer; a node panics when it is missing.
    pub peer_id: Option<String>,
    /// Bytes.
    pub sector_size: u64,
}

/// A provider's ask.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StorageAsk {
    /// attoFIL per GiB per epoch.
    pub price: String,
    /// The same for verified deals.
    pub verified_price: String,
    /// PADDED bytes.
    pub min_piece_size: u64,
    /// PADDED bytes.
    pub max_piece_size: u64,
}

/// Answer of `StateMarketBalance`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MarketBalance {
    /// attoFIL in escrow.
    pub escrow: BigInt,
    /// attoFIL of it that is locked.
    pub locked: BigInt,
}

/// Answer of `StateDealProviderCollateralBounds`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CollateralBounds {
    /// attoFIL.
    pub min: String,
    /// attoFIL.
    pub max: String,
}

/// One entry of `ClientListImports`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImportEntry {
    /// Root of the import.
    pub root: Option<CidLink>,
}

/// Answer of `StateMarketStorageDeal`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MarketDeal {
    /// What was agreed.
    pub proposal: DealProposal,
    /// What happened on chain.
    pub state: MarketDealState,
}

/// On-chain state of a deal.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MarketDealState {
    /// -1 until active.
    pub sector_start_epoch: i64,
    /// -1 unless slashed.
    pub slash_epoch: i64,
}

/// What client and provider sign.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DealProposal {
    /// Piece CID.
    #[serde(rename = "PieceCID")]
    pub piece_cid: Option<CidLink>,
    /// PADDED bytes.
    pub piece_size: u64,
    /// Storage provider.
    pub provider: String,
    /// Epoch by which the deal must be sealed.
    pub start_epoch: i64,
    /// Epoch at which it ends.
    pub end_epoch: i64,
}

/// A deal as its provider sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerDeal {
    /// What was agreed.
    pub proposal: DealProposal,
    /// The deal's key.
    pub proposal_cid: CidLink,
    /// State number.
    pub state: u64,
    /// Why it failed, where it did.
    #[serde(default)]
    pub message: String,
    /// 0 until published.
    #[serde(default, rename = "DealID")]
    pub deal_id: u64,
    /// When the proposal reached the provider, by the provider's clock: RFC 3339.
    #[serde(default)]
    pub creation_time: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::go_values::{List, read_each};

    #[test]
    fn start_deal_params_are_written_as_the_command_line_writes_them() {
        let params = StartDealParams {
            data: DataRef {
                transfer_type: "manual".into(),
                root: CidLink::new("bafykroot"),
                piece_cid: Some(CidLink::new("bagapiece")),
                piece_size: 34_091_302_912,
                raw_block_size: 0,
            },
            wallet: "f1wallet".into(),
            miner: "f01234".into(),
            epoch_price: "0".into(),
            min_blocks_duration: 518_400,
            provider_collateral: "0".into(),
            deal_start_epoch: 993_237,
            fast_retrieval: true,
            verified_deal: false,
        };
        // lotus-contract §1.3: field names and units as v1.5.0 and v1.23.3 both take them.
        assert_eq!(
            serde_json::to_value(&params).unwrap(),
            serde_json::json!({
                "Data": {
                    "TransferType": "manual",
                    "Root": {"/": "bafykroot"},
                    "PieceCid": {"/": "bagapiece"},
                    "PieceSize": 34_091_302_912_u64,
                    "RawBlockSize": 0
                },
                "Wallet": "f1wallet",
                "Miner": "f01234",
                "EpochPrice": "0",
                "MinBlocksDuration": 518_400,
                "ProviderCollateral": "0",
                "DealStartEpoch": 993_237,
                "FastRetrieval": true,
                "VerifiedDeal": false
            })
        );
    }

    #[test]
    fn an_amount_that_cannot_be_read_is_not_taken_for_nothing() {
        let read = |text: &str| serde_json::from_str::<MarketBalance>(text);
        let balance = read(r#"{"Escrow":"633294600000000","Locked":"0"}"#).unwrap();
        assert_eq!((balance.escrow, balance.locked), (BigInt(633_294_600_000_000), BigInt(0)));
        for bad in
            [r#"{"Escrow":"","Locked":"0"}"#, r#"{"Escrow":"1 FIL","Locked":"0"}"#, r#"{"Escrow":"1"}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_entry_that_cannot_be_read_stops_only_itself() {
        let deal = |cid: &str| {
            serde_json::json!({
                "Proposal": {"PieceCID": null, "PieceSize": 128, "Provider": "f01", "StartEpoch": 9, "EndEpoch": 10},
                "ProposalCid": {"/": cid}, "State": 18,
            })
        };
        let (mut without_cid, mut other_state) = (deal("c"), deal("d"));
        without_cid["ProposalCid"] = serde_json::Value::Null;
        other_state["State"] = "sealing".into();
        let odd = [deal("a"), serde_json::Value::Null, without_cid, other_state, deal("b"), 7.into()];
        for (list, read, unreadable) in [
            (serde_json::Value::Null, vec![], 0),
            (vec![deal("a"), deal("b")].into(), vec!["a", "b"], 0),
            (odd.to_vec().into(), vec!["a", "b"], 4),
        ] {
            let each = read_each::<MinerDeal>(&list.to_string()).unwrap();
            let cids: Vec<_> = each.entries.iter().map(|deal| deal.proposal_cid.cid.as_str()).collect();
            assert_eq!((cids, each.unreadable), (read, unreadable), "{list}");
            assert_eq!(each.problem.is_some(), unreadable > 0);
        }
        read_each::<MinerDeal>("{}").unwrap_err();
    }

    #[test]
    fn a_list_may_be_null() {
        assert!(serde_json::from_str::<List<MinerDeal>>("null").unwrap().0.is_empty());
    }
}
