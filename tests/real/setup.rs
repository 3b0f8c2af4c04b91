//! What the flow needs: the nodes, a database, folders of client and provider, both agents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bson::{Document, doc};
use futures::TryStreamExt as _;
use harness::test_env::Process;
use harness::{TestDb, test_env};
use tokio::time::{Instant, sleep};

use crate::node::{BINARY_VARIABLE, Node};

/// Kills of `makecars` on its way.
const PACKING_KILLS: usize = 3;
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(60);
/// All of the same size, so that one CAR can stand in the place of another.
const INPUT_BYTES: usize = 200_000;

/// A CAR as it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct Car {
    pub(crate) path: PathBuf,
    pub(crate) piece_cid: String,
    pub(crate) payload_cid: String,
}

impl Car {
    pub(crate) fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }
}

pub(crate) struct Setup {
    pub(crate) node: Node,
    db: TestDb,
    client_yaml: PathBuf,
    miner_yaml: PathBuf,
    inputs: PathBuf,
    outputs: PathBuf,
    /// Where the provider looks for CARs.
    pub(crate) provider_folder: PathBuf,
    folder: tempfile::TempDir,
}

impl Setup {
    pub(crate) async fn open(method: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("carferry-real-").tempdir().unwrap();
        let new_folder = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (inputs, outputs, provider_folder) =
            (new_folder("inputs"), new_folder("outputs"), new_folder("provider"));
        let node = Node::start(&new_folder("lotus")).await;
        let db = harness::database().await.unwrap();
        let info = &node.info;
        let mongodb = format!("mongodb: {{uri: '{}', database: '{}'}}\n", db.uri, db.name);
        let client_text = format!(
            "miners: [{{miner: {}, price: 0}}]\nlotus: {{endpoint: '{}', token: '{}'}}\n{mongodb}setting: {{wallet: {}, \
             duration: 200, startDelay: 20000 epochs, maxDealNums: 1, minerMaxDeals: 1, publishMethod: {method}, \
             dealTimeout: 500ms, planInterval: 500ms}}\n",
            info.miner_addr, info.full, info.full_token, info.wallet,
        );
        // No full node: nothing but the market tells which network this is.
        let miner_text = format!(
            "miners: [{{miner: {}, endpoint: '{}', token: '{}'}}]\nroots: ['{}']\n{mongodb}setting: {{scanInterval: 5s, \
             lease: 5s, waitInterval: 1s, retryMin: 500ms, retryMax: 5s, providerPollInterval: 2s}}\n",
            info.miner_addr,
            info.miner,
            info.miner_write_token,
            provider_folder.display(),
        );
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (client_yaml, miner_yaml) = (write("conf.yaml", client_text), write("import.yaml", miner_text));
        Self { node, db, client_yaml, miner_yaml, inputs, outputs, provider_folder, folder }
    }

    /// A CAR of each of so many files, made by `makecars`, which is killed on its way and started again.
    pub(crate) async fn pack(&self, count: usize, rng: &mut fastrand::Rng) -> Vec<Car> {
        for number in 0..count {
            let content: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(INPUT_BYTES).collect();
            fs::write(self.inputs.join(format!("{number}.bin")), content).unwrap();
        }
        for _ in 0..PACKING_KILLS {
            let mut packing = self.makecars();
            sleep(Duration::from_millis(rng.u64(50..800))).await;
            packing.kill9().unwrap();
        }
        let mut packing = self.makecars();
        while packing.is_running() {
            sleep(Duration::from_millis(50)).await;
        }
        let documents: Vec<Document> =
            self.collection("cars").find(doc! {}).await.unwrap().try_collect().await.unwrap();
        let text = |document: &Document, field: &str| document.get_str(field).unwrap().to_owned();
        let car = |document: &Document| Car {
            path: text(document, "outputpath").into(),
            piece_cid: text(document, "piececid"),
            payload_cid: text(document, "filecid"),
        };
        let cars: Vec<Car> = documents.iter().map(car).collect();
        assert_eq!(cars.len(), count, "CARs: {}", fs::read_to_string(&packing.log).unwrap());
        for car in &cars {
            fs::copy(&car.path, self.provider_folder.join(car.name())).unwrap();
        }
        cars
    }

    fn makecars(&self) -> Process {
        let mut command = test_env::client_agent_command().unwrap();
        command.arg("makecars").arg("--input").arg(&self.inputs).arg("--output").arg(&self.outputs);
        self.spawn(command, &self.client_yaml, "makecars.log")
    }

    /// `client-agent run`.
    pub(crate) fn client(&self) -> Process {
        let mut command = test_env::client_agent_command().unwrap();
        command.arg("run");
        self.spawn(command, &self.client_yaml, "client-agent.log")
    }

    /// `miner-agent run`.
    pub(crate) fn miner(&self) -> Process {
        let mut command = test_env::miner_agent_command().unwrap();
        command.arg("run");
        self.spawn(command, &self.miner_yaml, "miner-agent.log")
    }

    fn spawn(&self, mut command: Command, yaml: &Path, log: &str) -> Process {
        command.arg("-c").arg(yaml).env_remove(BINARY_VARIABLE);
        test_env::spawn(command, &self.folder.path().join(log)).unwrap()
    }

    /// A collection of the agents' database.
    pub(crate) fn collection(&self, name: &str) -> mongodb::Collection<Document> {
        self.db.db.collection(name)
    }

    /// The deal of a CAR, empty before there is one.
    pub(crate) async fn deal_of(&self, car: &Car) -> Document {
        let deals = self.collection("offlinedeals");
        deals.find_one(doc! { "filecid": &car.payload_cid }).await.unwrap().unwrap_or_default()
    }

    async fn count(&self, filter: Document) -> usize {
        let count = self.collection("offlinedeals").count_documents(filter).await.unwrap();
        usize::try_from(count).unwrap()
    }

    /// Waits until so many deals are imported and active by the records.
    pub(crate) async fn wait_for(&self, deals: usize, within: Duration) {
        self.wait(deals, doc! { "isdeal": 1, "status": 7 }, "active", within).await;
    }

    /// Waits until so many deals are imported by the records.
    pub(crate) async fn wait_for_imports(&self, deals: usize, within: Duration) {
        self.wait(deals, doc! { "isdeal": 1 }, "imported", within).await;
    }

    async fn wait(&self, deals: usize, filter: Document, what: &str, within: Duration) {
        let started = Instant::now();
        let mut told = started;
        loop {
            let found = self.count(filter.clone()).await;
            if found >= deals {
                return;
            }
            if told.elapsed() > TELL_EVERY || started.elapsed() > within {
                told = Instant::now();
                let (all, imported) = (self.count(doc! {}).await, self.count(doc! { "isdeal": 1 }).await);
                let failed = self.count(doc! { "status": 26 }).await;
                let seconds = started.elapsed().as_secs();
                eprintln!(
                    "{seconds} s: {found} of {deals} {what}; {all} deals, {imported} imported, {failed} in state 26"
                );
            }
            assert!(started.elapsed() < within, "{found} of {deals} deals are {what} after {within:?}");
            sleep(LOOK_EVERY).await;
        }
    }
}
