//! What the flow needs: the nodes, a database, folders of client and provider, both agents.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use std::{env, fs};

use bson::{Document, doc};
use futures::TryStreamExt as _;
use harness::test_env::Process;
use harness::{TestDb, test_env};
use tokio::time::{Instant, sleep};

use crate::node::Node;
use crate::{boost, node};

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
    pub(crate) piece_bytes: u64,
    pub(crate) deal_bytes: i64,
    pub(crate) payload_bytes: u64,
}

impl Car {
    pub(crate) fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }
}

/// The folders of a run: of what is packed, of CARs, and of the provider.
pub(crate) struct Folders {
    inputs: PathBuf,
    outputs: PathBuf,
    pub(crate) provider: PathBuf,
    all: tempfile::TempDir,
}

impl Folders {
    pub(crate) fn new() -> Self {
        let all = tempfile::Builder::new().prefix("carferry-real-").tempdir().unwrap();
        let new_folder = |name: &str| {
            let path = all.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (inputs, outputs, provider) =
            (new_folder("inputs"), new_folder("outputs"), new_folder("provider"));
        Self { inputs, outputs, provider, all }
    }

    /// A folder that nothing of the flow looks into.
    pub(crate) fn create(&self, name: &str) -> PathBuf {
        let path = self.all.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Writes a configuration.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.all.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// A real node with everything around it.
pub(crate) struct Setup<N = Node> {
    pub(crate) node: N,
    db: TestDb,
    client_yaml: PathBuf,
    pub(crate) miner_yaml: PathBuf,
    /// Where the provider looks for CARs.
    pub(crate) provider_folder: PathBuf,
    pub(crate) folders: Folders,
}

impl Setup {
    pub(crate) async fn open(method: &str) -> Self {
        let folders = Folders::new();
        let node = Node::start(&folders.create("lotus")).await;
        let info = &node.info;
        let client_text = format!(
            "miners: [{{miner: {}, price: 0}}]\nlotus: {{endpoint: '{}', token: '{}'}}\nsetting: {{wallet: {}, \
             duration: 200, startDelay: 20000 epochs, maxDealNums: 1, minerMaxDeals: 1, publishMethod: {method}, \
             dealTimeout: 500ms, planInterval: 500ms}}\n",
            info.miner_addr, info.full, info.full_token, info.wallet,
        );
        // No full node: nothing but the market tells which network this is.
        let miner_text = format!(
            "miners: [{{miner: {}, endpoint: '{}', token: '{}'}}]\nroots: ['{}']\nsetting: {{scanInterval: 5s, \
             lease: 5s, waitInterval: 1s, retryMin: 500ms, retryMax: 5s, providerPollInterval: 2s}}\n",
            info.miner_addr,
            info.miner,
            info.miner_write_token,
            folders.provider.display(),
        );
        Self::around(node, folders, &client_text, &miner_text).await
    }
}

impl<N> Setup<N> {
    /// A database and both agents' configurations around a node; the section `mongodb` is added to these.
    pub(crate) async fn around(node: N, folders: Folders, client: &str, miner: &str) -> Self {
        let db = harness::database().await.unwrap();
        let mongodb = format!("mongodb: {{uri: '{}', database: '{}'}}\n", db.uri, db.name);
        let client_yaml = folders.write("conf.yaml", &format!("{client}{mongodb}"));
        let miner_yaml = folders.write("import.yaml", &format!("{miner}{mongodb}"));
        let provider_folder = folders.provider.clone();
        Self { node, db, client_yaml, miner_yaml, provider_folder, folders }
    }

    /// A CAR of each of so many files, made by `makecars`, which is killed on its way and started again.
    pub(crate) async fn pack(&self, count: usize, rng: &mut fastrand::Rng) -> Vec<Car> {
        for number in 0..count {
            let content: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(INPUT_BYTES).collect();
            fs::write(self.folders.inputs.join(format!("{number}.bin")), content).unwrap();
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
        let bytes = |document: &Document, field: &str| document.get_i64(field).unwrap();
        let car = |document: &Document| Car {
            path: text(document, "outputpath").into(),
            piece_cid: text(document, "piececid"),
            payload_cid: text(document, "filecid"),
            piece_bytes: bytes(document, "piecesizebytes").try_into().unwrap(),
            deal_bytes: bytes(document, "dealsizebytes"),
            payload_bytes: bytes(document, "carsizebytes").try_into().unwrap(),
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
        command
            .arg("makecars")
            .arg("--input")
            .arg(&self.folders.inputs)
            .arg("--output")
            .arg(&self.folders.outputs);
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
        self.miner_on(&self.miner_yaml)
    }

    /// `miner-agent run` with another configuration.
    pub(crate) fn miner_on(&self, yaml: &Path) -> Process {
        let mut command = test_env::miner_agent_command().unwrap();
        command.arg("run");
        self.spawn(command, yaml, "miner-agent.log")
    }

    /// miner-agent's configuration with `nodePaths` that call the provider's folder so.
    pub(crate) fn with_node_paths(&self, to: &str) -> PathBuf {
        let text = fs::read_to_string(&self.miner_yaml).unwrap();
        let from = self.provider_folder.display();
        self.folders.write("node-paths.yaml", &format!("{text}nodePaths: [{{from: '{from}', to: '{to}'}}]\n"))
    }

    /// A command of miner-agent that ends by itself.
    pub(crate) async fn miner_command(&self, yaml: &Path, arguments: &[&str]) -> Output {
        let mut command = test_env::miner_agent_command().unwrap();
        command.args(arguments).arg("-c").arg(yaml);
        without_variables(&mut command);
        tokio::process::Command::from(command).output().await.unwrap()
    }

    fn spawn(&self, mut command: Command, yaml: &Path, log: &str) -> Process {
        command.arg("-c").arg(yaml);
        without_variables(&mut command);
        test_env::spawn(command, &self.folders.all.path().join(log)).unwrap()
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

/// A number from the environment.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The agents refuse variables that look like theirs.
fn without_variables(command: &mut Command) {
    for variable in [node::BINARY_VARIABLE, boost::BINARY_VARIABLE] {
        command.env_remove(variable);
    }
}
