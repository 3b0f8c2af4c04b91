//! What a test of a deal's whole way needs: a simulated Lotus, a database, a folder of CARs, agents.
//!
//! What lives here: the set-up that every end-to-end test repeats. What does not: anything that a test
//! is about; what is asserted stands in the test.

mod agents;
mod boost;
mod cars;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub use agents::{MinerAgent, Process, client_agent_command, client_agent_words, miner_agent_command, spawn};
use anyhow::Context as _;
pub use boost::{Boost, BoostDeal};
use bson::{Document, doc};
use carferry_core::lotus::provider::ImportMethod;
use carferry_core::lotus::wire::{CidLink, DataRef, StartDealParams};
use carferry_core::lotus::{FullNode, Provider};
use carferry_core::model::PublishMethod;
use carferry_core::rpc::{BootInstant, CallTimeouts, Client};
pub use cars::Car;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lotus_sim::{Permission, Sim, SimConfig, WalletConfig};
use mongodb::Collection;

/// The miner that a simulator has where nothing else is said.
pub const MINER: &str = "f01000";
/// Epochs from the head to a deal's start: beyond what miners demand, within what they allow.
const EPOCHS_TO_START: i64 = 5000;
/// A little over the shortest duration that the network allows.
const DURATION_EPOCHS: i64 = 518_400 + 6000;
/// Proposals that are under way at the same time.
const PROPOSALS_AT_ONCE: usize = 16;
/// A shorter CAR would fill less than the smallest piece of the default ask (256 bytes padded).
const CONTENT_BYTES_MIN: usize = 200;

/// Everything a deal meets; ends with its drop.
#[derive(Debug)]
pub struct TestEnv {
    /// The full node and its miners.
    pub sim: Sim,
    /// The shared database.
    pub db: mongodb::Database,
    /// Its connection string.
    pub uri: String,
    full_node: FullNode,
    folder: tempfile::TempDir,
    files: AtomicU32,
}

/// Moves a file as others do, who do not care whether a power cut undoes it.
#[expect(clippy::disallowed_methods, reason = "no file of ours")]
pub fn move_file(from: &Path, to: &Path) -> anyhow::Result<()> {
    Ok(std::fs::rename(from, to)?)
}

impl TestEnv {
    /// One miner ([`MINER`]) and a database on the run's common mongod.
    pub async fn open() -> anyhow::Result<Self> {
        Self::open_with(SimConfig::default()).await
    }

    /// As [`TestEnv::open`], with another simulator.
    pub async fn open_with(sim: SimConfig) -> anyhow::Result<Self> {
        let database = crate::database().await?;
        Self::open_on(sim, database.db, database.uri).await
    }

    /// On a database of the caller's.
    pub async fn open_on(sim: SimConfig, db: mongodb::Database, uri: String) -> anyhow::Result<Self> {
        agents::begin_logging();
        let sim = lotus_sim::start(sim).await?;
        let token = sim.token(Permission::Admin);
        let client = Client::new(&sim.full_node_url(), Some(&token), CallTimeouts::default())?;
        let folder = tempfile::Builder::new().prefix("carferry-test-").tempdir()?;
        Ok(Self { sim, db, uri, full_node: FullNode::new(client), folder, files: AtomicU32::new(0) })
    }

    /// A folder for whatever a test writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in [`TestEnv::folder`] that is handed out once.
    pub fn new_path(&self, name: &str) -> PathBuf {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        self.folder().join(format!("{number}-{name}"))
    }

    /// `offlinedeals`.
    pub fn deals(&self) -> Collection<Document> {
        self.db.collection("offlinedeals")
    }

    /// `cars`.
    pub fn cars(&self) -> Collection<Document> {
        self.db.collection("cars")
    }

    /// A CAR of a small file with this content, repeated until it fills a piece that miners take.
    pub fn car(&self, content: &str) -> anyhow::Result<Car> {
        let times = CONTENT_BYTES_MIN.div_ceil(content.len().max(1));
        cars::make(&self.new_path("content"), content.repeat(times).as_bytes())
    }

    /// A CAR of so many bytes, of a file with holes.
    pub fn car_of_bytes(&self, bytes: u64) -> anyhow::Result<Car> {
        cars::make_sparse(&self.new_path("sparse"), bytes)
    }

    /// Proposes a deal over a CAR; the answer is its proposal CID, once the provider waits for the data.
    pub async fn propose(&self, car: &Car, miner: &str) -> anyhow::Result<String> {
        self.propose_by(PublishMethod::Stateless, car, miner).await
    }

