//! `status`: CARs, deals by miner and state, and what is stuck and why.

use carferry_core::model::OfflineDealDoc;
use carferry_core::model::stored::unsigned;
use carferry_core::printer::{ExitStatus, table};
use carferry_core::store::{DealCounts, Store};
use carferry_core::words::counted;
use serde::Serialize;

use crate::commands::text::{bytes, line};
use crate::config::Config;
use crate::console::Console;
use crate::exit::CommandError;

/// Troubled deals that `status` lists.
const TROUBLED_MAX: i64 = 20;
/// Records that are no deals, of which `status` shows what stands in place of the proposal CID.
const NO_DEALS_MAX: i64 = 3;

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
pub(super) async fn status(config: &Config, mut console: Console<'_>) -> Result<ExitStatus, CommandError> {
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
    console.result(&status, status_text(&status).trim_end())?;
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
        deal: deal.shown_dealcid(),
        miner: deal.miner.clone().unwrap_or_default(),
        payload_cid: deal.filecid.clone().unwrap_or_default(),
        why,
    }
}

fn status_text(status: &Status) -> String {
    let mut text = String::new();
    let piece_bytes = unsigned(status.car_piece_bytes);
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
                bytes(unsigned(group.bytes)),
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
