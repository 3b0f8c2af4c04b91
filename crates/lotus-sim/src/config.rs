//! Configuration of a simulator: Lotus release, miners, wallets, timing.
//!
//! What lives here: plain settings with defaults for fast tests. What does not: state that changes while the
//! simulator runs (`world`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::states::DealState;

/// The simulated Lotus release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LotusVersion {
    /// v1.5.0 … v1.5.3: one API, import needs no root on the client, client pings are answered.
    V1_5,
    /// v1.11.2: `/rpc/v1`, admin for `DealsImportData`, root must be imported, stateless deals.
    V1_11,
    /// v1.23.3 … v1.27.0: the last with markets; server pings, client pings are never answered.
    V1_23,
    /// v1.27.1: the markets' methods are gone; void answers carry `result: null`.
    V1_27_1,
}

impl LotusVersion {
    /// The version string of this release.
    pub fn release(self) -> &'static str {
        match self {
            Self::V1_5 => "1.5.0",
            Self::V1_11 => "1.11.2",
            Self::V1_23 => "1.23.3",
            Self::V1_27_1 => "1.27.1",
        }
    }

    pub(crate) fn has_markets(self) -> bool {
        self < Self::V1_27_1
    }

    /// Whether the release has `/rpc/v1` and generated permission tags: v1.9.0 and later.
    pub(crate) fn has_split_api(self) -> bool {
        self >= Self::V1_11
    }

    /// go-jsonrpc of v1.20.0 and later: string ids, server pings, HTTP batches (in v1.23.3), 400 for -32600.
    pub(crate) fn has_newer_jsonrpc(self) -> bool {
        self >= Self::V1_23
    }

    pub(crate) fn pads_imports_up(self) -> bool {
        self >= Self::V1_11
    }
}

/// Duration of an epoch in real time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeScale {
    /// Real time per epoch; zero means that epochs pass only by
    /// [`Sim::advance_epochs`](crate::Sim::advance_epochs).
    pub epoch: Duration,
}

impl Default for TimeScale {
    fn default() -> Self {
        Self { epoch: Duration::from_secs(30) }
    }
}

/// Duration of each step in real time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// Client: reserving funds (21), before the proposal is sent.
    pub client_funds: Duration,
    /// Client: how long an unreachable provider is tried before the deal fails (Lotus: about an hour).
    pub client_send_limit: Duration,
    /// Client: how long `ClientQueryAsk` of an unreachable provider takes to fail (Lotus: more than 40 s);
    /// [`Duration::MAX`] is an answer that never comes.
    pub ask_dial: Duration,
    /// Client: interval of polls of the providers' states (Lotus: every second).
    pub client_poll: Duration,
    /// Provider: validating a proposal (14).
    pub validate: Duration,
    /// Provider: the deal filter (15).
    pub accept: Duration,
    /// Import: added to the copy of a file, times the number of running imports of the miner.
    pub import_copy: Duration,
    /// Import: added to its commitment, times the number of running imports of the miner.
    pub import_commp: Duration,
    /// Import: delay from the answer to the change of the deal's state. The call only enqueues the event.
    pub event_lag: Duration,
    /// Provider: reserving funds (20).
    pub reserve_funds: Duration,
    /// Provider: an `AddFunds` message landing (22); zero skips the state.
    pub provider_funding: Duration,
    /// Provider: how long a publish batch waits for further deals (24; Lotus: 1 h).
    pub publish_period: Duration,
    /// Provider: a publish message landing (25).
    pub publish: Duration,
    /// Provider: adding the piece to a sector (4).
    pub add_piece: Duration,
    /// Provider: waiting for the sector's `PreCommit` (29; Lotus: 6 h of waiting for deals first).
    pub precommit_wait: Duration,
    /// Provider: sealing (5).
    pub sealing: Duration,
    /// Provider: finalizing (6).
    pub finalize: Duration,
    /// Both: from failing (11) to error (26).
    pub failing: Duration,
    /// Interval of a WebSocket server's pings, in releases that ping.
    pub websocket_ping: Duration,
}

