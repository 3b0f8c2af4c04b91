//! `doctor`: every check of a start, and those that a start does not wait for. Changes nothing but indexes
//! that are missing.

use std::{path::Path, time::Duration};

use carferry_core::{
    error_chain::{ErrorChain, Hint},
    fsx,
    lotus::provider::ImportMethod,
    model::address::Network,
    runtime::clock,
    store::{IndexUser, Store},
};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    agent::Agent,
    config::Config,
    head::HeadSource,
    market::{Environment, Node},
    status::table,
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Nothing to do.
    Ok,
    /// It works, but not as it should.
    Warn,
    /// Imports do not work like this.
    Fail,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at: `database`, `market f01000`, `root /mnt/cars`.
    pub subject: String,
    /// How it came out.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    fn new(subject: impl Into<String>, grade: Grade, seen: impl Into<String>) -> Self {
        Self { subject: subject.into(), grade, seen: seen.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// Runs all checks in order; a failed one does not end them.
pub async fn checks(config: &Config, env: Environment) -> Vec<Check> {
    let mut checks = Vec::new();
    match Agent::build(config, env).await {
        Ok(agent) => {
            checks.extend(database(&agent.store).await);
            for importer in &agent.importers {
                let subject = format!("market {}", importer.market.miner());
                match importer.market.identify().await {
                    Ok(node) => {
                        let endpoint = node.provider.endpoint();
                        checks.push(Check::new(
                            &subject,
                            Grade::Ok,
                            format!("{endpoint} works for this miner"),
                        ));
                        let method = config.setting.import_method;
                        checks.extend(market(&subject, &node, method).await);
                    }
                    Err(error) => checks.push(
                        Check::new(&subject, Grade::Fail, ErrorChain(&error).to_string())
                            .maybe_hint(error.hint()),
                    ),
                }
            }
            checks.push(head(&agent, config).await);
        }
        Err(error) => {
            checks.push(
                Check::new("configuration", Grade::Fail, ErrorChain(&error).to_string())
                    .maybe_hint(error.hint()),
            );
        }
    }
    checks.extend(folders(config).await);
    checks
}

async fn database(store: &Store) -> Vec<Check> {
    let failed = |error: &carferry_core::store::StoreError| {
        Check::new("database", Grade::Fail, ErrorChain(error).to_string()).maybe_hint(error.hint())
    };
    let mut checks = Vec::new();
    match store.check_replica_set().await {
        Ok(set) => checks.push(Check::new("database", Grade::Ok, format!("member of the replica set {set}"))),
        Err(error) => return vec![failed(&error)],
    }
    match store.check_indexes(IndexUser::MinerAgent).await {
        Ok(report) if report.missing.is_empty() => {
            checks.push(Check::new("indexes", Grade::Ok, "all there"));
        }
        Ok(report) => {
            let names: Vec<_> = report.missing.iter().map(|(name, why)| format!("{name} ({why})")).collect();
            let hint = "start client-agent once with a user that may create indexes";
            checks.push(
                Check::new("indexes", Grade::Warn, format!("missing: {}", names.join(", "))).hint(hint),
            );
        }
        Err(error) => checks.push(failed(&error)),
    }
    match store.server_time().await {
        Ok(time) => checks.push(clock_check(time.timestamp_millis(), clock::since_unix_epoch())),
        Err(error) => checks.push(failed(&error)),
    }
    checks
}

/// Leases go by the database's clock alone, but start epochs may be judged by ours.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(30);

fn clock_check(server_millis: i64, local: Duration) -> Check {
    let local_millis = i64::try_from(local.as_millis()).unwrap_or(i64::MAX);
    let skew = Duration::from_millis(server_millis.abs_diff(local_millis));
    let seen = format!("{:.1} s apart from the database's", skew.as_secs_f64());
    if skew <= CLOCK_SKEW_MAX {
        Check::new("clock", Grade::Ok, seen)
    } else {
        Check::new("clock", Grade::Warn, seen)
            .hint("run NTP on both machines; start epochs are judged by this clock")
    }
}

async fn market(subject: &str, node: &Node, method: ImportMethod) -> Vec<Check> {
    let provider = &node.provider;
    let mut checks = Vec::new();
    match provider.version().await {
        Ok(version) => checks.push(Check::new(subject, Grade::Ok, format!("version {}", version.version))),
        Err(error) => {
            checks.push(
                Check::new(subject, Grade::Fail, ErrorChain(&error).to_string()).maybe_hint(error.hint()),
            );
        }
    }
    let needed = match method {
        ImportMethod::Market => "write",
        ImportMethod::Deals => "admin",
    };
    match &node.token {
        None => checks.push(
            Check::new(
                subject,
                Grade::Warn,
                "no token: the node lets us read only, unless it asks nobody for tokens",
            )
            .hint(format!("make one with `lotus-miner auth create-token --perm {needed}`")),
        ),
        Some(token) => match provider.permissions(token.expose()).await {
            Ok(permissions) => checks.push(permission_check(subject, &permissions, needed)),
            Err(error) => {
                checks.push(
                    Check::new(subject, Grade::Fail, ErrorChain(&error).to_string()).maybe_hint(error.hint()),
                );
            }
        },
    }
    match provider.list_deals().await {
        Ok(deals) => checks.push(Check::new(subject, Grade::Ok, format!("lists {} deals", deals.len()))),
        Err(error) => {
            checks.push(
                Check::new(subject, Grade::Fail, ErrorChain(&error).to_string()).maybe_hint(error.hint()),
            );
        }
    }
    checks
}

fn permission_check(subject: &str, permissions: &[String], needed: &str) -> Check {
    let seen = format!("the token may {}", permissions.join(", "));
    if permissions.iter().any(|permission| permission == needed) {
        Check::new(subject, Grade::Ok, seen)
    } else {
        Check::new(subject, Grade::Fail, format!("{seen}; imports need {needed}"))
            .hint(format!("make a token with `lotus-miner auth create-token --perm {needed}`"))
    }
}

async fn head(agent: &Agent, config: &Config) -> Check {
    let subject = "head of the chain";
    if let Some(node) = agent.head.node()
        && config.setting.head_source != HeadSource::Clock
    {
        return match node.chain_head().await {
            Ok(tipset) => {
                Check::new(subject, Grade::Ok, format!("epoch {} at {}", tipset.height, node.endpoint()))
            }
            Err(error) => {
                Check::new(subject, Grade::Warn, ErrorChain(&error).to_string()).maybe_hint(error.hint())
            }
        };
    }
    let markets = agent.importers.iter().map(|importer| &importer.market);
    let unknown: Vec<_> = markets
        .filter(|market| {
            config.setting.head_source == HeadSource::Node || market.network() != Some(Network::Main)
        })
        .map(|market| market.miner())
        .collect();
    if unknown.is_empty() {
        Check::new(subject, Grade::Ok, "by the database's clock and mainnet's calendar")
    } else {
        Check::new(
            subject,
            Grade::Warn,
            format!("unknown for {}: start epochs are not checked", unknown.join(", ")),
        )
        .hint("set fullNode.endpoint")
    }
}

/// A root with less than this left is worth a word: one 64 GiB sector.
const FREE_SPACE_WARN: u64 = 64 << 30;

async fn folders(config: &Config) -> Vec<Check> {
    let limit = config.setting.file_timeout;
    let mut checks = Vec::new();
    for root in config.roots.clone() {
        let subject = format!("root {}", root.display());
        checks.push(answered(subject, limit, move |subject| root_check(subject, &root)).await);
    }
    for mapping in config.paths.clone() {
        let subject = format!("path {} → {}", mapping.from.display(), mapping.to.display());
        let check = move |subject| match std::fs::read_dir(&mapping.to) {
            Ok(_) => Check::new(subject, Grade::Ok, "readable"),
            Err(error) => Check::new(subject, Grade::Fail, format!("cannot be read: {error}"))
                .hint("`to` is the folder's name on this machine"),
        };
        checks.push(answered(subject, limit, check).await);
    }
    for mapping in &config.node_paths {
        let subject = format!("node path {} → {}", mapping.from.display(), mapping.to.display());
        let covers = |folder: &Path| folder.starts_with(&mapping.from) || mapping.from.starts_with(folder);
        let used =
            config.roots.iter().any(|root| covers(root)) || config.paths.iter().any(|path| covers(&path.to));
        checks.push(if used {
            Check::new(subject, Grade::Ok, "covers a folder that is searched")
        } else {
            Check::new(subject, Grade::Warn, "covers no folder that is searched")
                .hint("`from` is the folder's name on this machine, `to` its name for the market process")
        });
    }
    if config.roots.is_empty() && config.paths.is_empty() {
        checks.push(
            Check::new("roots", Grade::Warn, "no folder is configured: CARs are found only under their recorded paths")
                .hint("set `roots` or `paths` unless this machine sees the data-prep box's folders by the same names"),
        );
    }
    checks
}

/// The check of a folder, or that the folder does not answer.
async fn answered(
    subject: String,
    limit: Duration,
    check: impl FnOnce(String) -> Check + Send + 'static,
) -> Check {
    let about = subject.clone();
    match timeout(limit, tokio::task::spawn_blocking(move || check(about))).await {
        Ok(Ok(check)) => check,
        Ok(Err(error)) => Check::new(subject, Grade::Fail, format!("a bug of ours: {error}")),
        Err(_elapsed) => Check::new(subject, Grade::Fail, format!("no answer within {} s", limit.as_secs()))
            .hint("its file system hangs: is its server there? CARs in other folders are imported meanwhile"),
    }
}

fn root_check(subject: String, root: &Path) -> Check {
    if let Err(error) = std::fs::read_dir(root) {
        return Check::new(subject, Grade::Fail, format!("cannot be read: {error}"))
            .hint("create or mount the folder, and let the agent's user read it");
    }
    match fsx::free_space(root) {
        Ok(bytes) => {
            let seen = format!("readable, {} GiB free", bytes >> 30);
            if bytes >= FREE_SPACE_WARN {
                Check::new(subject, Grade::Ok, seen)
            } else {
                let hint =
                    "the market copies a CAR before it seals it; see that its own folder has room, too";
                Check::new(subject, Grade::Warn, seen).hint(hint)
            }
        }
        Err(error) => Check::new(subject, Grade::Warn, ErrorChain(&error).to_string()),
    }
}

/// For people.
pub fn text(checks: &[Check]) -> String {
    let mut rows = table(["", "what", "seen", "hint"]);
    for check in checks {
        let grade = match check.grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        rows.add_row([
            grade,
            check.subject.as_str(),
            check.seen.as_str(),
            check.hint.as_deref().unwrap_or_default(),
        ]);
    }
    format!("{}\n", rows.trim_fmt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        for (server_millis, grade) in
            [(100_000, Grade::Ok), (70_000, Grade::Ok), (131_000, Grade::Warn), (0, Grade::Warn)]
        {
            let check = clock_check(server_millis, Duration::from_secs(100));
            assert_eq!(check.grade, grade, "{server_millis}");
        }
    }

    #[test]
    fn a_token_without_the_permission_fails_with_the_command_that_makes_one() {
        let permissions = ["read".to_owned(), "write".to_owned()];
        assert_eq!(permission_check("market f01", &permissions, "write").grade, Grade::Ok);
        let check = permission_check("market f01", &permissions, "admin");
        assert_eq!(check.grade, Grade::Fail);
        assert!(check.hint.unwrap().contains("--perm admin"));
    }

    #[test]
    fn a_root_that_is_not_there_fails() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(root_check("root".to_owned(), &folder.path().join("none")).grade, Grade::Fail);
        assert!(root_check("root".to_owned(), folder.path()).seen.contains("readable"));
    }
}
