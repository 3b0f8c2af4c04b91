//! The configuration of miner-agent: its keys, their defaults, and checks before anything runs.

mod hours;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carferry_core::config;
use carferry_core::config::sections::{CarServerSection, LogSection, LotusSection};
use carferry_core::config::{
    ConfigError, Key, Kind, MongodbSection, OtherProgram, RESERVED_VARIABLES, Secret, Sources, human,
};
use carferry_core::model::address::MinerId;
use carferry_core::path_mapping::PathMapping;
use carferry_core::rpc::CallTimeouts;
use carferry_core::store::{LEASE_MAX, PAUSE_MAX};
use serde::Deserialize;
use serde::de::Deserializer;
use url::Url;

use crate::car_files::locate::Places;
pub use crate::config::hours::Hours;
use crate::market::ImportMethod;
use crate::market::chain_head::HeadSource;
use crate::market::node::MarketKind;

/// Everything that is configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The miners whose deals are imported.
    #[serde(default, deserialize_with = "miner_entries")]
    pub miners: Vec<MinerEntry>,
    /// The market node of all miners without one of their own.
    #[serde(default)]
    pub lotus: LotusSection,
    /// The full node that is asked for the head of the chain.
    #[serde(default)]
    pub full_node: LotusSection,
    /// The shared database.
    #[serde(default)]
    pub mongodb: MongodbSection,
    /// Times, limits and methods.
    pub setting: Setting,
    /// Folders that hold CARs.
    #[serde(default)]
    pub roots: Vec<PathBuf>,
    /// Folders of the data-prep box and their names here.
    #[serde(default)]
    pub paths: Vec<PathMapping>,
    /// Folders here and their names for the market process.
    #[serde(default)]
    pub node_paths: Vec<PathMapping>,
    /// What is logged.
    #[serde(default)]
    pub log: LogSection,
}

/// One miner, with its own market node if it has one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MinerEntry {
    /// The miner's address, as the deals name it.
    #[serde(deserialize_with = "human::text::deserialize")]
    pub miner: String,
    /// Which market it runs.
    pub market: MarketKind,
    /// URL of Boost's GraphQL, where it is not on the host of the API at port 8080.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub graphql: Option<String>,
    /// URL or multiaddr of its market node.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub endpoint: Option<String>,
    /// API token.
    pub token: Option<Secret>,
    /// A file that holds the API token.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub token_file: Option<PathBuf>,
    /// `<token>:<multiaddr>`.
    pub api_info: Option<Secret>,
    /// A Lotus repository folder.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub repo: Option<PathBuf>,
    /// A PEM file with the authority that signed the node's certificate.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub tls_ca_file: Option<PathBuf>,
}

impl MinerEntry {
    /// The URL of Boost's GraphQL, or what is wrong with it. It has no token, so it is not encrypted.
    pub fn graphql_url(&self) -> Result<Option<Url>, String> {
        let Some(text) = &self.graphql else { return Ok(None) };
        let url = Url::parse(text).map_err(|error| format!("\"{text}\" is no URL: {error}"))?;
        if url.scheme() != "http" || !url.has_host() {
            return Err(format!("\"{text}\" does not begin with http://"));
        }
        Ok(Some(url))
    }
}

/// Entries, or the miners' addresses alone.
fn miner_entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MinerEntry>, D::Error> {
    struct Entry(MinerEntry);

    impl<'de> Deserialize<'de> for Entry {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let alone = |miner| MinerEntry { miner, ..MinerEntry::default() };
            human::map_or_text(deserializer, alone).map(Self)
        }
    }

    Ok(Vec::<Entry>::deserialize(deserializer)?.into_iter().map(|entry| entry.0).collect())
}

