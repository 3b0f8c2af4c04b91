//! `makecars --layout file`: a CAR of each file, and its document in `cars`.
//!
//! ```text
//! scan ─► plan (what is done? what fits?) ─► worker threads ─► record ─► report
//! ```
//!
//! No CAR stands under its final name before it is complete and durable, no document before its CAR. Every
//! step can be repeated; what a killed run leaves are temporary files, which the next run removes.

pub(super) mod manifest;
pub(super) mod plan;
pub(super) mod report;
pub(super) mod scan;
mod standing;
pub(super) mod worker;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use carferry_car::Profile;
use carferry_core::error_chain::ErrorChain;
use carferry_core::fsx;
use carferry_core::printer::ExitStatus;
use carferry_core::runtime::{Shutdown, fail_point};
use carferry_core::store::{IndexUser, RetryUntilAnswered, Store};
use futures::{StreamExt, stream};
use indicatif::BinaryBytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::cli::MakecarsArgs;
use crate::config::Config;
use crate::console::Console;
use crate::exit::CommandError;
use crate::makecars;
use crate::makecars::error::MakecarsError;
use crate::makecars::per_file::manifest::Manifest;
use crate::makecars::per_file::plan::{Planned, Rules, Shortage};
use crate::makecars::per_file::report::{FileReport, FileState, Summary};
use crate::makecars::per_file::worker::{Guard, Outcome, PackContext};
use crate::makecars::workspace;
use crate::makecars::workspace::Workspace;
use crate::progress::Meter;

/// Outcomes that wait to be recorded while the database is away; beyond them, packing waits too.
const OUTCOMES_MAX: usize = 4096;
/// Documents written at a time: each waits for a majority of the replica set, which is mostly waiting.
const RECORDS_AT_ONCE: usize = 16;

/// Runs the command.
///
/// # Errors
///
/// When nothing could be packed at all; trouble with single files is reported and shows in the status.
pub(super) async fn makecars(
    args: &MakecarsArgs,
    config: &Config,
    console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let started = Instant::now();
    let shutdown = console.shutdown;
    let (input, output) = workspace::resolve(args).map_err(|error| CommandError::user(&error))?;
    if args.no_database {
        info!("no database: nothing is recorded, and every CAR is made again");
    }
    let Workspace { store, lock: _lock } =
        workspace::take(args, config, &output, IndexUser::ClientAgent).await?;

    let found = scan::scan(&input, &output)
        .map_err(|source| CommandError::user(&MakecarsError::Input { path: args.input.clone(), source }))?;
    let rules = rules(args, config, &input, output)?;
    let mut tally = Tally {
        console,
        dry_run: args.dry_run,
        failures: Vec::new(),
        summary: Summary::default(),
        manifest: Manifest::default(),
        output: rules.output.clone(),
        profile: rules.profile,
    };
    for entry in found.skipped {
        tally.add(&FileReport::skipped(&entry.path, entry.reason))?;
    }
    for entry in found.failed {
        tally.add(&FileReport::failed(&entry.path, entry.reason))?;
    }
    let Planned { jobs, settled } =
        plan::plan(&found.files, &rules, store.as_ref(), shutdown.token()).await?;
    let settled_files = settled.len();
    for report in settled {
        tally.add(&report)?;
    }
    tally.summary.not_begun = count(found.files.len().saturating_sub(settled_files + jobs.len()));

    let planned = Planned { jobs, settled: Vec::new() };
    if let Some(words) = planned.many_small() {
        warn!("{words}");
    }
    let free = fsx::free_space(workspace::existing(&rules.output)).ok();
    if let Some(shortage) = free.and_then(|free| plan::shortage(&planned, free)) {
        report_shortage(shortage, &rules.output, free.unwrap_or_default(), args.dry_run)?;
    }
    let source_bytes = planned.source_bytes();
    if args.dry_run {
        for job in &planned.jobs {
            tally.add(&plan::would_make(job))?;
        }
    } else {
        let retry = Arc::new(RetryUntilAnswered::new(shutdown.token(), shutdown.forced()));
        let run = Run {
            args,
            rules: &rules,
            store: store.as_ref(),
            retry: Arc::clone(&retry),
            max_piece: config.piece_size(),
            shutdown,
        };
        run.pack(planned, &mut tally).await?;
        if let Some(refusal) = retry.take_refusal() {
            tally.finish(source_bytes, started)?;
            return Err(refusal.into());
        }
    }
    tally.finish(source_bytes, started)
}

fn rules(args: &MakecarsArgs, config: &Config, input: &Path, output: PathBuf) -> Result<Rules, CommandError> {
    let foreign = |source| MakecarsError::ForeignManifest { path: output.join(manifest::NAME), source };
    let earlier = manifest::read_earlier(&output).map_err(|error| CommandError::user(&foreign(error)))?;
    let folder = if input.is_dir() { Some(input) } else { input.parent() };
    let folder = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    Ok(Rules {
        output,
        earlier,
        group: args.group.clone(),
        folder,
        profile: args.profile,
        max_piece: config.piece_size(),
        host: config.agent_name(),
    })
}

fn report_shortage(shortage: Shortage, output: &Path, free: u64, dry_run: bool) -> Result<(), CommandError> {
    match shortage {
        Shortage::One { input, needed } => {
            let error = MakecarsError::NoSpace { input, output: output.to_owned(), bytes: needed, free };
            if !dry_run {
                return Err(CommandError::user(&error));
            }
            warn!(path = %output.display(), "{error}");
        }
        Shortage::All { needed } => warn!(
            path = %output.display(),
            needed_bytes = needed,
            free_bytes = free,
            "the CARs take up to {}, but only {} are free",
            BinaryBytes(needed),
            BinaryBytes(free)
        ),
    }
    Ok(())
}

