//! Every key of the configuration with its default, and the keys of miner-agent's file, which is given by
//! mistake now and then.

use carferry_core::config::sections::{CarServerSection, LogSection, LotusSection};
use carferry_core::config::{Key, Kind, MongodbSection, OtherProgram};

/// Every key, with its default.
pub fn keys() -> Vec<Key> {
    [OWN_KEYS, CarServerSection::SERVE_KEYS, MongodbSection::KEYS, LotusSection::KEYS, LogSection::KEYS]
        .concat()
}

/// This machine only: what is open to the network is the operator's word.
pub(super) const SERVE_LISTEN: &str = "127.0.0.1:7777";

const OWN_KEYS: &[Key] = &[
    Key::new("miners", Kind::FileOnly, "Providers: a list of {miner: f01000, price: 0}"),
    Key::new("setting.wallet", Kind::Text, "Wallet that pays for deals"),
    Key::new("setting.duration", Kind::Text, "Length of deals: days (366, 366d) or epochs (1054080 epochs)"),
    Key::new("setting.dealTimeout", Kind::Duration, "How often the states of deals are asked for").or("20s"),
    Key::new("setting.minerMaxDeals", Kind::Integer, "Deals for one CAR with one miner").or("1"),
    Key::new("setting.maxDealNums", Kind::Integer, "Deals for one CAR with all miners").or("10"),
    Key::new(
        "setting.maxOpenDealsPerMiner",
        Kind::Integer,
        "Deals of one miner that may wait for data at a time",
    ),
    Key::new("setting.maxDealsPerRun", Kind::Integer, "Deals that one pass may publish"),
    Key::new(
        "setting.maxFailedDeals",
        Kind::Integer,
        "Failures of one CAR with one miner that end its tries",
    )
    .or("3"),
    Key::new("setting.failedDealsWithin", Kind::Duration, "Failures older than this are forgotten").or("30d"),
    Key::new("setting.groups", Kind::List, "Only CARs of these groups"),
    Key::new("setting.verified", Kind::Bool, "Spend datacap").or("false"),
    Key::new("setting.fastRetrieval", Kind::Bool, "Ask providers to keep an unsealed copy").or("true"),
    Key::new(
        "setting.startDelay",
        Kind::Text,
        "From the proposal to the start of a deal: 7d, 36h or 20160 epochs",
    )
    .or("7d"),
    Key::new("setting.providerCollateral", Kind::Text, "auto, or an amount such as 0.1 FIL or 5 attofil")
        .or("auto"),
    Key::new("setting.maxPrice", Kind::Text, "Highest price of a miner, per epoch for a piece")
        .or("0.0001 FIL"),
    Key::new("setting.publishMethod", Kind::Text, "auto, stateless or start").or("auto"),
    Key::new("setting.carPaths", Kind::FileOnly, "Paths as the Lotus node sees them: a list of {from, to}"),
    Key::new(
        "setting.ownCarsOnly",
        Kind::Bool,
        "Deals only for CARs of this host (where the node must read them from its own disk)",
    ),
    Key::new(
        "setting.allowUnsyncedNode",
        Kind::Bool,
        "Make deals on a test network whose node is behind the chain; never on mainnet",
    )
    .or("false"),
    Key::new("setting.planInterval", Kind::Duration, "How often `run` looks for CARs that need deals")
        .or("30s"),
    Key::new("setting.listTimeout", Kind::Duration, "Longest time the node may take to list its deals")
        .or("5m"),
    Key::new("setting.publishTimeout", Kind::Duration, "Longest time one proposal may take").or("2h"),
    Key::new("setting.databaseTimeout", Kind::Duration, "Longest time one database call may take").or("15s"),
    Key::new("setting.gracePeriod", Kind::Duration, "Time for work under way after a signal").or("30s"),
    Key::new("setting.maxPiece", Kind::Bytes, "Largest piece a CAR may need: 32GiB or 64GiB").or("32GiB"),
    Key::new(
        "setting.layout",
        Kind::Text,
        "file: a CAR a file; tree: one CAR of the folder; pack: full pieces",
    )
    .or("file"),
    Key::new("setting.pieceSize", Kind::Bytes, "Size of full pieces: 32GiB or 64GiB (setting.maxPiece)"),
    Key::new("setting.serve.listen", Kind::Text, "Address and port on which `serve` offers CARs")
        .or(SERVE_LISTEN),
    Key::new("setting.agentName", Kind::Text, "Name of this agent in the records (the host's name)"),
];

/// miner-agent's file, which is taken for this one now and then.
pub const MINER_AGENT: OtherProgram = OtherProgram {
    program: "miner-agent",
    file: "import.yaml",
    keys: &[
        "apiInfo",
        "confirmTimeout",
        "fileTimeout",
        "fullNode",
        "headSource",
        "importMethod",
        "importTimeout",
        "importsPerMiner",
        "lease",
        "locator",
        "maxTries",
        "nodePaths",
        "paths",
        "providerPollInterval",
        "retryMax",
        "retryMin",
        "roots",
        "scanInterval",
        "startEpochMargin",
        "verifyPiece",
        "waitInterval",
    ],
    hint: "client-agent has a file of its own (conf.yaml); configs/client-agent.yaml shows all keys",
};
