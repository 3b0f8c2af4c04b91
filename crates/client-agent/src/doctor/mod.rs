//! `doctor`: everything that must hold before an agent can work, each thing by itself, with a way out.
//!
//! Changes nothing, unless `--create-indexes` asks for the one thing it can mend.

mod database;
mod node;

use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::LotusError;
use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::runtime::clock;
use carferry_core::store::StoreError;
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::config::Config;
use crate::stop::Stop;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Good.
    Ok,
    /// Works for now, or cannot be known.
    Warn,
    /// The agent cannot work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    /// A good one.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), hint: None }
    }

    /// One to look after.
    pub fn warn(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, state: State::Warn, detail: detail.into(), hint: Some(hint.into()) }
    }

    /// A bad one.
    pub fn fail(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, state: State::Fail, detail: detail.into(), hint: Some(hint.into()) }
    }

    fn database(name: &'static str, error: &StoreError) -> Self {
        Self { name, state: State::Fail, detail: ErrorChain(error).to_string(), hint: error.hint() }
    }

    fn lotus(name: &'static str, error: &LotusError) -> Self {
        Self { name, state: State::Fail, detail: ErrorChain(error).to_string(), hint: error.hint() }
    }

    fn lines(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let line = format!("{state:<5} {:<12} {}", self.name, self.detail);
        match &self.hint {
            Some(hint) => format!("{line}\n{:<18} hint: {hint}", ""),
            None => line,
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// Only when printing fails.
pub async fn run(args: &DoctorArgs, config: &Config, out: &mut Printer) -> Result<ExitStatus, Stop> {
    let mut checks = vec![configuration(config)];
    checks.extend(database::checks(config, args.create_indexes).await);
    checks.extend(node::checks(config, clock::since_unix_epoch()).await);
    for check in &checks {
        let printed = if args.json { out.json(check) } else { out.line(check.lines()) };
        printed?;
    }
    let failed = checks.iter().any(|check| check.state == State::Fail);
    Ok(if failed { ExitStatus::UserError } else { ExitStatus::Success })
}

fn configuration(config: &Config) -> Check {
    const NAME: &str = "config";
    match config.deal_terms() {
        Ok(terms) => {
            let (miners, duration) = (terms.miners.len(), terms.duration);
            Check::ok(NAME, format!("deals of {duration} with {miners} miners"))
        }
        Err(error) => Check::warn(
            NAME,
            ErrorChain(&error).to_string(),
            "enough for makecars; makedeals and run need it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_read_as_a_table() {
        let lines: Vec<_> = [
            Check::ok("mongodb", "replica set rs0"),
            Check::fail("node sync", "the head is 3 h old", "wait for `lotus sync wait`"),
        ]
        .iter()
        .map(Check::lines)
        .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        ok    mongodb      replica set rs0
        FAIL  node sync    the head is 3 h old
                           hint: wait for `lotus sync wait`
        ");
    }
}
