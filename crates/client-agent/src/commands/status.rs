//! What people read: the plan of `makedeals`, the state of things of `status`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use carferry_core::model::{AttoFil, OfflineDealDoc};
use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::store::{DealCounts, Store};
use carferry_core::words::counted;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::config::Config;
use crate::exit::CommandError;
use crate::propose::policy::HoldReason;
use crate::propose::{DealState, Mode, ReplicaGoal, Report};

/// Troubled deals that `status` lists.
const TROUBLED_MAX: i64 = 20;
/// Records that are no deals, of which `status` shows what stands in place of the proposal CID.
const NO_DEALS_MAX: i64 = 3;

/// A pass for people.
pub(crate) fn plan_text(report: &Report, mode: Mode) -> String {
    let mut text = String::new();
    if !report.miners.is_empty() {
        let mut table = table(["miner", "deals", "piece bytes", "price at most", "method"]);
        for (miner, total) in &report.miners {
            table.add_row([
                miner.clone(),
                total.deals.to_string(),
                bytes(total.bytes),
                total.price.clone(),
                total.method.unwrap_or_default().to_owned(),
            ]);
        }
        let all = report.totals();
        if report.miners.len() > 1 {
            table.add_row([
                "all".to_owned(),
                all.deals.to_string(),
                bytes(all.bytes),
                all.price,
                String::new(),
            ]);
        }
        line(&mut text, table.trim_fmt());
    }
    let count = |state| report.count(state);
    match mode {
        Mode::DryRun => {
            let all = report.totals();
            line(
                &mut text,
                format!(
                    "dry run: {} would be published for {}: {} of pieces, {} at most",
                    counted(count(DealState::Planned), "deal"),
                    counted(report.cars, "CAR"),
                    bytes(all.bytes),
                    AttoFil::new(all.price_atto)
                ),
            );
        }
        Mode::Publish => line(
            &mut text,
            format!(
                "{} published, {} found from earlier runs, {} refused, {} not confirmed yet, {} given up; {} looked at",
                counted(count(DealState::Published), "deal"),
                count(DealState::Settled),
                count(DealState::Refused),
                count(DealState::Unsettled),
                count(DealState::Abandoned),
                counted(report.cars, "CAR")
            ),
        ),
    }
    if let (Mode::DryRun, Some(wallet_change)) = (mode, &report.wallet_change) {
        line(
            &mut text,
            format!(
                "  money for deals: {} now, {} after these",
                wallet_change.funds_before, wallet_change.funds_after
            ),
        );
        if let (Some(before), Some(after)) = (wallet_change.datacap_before, wallet_change.datacap_after) {
            line(
                &mut text,
                format!("  datacap: {} now, {} after these", big_bytes(before), big_bytes(after)),
            );
        }
    }
    for sentence in coverage(report) {
        line(&mut text, format!("  {sentence}"));
    }
    for sentence in unpublished(report) {
        line(&mut text, format!("  {sentence}"));
    }
    for (miner, problem) in &report.miner_problems {
        line(&mut text, format!("  {miner} gets no deals: {problem}"));
    }
    for problem in report.car_problems.iter() {
        line(&mut text, format!("  {problem}"));
    }
    if report.more_car_problems > 0 {
        line(&mut text, format!("  and {} more like these", report.more_car_problems));
    }
    // Those two are what `coverage` says.
    for (reason, count) in report.held_without(&[HoldReason::EnoughReplicas, HoldReason::EnoughWithMiner]) {
        line(&mut text, format!("  held back {}: {reason}", counted(count, "time")));
    }
    text
}

/// Proposals that made no deal, with the reason; those of one provider with the same reason are one line.
fn unpublished(report: &Report) -> Vec<String> {
    let mut alike: BTreeMap<(&str, &str), (&str, usize)> = BTreeMap::new();
    for deal in &report.deals {
        if matches!(deal.state, DealState::Refused | DealState::Unsettled | DealState::Abandoned) {
            let key = (deal.miner.as_str(), deal.detail.as_deref().unwrap_or_default());
            alike.entry(key).or_insert((&deal.payload_cid, 0)).1 += 1;
        }
    }
    alike
        .into_iter()
        .map(|((miner, detail), (first, count))| match count {
            1 => format!("{first} with {miner}: {detail}"),
            many => format!("{many} CARs ({first} is the first) with {miner}: {detail}"),
        })
        .collect()
}

