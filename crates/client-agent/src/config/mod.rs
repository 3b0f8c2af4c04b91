//! This agent's configuration: the keys of the first notes (`miners`, `setting`) with their meaning, further
//! ones with defaults, and the sections both agents share.
//!
//! Values are checked while they are read, so that every error names file and key. What each key means is
//! written for people in `configs/client-agent.yaml`.

mod keys;
mod read;

use std::time::Duration;

use carferry_car::PaddedPieceSize;
use carferry_core::config::sections::{CarServerSection, LogSection, LotusSection};
use carferry_core::config::{ConfigError, MongodbSection, Sources, load};
use carferry_core::fsx;
use carferry_core::model::address::{MinerId, WalletAddress};
use carferry_core::model::{AttoFil, DealDuration, chain};
use carferry_core::path_mapping::PathMapping;
use carferry_core::rpc::CallTimeouts;
use carferry_core::store::StoreOptions;
use serde::Deserialize;

pub use crate::config::keys::{MINER_AGENT, keys};
pub(crate) use crate::config::read::parse_max_piece;

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[derive(Default)]
pub struct Config {
    /// Who stores, and for what.
    #[serde(deserialize_with = "read::miners")]
    pub miners: Vec<MinerTerms>,
    /// How deals are made and followed.
    pub setting: Setting,
    /// The shared database.
    pub mongodb: MongodbSection,
    /// The Lotus full node.
    pub lotus: LotusSection,
    /// Logs.
    pub log: LogSection,
}

/// One storage provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinerTerms {
    /// Its actor number.
    pub miner: MinerId,
    /// Per epoch, for the whole piece, as `lotus client deal` reads it.
    pub price: AttoFil,
}

/// The section `setting`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Setting {
    /// How often the states of deals are asked for.
    #[serde(deserialize_with = "read::pause")]
    pub deal_timeout: Duration,
    /// Deals for one CAR with one miner.
    #[serde(deserialize_with = "read::count")]
    pub miner_max_deals: u32,
    /// Deals for one CAR with all miners.
    #[serde(deserialize_with = "read::count")]
    pub max_deal_nums: u32,
    /// Who pays; without it no deals are made.
    #[serde(deserialize_with = "read::wallet")]
    pub wallet: Option<WalletAddress>,
    /// How long deals run; without it no deals are made.
    #[serde(deserialize_with = "read::duration")]
    pub duration: Option<DealDuration>,
    /// Whether deals spend datacap.
    pub verified: bool,
    /// Whether providers are asked to keep an unsealed copy.
    pub fast_retrieval: bool,
    /// From the proposal to the start of the deal.
    #[serde(deserialize_with = "read::start_delay")]
    pub start_delay: StartDelay,
    /// What the provider pledges.
    #[serde(deserialize_with = "read::collateral")]
    pub provider_collateral: Collateral,
    /// The highest price that a miner may have.
    #[serde(deserialize_with = "read::max_price")]
    pub max_price: AttoFil,
    /// Which call publishes deals.
    pub publish_method: PublishChoice,
    /// Deals of one miner that may wait for their data at a time.
    #[serde(deserialize_with = "read::optional_count")]
    pub max_open_deals_per_miner: Option<u32>,
    /// Deals that one pass may publish.
    #[serde(deserialize_with = "read::optional_count")]
    pub max_deals_per_run: Option<u32>,
    /// Failed deals for one CAR with one miner, after which it is not tried again.
    #[serde(deserialize_with = "read::count")]
    pub max_failed_deals: u32,
    /// Failures older than this do not count.
    #[serde(deserialize_with = "read::pause")]
    pub failed_deals_within: Duration,
    /// Whether the node of a test network may be behind the chain.
    pub allow_unsynced_node: bool,
    /// How often `run` looks for CARs that need deals.
    #[serde(deserialize_with = "read::pause")]
    pub plan_interval: Duration,
    /// Only CARs of these groups; empty: all.
    #[serde(deserialize_with = "read::texts")]
    pub groups: Vec<String>,
    /// From this host's paths to the Lotus node's.
    pub car_paths: Vec<PathMapping>,
    /// Whether CARs of other hosts get no deals; not set: where the node must read a CAR from its own disk.
    pub own_cars_only: Option<bool>,
    /// How long work under way may take to end after a signal.
    #[serde(deserialize_with = "carferry_core::config::human::duration::deserialize")]
    pub grace_period: Duration,
    /// Longest time the node may take to list all its deals.
    #[serde(deserialize_with = "read::pause")]
    pub list_timeout: Duration,
    /// Longest time one proposal may take.
    #[serde(deserialize_with = "read::pause")]
    pub publish_timeout: Duration,
    /// Longest time one database call may take.
    #[serde(deserialize_with = "read::pause")]
    pub database_timeout: Duration,
    /// Largest piece a CAR may need.
    #[serde(deserialize_with = "read::max_piece")]
    pub max_piece: PaddedPieceSize,
    /// What becomes of a folder.
    pub layout: Layout,
    /// Size of full pieces; [`Setting::max_piece`] if not set.
    #[serde(deserialize_with = "read::optional_piece")]
    pub piece_size: Option<PaddedPieceSize>,
    /// The name under which this agent records CARs and claims intents; the host's name if not set.
    #[serde(deserialize_with = "carferry_core::config::human::optional_text::deserialize")]
    pub agent_name: Option<String>,
    /// How `serve` offers CARs.
    pub serve: CarServerSection,
}

