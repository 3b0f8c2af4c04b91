//! The record of one deal at the provider, and its JSON.
//!
//! Source: boost v2.5.2 `storagemarket/types/deal_state.go` and `db/deals.go`. `NBytesReceived` and
//! `Transfer.ClientID` are no columns of the database, so they always read as zero and as empty.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};

use crate::proposal::Terms;
use crate::version::BoostVersion;

/// How far a deal has come. `Complete` is set on failure only; a good deal rests at `IndexedAndAnnounced`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Checkpoint {
    /// 0: the proposal is accepted; the data may be on its way.
    Accepted,
    /// 1: the commitment agrees.
    Transferred,
    /// 2: the publish message is sent.
    Published,
    /// 3: the publish message is on chain.
    PublishConfirmed,
    /// 4: the piece is in a sector.
    AddedPiece,
    /// 5: the piece is indexed.
    IndexedAndAnnounced,
    /// 6: the deal has failed.
    Complete,
}

impl Checkpoint {
    pub(crate) const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Transferred,
        Self::Published,
        Self::PublishConfirmed,
        Self::AddedPiece,
        Self::IndexedAndAnnounced,
        Self::Complete,
    ];

    /// Its number on the wire.
    pub fn number(self) -> usize {
        Self::ALL.iter().position(|checkpoint| *checkpoint == self).unwrap_or_default()
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Transferred => "Transferred",
            Self::Published => "Published",
            Self::PublishConfirmed => "PublishConfirmed",
            Self::AddedPiece => "AddedPiece",
            Self::IndexedAndAnnounced => "IndexedAndAnnounced",
            Self::Complete => "Complete",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|checkpoint| checkpoint.name() == name)
    }
}

/// Whether a deal that stopped goes on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// When boostd starts.
    Auto,
    /// When a person asks for it, or imports again.
    Manual,
    /// Never.
    Fatal,
}

impl Retry {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
            Self::Fatal => "fatal",
        }
    }
}

/// Place of a piece in a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub struct SectorPlace {
    /// Number of the sector.
    pub sector: u64,
    /// Offset in padded bytes.
    pub offset: u64,
    /// Length in padded bytes; zero before `AddedPiece`.
    pub length: u64,
}

/// The record of a deal. Copies of it are cheap: a deal's thread works on its own.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent columns, as in Boost's own table")]
pub(crate) struct Record {
    pub(crate) index: usize,
    pub(crate) terms: Arc<Terms>,
    pub(crate) created_at: SystemTime,
    pub(crate) is_offline: bool,
    pub(crate) cleanup_data: bool,
    pub(crate) fast_retrieval: bool,
    pub(crate) announce: bool,
    pub(crate) client_peer: ClientPeer,
    pub(crate) inbound_file_path: String,
    pub(crate) chain_deal_id: u64,
    pub(crate) publish_cid: Option<String>,
    pub(crate) place: SectorPlace,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) checkpoint_at: SystemTime,
    pub(crate) err: String,
    pub(crate) retry: Retry,
}

/// Peer ID of the client that proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientPeer {
    /// A client over libp2p.
    Libp2p,
    /// `BoostDummyDeal`: the record cannot be read back.
    Dummy,
}

/// Why the row of a dummy deal cannot be read: Boost stores `dummy` in base58 and takes it for a CID.
pub(crate) const DUMMY_PEER: &str = "unmarshalling db field ClientPeerID: parsing peer ID from string 'CLNFK4c': failed \
                                     to parse peer ID: invalid cid: illegal base32 data at input byte 0";

impl Record {
    pub(crate) fn uuid(&self) -> &str {
        &self.terms.names.uuid
    }

    /// `ProviderDealState` as this release shows it.
    pub(crate) fn json(&self, version: BoostVersion, network_prefix: char) -> Value {
        let mut value = self.plain_columns();
        value["ClientDealProposal"] = self.terms.json(network_prefix);
        value["ClientPeerID"] = json!(client_peer_id());
        value["DealDataRoot"] = json!({ "/": self.terms.payload_cid });
        value["PublishCID"] = self.publish_cid.as_ref().map_or(Value::Null, |cid| json!({ "/": cid }));
        value["Checkpoint"] = json!(self.checkpoint.number());
        for_version(value, version)
    }