/// How many CARs get fewer replicas than are wanted; and why, where the configuration allows no more.
fn coverage(report: &Report) -> Vec<String> {
    let ReplicaGoal { replicas: wanted, miners, per_miner } = report.goal;
    let short = report.coverage.iter().filter(|(replicas, _)| **replicas < wanted);
    short
        .map(|(replicas, cars)| {
            let cars = if *cars == 1 { "1 CAR gets".to_owned() } else { format!("{cars} CARs get") };
            let why = match (*replicas == miners * per_miner, miners, per_miner) {
                (false, _, _) => String::new(),
                (true, 1, 1) => ": one miner is configured".to_owned(),
                (true, _, 1) => format!(": {miners} miners are configured"),
                (true, _, _) => {
                    format!(": {miners} miners are configured, for {per_miner} deals of a CAR each")
                }
            };
            format!("{cars} {replicas} of {wanted} replicas{why}")
        })
        .collect()
}

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct Status {
    cars: u64,
    #[serde(rename = "carpiecebytes")]
    car_piece_bytes: i64,
    deals: Vec<DealCounts>,
    #[serde(rename = "openintents")]
    open_intents: u64,
    #[serde(rename = "postponedintents")]
    postponed_intents: u64,
    troubled: Vec<Troubled>,
    #[serde(rename = "nodeals")]
    no_deals: NoDeals,
}

/// Records that are no deals: the prototype wrote Lotus' error text where a proposal CID belongs.
#[derive(Debug, Serialize)]
struct NoDeals {
    count: u64,
    #[serde(rename = "dealcids")]
    samples: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Troubled {
    deal: String,
    miner: String,
    #[serde(rename = "filecid")]
    payload_cid: String,
    why: String,
}

/// Prints how things stand: CARs, deals by miner and state, what is stuck and why.
///
/// # Errors
///
/// [`CommandError`] when the database does not answer.
pub async fn status(
    args: &StatusArgs,
    config: &Config,
    out: &mut Printer,
) -> Result<ExitStatus, CommandError> {
    let store = Store::open(&config.store_options()?).await?;
    let (cars, car_piece_bytes) = store.car_totals().await?;
    let (count, samples) = store.no_deals(NO_DEALS_MAX).await?;
    let samples = samples.iter().map(|words| words.chars().take(80).collect()).collect();
    let status = Status {
        cars,
        car_piece_bytes,
        deals: store.deal_counts().await?,
        open_intents: store.open_intent_count().await?,
        postponed_intents: store.postponed_intent_count().await?,
        troubled: store.troubled_deals(TROUBLED_MAX).await?.iter().map(troubled).collect(),
        no_deals: NoDeals { count, samples },
    };
    if args.json {
        out.json(&status)?;
    } else {
        out.text(status_text(&status))?;
    }
    Ok(ExitStatus::Success)
}

fn troubled(deal: &OfflineDealDoc) -> Troubled {
    let import = deal.import.as_ref().filter(|_| deal.isdeal == Some(0));
    let why = import
        .and_then(|import| import.reason.clone())
        .map(|reason| format!("import: {reason}"))
        .or_else(|| deal.statusmsg.clone())
        .unwrap_or_default();
    Troubled {
        deal: deal.dealcid.as_deref().unwrap_or("without dealcid").chars().take(80).collect(),
        miner: deal.miner.clone().unwrap_or_default(),
        payload_cid: deal.filecid.clone().unwrap_or_default(),
        why,
    }
}

fn status_text(status: &Status) -> String {
    let mut text = String::new();
    let piece_bytes = u64::try_from(status.car_piece_bytes).unwrap_or(0);
    line(&mut text, format!("{}, {} of pieces", counted(status.cars, "CAR"), bytes(piece_bytes)));
    if status.deals.is_empty() {
        line(&mut text, "no deals yet");
    } else {
        let mut deals = table(["miner", "imported", "state", "deals", "piece bytes (unpadded)"]);
        for group in &status.deals {
            deals.add_row([
                group.miner.clone(),
                if group.isdeal == 1 { "yes" } else { "no" }.to_owned(),
                format!("{} {}", group.status, group.statusname),
                group.deals.to_string(),
                bytes(u64::try_from(group.bytes).unwrap_or(0)),
            ]);
        }
        line(&mut text, deals.trim_fmt());
    }
    let under_way = status.open_intents.saturating_sub(status.postponed_intents);
    if under_way > 0 {
        line(
            &mut text,
            format!(
                "{} under way; an agent that runs, or the next makedeals, settles {}",
                if under_way == 1 {
                    "1 proposal is".to_owned()
                } else {
                    format!("{under_way} proposals are")
                },
                if under_way == 1 { "it" } else { "them" }
            ),
        );
    }
    if status.postponed_intents > 0 {
        let postponed = counted(status.postponed_intents, "proposal");
        let verb = if status.postponed_intents == 1 { "is" } else { "are" };
        line(&mut text, format!("{postponed} could not be made so far and {verb} tried again"));
    }
    if !status.troubled.is_empty() {
        line(&mut text, "stuck:");
        for deal in &status.troubled {
            line(&mut text, format!("  {} with {}: {}", deal.deal, deal.miner, deal.why));
        }
    }
    if status.no_deals.count > 0 {
        line(
            &mut text,
            format!(
                "{} not counted as a deal: `dealcid` is no proposal CID there, but for example:",
                counted(status.no_deals.count, "record")
            ),
        );
        for words in &status.no_deals.samples {
            line(&mut text, format!("  {}", words.lines().next().unwrap_or_default()));
        }
    }
    text
}

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    table
}

