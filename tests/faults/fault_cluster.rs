//! What every fault meets: a three-member replica set, a simulated Lotus with its miners, and both agents as
//! processes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bson::{Document, doc};
use harness::test_env::{Car, Process, TestEnv};
use harness::{Members, Options, ReplicaSet, eventually, test_env};
use lotus_sim::{MinerConfig, Permission, SimConfig, Timings, WalletConfig};

use crate::checker;

/// Deals for each CAR.
pub(crate) const REPLICAS: usize = 2;

/// Quick enough for tests.
const IMPORT_SETTING: [(&str, &str); 11] = [
    ("confirmTimeout", "1s"),
    ("databaseTimeout", "5s"),
    ("gracePeriod", "3s"),
    ("importTimeout", "10s"),
    ("lease", "2s"),
    ("listTimeout", "5s"),
    ("providerPollInterval", "500ms"),
    ("retryMax", "1s"),
    ("retryMin", "200ms"),
    ("scanInterval", "2s"),
    ("waitInterval", "300ms"),
];

/// Nothing is found by a scan: what is not told of is not imported while a test lasts.
pub(crate) const BY_EVENTS: (&str, &str) = ("scanInterval", "300s");

/// For tens of thousands of deals: a list of them takes the node seconds, so it is polled as often as by
/// default.
pub(crate) const LARGE: &[(&str, &str)] = &[
    ("importsPerMiner", "8"),
    ("listTimeout", "60s"),
    ("lease", "60s"),
    ("scanInterval", "30s"),
    ("providerPollInterval", "60s"),
    ("importTimeout", "120s"),
];

/// What a cluster is made of; the defaults suit most tests.
pub(crate) struct FaultConfig {
    pub(crate) members: Members,
    pub(crate) options: Options,
    pub(crate) sim: SimConfig,
    /// `start` or `stateless`.
    pub(crate) method: &'static str,
    /// Keys of miner-agent's section `setting` that are to be otherwise than [`IMPORT_SETTING`].
    pub(crate) import_setting: &'static [(&'static str, &'static str)],
}

impl Default for FaultConfig {
    fn default() -> Self {
        Self {
            members: Members::Three,
            options: Options::default(),
            sim: sim(3),
            method: "stateless",
            import_setting: &[],
        }
    }
}

/// Times of every fault: an import is answered before its deal has moved, as in Lotus, where the call only
/// enqueues.
pub(crate) fn timings() -> Timings {
    Timings { event_lag: Duration::from_millis(50), ..Timings::default() }
}

/// A simulator with so many miners.
pub(crate) fn sim(count: u32) -> SimConfig {
    SimConfig { miners: miners(count), timings: timings(), ..SimConfig::default() }
}

/// One miner, whose node decides at once.
pub(crate) fn instant() -> SimConfig {
    let timings = Timings { validate: Duration::ZERO, accept: Duration::ZERO, ..timings() };
    SimConfig { miners: miners(1), timings, ..SimConfig::default() }
}

/// So many miners, from f01000 on.
pub(crate) fn miners(count: u32) -> Vec<MinerConfig> {
    (0..count).map(|number| MinerConfig::new(format!("f0{}", 1000 + number))).collect()
}

pub(crate) struct FaultCluster {
    pub(crate) set: ReplicaSet,
    pub(crate) env: TestEnv,
    pub(crate) inputs: PathBuf,
    pub(crate) outputs: PathBuf,
    pub(crate) method: &'static str,
    /// Where agents find the full node and the miners; a test may put a proxy between.
    pub(crate) full_node: String,
    pub(crate) miner_urls: Vec<(String, String)>,
    import_setting: &'static [(&'static str, &'static str)],
    pub(crate) cars: usize,
}

impl FaultCluster {
    pub(crate) async fn open(stage: FaultConfig) -> Self {
        let set = ReplicaSet::start(stage.members, stage.options).await.unwrap();
        let db = set.client().await.unwrap().database("faults");
        let env = TestEnv::open_on(stage.sim, db, set.uri()).await.unwrap();
        let (inputs, outputs) = (env.folder().join("inputs"), env.folder().join("outputs"));
        fs::create_dir_all(&inputs).unwrap();
        let full_node = env.sim.full_node_url();
        let miner_urls =
            env.sim.miners().into_iter().map(|miner| (miner.clone(), env.sim.miner_url(&miner))).collect();
        let (method, import_setting) = (stage.method, stage.import_setting);
        Self { set, env, inputs, outputs, method, full_node, miner_urls, import_setting, cars: 0 }
    }

