//! A miner whose market is a simulated Boost, with deals that their client has recorded, and miner-agent
//! as a program.
//!
//! The environment below has the database, the files and the full node that tells the head of the chain.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Output;

use boost_sim::{BoostConfig, BoostSim, Call, Proposal};
use bson::doc;
use lotus_sim::Permission;
use serde_json::Value;

use super::agents::SETTING;
use super::{Car, MINER, Process, TestEnv, miner_agent_command, spawn};

/// The call that hands a file over.
const IMPORT: &str = "Filecoin.BoostOfflineDealWithData";
/// The call that looks at one deal.
const LOOK: &str = "Filecoin.BoostDealBySignedProposalCid";

/// A miner whose market is a simulated Boost; ends with its drop.
#[derive(Debug)]
pub struct Boost {
    /// The market.
    pub boost: BoostSim,
    env: TestEnv,
}

/// A deal at Boost.
#[derive(Clone, Debug)]
pub struct BoostDeal {
    /// Its CAR.
    pub car: Car,
    /// CID of its signed proposal.
    pub cid: String,
    /// Its UUID.
    pub uuid: String,
    /// Its start epoch.
    pub start_epoch: i64,
}

impl Deref for Boost {
    type Target = TestEnv;

    fn deref(&self) -> &TestEnv {
        &self.env
    }
}

impl Boost {
    /// Boost v2.5.2 and a database on the run's common mongod.
    pub async fn open() -> anyhow::Result<Self> {
        Self::open_with(BoostConfig::instant()).await
    }

    /// As [`Boost::open`], with another simulator.
    pub async fn open_with(config: BoostConfig) -> anyhow::Result<Self> {
        let env = TestEnv::open().await?;
        Ok(Self { boost: boost_sim::start(config).await?, env })
    }

    /// What a client proposes over a CAR.
    pub fn proposal(car: &Car) -> Proposal {
        // Fr32 puts 127 bytes into 128.
        Proposal::new(&car.piece_cid, car.deal_size_bytes / 127 * 128, &car.payload_cid)
    }

    /// Proposes a deal over a CAR; Boost waits for its data then.
    pub fn propose(&self, car: &Car) -> anyhow::Result<BoostDeal> {
        self.propose_as(car, &Self::proposal(car))
    }

    /// The same with terms of the caller's.
    pub fn propose_as(&self, car: &Car, proposal: &Proposal) -> anyhow::Result<BoostDeal> {
        let names = self.boost.propose(proposal).map_err(anyhow::Error::msg)?;
        Ok(BoostDeal {
            car: car.clone(),
            cid: names.signed_proposal_cid,
            uuid: names.uuid,
            start_epoch: proposal.start_epoch,
        })
    }

    /// A deal that Boost waits for and that stands in no database.
    pub fn unrecorded(&self, content: &str) -> anyhow::Result<BoostDeal> {
        self.propose(&self.car(content)?)
    }

    /// A deal that waits for its import, recorded as by its client.
    pub async fn deal_recorded(&self, content: &str) -> anyhow::Result<BoostDeal> {
        let deal = self.unrecorded(content)?;
        self.record_boost(&deal).await?;
        Ok(deal)
    }

    /// Several of them.
    pub async fn deals_recorded(&self, count: usize) -> anyhow::Result<Vec<BoostDeal>> {
        let mut deals = Vec::new();
        for number in 0..count {
            deals.push(self.deal_recorded(&format!("content of file {number} ")).await?);
        }
        Ok(deals)
    }

    /// Writes a deal and its CAR into the database, as client-agent does.
    pub async fn record_boost(&self, deal: &BoostDeal) -> anyhow::Result<()> {
        self.cars().insert_one(deal.car.document()).await?;
        let size = i64::try_from(deal.car.deal_size_bytes)?;
        let document = doc! {
            "filecid": &deal.car.payload_cid, "dealcid": &deal.cid, "miner": MINER, "isdeal": 0, "status": 18,
            "piececid": &deal.car.piece_cid, "dealsizebytes": size, "startepoch": deal.start_epoch,
            "createdtime": bson::DateTime::now(),
        };
        self.deals().insert_one(document).await?;
        Ok(())
    }

    /// Moves the head of the chain, for Boost and for the full node.
    pub fn advance_epochs(&self, epochs: i64) {
        self.boost.advance_epochs(epochs);
        self.sim.advance_epochs(epochs);
    }

