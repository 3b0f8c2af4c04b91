//! `makedeals`: passes of [`crate::propose`] until every deal that can be made now is made.

use std::io;
use std::time::Duration;

use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::runtime::Shutdown;
use carferry_core::store::IndexUser;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::{connect, proposer, unless_stopped};
use crate::cli::MakedealsArgs;
use crate::commands::status;
use crate::config::Config;
use crate::exit::CommandError;
use crate::progress::{Counter, Screen};
use crate::propose::{DealState, Mode, ProposeError, Proposer, Report};

/// How often a run looks whether its queues are empty and the node is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a run waits for a node in trouble.
const NODE_PATIENCE: Duration = Duration::from_secs(120);

/// Publishes every deal that is wanted now, then ends: each intent has one call at most, and what cannot
/// succeed now is left, written down, to the next run.
///
/// # Errors
///
/// [`CommandError`] when no deal can be made at all.
pub async fn makedeals(
    args: &MakedealsArgs,
    config: &Config,
    screen: &Screen,
    shutdown: &Shutdown,
    out: &mut Printer,
) -> Result<ExitStatus, CommandError> {
    let (store, node) = connect(config).await?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Publish };
    if mode == Mode::Publish {
        store.ensure_indexes(IndexUser::ClientAgent).await?;
        store.check_rights(IndexUser::ClientAgent).await?;
    }
    let stop = shutdown.token().child_token();
    let mut proposer = proposer(config, &store, &node, stop.clone())?.for_one_run();
    let Some(first) = unless_stopped(proposer.pass(mode), &stop).await else {
        proposer.finish().await;
        return Ok(ExitStatus::Interrupted);
    };
    let mut run = Run { whole: Report::default(), json: args.json, screen, out, counter: None };
    run.take(first?)?;
    let mut failure = None;
    if mode == Mode::Publish {
        failure = run.publish(&mut proposer, &stop).await?;
        let queued = proposer.in_flight();
        let settled_before = run.settled();
        run.take(proposer.finish().await)?;
        run.say_what_is_left(queued.saturating_sub(run.settled() - settled_before), &stop);
    }
    let whole = run.end();
    if args.json {
        out.json(&whole)?;
    } else {
        out.text(status::plan_text(&whole, mode))?;
    }
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

/// What a run has come to so far, and who is told.
struct Run<'a> {
    whole: Report,
    json: bool,
    screen: &'a Screen,
    out: &'a mut Printer,
    /// Shown while proposals are published.
    counter: Option<Counter>,
}

/// What a run does after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Pass,
    End,
}

impl Run<'_> {
    /// Passes until nothing more is wanted, or can be done now. A queue takes so many proposals at a time;
    /// what found one full is planned when it is half empty. An error of a later pass ends the run; what
    /// it did is told all the same.
    async fn publish(
        &mut self,
        proposer: &mut Proposer,
        stop: &CancellationToken,
    ) -> Result<Option<ProposeError>, CommandError> {
        self.counter = Some(self.screen.counter());
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
        let is_more_wanted = self.whole.found_busy_lanes();
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
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !proposer.node_is_down() {
                down_since = None;
            } else if down_since.get_or_insert_with(Instant::now).elapsed() > NODE_PATIENCE {
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
            if self.json {
                self.screen.print(|| self.out.json(&line))?;
            }
        }
        Ok(())
    }

    /// How many proposals came to an end.
    fn settled(&self) -> usize {
        self.whole.proposals() - self.whole.count(DealState::Unsettled)
    }

    fn say_what_is_left(&self, queued: usize, stop: &CancellationToken) {
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
