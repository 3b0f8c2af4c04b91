//! The report of a pass of `makedeals` or `run --dry-run` for people: deals and price by miner, and what
//! keeps CARs from more replicas.

use std::collections::BTreeMap;

use carferry_core::model::AttoFil;
use carferry_core::printer::table;
use carferry_core::words::counted;

use crate::commands::text::{bytes, line};
use crate::propose::policy::HoldReason;
use crate::propose::{DealState, Mode, ReplicaGoal, Report};

/// A pass for people.
pub(super) fn plan_text(report: &Report, mode: Mode) -> String {
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

/// Datacap may be more than a `u64` counts.
fn big_bytes(count: u128) -> String {
    bytes(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propose::{DealLine, Held, MinerTotal, WalletChange};

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
            [(Held::By(HoldReason::EnoughWithMiner), 419), (Held::By(HoldReason::EnoughReplicas), 1)].into();
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