/// Times, limits and methods.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Setting {
    /// Imports at the same time, per miner.
    pub imports_per_miner: usize,
    /// PADDED bytes that a market may have been given and not decided on, per miner; `None` without a limit.
    #[serde(default, deserialize_with = "human::optional_bytes::deserialize")]
    pub handed_bytes_max: Option<u64>,
    /// Deals that may be imported and not in a sector yet, per miner; `None` without a limit.
    #[serde(default)]
    pub waiting_for_sector_max: Option<u64>,
    /// The part of each day in which data is handed over; `None` for all of it.
    #[serde(default, deserialize_with = "hours::deserialize")]
    pub import_hours: Option<Hours>,
    /// Everything due is looked for this often, whatever the change stream says.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub scan_interval: Duration,
    /// How long a claim on a deal holds without renewal.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub lease: Duration,
    /// Epochs that sealing needs before a deal's start.
    pub start_epoch_margin: i64,
    /// Where the head of the chain is taken from.
    pub head_source: HeadSource,
    /// Whether the piece CID is computed before a file is handed on.
    pub verify_piece: bool,
    /// Which of Lotus' import methods is called.
    pub import_method: ImportMethod,
    /// Longest time an import call may take.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub import_timeout: Duration,
    /// Longest time the market's list of deals may take.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub list_timeout: Duration,
    /// How long the deal's state is watched after an import call.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub confirm_timeout: Duration,
    /// Pause after the first failure of a deal.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub retry_min: Duration,
    /// Longest pause between tries of a deal.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub retry_max: Duration,
    /// Failed tries after which a deal is set aside.
    pub max_tries: u32,
    /// Pause before a deal that waits for something is looked at again.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub wait_interval: Duration,
    /// How often the provider's view of all deals is recorded.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub provider_poll_interval: Duration,
    /// How long a folder may take to tell of one file, before it is passed over.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub file_timeout: Duration,
    /// Whether deals without a record are looked for at the markets.
    pub adopt: bool,
    /// How long running imports may go on after a signal.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub grace_period: Duration,
    /// Longest time one database call may take.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub database_timeout: Duration,
    /// The locator, from which a Curio reads CARs; there is one where its address is set.
    #[serde(default)]
    pub locator: CarServerSection,
    /// The locator's URL as Curio calls it.
    #[serde(default, deserialize_with = "human::optional_text::deserialize")]
    pub locator_url: Option<String>,
    /// Curio's nodes that are told of new CARs.
    #[serde(default)]
    pub curio_nodes: Vec<String>,
    /// A folder for what is remembered over restarts.
    #[serde(default, deserialize_with = "human::optional_path::deserialize")]
    pub state_dir: Option<PathBuf>,
}

const OWN_KEYS: &[Key] = &[
    Key::new("miners", Kind::FileOnly, "Miners whose deals are imported"),
    Key::new("roots", Kind::List, "Folders that hold CARs, searched by name"),
    Key::new("paths", Kind::FileOnly, "Folders of the data-prep box and their names on this machine"),
    Key::new("nodePaths", Kind::FileOnly, "Folders of this machine and their names for the market process"),
    Key::new("setting.importsPerMiner", Kind::Integer, "Imports at the same time, per miner").or("1"),
    Key::new(
        "setting.handedBytesMax",
        Kind::Bytes,
        "Bytes (padded) a market may have in hand and not decided on, per miner",
    ),
    Key::new(
        "setting.waitingForSectorMax",
        Kind::Integer,
        "Imported deals that may wait for a sector, per miner",
    ),
    Key::new(
        "setting.importHours",
        Kind::Text,
        "Part of each day in which data is handed over: 22:00-06:00, in UTC",
    ),
    Key::new("setting.scanInterval", Kind::Duration, "How often everything due is looked for").or("30s"),
    Key::new("setting.lease", Kind::Duration, "How long a claim on a deal holds without renewal").or("60s"),
    Key::new(
        "setting.startEpochMargin",
        Kind::Integer,
        "Epochs (30 s) that sealing needs before a deal's start",
    )
    .or("480"),
    Key::new(
        "setting.headSource",
        Kind::Text,
        "Head of the chain: auto (full node, else the clock where the market is mainnet's), node or clock",
    )
    .or("auto"),
    Key::new("setting.verifyPiece", Kind::Bool, "Compute the piece CID of a CAR before it is handed on")
        .or("false"),
    Key::new(
        "setting.importMethod",
        Kind::Text,
        "market (MarketImportDealData, a `write` token) or deals (DealsImportData, `admin`)",
    )
    .or("market"),
    Key::new("setting.importTimeout", Kind::Duration, "Longest time an import call may take").or("12h"),
    Key::new("setting.listTimeout", Kind::Duration, "Longest time the market's list of deals may take")
        .or("5m"),
    Key::new("setting.confirmTimeout", Kind::Duration, "How long a deal is watched after its import call")
        .or("2m"),
    Key::new("setting.retryMin", Kind::Duration, "Pause after a deal's first failure; doubles").or("10s"),
    Key::new("setting.retryMax", Kind::Duration, "Longest pause between tries of a deal").or("30m"),
    Key::new("setting.maxTries", Kind::Integer, "Failed tries after which a deal is set aside").or("20"),
    Key::new("setting.waitInterval", Kind::Duration, "Least pause before a waiting deal is looked at again")
        .or("30s"),
    Key::new("setting.providerPollInterval", Kind::Duration, "How often the provider's view is recorded")
        .or("60s"),
    Key::new("setting.fileTimeout", Kind::Duration, "How long a folder may take before it is passed over")
        .or("15s"),
    Key::new(
        "setting.adopt",
        Kind::Bool,
        "Import deals, too, that a market waits for and no client has recorded",
    )
    .or("false"),
    Key::new("setting.gracePeriod", Kind::Duration, "How long running imports may go on after a signal")
        .or("30s"),
    Key::new("setting.databaseTimeout", Kind::Duration, "Longest time one MongoDB call may take").or("10s"),
    Key::new(
        "setting.locator.listen",
        Kind::Text,
        "Address and port of the locator, from which a Curio reads CARs",
    ),
    Key::new("setting.locatorUrl", Kind::Text, "The locator's URL as Curio calls it, for `doctor`"),
    Key::new("setting.curioNodes", Kind::List, "Nodes of Curio (host:12300) that are told of new CARs"),
    Key::new("setting.stateDir", Kind::Text, "Folder for what the locator remembers over restarts"),
];

