//! `verify --all`: reads every CAR of this box from the disk and compares it with its record.
//!
//! When a CAR was checked is written into its record, so a run that was interrupted goes on where it was.
//! CARs that were never checked come first, those that were found bad last: every run checks these again,
//! because the one that found them may have been killed before it said so.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use carferry_car::{PieceCid, PieceError, ThreadBudget, UnpaddedPieceSize, open_regular, piece_of_file};
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::CarDoc;
use carferry_core::model::stored::unsigned;
use carferry_core::printer::ExitStatus;
use carferry_core::store::{IndexUser, Store, VerifyDue};
use serde::Serialize;
use tracing::{info, warn};

use crate::blocking::in_background;
use crate::car_line::CarLine;
use crate::cli::VerifyArgs;
use crate::config::Config;
use crate::console::Console;
use crate::exit::CommandError;
use crate::progress::Meter;

/// Records that are read at a time.
const PAGE: i64 = 200;

/// What was found of one CAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// It is what the record says.
    Good,
    /// Size or piece CID differ from the record.
    Wrong,
    /// It is not there.
    Missing,
    /// It cannot be read.
    Unreadable,
    /// The record lacks the fields to compare with.
    Unrecorded,
}

/// One CAR's line.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    car: CarLine,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Total {
    good: u64,
    wrong: u64,
    missing: u64,
    unreadable: u64,
    unrecorded: u64,
    /// Checked lately, by another run, and good.
    fresh: u64,
    /// Records that name no host, as the prototype wrote them: it is not known on which box their CARs are.
    withouthost: u64,
}

/// Runs `verify`.
///
/// # Errors
///
/// When the database does not answer; what is wrong with CARs is reported and shows in the status.
pub(super) async fn verify(
    args: &VerifyArgs,
    config: &Config,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let store = Store::open(&config.store_options()?).await?;
    store.ensure_indexes(IndexUser::ClientAgent).await?;
    let host = config.agent_name();
    // One moment for the whole run: what is checked from here on is checked once.
    let now = store.server_time().await?;
    let within = i64::try_from(args.within.as_millis()).unwrap_or(i64::MAX);
    let since = bson::DateTime::from_millis(now.timestamp_millis().saturating_sub(within));
    let due = VerifyDue { since, began: now };
    let (cars, bytes) = store.cars_to_verify(&host, due).await?;
    let all = store.standing_cars_of(&host).await?;
    let withouthost = store.standing_cars_without_host().await?;
    let mut total = Total { fresh: all.saturating_sub(cars), withouthost, ..Total::default() };
    info!(cars, bytes, fresh = total.fresh, "checking CARs of {host}");
    let meter = Meter::new(unsigned(bytes), cars, console.shutdown.token().clone());
    let shown = console.screen.show(&meter, args.work.no_progress);
    let budget = Arc::new(args.work.budget());
    // Should the server's clock go back, with another primary, they would be due again at once.
    let mut found_bad = HashSet::new();
    'all: loop {
        let mut page = store.cars_to_verify_page(&host, due, PAGE).await?;
        page.retain(|(id, _)| !found_bad.contains(&id.to_string()));
        if page.is_empty() {
            break;
        }
        for (id, car) in page {
            let (budget, counter) = (Arc::clone(&budget), Arc::clone(&meter));
            let line = in_background(console.shutdown, move || check(&budget, &car, &counter)).await?;
            let Some(line) = line else { break 'all };
            meter.item_done();
            store.record_verified(&id, line.verdict == Verdict::Good, line.reason.as_deref()).await?;
            if line.verdict != Verdict::Good {
                found_bad.insert(id.to_string());
            }
            match line.verdict {
                Verdict::Good => total.good += 1,
                Verdict::Wrong => total.wrong += 1,
                Verdict::Missing => total.missing += 1,
                Verdict::Unreadable => total.unreadable += 1,
                Verdict::Unrecorded => total.unrecorded += 1,
            }
            if console.json || line.verdict != Verdict::Good {
                let (verdict, reason) = (line.verdict, line.reason.as_deref().unwrap_or_default());
                let path = line.car.carpath.as_deref().unwrap_or_default();
                console.result(&line, format_args!("{verdict:?}  {path}: {reason}"))?;
            }
        }
    }
    drop(shown);
    finish(&total, console)
}