    /// More CARs that want deals.
    pub(crate) async fn add_cars(&mut self, count: usize) -> Vec<Car> {
        let mut made = Vec::new();
        for _ in 0..count {
            self.cars += 1;
            let car = self.env.car(&format!("file number {} ", self.cars)).unwrap();
            self.record(&car).await;
            made.push(car);
        }
        made
    }

    /// One more CAR that wants deals, of a file with holes of this size.
    pub(crate) async fn add_car_of_bytes(&mut self, bytes: u64) -> Car {
        self.cars += 1;
        let env = &self.env;
        let car = tokio::task::block_in_place(|| env.car_of_bytes(bytes)).unwrap();
        self.record(&car).await;
        car
    }

    /// Writes a CAR's document, whatever the database goes through.
    pub(crate) async fn record(&self, car: &Car) {
        let key = doc! { "outputpath": car.path.display().to_string() };
        let update = doc! { "$setOnInsert": car.document() };
        eventually!(
            within Duration::from_secs(60),
            self.env.cars().update_one(key.clone(), update.clone()).upsert(true).await,
            "a CAR is recorded"
        );
    }

    /// client-agent's configuration for an agent of this name.
    ///
    /// All agents see one disk, under whatever name each works.
    pub(crate) fn client_yaml(&self, agent: &str) -> PathBuf {
        let miners: Vec<_> =
            self.miner_urls.iter().map(|(miner, _)| format!("{{miner: {miner}, price: 0}}")).collect();
        // Agents that plan at the same moment would otherwise make the same proposal, which a node takes for
        // one.
        let start_delay = if agent == "two" { "8d" } else { "7d" };
        let text = format!(
            "miners: [{}]\nsetting: {{wallet: {}, startDelay: {start_delay}, duration: 366, maxDealNums: {REPLICAS}, minerMaxDeals: 1, \
             dealTimeout: 500ms, planInterval: 500ms, publishMethod: {}, databaseTimeout: 5s, gracePeriod: 3s, \
             publishTimeout: 5s, listTimeout: 5s, agentName: {agent}, ownCarsOnly: false}}\nlotus: {{endpoint: '{}', token: '{}', \
             requestTimeout: 5s}}\nmongodb: {{uri: '{}', database: '{}'}}\n",
            miners.join(", "),
            WalletConfig::default().address,
            self.method,
            self.full_node,
            self.env.sim.token(Permission::Admin),
            self.env.uri,
            self.env.db.name(),
        );
        self.write(&format!("{agent}.yaml"), &text)
    }

    /// miner-agent's configuration for all miners.
    pub(crate) fn import_yaml(&self) -> PathBuf {
        let token = self.env.sim.token(Permission::Write);
        let miners: Vec<_> = self
            .miner_urls
            .iter()
            .map(|(miner, url)| format!("{{miner: {miner}, endpoint: '{url}', token: '{token}'}}"))
            .collect();
        let mut setting = BTreeMap::from(IMPORT_SETTING);
        setting.extend(self.import_setting.iter().copied());
        let setting: Vec<_> = setting.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let text = format!(
            "miners: [{}]\nlotus: {{requestTimeout: 5s}}\nfullNode: {{endpoint: '{}'}}\nroots: ['{}']\nmongodb: \
             {{uri: '{}', database: '{}'}}\nsetting: {{{}}}\n",
            miners.join(", "),
            self.full_node,
            self.env.folder().display(),
            self.env.uri,
            self.env.db.name(),
            setting.join(", "),
        );
        self.write("import.yaml", &text)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.env.new_path(name);
        fs::write(&file, text).unwrap();
        file
    }

    /// `client-agent run`, which ends at a fail point if one is named.
    pub(crate) fn client(&self, agent: &str, fail_point: Option<&str>) -> Process {
        let mut command = test_env::client_agent_command().unwrap();
        command.arg("run").arg("-c").arg(self.client_yaml(agent));
        command.envs(fail_point.map(|point| ("FAIL_POINT", point)));
        test_env::spawn(command, &self.env.new_path("client-agent.log")).unwrap()
    }