/// client-agent's file, which is taken for this one now and then.
const CLIENT_AGENT: OtherProgram = OtherProgram {
    program: "client-agent",
    file: "conf.yaml",
    keys: &[
        "carPaths",
        "dealTimeout",
        "duration",
        "fastRetrieval",
        "groups",
        "layout",
        "maxDealNums",
        "maxDealsPerRun",
        "maxFailedDeals",
        "maxOpenDealsPerMiner",
        "maxPiece",
        "maxPrice",
        "minerMaxDeals",
        "pieceSize",
        "planInterval",
        "price",
        "providerCollateral",
        "publishMethod",
        "publishTimeout",
        "startDelay",
        "verified",
        "wallet",
    ],
    hint: "miner-agent has a file of its own (import.yaml): `miners: [f01000]` with `lotus` and `mongodb` is enough; \
           configs/miner-agent.yaml shows all keys",
};

/// The section name of a miner's own node, in messages.
const ENTRY_SECTION: &str = "miners[]";
const FULL_NODE_SECTION: &str = "fullNode";

/// Every key of this agent.
pub fn keys() -> Vec<Key> {
    [
        OWN_KEYS,
        CarServerSection::LOCATOR_KEYS,
        MongodbSection::KEYS,
        LotusSection::KEYS,
        LotusSection::FULL_NODE_KEYS,
        LogSection::KEYS,
    ]
    .concat()
}

