//! The agent: built from its configuration (database, nodes, one import context per miner), then run.

use std::sync::Arc;
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::rpc::endpoint::EndpointError;
use carferry_core::runtime::{Shutdown, Supervisor};
use carferry_core::store::watch::Wake;
use carferry_core::store::{IndexUser, RetryUntilAnswered, Store, StoreOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::car_files::arrivals;
use crate::car_files::folder_guard::FolderGuard;
use crate::car_files::locate::Places;
use crate::car_files::piece_check::PieceChecker;
use crate::config::{Config, Setting};
use crate::dispatch::one_try::owner_name;
use crate::dispatch::worker::Worker;
use crate::error::AgentError;
use crate::import::{Confirm, ImportContext, adopt};
use crate::locator::{Locator, Parts};
use crate::market::Market;
use crate::market::chain_head::{Head, full_node};
use crate::market::node::{Environment, NodeAddress, NodeError};
use crate::{miner_state, provider_sync};

/// The parts of a running agent.
#[derive(Debug)]
pub struct Agent {
    /// The database.
    pub store: Store,
    /// One per miner.
    pub contexts: Vec<ImportContext>,
    /// The head of the chain.
    pub head: Arc<Head>,
    retry: RetryUntilAnswered,
    setting: Arc<Setting>,
    pieces: Arc<PieceChecker>,
    places: Arc<Places>,
    arrivals: Arc<arrivals::Arrivals>,
    locator: Option<Locator>,
}

/// Added to the imports' own grace period, for the other tasks to end.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

impl Agent {
    /// Prepares all parts; calls neither database nor nodes.
    ///
    /// # Errors
    ///
    /// [`AgentError`] for whatever in the configuration cannot be used.
    pub async fn build(config: &Config, env: Environment) -> Result<Self, AgentError> {
        let store = open_store(config).await?;
        let setting = Arc::new(config.setting.clone());
        let head =
            Arc::new(Head::new(setting.head_source, full_node(&config.full_node, env)?, store.clone()));
        let places = Arc::<Places>::new(config.places());
        let pieces = Arc::new(PieceChecker::default());
        let arrivals = Arc::<arrivals::Arrivals>::default();
        let folder_guard = Arc::new(FolderGuard::new(setting.file_timeout));
        let retry = RetryUntilAnswered::endless(store.clone());
        let mut contexts = Vec::new();
        for entry in &config.miners {
            let section = config.market_section(entry);
            let address = NodeAddress {
                section,
                env,
                timeouts: config.call_timeouts(),
                market: entry.market,
                graphql: entry.graphql_url().unwrap_or_default(),
            };
            match address.node() {
                // A node that is down has no address in its repository; the worker looks again.
                Ok(_) | Err(NodeError::Address(EndpointError::Repo { .. })) => {}
                Err(NodeError::Address(source)) => {
                    return Err(AgentError::Endpoint { miner: entry.miner.clone(), source });
                }
                Err(NodeError::Lotus(error)) => return Err(error.into()),
            }
            contexts.push(ImportContext {
                store: store.clone(),
                market: Arc::new(Market::new(entry.miner.clone(), address, setting.import_method)),
                head: Arc::clone(&head),
                places: Arc::clone(&places),
                pieces: Arc::clone(&pieces),
                arrivals: Arc::clone(&arrivals),
                folder_guard: Arc::clone(&folder_guard),
                standing: Arc::default(),
                own_ends: Arc::default(),
                confirm: Confirm::default(),
                handed: Arc::default(),
                retry: retry.clone(),
                setting: Arc::clone(&setting),
            });
        }
        let parts = Parts {
            store: store.clone(),
            miners: config.miners.iter().map(|entry| entry.miner.clone()).collect(),
            places: Arc::clone(&places),
            pieces: Arc::clone(&pieces),
            folder_guard,
        };
        let locator = Locator::build(config, parts)?;
        Ok(Self { store, contexts, head, retry, setting, pieces, places, arrivals, locator })
    }

    /// The miners' addresses, as deals name them.
    pub fn miners(&self) -> Vec<String> {
        self.contexts.iter().map(|context| context.market.miner().to_owned()).collect()
    }

    /// Watches and imports until the shutdown is requested.
    ///
    /// # Errors
    ///
    /// Only when a task of the agent ends by a defect of this program. Servers that are down are waited for.
    pub async fn run(mut self, shutdown: &Shutdown) -> Result<(), AgentError> {
        let miners = self.miners();
        info!(miners = miners.join(","), database = self.store.database_name(), "miner-agent runs");
        let owner = owner_name();
        let mut supervisor = Supervisor::new();
        let wakes: Arc<Vec<Arc<Notify>>> = Arc::new(self.contexts.iter().map(|_| Arc::default()).collect());

        let retry = self.retry.with_own_breaker();
        let prepare = prepare_database(self.store.clone(), retry, shutdown.token().clone());
        supervisor.spawn("indexes", prepare);
        let (store, stop, places) = (self.store.clone(), shutdown.token().clone(), Arc::clone(&self.places));
        let arrivals = Arc::clone(&self.arrivals);
        let (incoming_for, to_wake) = (miners.clone(), Arc::clone(&wakes));
        supervisor.spawn("incoming files", async move {
            let wake = || to_wake.iter().for_each(|worker| worker.notify_one());
            arrivals::watch(&store, &places, &arrivals, &incoming_for, &stop, wake).await;
            Ok::<(), AgentError>(())
        });
        let (store, stop, to_wake) = (self.store.clone(), shutdown.token().clone(), Arc::clone(&wakes));
        supervisor.spawn("watch", async move {
            let wake = |why: Wake| {
                debug!(?why, "woken");
                to_wake.iter().for_each(|worker| worker.notify_one());
            };
            store.watch_pending(&miners, &stop, wake).await;
            Ok::<(), AgentError>(())
        });
        if let Some(locator) = self.locator.take() {
            let stop = shutdown.token().clone();
            supervisor.spawn("locator", async move { locator.run(&stop).await });
        }
        let (head, stop) = (Arc::clone(&self.head), shutdown.token().clone());
        supervisor.spawn("head of the chain", async move {
            stop.run_until_cancelled(head.keep_fresh()).await;
            Ok::<(), AgentError>(())
        });
        for (context, wake) in self.contexts.iter().zip(wakes.iter()) {
            let miner = context.market.miner();
            let stop = shutdown.token().clone();
            let worker = Worker::new(context.clone(), owner.clone(), Arc::clone(wake), stop.clone());
            supervisor.spawn(format!("imports of {miner}"), async move {
                Box::pin(worker.run()).await;
                Ok::<(), AgentError>(())
            });
            let (reported, ending, agent) = (context.clone(), shutdown.token().clone(), owner.clone());
            supervisor.spawn(format!("state of {miner}"), async move {
                let ImportContext { store, market, standing, .. } = &reported;
                let report = miner_state::report(store, market.miner(), standing, &agent);
                ending.run_until_cancelled(report).await;
                Ok::<(), AgentError>(())
            });
            if self.setting.adopt {
                let (context, wake, stop) = (context.clone(), Arc::clone(wake), stop.clone());
                supervisor.spawn(format!("adoption for {miner}"), async move {
                    adopt::keep_adopting(&context, &wake, &stop).await;
                    Ok::<(), AgentError>(())
                });
            }
            let (context, wake) = (context.clone(), Arc::clone(wake));
            supervisor.spawn(format!("provider view of {miner}"), async move {
                provider_sync::follow(&context, &wake, &stop).await;
                Ok::<(), AgentError>(())
            });
        }
        let pieces = Arc::clone(&self.pieces);
        let ended = supervisor.run(shutdown, self.setting.grace_period + GRACE_MARGIN).await;
        pieces.stop();
        info!("miner-agent ended");
        Ok(ended?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A piece commitment under way would hold the process for minutes.
        self.pieces.stop();
    }
}

/// Opens the database of a configuration; the first call connects.
///
/// # Errors
///
/// When no connection string can be made of it.
pub async fn open_store(config: &Config) -> Result<Store, AgentError> {
    let options = StoreOptions {
        target: config.mongodb.target()?,
        app_name: "carferry-miner-agent".to_owned(),
        call_timeout: config.setting.database_timeout,
    };
    Ok(Store::open(&options).await?)
}

/// Checks the replica set and makes indexes, as soon as the database answers. Imports do not wait for this.
async fn prepare_database(
    store: Store,
    retry: RetryUntilAnswered,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let prepare = async {
        let set = retry.call("replica set", || store.check_replica_set()).await?;
        debug!(set, "replica set");
        retry.call("indexes", || store.ensure_indexes(IndexUser::MinerAgent)).await
    };
    match Box::pin(stop.run_until_cancelled(prepare)).await {
        None => {}
        Some(Ok(report)) => debug!(created = report.created.join(","), "indexes"),
        Some(Err(error)) => warn!(error = %ErrorChain(&error), "indexes could not be looked at"),
    }
    Ok(())
}
