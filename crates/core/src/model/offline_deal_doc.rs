//! The collection `offlinedeals`: made deals, with their lease, their import and their provider's view.

use bson::DateTime;
use bson::oid::ObjectId;
use serde::{Deserialize, Serialize};

use crate::model::{DealPhase, DealStatus, StatusSource, stored};

/// One document of `offlinedeals`. The first block of fields has the prototype's names and meaning; the
/// second block is newer. Every field may be missing in documents of the prototype.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OfflineDealDoc {
    /// The document's own id.
    #[serde(rename = "_id", skip_serializing_if = "Option::is_none")]
    pub id: Option<ObjectId>,
    /// Payload CID; joins the deal to `cars`.
    #[serde(deserialize_with = "stored::opt_text")]
    pub filecid: Option<String>,
    /// Proposal CID.
    #[serde(deserialize_with = "stored::opt_text")]
    pub dealcid: Option<String>,
    /// Storage provider.
    #[serde(deserialize_with = "stored::opt_miner")]
    pub miner: Option<String>,
    /// FIL per epoch for the whole piece, as in the configuration.
    #[serde(deserialize_with = "stored::opt_text")]
    pub price: Option<String>,
    /// Epochs.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub duration: Option<i64>,
    /// Client wallet.
    #[serde(deserialize_with = "stored::opt_text")]
    pub wallet: Option<String>,
    /// 0: the provider has not imported the data yet; 1: it has.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub isdeal: Option<i64>,
    /// Deal state number.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub status: Option<i64>,
    /// Deal state in words, and the provider's message when there is one.
    #[serde(deserialize_with = "stored::opt_text")]
    pub statusmsg: Option<String>,
    /// The source of that state; `None` in records of earlier versions.
    #[serde(deserialize_with = "StatusSource::opt")]
    pub statusby: Option<StatusSource>,
    /// When the deal was recorded.
    #[serde(deserialize_with = "stored::opt_time")]
    pub createdtime: Option<DateTime>,
    /// When the record last changed.
    #[serde(deserialize_with = "stored::opt_time")]
    pub updatedtime: Option<DateTime>,

    /// Piece CID of the deal.
    #[serde(deserialize_with = "stored::opt_text")]
    pub piececid: Option<String>,
    /// UNPADDED piece size in bytes.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub dealsizebytes: Option<i64>,
    /// Epoch at which the deal starts; the data must be sealed by then.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub startepoch: Option<i64>,
    /// Whether the deal spends datacap.
    #[serde(deserialize_with = "stored::opt_flag")]
    pub verified: Option<bool>,
    /// How it was published: `start` or `stateless`.
    #[serde(deserialize_with = "stored::opt_text")]
    pub method: Option<String>,
    /// The intent it was made from.
    #[serde(deserialize_with = "stored::opt_text")]
    pub intent: Option<String>,
    /// Number on chain, once published.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub dealid: Option<i64>,
    /// Whether miner-agent found the deal at its market, without a record of a client: its CAR is known by
    /// its piece CID alone.
    #[serde(deserialize_with = "stored::opt_flag")]
    pub adopted: Option<bool>,
    /// The lease on the import.
    pub claim: Option<ClaimDoc>,
    /// The state of the import. Written by miner-agent; client-agent writes it only where it reopens a deal.
    pub import: Option<ImportDoc>,
    /// The deal as its provider sees it. Written by miner-agent only.
    pub provider: Option<ProviderViewDoc>,
}

impl OfflineDealDoc {
    /// The recorded state.
    pub fn deal_status(&self) -> Option<DealStatus> {
        self.status.and_then(|status| u64::try_from(status).ok()).map(DealStatus::from_lotus)
    }

    /// `dealcid` as people see it: the prototype stored whole error texts there.
    pub fn shown_dealcid(&self) -> String {
        self.dealcid.as_deref().unwrap_or("without dealcid").chars().take(80).collect()
    }

    /// Whether client-agent found the deal on chain, published or active. A provider publishes a deal only
    /// when it has the data, so the import is done, regardless of the market's later reports.
    pub fn is_on_chain(&self) -> bool {
        let phase = self.deal_status().map(DealStatus::phase);
        self.statusby == Some(StatusSource::Chain)
            && self.dealid.is_some_and(|number| number > 0)
            && matches!(phase, Some(DealPhase::Progressing | DealPhase::Active))
    }
}

