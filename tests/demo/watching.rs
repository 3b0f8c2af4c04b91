//! How far the deals are, read from the database as an operator would.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{bail, ensure};
use carferry_core::model::{CarDoc, DealPhase, DealStatus, ImportState, IntentState, OfflineDealDoc};
use carferry_core::store::Store;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::processes::Process;

pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);
pub(crate) const LINE_EVERY: Duration = Duration::from_secs(5);
const DEALS_MAX: i64 = 1_000_000;
const PAGE: i64 = 1000;

/// Deals of one miner by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) waiting: u64,
    pub(crate) importing: u64,
    pub(crate) sealing: u64,
    pub(crate) active: u64,
}

/// All deals by how far they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) miners: BTreeMap<String, Stand>,
}

/// How long each part took, from the start of the agents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) published: Duration,
    pub(crate) imported: Duration,
    pub(crate) active: Duration,
}

impl Progress {
    fn of(miners: &[String], deals: &[OfflineDealDoc]) -> Self {
        let mut progress =
            Self { miners: miners.iter().map(|miner| (miner.clone(), Stand::default())).collect() };
        for deal in deals {
            let stand = progress.miners.entry(deal.miner.clone().unwrap_or_default()).or_default();
            let called = deal.import.as_ref().is_some_and(|import| import.calledtime.is_some());
            let count = if phase(deal) == DealPhase::Active {
                &mut stand.active
            } else if deal.isdeal == Some(1) {
                &mut stand.sealing
            } else if called {
                &mut stand.importing
            } else {
                &mut stand.waiting
            };
            *count += 1;
        }
        progress
    }

    fn published(&self) -> u64 {
        self.miners.values().map(|s| s.waiting + s.importing + s.sealing + s.active).sum()
    }

    fn imported(&self) -> u64 {
        self.miners.values().map(|stand| stand.sealing + stand.active).sum()
    }

    fn active(&self) -> u64 {
        self.miners.values().map(|stand| stand.active).sum()
    }

    fn line(&self) -> String {
        let miners: Vec<String> = self
            .miners
            .iter()
            .map(|(miner, stand)| {
                let Stand { waiting, importing, sealing, active } = stand;
                format!("{miner} {waiting}/{importing}/{sealing}/{active}")
            })
            .collect();
        miners.join("  ")
    }
}

/// What the four numbers of a line are.
pub(crate) const LEGEND: &str = "per miner: waiting/importing/sealing/active";

fn phase(deal: &OfflineDealDoc) -> DealPhase {
    let status = deal.status.and_then(|status| u64::try_from(status).ok()).unwrap_or(0);
    DealStatus::from_lotus(status).phase()
}

/// Whether the chain has this deal as active.
pub(crate) fn is_active(deal: &OfflineDealDoc) -> bool {
    phase(deal) == DealPhase::Active
}

/// Whether the provider has this deal's piece in a sector, and the record says that it has the data.
pub(crate) fn is_in_sector(deal: &OfflineDealDoc) -> bool {
    /// `StorageDealSealing`. Source: go-fil-markets v1.28.3 `storagemarket/dealstatus.go`.
    const SEALING: i64 = 5;
    let status = deal.provider.as_ref().and_then(|view| view.status);
    deal.isdeal == Some(1) && status == Some(SEALING)
}

/// Every CAR that stands.
pub(crate) async fn cars(store: &Store) -> anyhow::Result<Vec<CarDoc>> {
    let mut cars: Vec<CarDoc> = Vec::new();
    loop {
        let page = store.cars_page(cars.last().and_then(|car| car.id), PAGE).await?;
        if page.is_empty() {
            return Ok(cars);
        }
        for (_id, car) in page {
            cars.push(car?);
        }
    }
}

/// Whether the miners take a piece of this size; lotus-sim's ask is Lotus' own, 256 bytes at least.
pub(crate) fn is_large_enough(car: &CarDoc) -> bool {
    car.piecesizebytes.is_some_and(|bytes| bytes >= 256)
}

/// Every deal.
pub(crate) async fn deals(store: &Store) -> anyhow::Result<Vec<OfflineDealDoc>> {
    Ok(store.all_deals(DEALS_MAX).await?)
}

