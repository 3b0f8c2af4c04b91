//! `doctor`: checks configuration, database and Lotus node one by one, with a hint for each failure.
//!
//! Changes nothing, unless `--create-indexes` asks for missing indexes.

mod node;

use carferry_core::doctor;
use carferry_core::doctor::{Check, Indexes};
use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::printer::ExitStatus;
use carferry_core::runtime::clock;
use carferry_core::store::{IndexUser, Store};
use carferry_core::words::counted;

use crate::cli::DoctorArgs;
use crate::config::{Config, Layout};
use crate::console::Console;
use crate::exit::CommandError;

/// Runs the command.
///
/// # Errors
///
/// Only when printing fails.
pub(super) async fn run(
    args: &DoctorArgs,
    config: &Config,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let mut checks = vec![configuration(config)];
    let store = open(config).await;
    match &store {
        Ok(store) => checks.extend(database(store, config, args.create_indexes).await),
        Err(check) => checks.push(check.clone()),
    }
    checks.extend(node::checks(config, store.ok().as_ref(), clock::since_unix_epoch()).await);
    for check in &checks {
        console.result(check, check.lines())?;
    }
    Ok(doctor::status(&checks))
}

async fn open(config: &Config) -> Result<Store, Check> {
    const MONGODB: &str = "mongodb";
    let wrong = |error: carferry_core::config::ConfigError| {
        let hint = error.hint().unwrap_or_else(|| "see `mongodb` in configs/client-agent.yaml".to_owned());
        Check::fail(MONGODB, ErrorChain(&error).to_string(), hint)
    };
    let options = config.store_options().map_err(wrong)?;
    config.mongodb.check_files().map_err(wrong)?;
    Store::open(&options).await.map_err(|error| Check::database(MONGODB, &error))
}

async fn database(store: &Store, config: &Config, create_indexes: bool) -> Vec<Check> {
    let then = if create_indexes { Indexes::Create } else { Indexes::Look };
    let packs_data_sets = config.setting.layout != Layout::File;
    let indexes_of = if packs_data_sets { IndexUser::Planner } else { IndexUser::ClientAgent };
    let mut checks = doctor::database_with(store, IndexUser::ClientAgent, indexes_of, then).await;
    if packs_data_sets && let Err(error) = store.check_rights(IndexUser::Planner).await {
        checks.push(Check::database("db roles", &error));
    }
    checks
}

fn configuration(config: &Config) -> Check {
    const NAME: &str = "config";
    match config.deal_terms() {
        Ok(terms) => {
            let (miners, duration) = (terms.miners.len(), terms.duration);
            Check::ok(NAME, format!("deals of {duration} with {}", counted(miners, "miner")))
        }
        Err(error) => Check::warn(
            NAME,
            ErrorChain(&error).to_string(),
            "enough for makecars; makedeals and run need it",
        ),
    }
}