    /// As [`TestEnv::propose`] by either method; `ClientStartDeal` answers before the provider knows.
    pub async fn propose_by(&self, method: PublishMethod, car: &Car, miner: &str) -> anyhow::Result<String> {
        let params = StartDealParams {
            data: DataRef {
                transfer_type: "manual".to_owned(),
                root: CidLink::new(&car.payload_cid),
                piece_cid: Some(CidLink::new(&car.piece_cid)),
                piece_size: car.deal_size_bytes,
                raw_block_size: 0,
            },
            wallet: WalletConfig::default().address,
            miner: miner.to_owned(),
            epoch_price: "0".to_owned(),
            min_blocks_duration: DURATION_EPOCHS,
            provider_collateral: "0".to_owned(),
            deal_start_epoch: self.sim.height() + EPOCHS_TO_START,
            fast_retrieval: true,
            verified_deal: false,
        };
        let soon = BootInstant::now().plus(std::time::Duration::from_secs(60));
        Ok(self.full_node.publish(method, &params, soon).await?.cid)
    }

    /// Writes a CAR and a deal over it into the database, as client-agent does.
    pub async fn record(&self, car: &Car, deal: &str, miner: &str) -> anyhow::Result<()> {
        self.cars().insert_one(car.document()).await?;
        self.record_deal(car, deal, miner).await
    }

    /// Writes the deal alone.
    pub async fn record_deal(&self, car: &Car, deal: &str, miner: &str) -> anyhow::Result<()> {
        self.deals().insert_one(self.deal_document(car, deal, miner)?).await?;
        Ok(())
    }

    /// As [`TestEnv::record`], for a database in trouble: may be repeated until it succeeds.
    pub async fn record_once(&self, car: &Car, deal: &str, miner: &str) -> anyhow::Result<()> {
        let key = doc! { "outputpath": car.path.display().to_string() };
        let insert = doc! { "$setOnInsert": car.document() };
        self.cars().update_one(key, insert).upsert(true).await?;
        let insert = doc! { "$setOnInsert": self.deal_document(car, deal, miner)? };
        self.deals().update_one(doc! { "dealcid": deal }, insert).upsert(true).await?;
        Ok(())
    }

    fn deal_document(&self, car: &Car, deal: &str, miner: &str) -> anyhow::Result<Document> {
        let start_epoch = self.sim.deal(deal).context("the simulator has no such deal")?.start_epoch;
        let size = i64::try_from(car.deal_size_bytes)?;
        Ok(doc! {
            "filecid": &car.payload_cid, "dealcid": deal, "miner": miner, "isdeal": 0, "status": 18,
            "piececid": &car.piece_cid, "dealsizebytes": size, "startepoch": start_epoch,
            "createdtime": bson::DateTime::now(),
        })
    }

    /// A deal that was proposed and accepted, and stands in no database.
    pub async fn proposed(&self, content: &str) -> anyhow::Result<(Car, String)> {
        let car = self.car(content)?;
        let deal = self.propose(&car, MINER).await?;
        Ok((car, deal))
    }

    /// A deal that waits for its import.
    pub async fn recorded(&self, content: &str) -> anyhow::Result<(Car, String)> {
        let (car, deal) = self.proposed(content).await?;
        self.record(&car, &deal, MINER).await?;
        Ok((car, deal))
    }

    /// Many of [`TestEnv::proposed`], several at a time.
    pub async fn many_proposed(&self, count: usize) -> anyhow::Result<Vec<(Car, String)>> {
        let proposals = (0..count)
            .map(|number| async move { self.proposed(&format!("content of file {number} ")).await });
        stream::iter(proposals).buffer_unordered(PROPOSALS_AT_ONCE).try_collect().await
    }

    /// Imports a CAR as an operator does, past all agents.
    pub async fn import_by_hand(&self, deal: &str, car: &Car) -> anyhow::Result<()> {
        let token = self.sim.token(Permission::Admin);
        let client = Client::new(&self.sim.miner_url(MINER), Some(&token), CallTimeouts::default())?;
        let path = car.path.to_str().context("the path is no UTF-8")?;
        let soon = BootInstant::now().plus(std::time::Duration::from_secs(60));
        Ok(Provider::new(client).import(ImportMethod::Deals, &deal.parse()?, path, soon).await?)
    }

    /// The document of a deal, if there is one.
    pub async fn deal(&self, deal: &str) -> anyhow::Result<Option<Document>> {
        Ok(self.deals().find_one(doc! { "dealcid": deal }).await?)
    }

    /// Whether a deal's document says that it was imported.
    pub async fn is_imported(&self, deal: &str) -> anyhow::Result<bool> {
        Ok(self.deals().count_documents(doc! { "dealcid": deal, "isdeal": 1 }).await? == 1)
    }

    /// How many documents say that.
    pub async fn imported_count(&self) -> anyhow::Result<u64> {
        Ok(self.deals().count_documents(doc! { "isdeal": 1 }).await?)
    }

    /// A deal's `import`; empty if there is none.
    pub async fn import_of(&self, deal: &str) -> anyhow::Result<Document> {
        let document = self.deal(deal).await?.unwrap_or_default();
        Ok(document.get_document("import").cloned().unwrap_or_default())
    }

    /// A field of a deal's `import`, as text; empty if there is none.
    pub async fn import_field(&self, deal: &str, name: &str) -> anyhow::Result<String> {
        Ok(self.import_of(deal).await?.get_str(name).unwrap_or_default().to_owned())
    }
}