fn finish(total: &Total, mut console: Console<'_>) -> Result<ExitStatus, CommandError> {
    let Total { good, wrong, missing, unreadable, unrecorded, fresh, withouthost } = total;
    console.result(
        total,
        format_args!(
            "{good} good, {wrong} wrong, {missing} missing, {unreadable} unreadable, {unrecorded} not recorded in \
             full, {fresh} checked lately"
        ),
    )?;
    if *withouthost > 0 && !console.json {
        console.out.line(format_args!(
            "{withouthost} not checked: their records name no host, as the prototype wrote them; `makecars` with the \
             same input and output records them anew, and `commp FILE` computes a piece CID"
        ))?;
    }
    let interrupted = console.shutdown.token().is_cancelled();
    if interrupted {
        warn!("interrupted: the same command goes on with the rest");
    }
    let bad = total.wrong + total.missing + total.unreadable;
    Ok(match (interrupted, bad) {
        (true, _) => ExitStatus::Interrupted,
        (false, 0) => ExitStatus::Success,
        (false, _) => ExitStatus::UserError,
    })
}

/// `None`: told to stop.
fn check(budget: &ThreadBudget, car: &CarDoc, meter: &Meter) -> Option<Line> {
    let path = Path::new(car.outputpath.as_deref().unwrap_or_default());
    let (verdict, reason) = match judge(budget, car, path, meter) {
        Ok(()) => (Verdict::Good, None),
        Err(None) => return None,
        Err(Some((verdict, reason))) => (verdict, Some(reason)),
    };
    Some(Line { car: CarLine::recorded(car), verdict, reason })
}

fn judge(
    budget: &ThreadBudget,
    car: &CarDoc,
    path: &Path,
    meter: &Meter,
) -> Result<(), Option<(Verdict, String)>> {
    let Some(recorded) = car.piececid.as_deref().and_then(|cid| cid.parse::<PieceCid>().ok()) else {
        return Err(Some((Verdict::Unrecorded, "its record has no piece CID".to_owned())));
    };
    let unreadable = |error: &std::io::Error| {
        let verdict = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Verdict::Missing,
            _ => Verdict::Unreadable,
        };
        Some((verdict, error.to_string()))
    };
    let file = open_regular(path).map_err(|error| unreadable(&error))?;
    let size = file.metadata().map_err(|error| unreadable(&error))?.len();
    if let Some(wanted) = car.carsizebytes.and_then(|bytes| u64::try_from(bytes).ok())
        && wanted != size
    {
        // Reading it would tell nothing more.
        meter_skips(meter, wanted);
        return Err(Some((Verdict::Wrong, format!("it has {size} bytes, the record says {wanted}"))));
    }
    let piece = piece_of_file(budget, &file, meter).map_err(|error| match error {
        PieceError::Cancelled => None,
        PieceError::Read(error) => unreadable(&error),
        error => Some((Verdict::Wrong, ErrorChain(&error).to_string())),
    })?;
    let recorded_size = car
        .dealsizebytes
        .and_then(|bytes| UnpaddedPieceSize::new(u64::try_from(bytes).ok()?).ok())
        .map(UnpaddedPieceSize::padded);
    // Lotus records a larger piece where the deal has one.
    let in_recorded = recorded_size.map(|size| piece.piece_cid_in(size));
    if piece.piece_cid == recorded || in_recorded == Some(recorded) {
        return Ok(());
    }
    Err(Some((Verdict::Wrong, format!("its piece CID is {}, the record says {recorded}", piece.piece_cid))))
}

fn meter_skips(meter: &Meter, bytes: u64) {
    use carferry_car::Progress as _;
    meter.advance(bytes);
}