/// What the packing itself needs.
struct Run<'a> {
    args: &'a MakecarsArgs,
    rules: &'a Rules,
    store: Option<&'a Store>,
    retry: Arc<RetryUntilAnswered>,
    max_piece: carferry_car::PaddedPieceSize,
    shutdown: &'a Shutdown,
}

impl Run<'_> {
    async fn pack(&self, planned: Planned, tally: &mut Tally<'_>) -> Result<(), CommandError> {
        let total = planned.jobs.len();
        if total == 0 {
            return Ok(());
        }
        let stop = self.retry.stop();
        let meter = Meter::new(planned.source_bytes(), count(total), stop.clone());
        let shown = tally.console.screen.show(&meter, self.args.work.no_progress);
        let pack_context = Arc::new(PackContext {
            profile: self.rules.profile,
            max_piece: self.max_piece,
            verify: self.args.verify,
            budget: self.args.work.budget(),
            folders: Mutex::default(),
            guard: self
                .store
                .filter(|_| !self.args.replace)
                .map(|store| Guard { store: store.clone(), retry: Arc::clone(&self.retry) }),
            meter,
        });
        let (to_workers, jobs) = mpsc::channel(pack_context.budget.permits().get());
        let (to_record, outcomes) = mpsc::channel(OUTCOMES_MAX);
        worker::start(&pack_context, jobs, &to_record)?;
        drop(to_record);

        let feed = async {
            for job in planned.jobs {
                if !matches!(stop.run_until_cancelled(to_workers.send(job)).await, Some(Ok(()))) {
                    break;
                }
            }
            drop(to_workers);
        };
        let both = async { futures::join!(feed, self.collect(outcomes, tally)).1 };
        // After a second signal the process does not wait for work under way.
        let ended = self.shutdown.forced().run_until_cancelled(both).await;
        drop(shown);
        let dealt_with = ended.unwrap_or(Ok(0))?;
        let missing = count(total).saturating_sub(dealt_with);
        tally.summary.not_begun += missing;
        if missing > 0 && !stop.is_cancelled() {
            return Err(CommandError::failure(&MakecarsError::ThreadsGone { missing }));
        }
        Ok(())
    }

    /// Records outcomes and reports them; returns how many there were once the workers have ended.
    async fn collect(
        &self,
        mut outcomes: mpsc::Receiver<Outcome>,
        tally: &mut Tally<'_>,
    ) -> Result<u64, CommandError> {
        let reports = stream::poll_fn(|context| outcomes.poll_recv(context))
            .map(|outcome| self.record(outcome))
            .buffered(RECORDS_AT_ONCE);
        let mut reports = std::pin::pin!(reports);
        let mut dealt_with = 0;
        while let Some(report) = reports.next().await {
            dealt_with += 1;
            tally.add(&report)?;
        }
        Ok(dealt_with)
    }

    /// The last step of a file: its record, where there is a CAR and a database.
    async fn record(&self, outcome: Outcome) -> FileReport {
        let Outcome { job, result } = outcome;
        let car = match result {
            Ok(car) => car,
            Err(error) if error.is_cancelled() => {
                return FileReport::failed(
                    &job.input,
                    "interrupted; nothing of it is left behind".to_owned(),
                );
            }
            Err(error) => return FileReport::failed(&job.input, ErrorChain(&error).to_string()),
        };
        let made = FileReport::made(&job.input, &job.output, &car);
        let Some(store) = self.store else { return made };
        let document = plan::car_document(&job, &car, self.rules.profile, &self.rules.host);
        let what = format!("{}: CAR is on disk but not recorded yet", job.output.display());
        let recorded = self.retry.call(&what, || store.record_car(&document)).await;
        fail_point("pack.recorded");
        match recorded {
            Ok(()) => made,
            Err(error) => FileReport {
                state: FileState::Failed,
                reason: Some(format!(
                    "the CAR is on disk but perhaps not recorded; the next run sees to that: {}",
                    ErrorChain(&error)
                )),
                ..made
            },
        }
    }
}

/// Reports files one by one and counts them.
struct Tally<'a> {
    console: Console<'a>,
    dry_run: bool,
    failures: Vec<String>,
    summary: Summary,
    manifest: Manifest,
    output: PathBuf,
    profile: Profile,
}

impl Tally<'_> {
    fn add(&mut self, report: &FileReport) -> Result<(), CommandError> {
        self.summary.count(report);
        self.manifest.add(report, &self.output, self.profile);
        let is_done_already = report.state == FileState::Skipped && report.car.carpath.is_some();
        if report.state == FileState::Failed && !self.console.json {
            // Listed at the end, where it is seen; logged when it happens.
            warn!(path = report.file, reason = report.reason, "not packed");
            self.failures.push(report.line());
        } else if self.console.json || self.dry_run || !is_done_already {
            self.console.result(report, report.line())?;
        }
        Ok(())
    }

    fn finish(self, source_bytes: u64, started: Instant) -> Result<ExitStatus, CommandError> {
        let Self { mut console, failures, summary, .. } = self;
        if !self.dry_run {
            let unwritten = |source| MakecarsError::Output { path: self.output.clone(), source };
            self.manifest.write(&self.output).map_err(|error| CommandError::user(&unwritten(error)))?;
        }
        for line in failures {
            console.out.line(line)?;
        }
        let done = summary.made + summary.skipped + summary.would_make;
        let line = summary.line(source_bytes, started.elapsed());
        makecars::finish(&mut console, &line, done, summary.failed + summary.not_begun)
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