impl Timings {
    /// Multiplies the duration of every step by `factor`; polls, pings and limits stay.
    #[must_use]
    pub fn slower(mut self, factor: f64) -> Self {
        for step in [
            &mut self.client_funds,
            &mut self.validate,
            &mut self.accept,
            &mut self.import_copy,
            &mut self.import_commp,
            &mut self.event_lag,
            &mut self.reserve_funds,
            &mut self.provider_funding,
            &mut self.publish_period,
            &mut self.publish,
            &mut self.add_piece,
            &mut self.precommit_wait,
            &mut self.sealing,
            &mut self.finalize,
        ] {
            *step = step.mul_f64(factor);
        }
        self
    }
}

impl Default for Timings {
    fn default() -> Self {
        let step = Duration::from_millis(20);
        Self {
            client_funds: step,
            client_send_limit: Duration::from_secs(2),
            ask_dial: Duration::from_secs(2),
            client_poll: step,
            validate: step,
            accept: step,
            import_copy: Duration::ZERO,
            import_commp: Duration::ZERO,
            event_lag: Duration::ZERO,
            reserve_funds: step,
            provider_funding: Duration::ZERO,
            publish_period: Duration::from_millis(150),
            publish: Duration::from_millis(50),
            add_piece: step,
            precommit_wait: Duration::from_millis(50),
            sealing: Duration::from_millis(100),
            finalize: step,
            failing: step,
            websocket_ping: Duration::from_secs(5),
        }
    }
}

/// The ask of a miner (prices in attoFIL per GiB per epoch, padded sizes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Price of an unverified deal.
    pub price: u128,
    /// Price of a verified deal.
    pub verified_price: u128,
    /// Smallest padded piece.
    pub min_piece_size: u64,
    /// Largest padded piece; `None` is the sector size.
    pub max_piece_size: Option<u64>,
}

impl Default for Ask {
    /// Free storage. Lotus' default price is 500000000.
    fn default() -> Self {
        Self { price: 0, verified_price: 0, min_piece_size: 256, max_piece_size: None }
    }
}

/// One miner.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, as in Lotus' own configuration")]
pub struct MinerConfig {
    /// Its address, `f01000`.
    pub id: String,
    /// Its peer id; `None` is a miner that never set one (§2.4 step 8).
    pub peer_id: Option<String>,
    /// Its sector size in bytes.
    pub sector_size: u64,
    /// Its ask.
    pub ask: Ask,
    /// `ConsiderOfflineStorageDeals`.
    pub accepts_offline: bool,
    /// Whether it takes verified deals.
    pub accepts_verified: bool,
    /// Whether it takes unverified deals.
    pub accepts_unverified: bool,
    /// Earliest acceptable start, in epochs after the head (`ExpectedSealDuration`; Lotus: 2880).
    pub start_epoch_min: i64,
    /// Latest acceptable start, in epochs after the head; `None` is the release's default (23040 or 43200).
    pub start_epoch_max: Option<i64>,
    /// If set, every deal is rejected with this reason.
    pub reject: Option<String>,
    /// Piece CIDs it refuses.
    pub blocklist: Vec<String>,
    /// Whether other nodes can reach it.
    pub reachable: bool,
    /// `MaxDealsPerPublishMsg`.
    pub max_deals_per_publish: usize,
    /// Whether it can pay for publishing.
    pub can_pay_publish: bool,
    /// The miner crashes when this many imports run at once (bidbot#39: out of memory).
    pub crash_at_imports: Option<usize>,
    /// Deals of this miner stay in this state when they reach it.
    pub hold_at: Option<DealState>,
    /// Start of its proving period; `None` derives one from its id.
    pub proving_period_start: Option<i64>,
    /// Its timing; `None` is the simulator's.
    pub timings: Option<Timings>,
    /// Whether its actor has control addresses and multiaddrs; without them both lists are `null`.
    pub has_addresses: bool,
    /// Its largest collateral, as a multiple of the network's minimum
    /// (`MaxProviderCollateralMultiplier`).
    pub collateral_multiplier_max: u32,
    /// Its listen address; `None` is any free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
}