fn line(text: &mut String, what: impl std::fmt::Display) {
    let _infallible = writeln!(text, "{what}");
}

/// Datacap may be more than a `u64` counts.
fn big_bytes(count: u128) -> String {
    bytes(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Bytes for people, in binary units.
fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propose::{DealLine, MinerTotal, WalletChange};

    fn total(deals: u64, atto: u128) -> MinerTotal {
        MinerTotal {
            deals,
            bytes: deals << 30,
            price: AttoFil::new(atto).to_string(),
            price_atto: atto,
            method: Some("start"),
        }
    }

    #[test]
    fn a_plan_says_what_it_costs_and_why_cars_get_fewer_replicas() {
        let mut report = Report { cars: 420, ..Report::default() };
        report.miners.insert("f01000".into(), total(419, 1_500_000_000_000_000_000));
        report.coverage = [(1, 419), (3, 1)].into();
        report.goal = ReplicaGoal { replicas: 3, miners: 1, per_miner: 1 };
        report.held =
            [(HoldReason::EnoughWithMiner.as_str(), 419), (HoldReason::EnoughReplicas.as_str(), 1)].into();
        report.wallet_change = Some(WalletChange {
            funds_before: "4 FIL".into(),
            funds_after: "2.5 FIL".into(),
            datacap_before: Some(1 << 50),
            datacap_after: Some(1 << 49),
        });
        insta::assert_snapshot!("plan", plan_text(&report, Mode::DryRun));
        report.miners.insert("f01001".into(), total(1, 1));
        report.coverage = [(0, 1), (2, 419)].into();
        report.goal = ReplicaGoal { replicas: 10, miners: 2, per_miner: 1 };
        report.wallet_change = None;
        report.deals = ["bafy1", "bafy2", "bafy3"]
            .map(|payload_cid| DealLine {
                intent: format!("{payload_cid}#1"),
                payload_cid: payload_cid.into(),
                miner: "f01001".into(),
                start_epoch: 1,
                state: DealState::Refused,
                detail: Some("deal rejected: miner is not accepting offline storage deals".into()),
            })
            .into();
        insta::assert_snapshot!("plan_of_two_miners", plan_text(&report, Mode::Publish));
    }
}