/// A lease on one deal; its times are the database server's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimDoc {
    /// The agent that holds it.
    pub owner: String,
    /// When it ends unless renewed.
    pub until: Option<DateTime>,
    /// Fencing number: grows with every claim of this deal.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub n: Option<i64>,
}

/// The state of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportState {
    /// Something is not there yet (the CAR, the proposal at the provider): tried again, no failure.
    #[default]
    Waiting,
    /// The last try failed in a way that may pass: tried again with growing pauses.
    Retrying,
    /// The market was given the data, and has neither confirmed nor refused it yet. Nothing is called, and
    /// no lease is held: the market's own state of the deal decides.
    Handed,
    /// Failed too often: tried again when an operator asks, or a file it waits for arrives.
    SetAside,
    /// Its start epoch can no longer be met. Final.
    Missed,
    /// Will never succeed; an operator may ask for another try.
    Failed,
    /// The provider has the data.
    Done,
    /// Written by a newer agent.
    #[serde(other)]
    Unknown,
}

impl ImportState {
    /// States in which nothing is tried any more, unless an operator or a file that arrives asks for it.
    pub const FINAL: [Self; 3] = [Self::Failed, Self::SetAside, Self::Missed];

    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Handed => "handed",
            Self::SetAside => "setaside",
            Self::Missed => "missed",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::Unknown => "unknown",
        }
    }
}

/// Progress of one deal's import.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportDoc {
    /// Its state.
    pub state: ImportState,
    /// Why, in words.
    #[serde(deserialize_with = "stored::opt_text")]
    pub reason: Option<String>,
    /// Failed tries so far.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub attempts: Option<i64>,
    /// Not tried again before this (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub nexttry: Option<DateTime>,
    /// When the market was given the data (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub handedtime: Option<DateTime>,
    /// PADDED size in bytes of the piece that the market was given.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub handedbytes: Option<i64>,
    /// The CAR that was handed to the provider, as its market process sees it.
    #[serde(deserialize_with = "stored::opt_text")]
    pub path: Option<String>,
    /// When this deal's import call first went out (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub calledtime: Option<DateTime>,
    /// When an import call went out whose answer is not known: it may still be under way (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub pendingcall: Option<DateTime>,
    /// The process that made the call of `pendingcall`.
    #[serde(deserialize_with = "stored::opt_text")]
    pub caller: Option<String>,
    /// Names of files whose arrival makes the deal due.
    pub awaitedfiles: Vec<String>,
    /// Whether a file that was found for the deal is another piece. From then on the piece CID is computed
    /// before a call. Missing in older documents, where `reason` contains it.
    #[serde(deserialize_with = "stored::opt_flag")]
    pub piecemismatch: Option<bool>,
    /// How often the deal was reopened because `isdeal` was wrongly 1.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub putback: Option<i64>,
    /// When the import was seen to have taken effect (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub importedtime: Option<DateTime>,
}

/// The provider's view of a deal.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderViewDoc {
    /// State number at the provider.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub status: Option<i64>,
    /// Its name.
    #[serde(deserialize_with = "stored::opt_text")]
    pub statusname: Option<String>,
    /// The provider's message.
    #[serde(deserialize_with = "stored::opt_text")]
    pub message: Option<String>,
    /// Number on chain as the provider knows it.
    #[serde(deserialize_with = "stored::opt_integer")]
    pub dealid: Option<i64>,
    /// When this was last seen to change (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub updatedtime: Option<DateTime>,
}

impl ProviderViewDoc {
    /// The recorded state; `None` where none is recorded, or a number that is no state.
    pub fn deal_status(&self) -> Option<DealStatus> {
        self.status.and_then(|status| u64::try_from(status).ok()).map(DealStatus::from_lotus)
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn only_the_chain_proves_an_import_and_no_source_makes_a_record_unreadable() {
        for (source, status, number, proves) in [
            (bson::Bson::from("chain"), 29, 42, true),
            ("chain".into(), 7, 42, true),
            ("chain".into(), 26, 42, false),
            ("chain".into(), 7, 0, false),
            ("node".into(), 7, 42, false),
            ("provider".into(), 7, 42, false),
            (doc! { "some": "thing" }.into(), 7, 42, false),
            (7.into(), 7, 42, false),
        ] {
            let record = doc! { "statusby": source, "status": status, "dealid": number };
            let deal: OfflineDealDoc = bson::deserialize_from_document(record.clone()).unwrap();
            assert_eq!(deal.is_on_chain(), proves, "{record}");
        }
    }
}
