//! `retry`: clears refusals and failures that keep a CAR from a provider.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use carferry_core::printer::ExitStatus;
use carferry_core::store::{Failure, FailuresOf, Store};
use carferry_core::words::counted;
use serde::Serialize;

use crate::cli::RetryArgs;
use crate::config::Config;
use crate::console::Console;
use crate::exit::CommandError;

/// What `retry` prints.
#[derive(Debug, Default, Serialize)]
struct Forgotten {
    /// Refusals, failed deals and proposals that were put off.
    failures: usize,
    /// CARs that they are of.
    cars: usize,
    /// How many of each provider.
    miners: BTreeMap<String, usize>,
    /// Whether they are forgotten now.
    #[serde(rename = "dryrun")]
    dry_run: bool,
}

/// Forgets failures, so that the next pass proposes these CARs again.
///
/// # Errors
///
/// [`CommandError`] when the configuration does not suffice or the database does not answer.
pub(super) async fn retry(
    args: &RetryArgs,
    config: &Config,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let store = Store::open(&config.store_options()?).await?;
    let payload_cid = args.filecid.as_ref().map(ToString::to_string);
    let miner = args.miner.as_ref().map(ToString::to_string);
    let of = match (&payload_cid, &miner) {
        (Some(payload_cid), _) => FailuresOf::Payload(payload_cid),
        (None, Some(miner)) => FailuresOf::Miner(miner),
        (None, None) => FailuresOf::All,
    };
    let failures = store.failures(of).await?;
    if !args.dry_run {
        store.forget_failures(&failures).await?;
    }
    let forgotten = summary(&failures, args.dry_run);
    console.result(&forgotten, text(&forgotten).trim_end())?;
    Ok(ExitStatus::Success)
}

fn summary(failures: &[Failure], dry_run: bool) -> Forgotten {
    let cars: BTreeSet<&str> = failures.iter().map(|failure| failure.payload_cid.as_str()).collect();
    let mut miners = BTreeMap::new();
    for failure in failures {
        *miners.entry(failure.miner.clone()).or_insert(0) += 1;
    }
    Forgotten { failures: failures.len(), cars: cars.len(), miners, dry_run }
}

fn text(forgotten: &Forgotten) -> String {
    if forgotten.failures == 0 {
        return "no refusals, failed deals or postponed proposals stand against these\n".to_owned();
    }
    let verb = if forgotten.dry_run { "would be forgotten" } else { "forgotten" };
    let what = match forgotten.failures {
        1 => "1 refusal, failed deal or postponed proposal".to_owned(),
        many => format!("{many} refusals, failed deals and postponed proposals"),
    };
    let mut text = format!("{what} of {} {verb}", counted(forgotten.cars, "CAR"));
    text.push_str(if forgotten.dry_run { "\n" } else { ": the next pass proposes them again\n" });
    for (miner, failures) in &forgotten.miners {
        let _infallible = writeln!(text, "  {miner}: {failures}");
    }
    text
}