impl Config {
    /// Defaults < file < environment < flags, checked.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] that names the source and the key.
    pub fn load(
        file: Option<&Path>,
        env: Vec<(String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let other = Some(&CLIENT_AGENT);
        let sources = Sources { file, env, reserved: RESERVED_VARIABLES, flags, other };
        let mut config: Self = config::load(&keys(), &sources)?;
        config.full_node = config.full_node.named(FULL_NODE_SECTION);
        config.setting.locator = config.setting.locator.named("setting.locator");
        config.check()?;
        // One text for a miner, however it was written: records and nodes are compared with it.
        for entry in &mut config.miners {
            entry.miner = MinerId::canonical(&entry.miner);
        }
        Ok(config)
    }

    /// What no type can check.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Conflict`] with the way out.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.miners.is_empty() {
            return Err(conflict(
                "miners",
                "no miner is named",
                "write `miners:` and below it `- miner: f01234`",
            ));
        }
        let mut seen = BTreeSet::new();
        for entry in &self.miners {
            let miner = entry.miner.parse::<MinerId>().map_err(|error| {
                conflict("miners.miner", &error.to_string(), "write the miner's ID address: f01234")
            })?;
            if let Err(problem) = entry.graphql_url() {
                return Err(conflict(
                    "miners.graphql",
                    &problem,
                    "write the URL of boostd's GraphQL, such as http://127.0.0.1:8080",
                ));
            }
            if !seen.insert(miner) {
                let problem = format!("{} stands there twice", entry.miner);
                return Err(conflict("miners.miner", &problem, "keep one entry per miner"));
            }
        }
        let folders = self.roots.iter().map(|root| ("roots", root));
        let mapped = |key, mappings: &'_ [PathMapping]| {
            mappings
                .iter()
                .flat_map(|m| [m.from.clone(), m.to.clone()])
                .map(move |path| (key, path))
                .collect::<Vec<_>>()
        };
        let (paths, node_paths) = (mapped("paths", &self.paths), mapped("nodePaths", &self.node_paths));
        for (key, folder) in folders.chain([&paths, &node_paths].into_iter().flatten().map(|(k, p)| (*k, p)))
        {
            if !folder.is_absolute() {
                let problem = format!("{} is not an absolute path", folder.display());
                return Err(conflict(key, &problem, "begin the path with /"));
            }
        }
        self.setting.check()
    }

    /// Where CARs are looked for.
    pub fn places(&self) -> Places {
        Places { roots: self.roots.clone(), paths: self.paths.clone(), node_paths: self.node_paths.clone() }
    }

    /// How the market node of this entry is reached: by the entry's own keys, else by the section `lotus`.
    pub fn market_section(&self, entry: &MinerEntry) -> LotusSection {
        let MinerEntry {
            miner: _,
            market: _,
            graphql: _,
            endpoint,
            token,
            token_file,
            api_info,
            repo,
            tls_ca_file,
        } = entry.clone();
        let tls_ca_file = tls_ca_file.or_else(|| self.lotus.tls_ca_file.clone());
        let own_address = endpoint.is_some() || api_info.is_some() || repo.is_some();
        let own_token = token.is_some() || token_file.is_some();
        if own_address {
            return LotusSection {
                endpoint,
                token,
                token_file,
                api_info,
                repo,
                tls_ca_file,
                request_timeout: self.lotus.request_timeout,
                section: ENTRY_SECTION,
            };
        }
        let mut section = LotusSection { tls_ca_file, ..self.lotus.clone() };
        if own_token {
            (section.token, section.token_file) = (token, token_file);
        }
        section
    }

    /// Limits of the calls to a market node.
    pub fn call_timeouts(&self) -> CallTimeouts {
        CallTimeouts {
            quick: self.lotus.request_timeout,
            list: self.setting.list_timeout,
            import: self.setting.import_timeout,
            ..CallTimeouts::default()
        }
    }
}

impl Setting {
    /// Whether anything but `imports_per_miner` limits what a market has in hand.
    pub fn has_limits(&self) -> bool {
        self.handed_bytes_max.is_some()
            || self.waiting_for_sector_max.is_some()
            || self.import_hours.is_some()
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.imports_per_miner == 0 {
            return Err(conflict("setting.importsPerMiner", "0 would import nothing", "write 1 or more"));
        }
        if self.max_tries == 0 {
            return Err(conflict("setting.maxTries", "0 would try nothing", "write 1 or more"));
        }
        if self.start_epoch_margin < 0 {
            return Err(conflict(
                "setting.startEpochMargin",
                "a margin is not negative",
                "write 0 or more epochs",
            ));
        }
        if self.retry_min > self.retry_max {
            return Err(conflict(
                "setting.retryMin",
                "longer than setting.retryMax",
                "make retryMax the larger",
            ));
        }
        for (key, pause, longest) in [
            ("setting.lease", self.lease, LEASE_MAX),
            ("setting.retryMax", self.retry_max, PAUSE_MAX),
            ("setting.waitInterval", self.wait_interval, PAUSE_MAX),
        ] {
            if pause > longest {
                let problem = format!("longer than {} h", longest.as_secs() / 3600);
                return Err(conflict(key, &problem, "write a shorter time"));
            }
        }
        for (key, pause) in [
            ("setting.scanInterval", self.scan_interval),
            ("setting.lease", self.lease),
            ("setting.retryMin", self.retry_min),
            ("setting.waitInterval", self.wait_interval),
            ("setting.providerPollInterval", self.provider_poll_interval),
            ("setting.databaseTimeout", self.database_timeout),
            ("setting.fileTimeout", self.file_timeout),
        ] {
            if pause < PAUSE_MIN {
                return Err(conflict(key, "shorter than 100 ms", "write a longer time, such as 30s"));
            }
        }
        Ok(())
    }
}

/// Below this a loop would keep database and node busy with nothing.
const PAUSE_MIN: Duration = Duration::from_millis(100);

fn conflict(key: &str, problem: &str, hint: &str) -> ConfigError {
    ConfigError::Conflict { key: key.to_owned(), problem: problem.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests;