/// From the proposal to the start of a deal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartDelay {
    /// As written.
    Epochs(i64),
    /// A time; how many epochs that is depends on the network.
    Time(Duration),
}

impl StartDelay {
    /// The number of epochs on a network whose epochs take so many seconds; a part of one counts as one.
    pub fn epochs(self, epoch_seconds: u64) -> i64 {
        match self {
            Self::Epochs(epochs) => epochs,
            Self::Time(time) => {
                i64::try_from(time.as_secs().div_ceil(epoch_seconds.max(1))).unwrap_or(i64::MAX)
            }
        }
    }

    /// The number of epochs on mainnet.
    pub fn on_mainnet(self) -> i64 {
        self.epochs(chain::EPOCH_SECONDS)
    }
}

/// What the provider pledges for a deal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collateral {
    /// As Lotus chooses: a little above the network's minimum.
    #[default]
    Auto,
    /// This much.
    Amount(AttoFil),
}

/// What becomes of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// A CAR of every file.
    #[default]
    File,
    /// One CAR with the whole folder.
    Tree,
    /// As many CARs as it takes, each filled with files of the folder.
    Pack,
}

impl Layout {
    /// As written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Tree => "tree",
            Self::Pack => "pack",
        }
    }
}

/// Which call publishes deals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishChoice {
    /// `ClientStatelessDeal` where price and node allow it, else `ClientStartDeal`.
    #[default]
    Auto,
    /// Always `ClientStatelessDeal`.
    Stateless,
    /// Always `ClientStartDeal`.
    Start,
}

/// Whether the node's head must be of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncRule {
    /// A node that is behind the chain publishes nothing.
    #[default]
    Required,
    /// A test network may be behind or fast (`setting.allowUnsyncedNode`); mainnet never is.
    NotOnTestNetworks,
}

/// What every deal has in common, once wallet, duration and miners are known to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DealTerms {
    /// Who pays.
    pub wallet: WalletAddress,
    /// How long deals run.
    pub duration: DealDuration,
    /// Who stores.
    pub miners: Vec<MinerTerms>,
}

impl Default for Setting {
    /// The same values as the defaults of [`keys`], which a test compares.
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            deal_timeout: Duration::from_secs(20),
            miner_max_deals: 1,
            max_deal_nums: 10,
            wallet: None,
            duration: None,
            verified: false,
            fast_retrieval: true,
            start_delay: StartDelay::Time(Duration::from_secs(7 * 24 * 3600)),
            provider_collateral: Collateral::Auto,
            max_price: AttoFil::new(100_000_000_000_000),
            publish_method: PublishChoice::Auto,
            max_open_deals_per_miner: None,
            max_deals_per_run: None,
            max_failed_deals: 3,
            failed_deals_within: Duration::from_secs(30 * 24 * 3600),
            allow_unsynced_node: false,
            plan_interval: Duration::from_secs(30),
            groups: Vec::new(),
            car_paths: Vec::new(),
            own_cars_only: None,
            grace_period: Duration::from_secs(30),
            list_timeout: 5 * MINUTE,
            publish_timeout: 120 * MINUTE,
            database_timeout: Duration::from_secs(15),
            max_piece: PaddedPieceSize::GIB_32,
            layout: Layout::File,
            piece_size: None,
            agent_name: None,
            serve: CarServerSection {
                listen: Some(keys::SERVE_LISTEN.to_owned()),
                ..CarServerSection::default()
            },
        }
    }
}

