//! `doctor`: checks of configuration, database, nodes, tokens, clocks and folders. Changes nothing.

use std::path::Path;
use std::time::Duration;

use carferry_core::doctor::{Check, Indexes};
use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::exit_status::ExitStatus;
use carferry_core::model::address::Network;
use carferry_core::store::IndexUser;
use carferry_core::{doctor, fsx};
use tokio::time::timeout;

use crate::agent::Agent;
use crate::config::Config;
use crate::import::ImportContext;
use crate::locator::curio_lines;
use crate::market::chain_head::HeadSource;
use crate::market::checks::check_node;
use crate::market::node::Environment;

/// Runs all checks in order; a failed one does not end them.
pub async fn checks(config: &Config, env: Environment) -> Vec<Check> {
    let mut checks = Vec::new();
    match Agent::build(config, env).await {
        Ok(agent) => {
            if let Err(error) = config.mongodb.check_files() {
                checks.push(Check::of_error("mongodb", ErrorChain(&error).to_string(), error.hint(), true));
            }
            checks.extend(doctor::database(&agent.store, IndexUser::MinerAgent, Indexes::Look).await);
            for context in &agent.contexts {
                let subject = format!("market {}", context.market.miner());
                match context.market.identify().await {
                    Ok(node) => {
                        let endpoint = node.endpoint();
                        checks.push(Check::ok(
                            &subject,
                            format!("{endpoint} works for this miner ({})", node.market_name()),
                        ));
                        let found = context.market.endpoint();
                        checks.extend(found.and_then(|found| doctor::token_in_clear(&subject, &found)));
                        let answers = check_node(&subject, &node, context.market.method()).await;
                        checks.extend(answers.checks);
                        match answers.listed {
                            Ok(Some(listed)) => checks.push(deals_check(&subject, context, listed).await),
                            Ok(None) => {}
                            Err(check) => checks.push(check),
                        }
                    }
                    Err(error) => checks.push(Check::of_error(
                        &subject,
                        ErrorChain(&error).to_string(),
                        error.hint(),
                        error.is_permanent(),
                    )),
                }
            }
            checks.push(head(&agent, config).await);
        }
        Err(error) => checks.push(Check::of_error(
            "configuration",
            ErrorChain(&error).to_string(),
            error.hint(),
            error.exit_status() == ExitStatus::UserError,
        )),
    }
    checks.extend(folders(config).await);
    checks.extend(curio_lines::checks(&config.setting));
    checks
}

/// What the market lists beside what the database has of this miner.
async fn deals_check(subject: &str, context: &ImportContext, listed: u64) -> Check {
    let (store, miner) = (&context.store, context.market.miner());
    let listed_words = format!("lists {listed} deals");
    let (Ok(recorded), Ok(counts)) = (store.recorded_deals(miner).await, store.pending_counts(miner).await)
    else {
        // Why not is said above.
        return Check::ok(subject, listed_words);
    };
    doctor::deals_are_elsewhere(subject, store.database_name(), miner, listed, recorded).unwrap_or_else(
        || {
            let pending = counts.pending.saturating_sub(counts.failed);
            Check::ok(
                subject,
                format!("{listed_words}; the database has {recorded} of them or others, {pending} to import"),
            )
        },
    )
}

async fn head(agent: &Agent, config: &Config) -> Check {
    let subject = "head of the chain";
    if let Some(node) = agent.head.node()
        && config.setting.head_source != HeadSource::Clock
    {
        return match node.chain_head().await {
            Ok(tipset) => Check::ok(subject, format!("epoch {} at {}", tipset.height, node.endpoint())),
            Err(error) => {
                Check::warn(subject, ErrorChain(&error).to_string(), error.hint().unwrap_or_default())
            }
        };
    }
    let markets = agent.contexts.iter().map(|context| &context.market);
    let unknown: Vec<_> = markets
        .filter(|market| {
            config.setting.head_source == HeadSource::Node || market.network() != Some(Network::Main)
        })
        .map(|market| market.miner())
        .collect();
    if unknown.is_empty() {
        Check::ok(subject, "by the database's clock and mainnet's calendar")
    } else {
        Check::warn(
            subject,
            format!("unknown for {}: start epochs are not checked", unknown.join(", ")),
            "set fullNode.endpoint",
        )
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
            Ok(_) => Check::ok(subject, "readable"),
            Err(error) => Check::fail(
                subject,
                format!("cannot be read: {error}"),
                "`to` is the folder's name on this machine",
            ),
        };
        checks.push(answered(subject, limit, check).await);
    }
    for mapping in &config.node_paths {
        let subject = format!("node path {} → {}", mapping.from.display(), mapping.to.display());
        let covers = |folder: &Path| folder.starts_with(&mapping.from) || mapping.from.starts_with(folder);
        let used =
            config.roots.iter().any(|root| covers(root)) || config.paths.iter().any(|path| covers(&path.to));
        checks.push(if used {
            Check::ok(subject, "covers a folder that is searched")
        } else {
            Check::warn(
                subject,
                "covers no folder that is searched",
                "`from` is the folder's name on this machine, `to` its name for the market process",
            )
        });
    }
    if config.roots.is_empty() && config.paths.is_empty() {
        checks.push(Check::warn(
            "roots",
            "no folder is configured: CARs are found only under their recorded paths",
            "set `roots` or `paths` unless this machine sees the data-prep box's folders by the same names",
        ));
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
        Ok(Err(error)) => Check::of_error(subject, format!("the check failed: {error}"), None, false),
        Err(_elapsed) => Check::fail(
            subject,
            format!("no answer within {} s", limit.as_secs()),
            "its file system hangs: is its server there? CARs in other folders are imported meanwhile",
        ),
    }
}

fn root_check(subject: String, root: &Path) -> Check {
    if let Err(error) = std::fs::read_dir(root) {
        return Check::fail(
            subject,
            format!("cannot be read: {error}"),
            "create or mount the folder, and let the agent's user read it",
        );
    }
    match fsx::free_space(root) {
        Ok(bytes) => {
            let seen = format!("readable, {} GiB free", bytes >> 30);
            if bytes >= FREE_SPACE_WARN {
                Check::ok(subject, seen)
            } else {
                let hint =
                    "the market copies a CAR before it seals it; see that its own folder has room, too";
                Check::warn(subject, seen, hint)
            }
        }
        Err(error) => {
            Check::warn(subject, ErrorChain(&error).to_string(), "how much room there is cannot be known")
        }
    }
}

/// For people.
pub fn text(checks: &[Check]) -> String {
    checks.iter().map(|check| check.lines() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use carferry_core::doctor::Severity;

    use super::*;

    #[test]
    fn a_root_that_is_not_there_fails() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(root_check("root".to_owned(), &folder.path().join("none")).state, Severity::Fail);
        assert!(root_check("root".to_owned(), folder.path()).detail.contains("readable"));
    }
}
