//! Configuration of a simulator: Boost release, provider, funds, speed.
//!
//! What lives here: plain settings with defaults for fast tests. What does not: state that changes while the
//! simulator runs (`world`).

use std::net::SocketAddr;
use std::time::Duration;

use lotus_sim::ATTO_PER_FIL;

use crate::version::BoostVersion;

/// Duration of each step of a deal in real time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// From the publish message's batch to its CID: sending the message.
    pub publish: Duration,
    /// From a published message to its confirmation (Boost: ten epochs).
    pub confirm: Duration,
    /// Handing the piece over to a sector.
    pub add_piece: Duration,
    /// Indexing and announcing.
    pub index: Duration,
}

impl Timings {
    /// Every step takes no time.
    pub const INSTANT: Self = Self {
        publish: Duration::ZERO,
        confirm: Duration::ZERO,
        add_piece: Duration::ZERO,
        index: Duration::ZERO,
    };

    /// Every step takes this long.
    pub const fn each(step: Duration) -> Self {
        Self { publish: step, confirm: step, add_piece: step, index: step }
    }
}

/// How deals are gathered into publish messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishBatch {
    /// `MaxDealsPerPublishMsg`; one publishes each deal at once (Boost: 8).
    pub deals_max: usize,
    /// `PublishMsgPeriod`: how long a message waits for further deals (Boost: 1 h).
    pub period: Duration,
}

impl PublishBatch {
    /// A message for each deal, at once.
    pub const IMMEDIATE: Self = Self { deals_max: 1, period: Duration::ZERO };
}

/// The provider's ask (prices in attoFIL per GiB per epoch, padded sizes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Price of an unverified deal.
    pub price: u128,
    /// Price of a verified deal.
    pub verified_price: u128,
    /// Smallest padded piece.
    pub min_piece_size: u64,
    /// Largest padded piece.
    pub max_piece_size: u64,
}

/// Settings of a simulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoostConfig {
    /// The simulated release.
    pub version: BoostVersion,
    /// The provider's address, `f01000`.
    pub miner: String,
    /// `f` on mainnet, `t` on test networks.
    pub network_prefix: char,
    /// Its ask.
    pub ask: Ask,
    /// Size of its sectors in bytes.
    pub sector_size: u64,
    /// Height of the chain at the start.
    pub start_epoch: i64,
    /// Real time per epoch; zero means that epochs pass only by calls.
    pub epoch: Duration,
    /// Duration of each step of a deal.
    pub timings: Timings,
    /// Payload bytes per second of the commitment's computation; `None` is this machine's speed.
    pub commp_bytes_per_second: Option<u64>,
    /// `RemoteCommp`: commitments are not queued, and their errors have other texts (Boost: false).
    pub remote_commp: bool,
    /// `MaxConcurrentLocalCommp` (Boost: 1).
    pub commp_at_once: usize,
    /// Publish messages.
    pub batch: PublishBatch,
    /// Escrow of the provider in attoFIL.
    pub escrow: u128,
    /// Balance of the wallet that publishes, in attoFIL.
    pub publish_wallet: u128,
    /// What a deal's tag reserves for its publish message, in attoFIL (Boost: 0.1 FIL).
    pub publish_message_tag: u128,
    /// Whether calls need tokens with the right permissions.
    pub permissions: bool,
    /// Address of the JSON-RPC; `None` is any free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// Address of GraphQL; `None` is any free port of 127.0.0.1.
    pub graphql_listen: Option<SocketAddr>,
    /// Address of the control API; `None` is any free port of 127.0.0.1.
    pub control_listen: Option<SocketAddr>,
}

impl Default for BoostConfig {
    /// v2.5.2 at `f01000`, steps of 10 ms, free storage, a chain that stands still, and funds for 10 million
    /// imports.
    fn default() -> Self {
        Self {
            version: BoostVersion::V2_5_2,
            miner: "f01000".to_owned(),
            network_prefix: 'f',
            ask: Ask { price: 0, verified_price: 0, min_piece_size: 256, max_piece_size: 32 << 30 },
            sector_size: 32 << 30,
            start_epoch: 1_000_000,
            epoch: Duration::ZERO,
            timings: Timings::each(Duration::from_millis(10)),
            commp_bytes_per_second: None,
            remote_commp: false,
            commp_at_once: 1,
            batch: PublishBatch::IMMEDIATE,
            escrow: 1_000_000 * ATTO_PER_FIL,
            publish_wallet: 1_000_000 * ATTO_PER_FIL,
            publish_message_tag: ATTO_PER_FIL / 10,
            permissions: true,
            listen: None,
            graphql_listen: None,
            control_listen: None,
        }
    }
}

impl BoostConfig {
    /// The default with steps that take no time.
    pub fn instant() -> Self {
        Self { timings: Timings::INSTANT, ..Self::default() }
    }
}
