//! `check-config`: the database, node, wallet and limits that a configuration resolves to, without secrets.

use std::path::Path;

use carferry_core::error_chain::{ErrorChain, Hint as _};
use carferry_core::model::chain::EPOCHS_PER_DAY;
use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::rpc::endpoint::{EndpointError, resolve_full_node};
use serde::Serialize;

use crate::config::Config;
use crate::exit::CommandError;

/// Prints what the configuration resolves to.
///
/// # Errors
///
/// [`CommandError`] for what the user must fix.
pub(super) fn check_config(
    config: &Config,
    file: Option<&Path>,
    json: bool,
    out: &mut Printer,
) -> Result<ExitStatus, CommandError> {
    let summary = Summary::of(config, file, &|name| std::env::var(name).ok())?;
    if json { out.json(&summary) } else { out.text(summary.text()) }?;
    Ok(ExitStatus::Success)
}

/// What a configuration resolves to.
#[derive(Debug, Serialize)]
struct Summary {
    ok: bool,
    file: Option<String>,
    database: String,
    servers: String,
    /// The node's address and where it was found.
    lotus: Option<String>,
    /// Why there is none.
    #[serde(rename = "lotusproblem", skip_serializing_if = "Option::is_none")]
    lotus_problem: Option<String>,
    wallet: String,
    duration: String,
    #[serde(rename = "startdelayepochs")]
    start_delay_epochs: i64,
    miners: Vec<Miner>,
    #[serde(rename = "minermaxdeals")]
    miner_max_deals: u32,
    #[serde(rename = "maxdealnums")]
    max_deal_nums: u32,
}

#[derive(Debug, Serialize)]
struct Miner {
    miner: String,
    price: String,
}

impl Summary {
    /// Resolves everything that can be without calling anything: addresses, token files, certificates.
    ///
    /// # Errors
    ///
    /// [`CommandError`] for what the user must fix. A node that is not found, or down, is no error here.
    fn of(
        config: &Config,
        file: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CommandError> {
        let terms = config.deal_terms()?;
        let target = config.mongodb.target()?;
        config.mongodb.check_files()?;
        let (lotus, lotus_problem) = match resolve_full_node(&config.lotus, env) {
            Ok(endpoint) => (Some(endpoint.to_string()), None),
            Err(error @ EndpointError::NotFound { .. }) => (None, Some(with_hint(&error))),
            Err(error @ EndpointError::Repo { .. }) if config.lotus.repo.is_none() => {
                (None, Some(with_hint(&error)))
            }
            Err(error) => return Err(CommandError::user(&error)),
        };
        let setting = &config.setting;
        Ok(Self {
            ok: true,
            file: file.map(|file| file.display().to_string()),
            database: target.database,
            servers: target.servers,
            lotus,
            lotus_problem,
            wallet: terms.wallet.to_string(),
            duration: terms.duration.to_string(),
            start_delay_epochs: setting.start_delay.on_mainnet(),
            miners: terms
                .miners
                .iter()
                .map(|terms| Miner { miner: terms.miner.to_string(), price: terms.price.to_string() })
                .collect(),
            miner_max_deals: setting.miner_max_deals,
            max_deal_nums: setting.max_deal_nums,
        })
    }

    /// For people.
    fn text(&self) -> String {
        let mut lines = vec!["configuration is good".to_owned()];
        lines.push(format!("database   {} on {}", self.database, self.servers));
        let none = || self.lotus_problem.clone().unwrap_or_default();
        lines.push(format!("lotus      {}", self.lotus.clone().unwrap_or_else(none)));
        lines.push(format!("wallet     {}", self.wallet));
        let (epochs, days) = (self.start_delay_epochs, self.start_delay_epochs / EPOCHS_PER_DAY);
        lines.push(format!("deals      {}, starting after {epochs} epochs ({days} days)", self.duration));
        for Miner { miner, price } in &self.miners {
            lines.push(format!("miner      {miner} at {price} per epoch"));
        }
        let (one, all) = (self.miner_max_deals, self.max_deal_nums);
        lines.push(format!("limits     {one} per CAR and miner, {all} per CAR"));
        if one > 1 {
            lines.push(
                "           several deals of a CAR with one miner are no copies apart from each other"
                    .to_owned(),
            );
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn with_hint(error: &EndpointError) -> String {
    match error.hint() {
        Some(hint) => format!("{}: {hint}", ErrorChain(error)),
        None => ErrorChain(error).to_string(),
    }
}