    /// Change streams that the first member's server has opened since its start.
    pub(crate) async fn streams_opened(&self) -> i64 {
        let status = self.env.db.run_command(doc! { "serverStatus": 1 }).await.unwrap();
        let stages = status.get_document("metrics").and_then(|it| it.get_document("aggStageCounters"));
        let count = stages.unwrap().get("$changeStream").unwrap();
        count.as_i64().or(count.as_i32().map(i64::from)).unwrap()
    }

    /// A command of miner-agent, run to its end: its standard output.
    pub(crate) fn ask_miner(&self, arguments: &[&str]) -> String {
        let mut command = test_env::miner_agent_command().unwrap();
        command.args(arguments).arg("-c").arg(self.import_yaml());
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    }

    /// `miner-agent run` for all miners, which ends at a fail point if one is named.
    pub(crate) fn miner(&self, fail_point: Option<&str>) -> Process {
        self.miner_command("run", fail_point)
    }

    /// Another command of miner-agent for all miners, as a process of its own.
    pub(crate) fn miner_with(&self, command: &str) -> Process {
        self.miner_command(command, None)
    }

    fn miner_command(&self, subcommand: &str, fail_point: Option<&str>) -> Process {
        let mut command = test_env::miner_agent_command().unwrap();
        command.arg(subcommand).arg("-c").arg(self.import_yaml());
        command.envs(fail_point.map(|point| ("FAIL_POINT", point)));
        test_env::spawn(command, &self.env.new_path("miner-agent.log")).unwrap()
    }

    /// `client-agent makecars` over [`FaultCluster::inputs`].
    pub(crate) fn makecars(&self, fail_point: Option<&str>) -> Process {
        let mut command = test_env::client_agent_command().unwrap();
        command.arg("makecars").arg("-c").arg(self.client_yaml("packer"));
        command.arg("--input").arg(&self.inputs).arg("--output").arg(&self.outputs);
        command.envs(fail_point.map(|point| ("FAIL_POINT", point)));
        test_env::spawn(command, &self.env.new_path("makecars.log")).unwrap()
    }

    /// Waits until every CAR has its deals, every deal is imported, active and said to be so, and nothing is
    /// open.
    pub(crate) async fn settled(&self, within: Duration) {
        let expected = u64::try_from(self.cars * REPLICAS).unwrap();
        eventually!(
            within within,
            self.open_ends(expected).await,
            "all {expected} deals of {} CARs are active", self.cars
        );
    }

    /// The same; and deals that come when there is nothing else to do are imported too. Of those an idle
    /// agent hears by its watch alone.
    pub(crate) async fn settled_and_watched(&mut self, within: Duration) {
        self.settled(within).await;
        self.add_cars(2).await;
        self.settled(within).await;
    }

    /// What is not done yet, in words.
    async fn open_ends(&self, expected: u64) -> Result<(), String> {
        let count = async |filter: Document| {
            self.env.deals().count_documents(filter).await.map_err(|error| error.to_string())
        };
        let (all, imported, active) =
            (count(doc! {}).await?, count(doc! { "isdeal": 1 }).await?, count(doc! { "status": 7 }).await?);
        let claimed = count(doc! { "claim": { "$exists": true } }).await?;
        let intents = self.env.db.collection::<Document>("dealintents");
        let open = intents.count_documents(doc! { "state": "intended" });
        let open = open.await.map_err(|error| error.to_string())?;
        let is_done = [all, imported, active].iter().all(|count| *count == expected) && claimed + open == 0;
        is_done.then_some(()).ok_or_else(|| {
            format!(
                "{all} deals, {imported} imported, {active} active, {claimed} claimed, {open} intents open"
            )
        })
    }

    /// The checker's word, or a panic with everything it found.
    pub(crate) async fn check(&self) -> checker::Counts {
        let setting = self.import_setting.iter().find(|(key, _)| *key == "importsPerMiner");
        let at_once = setting.map_or(1, |(_, value)| value.parse().unwrap());
        checker::check(&self.env, &self.outputs, REPLICAS, at_once).await
    }
}
