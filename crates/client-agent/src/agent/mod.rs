//! From a configuration to the parts that run: database, Lotus node, proposer of deals, tracker of deals.

mod passes;

use std::sync::Arc;

use carferry_core::error_chain::Hint as _;
use carferry_core::lotus::FullNode;
use carferry_core::model::PublishMethod;
use carferry_core::rpc::Client;
use carferry_core::rpc::endpoint::resolve_full_node;
use carferry_core::runtime::{Shutdown, Supervisor, SupervisorError};
use carferry_core::store::Store;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{Collateral, Config, PublishChoice};
use crate::exit::CommandError;
use crate::node_deals::NodeDeals;
use crate::propose::lotus::preflight::PreflightError;
use crate::propose::terms::{Limits, MethodChoice, Target, Terms};
use crate::propose::{ProposeError, Proposer};
use crate::track::{TrackError, Tracker};

/// What every part of a running agent is made of.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    config: &'a Config,
    /// The database.
    pub(crate) store: Store,
    node: FullNode,
}

impl<'a> Agent<'a> {
    /// Opens database and node; the first call to each connects.
    ///
    /// # Errors
    ///
    /// [`CommandError`] when the configuration names no node or no database that can be used.
    pub(crate) async fn connect(config: &'a Config) -> Result<Self, CommandError> {
        let endpoint = resolve_full_node(&config.lotus, &|name| std::env::var(name).ok())
            .map_err(|error| CommandError::user(&error))?;
        let client = Client::of(&endpoint, config.call_timeouts())?;
        let store = Store::open(&config.store_options()?).await?;
        Ok(Self { config, store, node: FullNode::new(client) })
    }

    /// A proposer of deals; `stop` ends its queues.
    ///
    /// # Errors
    ///
    /// When wallet, duration or miners are not configured.
    pub(crate) fn proposer(&self, stop: CancellationToken) -> Result<Proposer, CommandError> {
        let deal_terms = self.config.deal_terms()?;
        let targets = deal_terms
            .miners
            .iter()
            .map(|miner| Target { miner: miner.miner.to_string(), price: miner.price })
            .collect();
        let terms = terms(self.config)?;
        Ok(Proposer::new(self.store.clone(), self.node.clone(), terms, targets, limits(self.config), stop))
    }

    /// A tracker of the deals of every wallet that deals are recorded for.
    ///
    /// # Errors
    ///
    /// When wallet, duration or miners are not configured.
    pub(crate) fn tracker(&self) -> Result<Tracker, CommandError> {
        let wallet = self.config.deal_terms()?.wallet.to_string();
        let tracker = Tracker::new(self.store.clone(), self.node.clone(), wallet);
        Ok(tracker.with_sync(self.config.sync_rule()))
    }

    /// Tracks deals until the shutdown is asked for.
    ///
    /// # Errors
    ///
    /// What the database refuses for good.
    pub(crate) async fn track(self, shutdown: &Shutdown) -> Result<(), CommandError> {
        let every = self.config.setting.deal_timeout;
        Ok(passes::track(self.tracker()?, every, shutdown.token().clone()).await?)
    }

    /// Publishes and tracks deals until the shutdown is asked for.
    ///
    /// # Errors
    ///
    /// When the configuration does not suffice, the database refuses for good, or a task failed by a bug.
    pub(crate) async fn run(self, shutdown: &Shutdown) -> Result<(), CommandError> {
        let setting = &self.config.setting;
        let stop = shutdown.token().clone();
        let node_deals = Arc::new(NodeDeals::shared(self.node.clone(), setting.deal_timeout));
        let proposer = self.proposer(stop.clone())?.with_node_deals(Arc::clone(&node_deals));
        let tracker = self.tracker()?.with_node_deals(node_deals);
        let database = self.store.database_name();
        info!(agent = %self.config.agent_name(), database, "client-agent runs");
        let mut tasks = Supervisor::new();
        let publishing = passes::publish(proposer, self.store.clone(), setting.plan_interval, stop.clone());
        tasks.spawn("publishing deals", publishing);
        tasks.spawn("tracking deals", passes::track(tracker, setting.deal_timeout, stop));
        tasks.run(shutdown, setting.grace_period).await.map_err(command_error_of)
    }
}

/// What every deal has in common, by the configuration.
fn terms(config: &Config) -> Result<Terms, CommandError> {
    let deal_terms = config.deal_terms()?;
    let setting = &config.setting;
    Ok(Terms {
        wallet: deal_terms.wallet.to_string(),
        duration: deal_terms.duration,
        start_delay: setting.start_delay,
        provider_collateral: match setting.provider_collateral {
            Collateral::Auto => None,
            Collateral::Amount(amount) => Some(amount),
        },
        verified: setting.verified,
        fast_retrieval: setting.fast_retrieval,
        method: match setting.publish_method {
            PublishChoice::Auto => MethodChoice::Auto,
            PublishChoice::Stateless => MethodChoice::Only(PublishMethod::Stateless),
            PublishChoice::Start => MethodChoice::Only(PublishMethod::Start),
        },
        sync: config.sync_rule(),
        groups: setting.groups.clone(),
        car_paths: setting.car_paths.clone(),
        own_cars_only: setting.own_cars_only,
        owner: config.agent_name(),
    })
}

/// What a pass may do, by the configuration.
fn limits(config: &Config) -> Limits {
    let setting = &config.setting;
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Limits {
        replicas_max: count(setting.max_deal_nums),
        deals_per_payload_and_miner_max: count(setting.miner_max_deals),
        open_deals_per_miner_max: setting.max_open_deals_per_miner.map(u64::from),
        deals_per_pass_max: setting.max_deals_per_run.map(u64::from),
        failures_max: count(setting.max_failed_deals),
        failures_within: setting.failed_deals_within,
    }
}

/// A refusal of the database in its own words; every other end of a task as it is.
fn command_error_of(error: SupervisorError) -> CommandError {
    let (task, source) = match error {
        SupervisorError::Failed { task, source } => (task, source),
        other => return CommandError::failure(&other),
    };
    let source = match source.downcast::<ProposeError>() {
        Ok(error) => return (*error).into(),
        Err(source) => source,
    };
    match source.downcast::<TrackError>() {
        Ok(error) => (*error).into(),
        Err(source) => CommandError::failure(&SupervisorError::Failed { task, source }),
    }
}

impl From<ProposeError> for CommandError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Store(error) => error.into(),
            ProposeError::Preflight(PreflightError::Lotus(error)) => error.into(),
            ProposeError::Preflight(error @ PreflightError::NotSynced { .. }) => {
                Self::failure_hint(&error, error.hint())
            }
            ProposeError::Preflight(error) => {
                let hint = error.hint().unwrap_or_default();
                Self::user_hint(&error, hint)
            }
        }
    }
}

impl From<TrackError> for CommandError {
    fn from(error: TrackError) -> Self {
        match error {
            TrackError::Store(error) => error.into(),
            TrackError::Lotus(error) => error.into(),
        }
    }
}