impl MinerConfig {
    /// A miner with this address and default settings.
    pub fn new(id: impl Into<String>) -> Self {
        let id = id.into();
        Self {
            peer_id: Some(crate::ids::peer_id(&id)),
            id,
            sector_size: 32 << 30,
            ask: Ask::default(),
            accepts_offline: true,
            accepts_verified: true,
            accepts_unverified: true,
            start_epoch_min: 2880,
            start_epoch_max: None,
            reject: None,
            blocklist: Vec::new(),
            reachable: true,
            max_deals_per_publish: 8,
            can_pay_publish: true,
            crash_at_imports: None,
            hold_at: None,
            proving_period_start: None,
            timings: None,
            has_addresses: false,
            collateral_multiplier_max: 2,
            listen: None,
        }
    }

    /// Offset of its proving period.
    pub(crate) fn period_start(&self) -> i64 {
        self.proving_period_start.unwrap_or_else(|| {
            let hash = crate::ids::sha256(self.id.as_bytes());
            i64::from(u16::from_le_bytes([hash[0], hash[1]])) % 2880
        })
    }
}

/// One wallet of the full node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletConfig {
    /// Its address, `f1…` or `f3…`. The checksum inside is not checked.
    pub address: String,
    /// Its balance in attoFIL.
    pub balance: u128,
    /// Its escrow with the storage market in attoFIL.
    pub escrow: u128,
    /// Its `DataCap` in bytes; without it the wallet is not a verified client.
    pub datacap: Option<u128>,
}

impl Default for WalletConfig {
    fn default() -> Self {
        Self {
            address: "f1djcw6gt533u2bdzckvtcui6hmmuzpu3mykxkunq".to_owned(),
            balance: 100 * crate::ids::ATTO_PER_FIL,
            escrow: 0,
            datacap: None,
        }
    }
}

/// Configuration of a simulator.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// The simulated release.
    pub version: LotusVersion,
    /// Its miners.
    pub miners: Vec<MinerConfig>,
    /// Length of an epoch.
    pub time: TimeScale,
    /// Chain height at the start.
    pub start_epoch: i64,
    /// Length of each step.
    pub timings: Timings,
    /// The wallets of the full node; the first is its default.
    pub wallets: Vec<WalletConfig>,
    /// Whether `ClientStartDeal` needs the root imported; `None` is the release's behaviour (v1.11.2 and
    /// later need it).
    pub root_must_be_imported: Option<bool>,
    /// Whether permissions are checked (`false` as in Lotus' `ThroughRPC` test kit: every call is
    /// permitted).
    pub permissions: bool,
    /// Prefix of printed addresses: `'f'` on mainnet, `'t'` on test nets.
    pub network_prefix: char,
    /// The answer of `StateNetworkName`.
    pub network_name: String,
    /// Reported seconds per epoch (`BlockDelay`).
    pub block_delay_seconds: u64,
    /// Minutes east of UTC in the node's timestamps.
    pub utc_offset_minutes: i16,
    /// Minimum provider collateral in attoFIL per GiB of padded piece.
    pub collateral_per_gib: u128,
    /// Listen address of the full node; `None` is any free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// Folder of the copies of imported files; `None` is a temporary folder that is removed with the
    /// simulator.
    pub staging_dir: Option<PathBuf>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            version: LotusVersion::V1_23,
            miners: vec![MinerConfig::new("f01000")],
            time: TimeScale::default(),
            start_epoch: 1_000_000,
            timings: Timings::default(),
            wallets: vec![WalletConfig::default()],
            root_must_be_imported: None,
            permissions: true,
            network_prefix: 'f',
            network_name: "mainnet".to_owned(),
            block_delay_seconds: 30,
            utc_offset_minutes: 8 * 60,
            collateral_per_gib: 255_295_950_539_062,
            listen: None,
            staging_dir: None,
        }
    }
}

impl SimConfig {
    pub(crate) fn wants_imported_root(&self) -> bool {
        self.root_must_be_imported.unwrap_or(self.version >= LotusVersion::V1_11)
    }
}
