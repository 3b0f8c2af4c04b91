//! `status` and `retry`: the queue as the database has it.

use std::fmt::Write as _;

use carferry_core::{
    model::{ImportState, OfflineDealDoc},
    store::{PendingCounts, Store, StoreError},
};
use comfy_table::{Table, presets};
use serde::Serialize;

/// What `status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// Pending deals by miner.
    pub miners: Vec<MinerLine>,
    /// The most urgent pending deals.
    pub deals: Vec<PendingLine>,
}

/// Pending deals of one miner.
#[derive(Clone, Debug, Serialize)]
pub struct MinerLine {
    /// Storage provider.
    pub miner: String,
    /// How many, by where they stand.
    #[serde(flatten)]
    pub counts: PendingCounts,
}

/// One pending deal.
#[derive(Clone, Debug, Serialize)]
pub struct PendingLine {
    /// Proposal CID, as stored.
    pub deal: String,
    /// Storage provider.
    pub miner: String,
    /// `new`, `working`, `waiting`, `retrying`, `set aside`, `missed`, `failed`.
    pub state: &'static str,
    /// Why.
    pub reason: Option<String>,
    /// Failed tries.
    pub attempts: i64,
    /// Next try, RFC 3339.
    pub next_try: Option<String>,
    /// The epoch by which it must be sealed.
    pub start_epoch: Option<i64>,
    /// The agent that works on it.
    pub owner: Option<String>,
    /// The deal's state at the provider.
    pub provider_status: Option<String>,
}

/// Reads the queue of these miners.
///
/// # Errors
///
/// When the database does not answer.
pub async fn status(store: &Store, miners: &[String], limit: i64) -> Result<StatusReport, StoreError> {
    let mut lines = Vec::with_capacity(miners.len());
    for miner in miners {
        lines.push(MinerLine { miner: miner.clone(), counts: store.pending_counts(miner).await? });
    }
    let now = store.server_time().await?;
    let pending = store.pending_deals(miners, limit.max(0)).await?;
    Ok(StatusReport { miners: lines, deals: pending.iter().map(|deal| line(deal, now)).collect() })
}

fn line(deal: &OfflineDealDoc, now: bson::DateTime) -> PendingLine {
    let claim = deal.claim.as_ref().filter(|claim| claim.until.is_some_and(|until| until > now));
    let import = deal.import.as_ref();
    let state = match (claim, import.map(|import| import.state)) {
        (Some(_), _) => "working",
        (None, Some(ImportState::Waiting | ImportState::Unknown)) => "waiting",
        (None, Some(ImportState::Retrying)) => "retrying",
        (None, Some(ImportState::SetAside)) => "set aside",
        (None, Some(ImportState::Missed)) => "missed",
        (None, Some(ImportState::Failed)) => "failed",
        // Done, and `isdeal` 0: put back by hand.
        (None, None | Some(ImportState::Done)) => "new",
    };
    PendingLine {
        deal: deal.dealcid.as_deref().unwrap_or("without dealcid").chars().take(80).collect(),
        miner: deal.miner.clone().unwrap_or_default(),
        state,
        reason: import.and_then(|import| import.reason.clone()),
        attempts: import.and_then(|import| import.attempts).unwrap_or(0),
        next_try: import.and_then(|import| import.nexttry?.try_to_rfc3339_string().ok()),
        start_epoch: deal.startepoch,
        owner: claim.map(|claim| claim.owner.clone()),
        provider_status: deal.provider.as_ref().and_then(|provider| provider.statusname.clone()),
    }
}

impl StatusReport {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut miners = table(["miner", "pending", "under way", "set aside", "failed"]);
        for MinerLine { miner, counts } in &self.miners {
            miners.add_row([
                miner.clone(),
                counts.pending.to_string(),
                counts.claimed.to_string(),
                counts.set_aside.to_string(),
                counts.failed.to_string(),
            ]);
        }
        let _infallible = writeln!(text, "{}", miners.trim_fmt());
        if !self.deals.is_empty() {
            let mut deals = table(["deal", "miner", "start epoch", "state", "tries", "next try", "why"]);
            for deal in &self.deals {
                deals.add_row([
                    deal.deal.clone(),
                    deal.miner.clone(),
                    deal.start_epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
                    deal.state.to_owned(),
                    deal.attempts.to_string(),
                    deal.next_try.clone().unwrap_or_default(),
                    deal.reason.clone().unwrap_or_default(),
                ]);
            }
            let _infallible = writeln!(text, "\n{}", deals.trim_fmt());
        }
        let pending: u64 = self.miners.iter().map(|line| line.counts.pending).sum();
        let shown = u64::try_from(self.deals.len()).unwrap_or(u64::MAX);
        if let Some(more @ 1..) = pending.checked_sub(shown) {
            let _infallible = writeln!(text, "and {more} more (--limit)");
        }
        text
    }
}

/// A table without frames.
pub fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

#[cfg(test)]
mod tests {
    use carferry_core::model::{ClaimDoc, ImportDoc};

    use super::*;

    fn report() -> StatusReport {
        let now = bson::DateTime::from_millis(1_700_000_000_000);
        let deal = |n: u8, import: Option<ImportDoc>, claim: Option<ClaimDoc>| OfflineDealDoc {
            dealcid: Some(format!("bafyrei{n}")),
            miner: Some("f01000".to_owned()),
            startepoch: Some(4_000_000),
            import,
            claim,
            ..OfflineDealDoc::default()
        };
        let import = |state, reason: &str| {
            let nexttry = Some(bson::DateTime::from_millis(1_700_000_030_000));
            Some(ImportDoc { state, reason: Some(reason.to_owned()), nexttry, ..ImportDoc::default() })
        };
        let held = |until| {
            Some(ClaimDoc {
                owner: "host/1/a#1".to_owned(),
                until: Some(bson::DateTime::from_millis(until)),
                n: Some(1),
            })
        };
        let deals = [
            deal(1, None, None),
            deal(2, None, held(1_700_000_000_001)),
            deal(3, import(ImportState::Waiting, "the CAR is not here yet"), held(1_699_999_999_999)),
            deal(4, import(ImportState::Missed, "start epoch 1 has passed"), None),
            deal(5, import(ImportState::SetAside, "set aside after 20 tries"), None),
        ];
        StatusReport {
            miners: vec![MinerLine {
                miner: "f01000".to_owned(),
                counts: PendingCounts { pending: 7, claimed: 1, set_aside: 1, failed: 1 },
            }],
            deals: deals.iter().map(|deal| line(deal, now)).collect(),
        }
    }

    #[test]
    fn a_lease_counts_only_while_it_lasts() {
        let states: Vec<_> = report().deals.iter().map(|deal| deal.state).collect();
        assert_eq!(states, ["new", "working", "waiting", "missed", "set aside"]);
        assert_eq!(report().deals[1].owner.as_deref(), Some("host/1/a#1"));
        assert_eq!(report().deals[2].owner, None);
    }

    #[test]
    fn people_see_reasons_and_what_is_left_out() {
        insta::assert_snapshot!(report().text());
    }
}