    /// The record as Boost shows it when a column does not decode: Go decodes the columns in random order and
    /// stops at the first error; here no column of a type of its own was decoded.
    pub(crate) fn half_read_json(&self, version: BoostVersion) -> Value {
        for_version(self.plain_columns(), version)
    }

    /// Columns that need no decoding, and zero values of all others.
    fn plain_columns(&self) -> Value {
        let mut value = zero_record();
        value["DealUuid"] = json!(self.uuid());
        value["CreatedAt"] = json!(go_time(self.created_at));
        let proposal = &mut value["ClientDealProposal"]["Proposal"];
        proposal["PieceSize"] = json!(self.terms.piece_size.get());
        proposal["VerifiedDeal"] = json!(self.terms.verified);
        proposal["StartEpoch"] = json!(self.terms.start_epoch);
        proposal["EndEpoch"] = json!(self.terms.end_epoch);
        value["IsOffline"] = json!(self.is_offline);
        value["CleanupData"] = json!(self.cleanup_data);
        value["InboundFilePath"] = json!(self.inbound_file_path);
        value["Transfer"]["Type"] = json!(if self.is_offline { "manual" } else { "http" });
        value["Transfer"]["Size"] = json!(self.terms.car_size);
        value["ChainDealID"] = json!(self.chain_deal_id);
        value["SectorID"] = json!(self.place.sector);
        value["Offset"] = json!(self.place.offset);
        value["Length"] = json!(self.place.length);
        value["CheckpointAt"] = json!(go_time(self.checkpoint_at));
        value["Err"] = json!(self.err);
        value["Retry"] = json!(self.retry.name());
        value["FastRetrieval"] = json!(self.fast_retrieval);
        value["AnnounceToIPNI"] = json!(self.announce);
        value
    }
}

/// The zero `ProviderDealState`, which answers a lookup whose row cannot be read: boost v1.5.0 to v2.5.2
/// `db/deals.go` return a pointer beside the error, and `storagemarket/provider.go` drops the error.
pub(crate) fn unread_json(version: BoostVersion) -> Value {
    for_version(zero_record(), version)
}

fn zero_record() -> Value {
    const NO_TIME: &str = "0001-01-01T00:00:00Z";
    json!({
        "DealUuid": "00000000-0000-0000-0000-000000000000",
        "CreatedAt": NO_TIME,
        "ClientDealProposal": {
            "Proposal": {
                "PieceCID": null, "PieceSize": 0, "VerifiedDeal": false, "Client": "<empty>",
                "Provider": "<empty>", "Label": "", "StartEpoch": 0, "EndEpoch": 0,
                "StoragePricePerEpoch": "0", "ProviderCollateral": "0", "ClientCollateral": "0",
            },
            "ClientSignature": { "Type": 0, "Data": null },
        },
        "IsOffline": false, "CleanupData": false, "ClientPeerID": "", "DealDataRoot": null,
        "InboundFilePath": "",
        "Transfer": { "Type": "", "ClientID": "", "Params": null, "Size": 0 },
        "ChainDealID": 0, "PublishCID": null, "SectorID": 0, "Offset": 0, "Length": 0,
        "Checkpoint": 0, "CheckpointAt": NO_TIME, "Err": "", "Retry": "", "NBytesReceived": 0,
        "FastRetrieval": false, "AnnounceToIPNI": false,
    })
}

/// Removes fields that a release does not have.
fn for_version(mut value: Value, version: BoostVersion) -> Value {
    if let Some(fields) = value.as_object_mut() {
        if !version.deletes_after_import() {
            fields.remove("CleanupData");
        }
        if !version.retries_wrong_piece() {
            fields.remove("FastRetrieval");
            fields.remove("AnnounceToIPNI");
        }
    }
    value
}

/// Peer ID of every client that proposes here.
pub(crate) fn client_peer_id() -> String {
    lotus_sim::peer_id("boost-sim client")
}

/// A time as Go's JSON has it.
pub(crate) fn go_time(time: SystemTime) -> String {
    lotus_sim::rfc3339(time, 0)
}

/// A time as Go prints it with `%s`: `2026-05-20 10:00:00.5 +0000 UTC`.
pub(crate) fn go_time_text(time: SystemTime) -> String {
    go_time(time).replacen('T', " ", 1).replace('Z', " +0000 UTC")
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
