//! `makecars --layout tree` and `--layout pack`: whole folders, divided into pieces by a plan.
//!
//! ```text
//! survey ─► fill (pure) ─► plan ─► plan_store: packplans, packpieces, packfiles
//!                                    │ claim, with a lease
//!                                    ▼
//!                          make: SourceTree ─► CAR + manifest ─► publish ─► cars ─► piece done
//! ```
//!
//! The plan stands before the first byte is read, and the work follows it: killed at any instant, the next
//! run goes on with the pieces that are open. Several boxes with the same input path share a plan. What
//! changed since, or is new, is planned once the plan at hand has ended.

#[expect(clippy::indexing_slicing, reason = "places are handed out only for what is in the lists")]
pub(crate) mod bin_packing;
pub(crate) mod build_piece;
mod disk_space;
mod error;
#[expect(clippy::indexing_slicing, reason = "places are handed out only for what is in the lists")]
pub(crate) mod first_fit;
pub(crate) mod manifest;
mod packed;
mod piece_worker;
mod pipeline;
#[expect(clippy::indexing_slicing, reason = "places are handed out only for what is in the lists")]
pub(crate) mod plan;
pub(crate) mod plan_store;
pub(crate) mod report;
pub(crate) mod rules;
mod run_plan;
#[expect(clippy::indexing_slicing, reason = "places are handed out only for what is in the lists")]
pub(crate) mod survey;
mod throughput;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use carferry_car::{PaddedPieceSize, Profile, ThreadBudget};
use carferry_core::fsx;
use carferry_core::model::PlanKey;
use carferry_core::model::stored::unsigned;
use carferry_core::printer::ExitStatus;
use carferry_core::store::{IndexUser, RetryUntilAnswered};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::car_line::CarLine;
use crate::cli::MakecarsArgs;
use crate::config::{Config, Layout};
use crate::console::Console;
use crate::exit::CommandError;
use crate::makecars;
use crate::makecars::dataset::bin_packing::{FillRules, fill, fill_one};
use crate::makecars::dataset::error::DatasetError;
use crate::makecars::dataset::plan::Plan;
use crate::makecars::dataset::plan_store::SharedPlans;
use crate::makecars::dataset::report::{PieceOutcome, PieceReport, PlanReport, Summary};
use crate::makecars::dataset::rules::PlanRules;
use crate::makecars::dataset::survey::{Item, Survey};
use crate::makecars::error::MakecarsError;
use crate::makecars::workspace;
use crate::makecars::workspace::Workspace;

const ALL_PACKED: &str = "everything is packed already: no new or changed files";
/// Plans of other boxes that a run follows before its own. Chosen: a bound for two boxes that plan in turns.
const PLANS_MAX: usize = 8;

/// What holds for the whole run.
struct Run<'a> {
    args: &'a MakecarsArgs,
    input: PathBuf,
    output: PathBuf,
    rules: FillRules,
    profile: Profile,
    layout: Layout,
    key: PlanKey,
    host: String,
    budget: Arc<ThreadBudget>,
    console: Console<'a>,
    summary: Summary,
}

/// Runs the command.
///
/// # Errors
///
/// When nothing could be packed at all, or nothing more can be written; trouble with single pieces is
/// reported and shows in the status.
pub(crate) async fn makecars(
    args: &MakecarsArgs,
    config: &Config,
    console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let started = Instant::now();
    let (layout, piece_size) = (config.setting.layout, config.piece_size());
    let (input, output) = workspace::resolve(args).map_err(|error| CommandError::user(&error))?;
    if !input.is_dir() {
        return Err(CommandError::user(&DatasetError::NotAFolder { layout: layout.name(), path: input }));
    }
    if args.profile == Profile::Singularity {
        return Err(CommandError::user(&DatasetError::NoFolders));
    }
    let Workspace { store, lock } = workspace::take(args, config, &output, IndexUser::Planner).await?;
    let host = config.agent_name();
    let shutdown = console.shutdown;
    let retry = RetryUntilAnswered::new(shutdown.token(), shutdown.forced());
    let shared = store.as_ref().map(|store| SharedPlans {
        store,
        owner: format!("{host}:{}", output.display()),
        retry: &retry,
    });
    let profile = args.profile;
    let mut run = Run {
        args,
        rules: FillRules {
            params: PlanRules::LATEST.params(profile),
            piece_size,
            keep_whole: args.keep_whole,
        },
        profile,
        layout,
        key: key(args, layout, piece_size, &input),
        host,
        input,
        output,
        budget: Arc::new(args.work.budget()),
        console,
        summary: Summary::default(),
    };
    let ended = run.all(shared.as_ref(), lock.is_some()).await;
    let ended = match retry.take_refusal() {
        Some(refusal) => Err(refusal.into()),
        None => ended,
    };
    run.finish(ended, started)
}

