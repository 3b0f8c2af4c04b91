//! JSON shapes of Boost's answers, with its field names.
//!
//! Only the fields that miner-agent uses are read; releases add others. Sources: boost v1.5.0 and v2.5.2
//! `storagemarket/types/deal_state.go`, `storagemarket/types/types.go`, `dealcheckpoints/checkpoints.go`.

use serde::{Deserialize, Deserializer};

use crate::lotus::wire::CidLink;

/// Answer of `MarketGetAsk`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignedAsk {
    /// The ask.
    pub ask: Ask,
}

/// A storage ask.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ask {
    /// The provider.
    pub miner: String,
}

/// Answer of `BoostOfflineDealWithData`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Verdict {
    /// Whether Boost takes the file. It has read nothing of it.
    pub accepted: bool,
    /// Why not.
    #[serde(default)]
    pub reason: String,
}

/// How far Boost has come with a deal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checkpoint {
    /// The proposal is accepted; the data may be on its way.
    Accepted,
    /// The data is here and is the deal's piece.
    Transferred,
    /// The message that publishes the deal is sent.
    Published,
    /// That message is on chain.
    PublishConfirmed,
    /// The piece is in a sector.
    AddedPiece,
    /// Retrieval is prepared: the last checkpoint of a deal that lives.
    IndexedAndAnnounced,
    /// The deal is over. Boost sets this where a deal has failed only.
    Complete,
    /// Of a release that is not known.
    Unknown,
}

impl Checkpoint {
    /// The name that Boost gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Transferred => "Transferred",
            Self::Published => "Published",
            Self::PublishConfirmed => "PublishConfirmed",
            Self::AddedPiece => "AddedPiece",
            Self::IndexedAndAnnounced => "IndexedAndAnnounced",
            Self::Complete => "Complete",
            Self::Unknown => "Unknown",
        }
    }
}

impl<'de> Deserialize<'de> for Checkpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match i64::deserialize(deserializer)? {
            0 => Self::Accepted,
            1 => Self::Transferred,
            2 => Self::Published,
            3 => Self::PublishConfirmed,
            4 => Self::AddedPiece,
            5 => Self::IndexedAndAnnounced,
            6 => Self::Complete,
            _ => Self::Unknown,
        })
    }
}

/// Whether Boost goes on with a deal after an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// By itself, at its next start at the latest.
    #[default]
    Auto,
    /// When a person, or another import, asks for it.
    Manual,
    /// Never.
    Fatal,
    /// Of a release that is not known.
    #[serde(other)]
    Unknown,
}

/// A deal as Boost keeps it (`ProviderDealState`).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BoostDeal {
    /// The client's name for the deal.
    pub deal_uuid: String,
    /// When Boost stored it, RFC 3339.
    #[serde(default)]
    pub created_at: String,
    /// The proposal with the client's signature.
    pub client_deal_proposal: ClientDealProposal,
    /// Whether its data comes by hand.
    pub is_offline: bool,
    /// The root of its data.
    pub deal_data_root: Option<CidLink>,
    /// The file that was handed over; empty before.
    #[serde(default)]
    pub inbound_file_path: String,
    /// Number on chain; 0 before the deal is published.
    #[serde(rename = "ChainDealID", default)]
    pub chain_deal_id: u64,
    /// How far the deal has come.
    pub checkpoint: Checkpoint,
    /// What went wrong last; empty if nothing did.
    #[serde(default)]
    pub err: String,
    /// Whether Boost goes on after that.
    #[serde(default)]
    pub retry: Retry,
}

/// A proposal with the client's signature.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClientDealProposal {
    /// The proposal.
    pub proposal: Proposal,
}

/// The terms of a deal.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Proposal {
    /// The piece.
    #[serde(rename = "PieceCID")]
    pub piece_cid: Option<CidLink>,
    /// PADDED bytes.
    pub piece_size: u64,
    /// The provider.
    #[serde(default)]
    pub provider: String,
    /// Epoch by which the deal must be sealed.
    pub start_epoch: i64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deal_is_read_with_what_other_releases_add_or_lack() {
        let mut deal = json!({
            "DealUuid": "07070707-0707-0707-0707-070707070707", "CreatedAt": "2026-01-01T00:00:00Z",
            "ClientDealProposal": { "Proposal": {
                "PieceCID": null, "PieceSize": 2048, "Provider": "t01000", "StartEpoch": 10, "EndEpoch": 20,
                "Label": "",
            }, "ClientSignature": { "Type": 2, "Data": "AA==" } },
            "IsOffline": true, "DealDataRoot": null, "InboundFilePath": "/a.car", "ChainDealID": 7,
            "Checkpoint": 4, "Err": "", "Retry": "auto", "ANewField": {},
        });
        let read: BoostDeal = serde_json::from_value(deal.clone()).unwrap();
        assert_eq!((read.checkpoint, read.retry), (Checkpoint::AddedPiece, Retry::Auto));
        assert_eq!((read.chain_deal_id, read.inbound_file_path.as_str()), (7, "/a.car"));
        for (checkpoint, retry) in [(6, "fatal"), (99, "sometimes")] {
            deal["Checkpoint"] = json!(checkpoint);
            deal["Retry"] = json!(retry);
            let read: BoostDeal = serde_json::from_value(deal.clone()).unwrap();
            let known = (read.checkpoint != Checkpoint::Unknown, read.retry != Retry::Unknown);
            assert_eq!(known, (checkpoint == 6, retry == "fatal"));
        }
    }
}
