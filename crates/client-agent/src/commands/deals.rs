//! `makedeals`, `run`, `track`: deals published and tracked, once or until told to stop.

use std::io;
use std::io::IsTerminal as _;
use std::time::Duration;

use carferry_core::printer::ExitStatus;
use carferry_core::store::IndexUser;
use carferry_core::words::counted;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::Agent;
use crate::cli::{MakedealsArgs, RunArgs, TrackArgs};
use crate::commands::plan_text::plan_text;
use crate::config::Config;
use crate::console::Console;
use crate::exit::CommandError;
use crate::progress::Counter;
use crate::propose::{DealState, Mode, ProposeError, Proposer, Report};

/// How often `makedeals` checks whether its queues are empty and the node answers.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// How long `makedeals` waits for a node in trouble.
const NODE_DOWN_MAX: Duration = Duration::from_secs(120);
/// How long a pass may go on after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A command that goes on until it is stopped has no JSON to print at its end.
#[derive(Debug, thiserror::Error)]
#[error("`{command} --json` would print nothing: it goes on until it is stopped")]
struct NoEnd {
    command: &'static str,
}

/// Runs a pass; `None` if it has not ended some time after a stop, because node or database keep it waiting.
/// An intent that it was writing is settled by the next start.
async fn unless_stopped<T>(pass: impl Future<Output = T>, stop: &CancellationToken) -> Option<T> {
    let given_up = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    // Cancel safety: both are dropped as a whole.
    tokio::select! {
        done = pass => Some(done),
        () = given_up => None,
    }
}

/// Keeps the states of deals true, once or until told to stop.
///
/// # Errors
///
/// [`CommandError`] when the configuration does not suffice, or with `--once` when node or database fail.
pub(super) async fn track(
    args: &TrackArgs,
    config: &Config,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    if console.json && !args.once {
        let hint = "add --once: one pass and its counts";
        return Err(CommandError::user_hint(&NoEnd { command: "track" }, hint));
    }
    let agent = Agent::connect(config).await?;
    if !args.once {
        agent.track(console.shutdown).await?;
        return Ok(ExitStatus::Success);
    }
    let done = agent.tracker()?.pass().await?;
    let followed = counted(done.followed, "deal");
    console.result(
        &done,
        format_args!(
            "{followed} followed, {} changed, {} unknown to this node, {} not looked up, {} put back, {} restored",
            done.changed, done.unknown, done.failed, done.put_back, done.restored
        ),
    )?;
    Ok(ExitStatus::Success)
}

/// The daemon: new CARs become deals as limits free up, deals are tracked.
///
/// # Errors
///
/// [`CommandError`] when the configuration does not suffice, or a task failed by a bug.
pub(super) async fn run(
    args: &RunArgs,
    config: &Config,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    if args.dry_run {
        return makedeals(&MakedealsArgs { dry_run: true }, config, console).await;
    }
    if console.json {
        let hint = "add --dry-run for the plan, or use `makedeals --json`; the log of `run` is JSON where it is no terminal";
        return Err(CommandError::user_hint(&NoEnd { command: "run" }, hint));
    }
    let agent = Agent::connect(config).await?;
    if io::stdout().is_terminal() {
        preview(&agent, &mut console).await?;
    }
    agent.run(console.shutdown).await?;
    Ok(ExitStatus::Success)
}

/// Shows what the first pass is going to publish and what it costs. By a proposer of its own: where a plan
/// ends, nothing was published. What stands in the way is logged by the passes themselves.
async fn preview(agent: &Agent<'_>, console: &mut Console<'_>) -> Result<(), CommandError> {
    let stop = console.shutdown.token();
    let mut proposer = agent.proposer(stop.clone())?;
    if let Some(Ok(plan)) = unless_stopped(proposer.pass(Mode::DryRun), stop).await {
        console.out.text(plan_text(&plan, Mode::DryRun).replacen("dry run: ", "now: ", 1))?;
    }
    Ok(())
}