fn key(args: &MakecarsArgs, layout: Layout, piece_size: PaddedPieceSize, input: &Path) -> PlanKey {
    let folder = input.file_name().map(|name| name.to_string_lossy().into_owned());
    PlanKey {
        input: input.to_string_lossy().into_owned(),
        group: args.group.clone().or(folder).unwrap_or_else(|| "default".to_owned()),
        layout: layout.name().to_owned(),
        profile: args.profile.name().to_owned(),
        piecesizebytes: i64::try_from(piece_size.get()).unwrap_or(i64::MAX),
    }
}

impl Run<'_> {
    async fn all(&mut self, shared: Option<&SharedPlans<'_>>, locked: bool) -> Result<(), CommandError> {
        for _ in 0..PLANS_MAX {
            if let Some(shared) = shared {
                for plan in shared.open_plans(&self.key).await? {
                    self.follow(shared, &plan, locked).await?;
                }
                // What failed is planned anew below.
                self.summary.failed = 0;
            }
            if shared.map_or(self.console.shutdown.token(), |shared| shared.retry.stop()).is_cancelled() {
                return Ok(());
            }
            let Some(plan) = self.new_plan(shared).await? else { return Ok(()) };
            // Another box may have planned while this one looked at the files: they share its plan.
            if let Some(shared) = shared
                && !self.args.dry_run
                && !shared.open_plans(&self.key).await?.is_empty()
            {
                continue;
            }
            self.report_plan(&plan).await?;
            if self.args.dry_run {
                return Ok(());
            }
            let Some(shared) = shared else { return self.alone(&plan).await };
            shared.write(&plan).await?;
            let document = plan.document.clone();
            drop(plan);
            return self.follow(shared, &document, locked).await;
        }
        warn!("other boxes went on planning while this one looked at the files: run the same command again");
        self.summary.left += 1;
        Ok(())
    }

    /// Looks at the sources, leaves out what is packed, and plans the rest.
    async fn new_plan(&mut self, shared: Option<&SharedPlans<'_>>) -> Result<Option<Plan>, CommandError> {
        let (input, output) = (self.input.clone(), self.output.clone());
        info!(path = %input.display(), "looking at the files");
        let surveyed = tokio::task::spawn_blocking(move || survey::survey(&input, &output)).await;
        let surveyed = surveyed.map_err(|panicked| CommandError::failure(&panicked))?;
        let mut survey = surveyed.map_err(|source| {
            CommandError::user(&MakecarsError::Input { path: self.args.input.clone(), source })
        })?;
        for entry in std::mem::take(&mut survey.failed) {
            warn!(path = %entry.path.display(), reason = entry.reason, "not packed");
            self.summary.failed += 1;
        }
        for entry in std::mem::take(&mut survey.skipped) {
            warn!(path = %entry.path.display(), reason = entry.reason, "left out");
        }
        if survey.items.is_empty() {
            return self.nothing_to_do("there is nothing to pack");
        }
        // A tree is packed whole or not at all.
        if let Some(shared) = shared
            && self.layout != Layout::Tree
        {
            self.leave_out_packed(&mut survey, shared).await?;
        }
        if survey.items.is_empty() {
            return self.all_packed(shared).await;
        }
        let fills = match self.layout {
            Layout::Tree => fill_one(&survey, &self.rules).map(|fill| vec![fill]).map_err(|bytes| {
                let piece_size = self.rules.piece_size;
                DatasetError::TreeTooLarge { path: self.input.clone(), bytes: bytes.get(), piece_size }
            }),
            Layout::Pack | Layout::File => fill(&survey, &self.rules).map_err(DatasetError::from),
        };
        let fills = fills.map_err(|error| CommandError::user(&error))?;
        let mut plan = Plan::new(self.key.clone(), &self.host, survey, fills);
        if shared.is_none() {
            plan.document.rules = plan_store::rules_of(&plan, &self.output).stored();
        }
        if let Some(shared) = shared
            && self.layout == Layout::Tree
            && shared.is_done(&plan.document.id).await?
        {
            return self.all_packed(Some(shared)).await;
        }
        Ok(Some(plan))
    }

    /// Says that nothing is left to be packed, and where the CARs are.
    async fn all_packed(&mut self, shared: Option<&SharedPlans<'_>>) -> Result<Option<Plan>, CommandError> {
        self.nothing_to_do(ALL_PACKED)?;
        let Some(shared) = shared else { return Ok(None) };
        for line in packed::places(shared, &self.key, &self.host).await? {
            self.nothing_to_do(&line)?;
        }
        Ok(None)
    }

    fn nothing_to_do(&mut self, words: &str) -> Result<Option<Plan>, CommandError> {
        self.console.remark(words)?;
        Ok(None)
    }

    async fn leave_out_packed(
        &self,
        survey: &mut Survey,
        shared: &SharedPlans<'_>,
    ) -> Result<(), CommandError> {
        let covered = shared.covered(&self.key).await?;
        let missing: Vec<_> =
            survey.items.iter().map(|item| covered.missing(&plan::entry_of(survey, item))).collect();
        let items = std::mem::take(&mut survey.items).into_iter().zip(missing);
        survey.items = items
            .flat_map(|(item, missing)| missing.into_iter().map(move |range| Item { range, ..item.clone() }))
            .collect();
        Ok(())
    }

    async fn report_plan(&mut self, plan: &Plan) -> Result<(), CommandError> {
        let document = &plan.document;
        let source_bytes = unsigned(document.sourcebytes);
        let mut report = PlanReport::sums(&document.id, document.entries, source_bytes, plan.pieces());
        report.splitfiles = plan.split_files();
        report.freebytes = fsx::free_space(workspace::existing(&self.output)).ok();
        if self.args.dry_run {
            for (index, fill) in (0_i64..).zip(plan.pieces()) {
                let size = carferry_car::PayloadSize::new(fill.car_bytes_max);
                let bytes = unsigned(plan.piece(usize::try_from(index).unwrap_or(0)).sourcebytes);
                let line = PieceReport {
                    car: CarLine::sized(size, size.padded_piece_size().ok()),
                    ..PieceReport::new(
                        &document.id,
                        index,
                        PieceOutcome::WouldMake,
                        fill.contents.len(),
                        bytes,
                    )
                };
                self.console.result(&line, line.line())?;
            }
            report.bytespersecond =
                throughput::measured(plan, self.input.clone(), self.profile, &self.budget).await;
        }
        if self.args.dry_run {
            self.console.result(&report, report.lines().join("\n"))?;
        } else {
            report.lines().iter().try_for_each(|line| self.console.remark(line))?;
        }
        Ok(())
    }

    fn finish(
        mut self,
        ended: Result<(), CommandError>,
        started: Instant,
    ) -> Result<ExitStatus, CommandError> {
        if self.args.dry_run {
            return ended.map(|()| ExitStatus::Success);
        }
        let line = self.summary.line(started.elapsed());
        let not_done = self.summary.failed + self.summary.left;
        let status = makecars::finish(&mut self.console, &line, self.summary.made, not_done)?;
        ended.map(|()| status)
    }
}
