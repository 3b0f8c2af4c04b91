//! The shared MongoDB database: every query and update is a named function here.
//!
//! Rules for all of them: writes are acknowledged by a majority; every call has a time limit (the driver has
//! no socket timeout, and an unreachable server would hold a call for 47 s and more); every write can be
//! repeated; documents are changed by field, never replaced; times are the server's (`$$NOW`), so that the
//! agents' clocks do not matter.

mod adopted;
mod bounded;
mod cars;
mod clients;
mod commitments;
mod deal_status;
mod deal_terms;
mod deals;
mod diagnosis;
mod driver_error;
mod error;
mod expr;
mod failures;
mod handed;
mod import_outcome;
mod import_queue;
mod indexes;
mod intents;
mod leases;
mod lenient;
mod miner_states;
mod miners;
mod offered_deals;
mod pages;
mod pending_calls;
mod plans;
mod provider_views;
mod restore;
pub mod retry;
mod rights;
mod served_cars;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadPreference, SelectionCriteria, ServerApi, WriteConcern,
};
use mongodb::results::UpdateResult;
use mongodb::{Client, Collection, Database};

use crate::config::MongoTarget;
pub use crate::store::adopted::AdoptedDeal;
pub use crate::store::cars::{PayloadCars, VerifyDue};
pub use crate::store::clients::shut_down_after;
pub use crate::store::commitments::Unpublished;
pub use crate::store::deal_status::{NumberChange, StatusChange};
pub use crate::store::deals::{DealCounts, StoredDeal};
pub use crate::store::driver_error::DriverError;
pub use crate::store::error::StoreError;
pub use crate::store::failures::{Failure, FailuresOf};
pub use crate::store::handed::{HandedDeal, HandedTotals};
pub use crate::store::import_outcome::{CallRecord, ImportOutcome, Settled};
pub use crate::store::import_queue::{DueId, DueIds, PendingCounts};
pub use crate::store::indexes::{IndexReport, IndexUser, MADE_AT_START};
pub use crate::store::intents::{INTENT_PAUSE_MAX, Inserted};
pub use crate::store::leases::{Claim, Fence, LEASE_MAX, PAUSE_MAX};
pub use crate::store::miner_states::{AgentState, MinerStateDoc};
pub use crate::store::pages::DealPages;
pub use crate::store::pending_calls::PendingCall;
pub use crate::store::plans::{PieceClaim, PieceCounts};
pub use crate::store::provider_views::{NewView, PollScope, ProviderView};
pub use crate::store::restore::Restored;
pub use crate::store::retry::{RetryUntilAnswered, Unanswered};
pub use crate::store::served_cars::{StandingCar, StandingCars};

/// Address and time limit of the database.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Servers, login and database.
    pub target: MongoTarget,
    /// Shown in the server's logs and `currentOp`.
    pub app_name: String,
    /// Limit of one call.
    pub call_timeout: Duration,
}

/// Whether the caller holds the lease under which it writes. Under a lost one nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It holds it.
    Held,
    /// Another agent has it, or the work is done.
    Lost,
}

impl LeaseState {
    /// Of a write whose filter names the lease.
    fn of(write: &UpdateResult) -> Self {
        if write.matched_count == 1 { Self::Held } else { Self::Lost }
    }
}

/// The shared database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    watch_database: Database,
    cars: Collection<Document>,
    deals: Collection<Document>,
    intents: Collection<Document>,
    plans: Collection<Document>,
    pieces: Collection<Document>,
    files: Collection<Document>,
    call_timeout: Duration,
    /// The options of both clients.
    options: Arc<ClientOptions>,
}

/// How long the driver looks for a usable server; also the longest silence of a change stream after a
/// clean shutdown of the primary (measured: with the default of 30 s events came back after 31 s).
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Connections to a server, unless the URI sets `maxPoolSize`. One market list that confirms some hundred
/// imports takes all ten of the driver's default, and the next claim would wait behind them.
pub const CONNECTIONS_MAX: u32 = 128;
/// Connections that are made at a time (`maxConnecting`). With the driver's default of two, every burst waits
/// in a queue.
const CONNECTING_MAX: u32 = 8;