/// Publishes every deal that is wanted now, then ends: each intent has one call at most, and what cannot
/// succeed now is left, written down, to the next run.
///
/// # Errors
///
/// [`CommandError`] when no deal can be made at all.
pub(super) async fn makedeals(
    args: &MakedealsArgs,
    config: &Config,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let agent = Agent::connect(config).await?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Publish };
    if mode == Mode::Publish {
        agent.store.ensure_indexes(IndexUser::ClientAgent).await?;
        agent.store.check_rights(IndexUser::ClientAgent).await?;
    }
    let shutdown = console.shutdown;
    let stop = shutdown.token().child_token();
    let mut proposer = agent.proposer(stop.clone())?.for_one_run();
    let Some(first) = unless_stopped(proposer.pass(mode), &stop).await else {
        proposer.finish().await;
        return Ok(ExitStatus::Interrupted);
    };
    let mut run = Run { whole: Report::default(), console: &mut console, counter: None };
    run.take(first?)?;
    let mut failure = None;
    if mode == Mode::Publish {
        failure = run.publish(&mut proposer, &stop).await?;
        let queued = proposer.in_flight();
        let settled_before = run.settled();
        run.take(proposer.finish().await)?;
        run.warn_of_rest(queued.saturating_sub(run.settled() - settled_before), &stop);
    }
    let whole = run.end();
    console.result(&whole, plan_text(&whole, mode).trim_end())?;
    if shutdown.token().is_cancelled() {
        return Ok(ExitStatus::Interrupted);
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    let done = [DealState::Published, DealState::Settled, DealState::Planned];
    let done: usize = done.into_iter().map(|state| whole.count(state)).sum();
    Ok(match (whole.is_clean() && !stop.is_cancelled(), done) {
        (true, _) => ExitStatus::Success,
        (false, 0) if stop.is_cancelled() => ExitStatus::Failure,
        (false, 0) => ExitStatus::UserError,
        (false, _) => ExitStatus::Partly,
    })
}

/// The reports of a run so far, and where they are shown.
struct Run<'a, 'c> {
    whole: Report,
    console: &'a mut Console<'c>,
    /// Shown while proposals are published.
    counter: Option<Counter>,
}

/// What a run does after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Pass,
    End,
}

impl Run<'_, '_> {
    /// Passes until nothing more is wanted, or nothing more can be done now. What found a full queue is
    /// planned again when the queue is half empty. An error of a later pass ends the run; what the run
    /// did before is reported all the same.
    async fn publish(
        &mut self,
        proposer: &mut Proposer,
        stop: &CancellationToken,
    ) -> Result<Option<ProposeError>, CommandError> {
        self.counter = Some(self.console.screen.counter());
        while let Next::Pass = self.wait(proposer, stop).await? {
            match unless_stopped(proposer.pass(Mode::Publish), stop).await {
                Some(Ok(report)) => {
                    self.whole.forget_scanned();
                    self.take(report)?;
                }
                Some(Err(error)) => {
                    stop.cancel();
                    return Ok(Some(error));
                }
                None => {}
            }
        }
        Ok(None)
    }

    /// Waits until a provider's queue can take the intents that found it full, or until everything is done. A
    /// node that stays in trouble ends the run.
    async fn wait(&mut self, proposer: &Proposer, stop: &CancellationToken) -> io::Result<Next> {
        let is_more_wanted = self.whole.found_busy_miners();
        let mut down_since: Option<Instant> = None;
        loop {
            self.take(proposer.take_report())?;
            let (settled, open) = (self.settled(), self.whole.count(DealState::Unsettled));
            if let Some(counter) = &mut self.counter {
                counter.set(settled, settled + open + proposer.in_flight(), "proposals");
            }
            if stop.is_cancelled() || (proposer.is_idle() && !is_more_wanted) {
                return Ok(Next::End);
            }
            // Cancel safety: a notification that comes while no branch listens is kept for the next round.
            tokio::select! {
                () = proposer.wants_more(), if is_more_wanted => return Ok(Next::Pass),
                () = stop.cancelled() => return Ok(Next::End),
                () = tokio::time::sleep(CHECK_EVERY) => {}
            }
            if !proposer.node_is_down() {
                down_since = None;
            } else if down_since.get_or_insert_with(Instant::now).elapsed() > NODE_DOWN_MAX {
                warn!("the node stays in trouble");
                stop.cancel();
            }
            if proposer.is_idle() && is_more_wanted {
                return Ok(Next::Pass);
            }
        }
    }

    /// Adds a report; with `--json` its proposals are printed at once.
    fn take(&mut self, report: Report) -> io::Result<()> {
        for line in self.whole.follow(report) {
            if self.console.json {
                self.console.result(&line, "")?;
            }
        }
        Ok(())
    }

    /// How many proposals came to an end.
    fn settled(&self) -> usize {
        self.whole.proposals() - self.whole.count(DealState::Unsettled)
    }

    fn warn_of_rest(&self, queued: usize, stop: &CancellationToken) {
        let open = self.whole.count(DealState::Unsettled);
        if stop.is_cancelled() {
            warn!(
                proposals = queued + open,
                "ended before everything was published: run the same command again for the rest"
            );
        } else if open > 0 {
            warn!(proposals = open, "some proposals are not confirmed: run the same command again later");
        }
    }

    fn end(self) -> Report {
        self.whole
    }
}
