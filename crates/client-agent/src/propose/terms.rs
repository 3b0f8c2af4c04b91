//! What deals are proposed with: wallet, duration and other terms, providers and prices, limits.

use std::time::Duration;

use carferry_core::model::{AttoFil, DealDuration, PublishMethod};
use carferry_core::path_mapping::PathMapping;

use crate::config::{StartDelay, SyncRule};

/// What every deal of this agent has in common.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Client wallet.
    pub wallet: String,
    /// How long deals run.
    pub duration: DealDuration,
    /// From now to the start of a deal.
    pub start_delay: StartDelay,
    /// attoFIL of provider collateral; `None`: 1.2 times the network's minimum, as Lotus does.
    pub provider_collateral: Option<AttoFil>,
    /// Whether deals spend datacap.
    pub verified: bool,
    /// Whether providers are asked to keep an unsealed copy.
    pub fast_retrieval: bool,
    /// Which call publishes them.
    pub method: MethodChoice,
    /// Whether the node's head must be of now.
    pub sync: SyncRule,
    /// Only CARs of these groups; empty: all.
    pub groups: Vec<String>,
    /// From this host's paths to the Lotus node's.
    pub car_paths: Vec<PathMapping>,
    /// Whether CARs of other hosts get no deals; `None`: where the node must read a CAR from its own disk.
    pub own_cars_only: Option<bool>,
    /// Name of this agent.
    pub owner: String,
}

/// Which call the configuration wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodChoice {
    /// Stateless where it applies (price 0 and the node has it), else start.
    #[default]
    Auto,
    /// Always this one.
    Only(PublishMethod),
}

/// What a run may do. See `configs/client-agent.yaml` for the keys.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Replicas of a payload over all providers (`maxDealNums`).
    pub replicas_max: usize,
    /// Deals of one payload with one provider (`minerMaxDeals`).
    pub deals_per_payload_and_miner_max: usize,
    /// Deals of one provider that wait for their import (`maxOpenDealsPerMiner`).
    pub open_deals_per_miner_max: Option<u64>,
    /// New deals in one pass (`maxDealsPerRun`).
    pub deals_per_pass_max: Option<u64>,
    /// Refused or failed deals of one payload with one provider after which it is left alone
    /// (`maxFailedDeals`); refusals for reasons that pass do not count.
    pub failures_max: usize,
    /// Older ones are forgotten (`failedDealsWithin`).
    pub failures_within: Duration,
}

/// A provider from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address, as written in the configuration.
    pub miner: String,
    /// FIL per epoch for the whole piece.
    pub price: AttoFil,
}