    /// A configuration of miner-agent for this Boost, with an `admin` token. `keys` are lines of YAML, after
    /// which the times of `setting` may be changed by arguments.
    pub fn yaml(&self, keys: &str) -> anyhow::Result<PathBuf> {
        self.yaml_of_token(&format!("token: '{}'", self.boost.token(Permission::Admin)), keys)
    }

    /// The same with the token, or none, that the caller writes into the miner's entry.
    pub fn yaml_of_token(&self, token: &str, keys: &str) -> anyhow::Result<PathBuf> {
        let token = if token.is_empty() { String::new() } else { format!(", {token}") };
        let text = format!(
            "miners: [{{miner: {MINER}, endpoint: '{}', graphql: '{}'{token}}}]\nfullNode: {{endpoint: '{}'}}\n\
             mongodb: {{uri: '{}', database: '{}'}}\nsetting: {SETTING}\nroots: ['{}']\n{keys}",
            self.boost.rpc_url(),
            self.boost.graphql_url(),
            self.sim.full_node_url(),
            self.uri,
            self.db.name(),
            self.folder().display(),
        );
        let file = self.new_path("import.yaml");
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Starts `miner-agent run` with these further arguments.
    pub fn agent(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        self.agent_of(&self.yaml("")?, arguments, None)
    }

    /// The same, which ends at a fail point as by a power cut.
    pub fn agent_to(&self, fail_point: &str) -> anyhow::Result<Process> {
        self.agent_of(&self.yaml("")?, &[], Some(fail_point))
    }

    /// The same with a configuration of the caller's.
    pub fn agent_of(
        &self,
        config: &Path,
        arguments: &[&str],
        fail_point: Option<&str>,
    ) -> anyhow::Result<Process> {
        let mut command = miner_agent_command()?;
        command
            .arg("run")
            .arg("-c")
            .arg(config)
            .args(arguments)
            .envs(fail_point.map(|name| ("FAIL_POINT", name)));
        spawn(command, &self.new_path("miner-agent.log"))
    }

    /// Runs a command of miner-agent to its end.
    pub fn run(&self, config: &Path, arguments: &[&str]) -> anyhow::Result<Ended> {
        let mut command = miner_agent_command()?;
        let output = command.args(arguments).arg("-c").arg(config).output()?;
        Ended::of(&output)
    }

    /// Calls that handed a file over or tried to, oldest first.
    pub fn import_calls(&self) -> Vec<Call> {
        self.boost.calls().into_iter().filter(|call| call.method == IMPORT).collect()
    }

    /// Looks at single deals so far, by everything that looks.
    pub fn looks(&self) -> usize {
        self.boost.count(LOOK)
    }

    /// Looks at this deal so far.
    pub fn looks_at(&self, deal: &BoostDeal) -> usize {
        let is_of = |call: &Call| call.method == LOOK && call.params.to_string().contains(&deal.cid);
        self.boost.calls().iter().filter(|call| is_of(call)).count()
    }

    /// Rows of funds that were ever tagged for this deal: one for each hand-over that had an effect.
    pub fn tagged(&self, deal: &BoostDeal) -> usize {
        let is_tag = |text: &str| text == "Tag funds for collateral";
        self.boost.funds_logs().iter().filter(|log| log.uuid == deal.uuid && is_tag(&log.text)).count()
    }

    /// Hands a file over as an operator does, past all agents. Boost has recorded it when this returns.
    pub async fn import_past_agents(&self, deal: &BoostDeal, path: &str) -> anyhow::Result<()> {
        use carferry_core::rpc::{BootInstant, CallTimeouts, Client};
        let token = self.boost.token(Permission::Admin);
        let client = Client::new(&self.boost.rpc_url(), Some(&token), CallTimeouts::default())?;
        let soon = BootInstant::now().plus(std::time::Duration::from_secs(60));
        let verdict = carferry_core::boost::Boost::new(client).import(&deal.uuid, path, soon).await?;
        anyhow::ensure!(verdict.accepted, "{}", verdict.reason);
        Ok(())
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub code: Option<i32>,
    /// The lines of its output that are JSON.
    pub lines: Vec<Value>,
    /// What it said on standard error.
    pub stderr: String,
}

impl Ended {
    fn of(output: &Output) -> anyhow::Result<Self> {
        let text = String::from_utf8(output.stdout.clone())?;
        Ok(Self {
            code: output.status.code(),
            lines: text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
