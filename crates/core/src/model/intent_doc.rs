//! The collection `dealintents`: proposals that are about to be made, with every parameter of the deal.
//!
//! An intent is written before the node is called. It counts as a replica until the deal is in `offlinedeals`
//! (`confirmed`) or is known not to exist (`refused`, `abandoned`). After a crash the same call with the same
//! parameters gives the same proposal CID, or the node's "already tracking" error that names it
//! (lotus-contract §2.4).

use bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::model::{AttoFil, DealDuration, DealStatus, Refusal, StatusSource, stored};

/// Where an intent stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentState {
    /// Written; the node may or may not have been called.
    #[default]
    Intended,
    /// The deal is in `offlinedeals`.
    Confirmed,
    /// The node refused it before making a deal.
    Refused,
    /// Too late to be made, and the node does not know it.
    Abandoned,
}

impl IntentState {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Confirmed => "confirmed",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The node's call that makes the deal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMethod {
    /// `ClientStartDeal`: the node keeps the deal and follows it.
    #[default]
    Start,
    /// `ClientStatelessDeal`: price 0 only; the node forgets the deal, it is followed on chain.
    Stateless,
}

impl PublishMethod {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stateless => "stateless",
        }
    }
}

/// One document of `dealintents`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntentDoc {
    /// `<payload CID>#<number>`: see [`crate::model::IntentId`].
    #[serde(rename = "_id")]
    pub id: String,
    /// Payload CID.
    pub filecid: String,
    /// Storage provider.
    #[serde(deserialize_with = "stored::miner")]
    pub miner: String,
    /// Client wallet.
    pub wallet: String,
    /// Piece CID.
    pub piececid: String,
    /// UNPADDED piece size in bytes.
    pub dealsizebytes: i64,
    /// The CAR on the data-prep box.
    pub carpath: String,
    /// attoFIL per epoch for the whole piece, decimal.
    pub priceattofil: String,
    /// Epochs, as asked (the node lengthens it to a proving period).
    pub duration: i64,
    /// Explicit start epoch.
    pub startepoch: i64,
    /// Explicit provider collateral in attoFIL, decimal.
    pub providercollateral: String,
    /// Whether the deal spends datacap.
    pub verified: bool,
    /// Whether the provider is asked to keep an unsealed copy.
    pub fastretrieval: bool,
    /// Which call makes it.
    pub method: PublishMethod,
    /// The agent that wrote it.
    pub owner: String,
    /// Where it stands.
    pub state: IntentState,
    /// Proposal CID, once known.
    #[serde(default)]
    pub dealcid: Option<String>,
    /// The deal's state as client-agent last recorded it: beside `offlinedeals.status`, where providers can
    /// write.
    #[serde(default, deserialize_with = "stored::opt_integer")]
    pub dealstatus: Option<i64>,
    /// The source of that state; `None` in records of earlier versions.
    #[serde(default, deserialize_with = "StatusSource::opt")]
    pub dealstatusby: Option<StatusSource>,
    /// Since when the provider alone reports the deal as ended (server time).
    #[serde(default, deserialize_with = "stored::opt_time")]
    pub endseen: Option<DateTime>,
    /// The deal's number on chain, from the client's node or from client-agent's own lookup of this deal.
    #[serde(default, deserialize_with = "stored::opt_integer")]
    pub dealid: Option<i64>,
    /// Why it was refused or abandoned; for an open intent, why its last call had no definite answer.
    #[serde(default)]
    pub reason: Option<String>,
    /// How many calls in a row had no definite answer, apart from the node's own failures. Absent: none.
    #[serde(default, deserialize_with = "stored::opt_integer", skip_serializing_if = "Option::is_none")]
    pub tries: Option<i64>,
    /// When the next call is due (server time). Absent: at once.
    #[serde(default, deserialize_with = "stored::opt_time", skip_serializing_if = "Option::is_none")]
    pub nexttry: Option<DateTime>,
    /// The class of the refusal, or of the deal's failure; absent where there was none, and in older
    /// documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// When an operator asked that the refusal or failure be forgotten (server time).
    #[serde(default, deserialize_with = "stored::opt_time", skip_serializing_if = "Option::is_none")]
    pub failurecleared: Option<DateTime>,
    /// Epochs from the proposal to its start, as the settings had it; absent in older documents.
    #[serde(default, deserialize_with = "stored::opt_integer", skip_serializing_if = "Option::is_none")]
    pub startdelay: Option<i64>,
    /// The collateral as the settings had it: `auto`, or attoFIL, decimal; absent in older documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateralsetting: Option<String>,
    /// When it was written (server time).
    #[serde(default, deserialize_with = "stored::opt_time")]
    pub createdtime: Option<DateTime>,
    /// When it last changed (server time).
    #[serde(default, deserialize_with = "stored::opt_time")]
    pub updatedtime: Option<DateTime>,
}

impl IntentDoc {
    /// The deal's state as client-agent last recorded it.
    pub fn status(&self) -> Option<DealStatus> {
        self.dealstatus.and_then(|status| u64::try_from(status).ok()).map(DealStatus::from_lotus)
    }

    /// What its deal costs at most.
    pub fn cost_max(&self) -> AttoFil {
        let price = AttoFil::from_lotus(&self.priceattofil).unwrap_or_default();
        DealDuration::from_stored(self.duration).cost_max(price)
    }

    /// The class of its refusal. Documents without the field are classified by their text.
    pub fn refusal_class(&self) -> Refusal {
        self.refusal.unwrap_or_else(|| self.reason.as_deref().map_or(Refusal::Deal, Refusal::of_words))
    }
}