impl Config {
    /// Loads and checks.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the source and the key.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let config: Self = load(&keys(), sources)?;
        config.check_deal_end()?;
        config.check_prices()?;
        Ok(config)
    }

    /// Wallet, duration and miners, which every command that makes deals needs.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Missing`] for the first that is not set.
    pub fn deal_terms(&self) -> Result<DealTerms, ConfigError> {
        let wallet = self.wallet()?;
        let duration = self.setting.duration.ok_or_else(|| {
            missing(
                "setting.duration",
                &["`setting.duration` in the file", "CARFERRY_SETTING__DURATION", "--duration"],
            )
        })?;
        if self.miners.is_empty() {
            return Err(missing("miners", &["`miners` in a file given with --config"]));
        }
        Ok(DealTerms { wallet, duration, miners: self.miners.clone() })
    }

    /// The wallet, which every command that looks at its deals needs.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Missing`] if it is not set.
    pub fn wallet(&self) -> Result<WalletAddress, ConfigError> {
        self.setting.wallet.clone().ok_or_else(|| {
            missing(
                "setting.wallet",
                &["`setting.wallet` in the file", "CARFERRY_SETTING__WALLET", "--wallet"],
            )
        })
    }

    /// Whether the node's head must be of now.
    pub fn sync_rule(&self) -> SyncRule {
        if self.setting.allow_unsynced_node { SyncRule::NotOnTestNetworks } else { SyncRule::Required }
    }

    /// The largest piece that a CAR may need.
    pub fn piece_size(&self) -> PaddedPieceSize {
        self.setting.piece_size.unwrap_or(self.setting.max_piece)
    }

    /// The name under which this agent works.
    pub fn agent_name(&self) -> String {
        self.setting.agent_name.clone().unwrap_or_else(fsx::hostname)
    }

    /// How the database is reached.
    ///
    /// # Errors
    ///
    /// When nothing names a server or keys contradict each other.
    pub fn store_options(&self) -> Result<StoreOptions, ConfigError> {
        Ok(StoreOptions {
            target: self.mongodb.target()?,
            app_name: format!("client-agent {}", self.agent_name()),
            call_timeout: self.setting.database_timeout,
        })
    }

    /// How long calls to the node may take.
    pub fn call_timeouts(&self) -> CallTimeouts {
        CallTimeouts {
            quick: self.lotus.request_timeout,
            list: self.setting.list_timeout,
            publish: self.setting.publish_timeout,
            ..CallTimeouts::default()
        }
    }

    /// A price that was meant in attoFIL is more than there is in FIL, and some that are not would empty a
    /// wallet.
    fn check_prices(&self) -> Result<(), ConfigError> {
        let most = self.setting.max_price;
        let Some(terms) = self.miners.iter().find(|terms| terms.price > most) else { return Ok(()) };
        let sum = match self.setting.duration {
            Some(duration) => format!("a deal of {duration} would cost {}", duration.cost_max(terms.price)),
            None => {
                format!("that is {} a day", terms.price.times(chain::EPOCHS_PER_DAY.unsigned_abs().into()))
            }
        };
        Err(ConfigError::Conflict {
            key: "miners".to_owned(),
            problem: format!(
                "the price of {} is {} per epoch for each piece: {sum}; `setting.maxPrice` is {most}",
                terms.miner, terms.price
            ),
            hint: "a price without unit counts FIL, write `attofil` behind an amount of attoFIL; where the price is \
                   meant, raise setting.maxPrice"
                .to_owned(),
        })
    }

    /// A provider refuses deals that end more than 540 days from now (go-fil-markets v1.28.3
    /// `provider_states.go:110-119`); the node may lengthen a deal by up to [`DealDuration::ALIGNMENT_MAX`].
    fn check_deal_end(&self) -> Result<(), ConfigError> {
        let end_max = chain::DEAL_END_MAX;
        let Some(duration) = self.setting.duration else { return Ok(()) };
        let delay = self.setting.start_delay.on_mainnet();
        let end = delay + duration.get() + DealDuration::ALIGNMENT_MAX;
        if end <= end_max {
            return Ok(());
        }
        Err(ConfigError::Conflict {
            key: "setting.duration".to_owned(),
            problem: format!(
                "deals of {duration} that start after {delay} epochs (`setting.startDelay`) end up to {end} epochs from \
                 now; providers refuse more than {end_max} (540 days)"
            ),
            hint: format!(
                "at this start delay, write at most {} epochs",
                end_max - delay - DealDuration::ALIGNMENT_MAX
            ),
        })
    }
}

fn missing(key: &str, places: &[&str]) -> ConfigError {
    ConfigError::Missing {
        key: key.to_owned(),
        places: places.iter().map(|&place| place.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests;