impl Store {
    /// Prepares a connection; the first call connects.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadUri`] for options that the driver does not take, or an SRV name without servers.
    pub async fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        let bad_uri = |source: mongodb::error::Error| StoreError::BadUri { source: source.into() };
        let connection = options.target.connection.clone();
        let mut client_options = ClientOptions::parse(connection).await.map_err(bad_uri)?;
        client_options.app_name = Some(options.app_name.clone());
        // Shorter than a call's own limit, because only the driver knows why no server can be used.
        let selection_timeout = SERVER_SELECTION_TIMEOUT.min(options.call_timeout * 4 / 5);
        client_options.server_selection_timeout.get_or_insert(selection_timeout);
        client_options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        client_options.heartbeat_freq.get_or_insert(HEARTBEAT);
        client_options.max_pool_size.get_or_insert(CONNECTIONS_MAX);
        client_options.max_connecting.get_or_insert(CONNECTING_MAX);
        let majority =
            WriteConcern::builder().w(Acknowledgment::Majority).w_timeout(options.call_timeout).build();
        client_options.write_concern = Some(majority);
        client_options.server_api = None::<ServerApi>;
        // Regardless of the URI: a write must be visible to the next read, and a secondary may lag behind.
        client_options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));

        // A stream of this client that fails while it resumes must return the error: the driver's own second
        // try starts from the original options and silently skips the events in between (driver 3.9.1
        // src/operation/aggregate/change_stream.rs:68).
        let mut watch_options = client_options.clone();
        watch_options.retry_reads = Some(false);

        let kept = Arc::new(client_options.clone());
        let open = |options| Client::with_options(options).map_err(bad_uri).inspect(clients::note);
        let database = open(client_options)?.database(&options.target.database);
        let watch_database = open(watch_options)?.database(&options.target.database);
        Ok(Self {
            cars: database.collection("cars"),
            deals: database.collection("offlinedeals"),
            intents: database.collection("dealintents"),
            plans: database.collection("packplans"),
            pieces: database.collection("packpieces"),
            files: database.collection("packfiles"),
            database,
            watch_database,
            call_timeout: options.call_timeout,
            options: kept,
        })
    }

    /// Checks that the server is there and is a replica set, which change streams need.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotReplicaSet`], or a failed call.
    pub async fn check_replica_set(&self) -> Result<String, StoreError> {
        let hello = self.bounded("hello", self.database.run_command(doc! { "hello": 1 })).await?;
        hello.get_str("setName").map(str::to_owned).map_err(|_| StoreError::NotReplicaSet)
    }

    /// The approximate number of documents in `cars` and `offlinedeals`, from the server's counters.
    pub async fn document_counts(&self) -> Result<(u64, u64), StoreError> {
        let cars = self.bounded("cars count", self.cars.estimated_document_count()).await?;
        let deals = self.bounded("offlinedeals count", self.deals.estimated_document_count()).await?;
        Ok((cars, deals))
    }

    /// How many deals of a miner are recorded.
    pub async fn recorded_deals(&self, miner: &str) -> Result<u64, StoreError> {
        self.bounded(
            "offlinedeals count",
            self.deals.count_documents(doc! { "miner": miners::written_as(miner) }),
        )
        .await
    }

    /// The server's clock.
    pub async fn server_time(&self) -> Result<bson::DateTime, StoreError> {
        let hello = self.bounded("hello", self.database.run_command(doc! { "hello": 1 })).await?;
        hello.get_datetime("localTime").copied().map_err(|_| StoreError::NotReplicaSet)
    }

    /// The database's name.
    pub fn database_name(&self) -> &str {
        self.database.name()
    }
}
