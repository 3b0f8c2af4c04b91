//! The configuration files of the three agents, as a person would write them for this world.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

/// What `lotus-sim --json` prints.
#[derive(Debug, Deserialize)]
pub(crate) struct Endpoints {
    pub(crate) full_node: Node,
    pub(crate) miners: BTreeMap<String, Node>,
    pub(crate) tokens: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) url: String,
}

/// Everything the configurations say.
#[derive(Debug)]
pub(crate) struct World<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) cars: &'a Path,
    pub(crate) mongodb_uri: &'a str,
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) wallet: &'a str,
    pub(crate) method: &'a str,
}

/// Where the configurations are.
#[derive(Debug)]
pub(crate) struct Configs {
    pub(crate) client: PathBuf,
    pub(crate) miner_agents: Vec<PathBuf>,
}

impl World<'_> {
    /// Writes the configurations and the token files they name. Agent `a` has the first two miners,
    /// agent `b` the others.
    pub(crate) fn write(&self) -> anyhow::Result<Configs> {
        for permission in ["admin", "write"] {
            let token = self.endpoints.tokens.get(permission);
            let token = token.with_context(|| format!("lotus-sim gave no {permission} token"))?;
            write_private(&self.folder.join(format!("{permission}.token")), token)?;
        }
        let client = self.folder.join("client-agent.yaml");
        write_private(&client, &self.client())?;
        let miners: Vec<_> = self.endpoints.miners.iter().collect();
        let (a, b) = miners.split_at(2.min(miners.len()));
        let mut miner_agents = Vec::new();
        for (name, miners) in [("a", a), ("b", b)] {
            let path = self.folder.join(format!("miner-agent-{name}.yaml"));
            write_private(&path, &self.miner_agent(miners))?;
            miner_agents.push(path);
        }
        Ok(Configs { client, miner_agents })
    }

    fn client(&self) -> String {
        let miners: Vec<String> =
            self.endpoints.miners.keys().map(|miner| format!("  - miner: {miner}\n    price: 0\n")).collect();
        let Self { wallet, method, mongodb_uri, .. } = self;
        let (url, token) = (&self.endpoints.full_node.url, self.folder.join("admin.token"));
        format!(
            "miners:
{miners}
setting:
  wallet: {wallet}
  duration: 366
  # Every CAR to three miners, one deal with each.
  maxDealNums: 3
  minerMaxDeals: 1
  # Real chains are slower; these are the pauses of a demonstration.
  dealTimeout: 1
  planInterval: 1s
  publishMethod: {method}

mongodb:
  uri: {mongodb_uri}
  database: carferry

lotus:
  endpoint: {url}
  tokenFile: {token}

log:
  format: text
",
            miners = miners.concat(),
            token = quoted(&token),
        )
    }

    fn miner_agent(&self, miners: &[(&String, &Node)]) -> String {
        let token = quoted(&self.folder.join("write.token"));
        let miners: Vec<String> = miners
            .iter()
            .map(|(miner, node)| {
                format!("  - miner: {miner}\n    endpoint: {}\n    tokenFile: {token}\n", node.url)
            })
            .collect();
        let Self { mongodb_uri, .. } = self;
        format!(
            "miners:
{miners}
# Asked for the head of the chain.
fullNode:
  endpoint: {url}

mongodb:
  uri: {mongodb_uri}
  database: carferry

# The CARs are on this machine, under the path that client-agent recorded.
roots:
  - {cars}

setting:
  # Real providers are slower; these are the pauses of a demonstration.
  scanInterval: 5s
  waitInterval: 1s
  retryMin: 1s
  providerPollInterval: 1s

log:
  format: text
",
            url = self.endpoints.full_node.url,
            miners = miners.concat(),
            cars = quoted(self.cars),
        )
    }
}

/// A path as YAML in double quotes, which JSON's strings are.
pub(crate) fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        serde_json::from_str(
            r#"{"full_node": {"url": "http://127.0.0.1:1234/rpc/v1"},
                "miners": {"f01000": {"url": "http://127.0.0.1:1/rpc/v0"},
                           "f01001": {"url": "http://127.0.0.1:2/rpc/v0"},
                           "f01002": {"url": "http://127.0.0.1:3/rpc/v0"}},
                "tokens": {"admin": "a.a.a", "write": "w.w.w"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn agents_accept_their_configurations() {
        let folder = tempfile::tempdir().unwrap();
        let cars = folder.path().join("with \"quotes\": and spaces");
        let endpoints = endpoints();
        let world = World {
            folder: folder.path(),
            cars: &cars,
            mongodb_uri: "mongodb://127.0.0.1:27017/?replicaSet=rs0",
            endpoints: &endpoints,
            wallet: "f1djcw6gt533u2bdzckvtcui6hmmuzpu3mykxkunq",
            method: "auto",
        };
        let configs = world.write().unwrap();
        let sources = carferry_core::config::Sources {
            file: Some(&configs.client),
            env: Vec::new(),
            reserved: &[],
            flags: &[],
            other: None,
        };
        let client = client_agent::config::Config::load(&sources).unwrap();
        assert_eq!(client.miners.len(), 3);
        let loaded: Vec<_> = configs
            .miner_agents
            .iter()
            .map(|path| miner_agent::config::Config::load(Some(path), Vec::new(), &[]).unwrap())
            .collect();
        let miners: Vec<usize> = loaded.iter().map(|config| config.miners.len()).collect();
        assert_eq!(miners, [2, 1]);
        assert_eq!(loaded[0].roots, std::slice::from_ref(&cars));
    }
}
