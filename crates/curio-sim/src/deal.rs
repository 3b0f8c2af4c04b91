//! One mk12 deal and its row in the pipeline.

use serde::Serialize;

/// How far a deal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No locator had its data yet. It never expires.
    Waiting,
    /// URL and size are frozen; its piece CID is to be computed.
    Started,
    /// Its piece CID failed three times: nothing happens any more.
    Hanging,
    /// It is on chain; its sector is to be built.
    Published,
    /// Its sector is sealed; its row in the pipeline is gone.
    Sealed,
    /// Its sector was given up.
    SectorFailed,
}

/// A deal.
#[derive(Clone, Debug, Serialize)]
pub struct Deal {
    /// UUID.
    pub uuid: String,
    /// The miner's address.
    pub miner: String,
    /// Piece CID, version 1.
    pub piece_cid: String,
    /// PADDED bytes.
    pub piece_size: u64,
    /// Epoch at which it starts.
    pub start_epoch: i64,
    /// How far it is.
    pub state: State,
    /// Where its data is read from, frozen by the first HEAD that was answered.
    pub url: Option<String>,
    /// The headers that go with it.
    #[serde(skip)]
    pub headers: Vec<(String, String)>,
    /// Bytes of its data, frozen with the URL.
    pub raw_size: Option<u64>,
    /// Failures of the task that runs now.
    pub failures: u32,
    /// What the tasks said when they failed, in order.
    pub history: Vec<String>,
    /// Its sector, once it has one.
    pub sector: Option<i64>,
}

impl Deal {
    /// Whether its row stands in the pipeline.
    pub fn is_in_pipeline(&self) -> bool {
        self.state != State::Sealed
    }
}