/// Shows how far the deals are until all are active, or until something is wrong.
pub(crate) async fn until_active(
    store: &Store,
    miners: &[String],
    cars: &[CarDoc],
    agents: &mut [Process],
    patience: Duration,
) -> anyhow::Result<Times> {
    let payloads: BTreeSet<String> =
        cars.iter().filter(|car| is_large_enough(car)).filter_map(|car| car.filecid.clone()).collect();
    let payloads: Vec<String> = payloads.into_iter().collect();
    let wanted = u64::try_from(payloads.len() * miners.len())?;
    let started = Instant::now();
    let (mut published, mut imported) = (None, None);
    let mut seen = Progress::default();
    let (mut changed, mut shown) = (started, started);
    let bar = bar(wanted, "active");
    loop {
        for agent in &mut *agents {
            agent.check_runs()?;
        }
        let deals = deals(store).await?;
        let progress = Progress::of(miners, &deals);
        let now = Instant::now();
        if progress.published() >= wanted {
            published.get_or_insert(now - started);
        }
        if progress.imported() >= wanted {
            imported.get_or_insert(now - started);
        }
        bar.set_position(progress.active());
        bar.set_message(format!("{}/{wanted} published  {}", progress.published(), progress.line()));
        let done = progress.active() >= wanted;
        if !io::stderr().is_terminal() && (done || now - shown >= LINE_EVERY) {
            shown = now;
            let (published, active) = (progress.published(), progress.active());
            say!("      {published}/{wanted} published, {active}/{wanted} active  {}", progress.line());
        }
        if done {
            bar.finish_and_clear();
            let active = now - started;
            let (published, imported) = (published.unwrap_or(active), imported.unwrap_or(active));
            return Ok(Times { published, imported, active });
        }
        check_deals(&deals)?;
        check_intents(store, &payloads).await?;
        if progress != seen {
            (seen, changed) = (progress, now);
        }
        ensure!(
            now - changed < patience,
            "nothing has changed for {} s: {}{}",
            patience.as_secs(),
            seen.line(),
            reasons(&deals)
        );
        sleep(LOOK_EVERY).await;
    }
}

pub(crate) fn check_deals(deals: &[OfflineDealDoc]) -> anyhow::Result<()> {
    for deal in deals {
        let name = deal.dealcid.as_deref().unwrap_or("?");
        let miner = deal.miner.as_deref().unwrap_or("?");
        if phase(deal) == DealPhase::Failed {
            bail!("deal {name} with {miner} failed: {}", deal.statusmsg.as_deref().unwrap_or("?"));
        }
        if let Some(import) = deal.import.as_ref().filter(|import| import.state == ImportState::Failed) {
            bail!("import of {name} at {miner} failed: {}", import.reason.as_deref().unwrap_or("?"));
        }
    }
    Ok(())
}

async fn check_intents(store: &Store, payloads: &[String]) -> anyhow::Result<()> {
    for intent in store.intents_of_payloads(payloads).await?.0 {
        if matches!(intent.state, IntentState::Refused | IntentState::Abandoned) {
            bail!(
                "no deal with {} for {}: {}",
                intent.miner,
                intent.carpath,
                intent.reason.as_deref().unwrap_or("?")
            );
        }
    }
    Ok(())
}

/// Why imports wait, in the agents' words.
pub(crate) fn reasons(deals: &[OfflineDealDoc]) -> String {
    let reasons: BTreeSet<String> = deals
        .iter()
        .filter(|deal| deal.isdeal == Some(0))
        .filter_map(|deal| {
            Some(format!("\n  {}: {}", deal.miner.as_ref()?, deal.import.as_ref()?.reason.as_ref()?))
        })
        .collect();
    reasons.into_iter().take(5).collect()
}

pub(crate) fn bar(wanted: u64, goal: &str) -> ProgressBar {
    // Draws on a terminal only.
    let bar = ProgressBar::new(wanted);
    let style = ProgressStyle::with_template(&format!("      {{bar:20}} {{pos}}/{{len}} {goal}  {{msg}}"));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use carferry_core::model::ImportDoc;

    use super::*;

    fn deal(status: i64, isdeal: i64, called: bool) -> OfflineDealDoc {
        OfflineDealDoc {
            miner: Some("f01000".into()),
            status: Some(status),
            isdeal: Some(isdeal),
            import: called.then(|| ImportDoc {
                calledtime: Some(bson::DateTime::from_millis(1)),
                ..ImportDoc::default()
            }),
            ..OfflineDealDoc::default()
        }
    }

    #[test]
    fn every_deal_counts_once_where_it_stands() {
        let deals =
            [deal(18, 0, false), deal(18, 0, true), deal(29, 1, true), deal(7, 1, true), deal(7, 1, true)];
        let progress = Progress::of(&["f01000".into(), "f01001".into()], &deals);
        assert_eq!(progress.miners["f01000"], Stand { waiting: 1, importing: 1, sealing: 1, active: 2 });
        assert_eq!(progress.line(), "f01000 1/1/1/2  f01001 0/0/0/0");
        assert_eq!((progress.published(), progress.imported(), progress.active()), (5, 3, 2));
    }

    #[test]
    fn deal_that_failed_is_named_with_its_reason() {
        let mut failed = deal(26, 0, false);
        failed.statusmsg = Some("StorageDealError: too late".into());
        let error = check_deals(&[deal(18, 0, false), failed]).unwrap_err().to_string();
        assert!(error.contains("f01000") && error.contains("too late"), "{error}");
    }
}
