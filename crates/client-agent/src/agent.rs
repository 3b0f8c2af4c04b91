//! `track`, `run`: passes of [`crate::propose`] and [`crate::track`], once or for ever.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use carferry_core::config::Secret;
use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::FullNode;
use carferry_core::model::PublishMethod;
use carferry_core::printer::{ExitStatus, Printer};
use carferry_core::rpc::Client;
use carferry_core::rpc::endpoint::resolve_full_node;
use carferry_core::runtime::{Backoff, BackoffPolicy, Shutdown, Supervisor, SupervisorError};
use carferry_core::store::{IndexUser, Store};
use carferry_core::words::counted;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::{MakedealsArgs, RunArgs, TrackArgs};
use crate::commands::deals::makedeals;
use crate::commands::status;
use crate::config::{Collateral, Config, PublishChoice};
use crate::exit::CommandError;
use crate::node_deals::NodeDeals;
use crate::progress::Screen;
use crate::propose::lotus::preflight::{MethodChoice, PreflightError};
use crate::propose::policy::{Limits, Target};
use crate::propose::{Mode, ProposeError, Proposer, Reason, Report, Terms};
use crate::track::{TrackError, Tracker};

/// A pass over very many deals takes long; node and database rest so many times as long before the next,
const RESTS: u32 = 2;
/// but no longer than so many of the usual pauses: a pass that was slow for another reason is no reason to
/// wait.
const RESTS_MAX: u32 = 20;
/// How long a pass that was told to stop may take to end.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// How often an index that could not be made is tried again.
const INDEXES_EVERY: Duration = Duration::from_secs(600);
/// The shortest time between two passes of which the second fills queues that became half empty.
const REFILL_EVERY: Duration = Duration::from_secs(1);

/// A command that goes on until it is stopped has no JSON to print at its end.
#[derive(Debug, thiserror::Error)]
#[error("`{command} --json` would print nothing: it goes on until it is stopped")]
struct NoEnd {
    command: &'static str,
}

/// A pass that is told to stop ends by itself, unless node or database keep it waiting: then it is given up.
/// An intent that it was writing is settled by the next start.
pub(crate) async fn unless_stopped<T>(pass: impl Future<Output = T>, stop: &CancellationToken) -> Option<T> {
    let given_up = async {
        stop.cancelled().await;
        tokio::time::sleep(GIVE_UP_AFTER).await;
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
pub async fn track(
    args: &TrackArgs,
    config: &Config,
    shutdown: &Shutdown,
    out: &mut Printer,
) -> Result<ExitStatus, CommandError> {
    if args.json && !args.once {
        return Err(CommandError::user_hint(
            &NoEnd { command: "track" },
            "add --once: one pass and its counts",
        ));
    }
    let (store, node) = connect(config).await?;
    let wallet = config.deal_terms()?.wallet.to_string();
    let mut tracker = Tracker::new(store, node, wallet).with_sync(config.sync_rule());
    if args.once {
        let done = tracker.pass().await?;
        if args.json {
            out.json(&done)?;
        } else {
            out.line(format_args!(
                "{} followed, {} changed, {} unknown to this node, {} not looked up, {} put back, {} restored",
                counted(done.followed, "deal"), done.changed, done.unknown, done.failed, done.put_back, done.restored
            ))?;
        }
        return Ok(ExitStatus::Success);
    }
    follow(tracker, config.setting.deal_timeout, shutdown.token().clone()).await?;
    Ok(ExitStatus::Success)
}

/// The daemon: new CARs become deals as limits free up, deals are tracked.
///
/// # Errors
///
/// [`CommandError`] when the configuration does not suffice, or a task failed by a bug.
pub async fn run(
    args: &RunArgs,
    config: &Config,
    screen: &Screen,
    shutdown: &Shutdown,
    out: &mut Printer,
) -> Result<ExitStatus, CommandError> {
    if args.dry_run {
        let plan_only = MakedealsArgs { dry_run: true, json: args.json };
        return makedeals(&plan_only, config, screen, shutdown, out).await;
    }
    if args.json {
        let hint = "add --dry-run for the plan, or use `makedeals --json`; the log of `run` is JSON where it is no terminal";
        return Err(CommandError::user_hint(&NoEnd { command: "run" }, hint));
    }
    let (store, node) = connect(config).await?;
    let stop = shutdown.token().clone();
    if std::io::stdout().is_terminal() {
        preview(config, &store, &node, &stop, out).await?;
    }
    let node_deals = Arc::new(NodeDeals::shared(node.clone(), config.setting.deal_timeout));
    let proposer = proposer(config, &store, &node, stop.clone())?.with_node_deals(Arc::clone(&node_deals));
    let tracker = Tracker::new(store.clone(), node, config.deal_terms()?.wallet.to_string())
        .with_sync(config.sync_rule())
        .with_node_deals(node_deals);
    info!(agent = %config.agent_name(), database = store.database_name(), "client-agent runs");
    let mut tasks = Supervisor::new();
    let (plan_every, track_every) = (config.setting.plan_interval, config.setting.deal_timeout);
    let planning = publish(proposer, store, plan_every, stop.clone());
    tasks.spawn("publishing deals", planning);
    tasks.spawn("tracking deals", follow(tracker, track_every, stop));
    match tasks.run(shutdown, config.setting.grace_period).await {
        Ok(()) => Ok(ExitStatus::Success),
        Err(error) => Err(stop_of(error)),
    }
}

/// A refusal of the database in its own words; every other end of a task as it is.
fn stop_of(error: SupervisorError) -> CommandError {
    let (task, source) = match error {
        SupervisorError::Failed { task, source } => (task, source),
        other => return CommandError::failure(&other),
    };
    let source = match source.downcast::<ProposeError>() {
        Ok(error) => return (*error).into(),
        Err(source) => source,
    };
    match source.downcast::<TrackError>() {
        Ok(error) => (*error).into(),
        Err(source) => CommandError::failure(&SupervisorError::Failed { task, source }),
    }
}

/// Shows what the first pass is going to publish and what it costs. By a proposer of its own: where a plan
/// ends, nothing was published. What stands in the way now is told by the passes themselves.
async fn preview(
    config: &Config,
    store: &Store,
    node: &FullNode,
    stop: &CancellationToken,
    out: &mut Printer,
) -> Result<(), CommandError> {
    let mut proposer = proposer(config, store, node, stop.clone())?;
    if let Some(Ok(plan)) = unless_stopped(proposer.pass(Mode::DryRun), stop).await {
        out.text(status::plan_text(&plan, Mode::DryRun).replacen("dry run: ", "now: ", 1))?;
    }
    Ok(())
}

fn pause_after(pass: Duration, every: Duration) -> Duration {
    every.max((pass * RESTS).min(every * RESTS_MAX))
}

/// A list that nobody answers for minutes is not asked for again at once, whatever the backoff says.
fn pause_after_failure(pass: Duration, backoff: Duration, every: Duration) -> Duration {
    backoff.max(pass).min(every)
}

/// Passes until told to stop; what fails is said once per kind of trouble and tried again.
///
/// # Errors
///
/// What the database refuses for good.
async fn publish(
    mut proposer: Proposer,
    store: Store,
    every: Duration,
    stop: CancellationToken,
) -> Result<(), ProposeError> {
    let mut backoff = Backoff::new(BackoffPolicy::default());
    let (mut allowed, mut indexes_due) = (false, Some(Instant::now()));
    let mut said = BTreeSet::new();
    while !stop.is_cancelled() {
        if !allowed {
            match store.check_rights(IndexUser::ClientAgent).await {
                Ok(()) => allowed = true,
                Err(error) if error.is_refusal() => return Err(error.into()),
                Err(error) => warn!(reason = %ErrorChain(&error), "this user's rights cannot be tried now"),
            }
        }
        if indexes_due.is_some_and(|due| due <= Instant::now()) {
            indexes_due = match store.ensure_indexes(IndexUser::ClientAgent).await {
                Ok(report) => report.is_to_be_tried_again.then(|| Instant::now() + INDEXES_EVERY),
                Err(error) => {
                    warn!(reason = %ErrorChain(&error), "indexes could not be looked at");
                    indexes_due
                }
            };
        }
        let begun = Instant::now();
        let mut is_more_wanted = false;
        let pause = match proposer.pass(Mode::Publish).await {
            Ok(report) => {
                say(&report, &mut said);
                backoff.reset();
                // Queues that were full wait for more to do, not for a rest.
                is_more_wanted = report.found_busy_lanes();
                if is_more_wanted { every } else { pause_after(begun.elapsed(), every) }
            }
            Err(error) if error.is_refusal() => {
                proposer.finish().await;
                return Err(error);
            }
            Err(error) => {
                warn!(reason = %ErrorChain(&error), hint = error.hint().unwrap_or_default(), "no deals can be published now");
                pause_after_failure(begun.elapsed(), backoff.next_delay(), every)
            }
        };
        tokio::select! {
            () = sleep(pause, &stop) => {}
            () = refill(&proposer), if is_more_wanted => {}
        }
    }
    let rest = proposer.finish().await;
    say(&rest, &mut said);
    Ok(())
}

/// Ends when a provider's queue wants more, but not at once: a pass asks node and database many things.
async fn refill(proposer: &Proposer) {
    tokio::time::sleep(REFILL_EVERY).await;
    proposer.wants_more().await;
}

/// Logs a pass; a problem that stays is said once.
fn say(report: &Report, said: &mut BTreeSet<Reason>) {
    said.retain(|reason| report.car_problems.contains(reason));
    for (reason, problem) in report.car_problems.reasons() {
        if said.insert(reason.clone()) {
            warn!(problem = %problem, "no deal for this CAR now");
        }
    }
    if !report.deals.is_empty() || !report.miners.is_empty() {
        let planned: u64 = report.miners.values().map(|total| total.deals).sum();
        info!(cars = report.cars, planned, ended = report.deals.len(), "publishing pass");
    }
}

/// # Errors
///
/// What the database refuses for good.
async fn follow(mut tracker: Tracker, every: Duration, stop: CancellationToken) -> Result<(), TrackError> {
    let mut backoff = Backoff::new(BackoffPolicy::default());
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let pause = match tracker.pass().await {
            Ok(_report) => {
                backoff.reset();
                pause_after(begun.elapsed(), every)
            }
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => {
                warn!(reason = %ErrorChain(&error), hint = error.hint().unwrap_or_default(), "deals cannot be followed now");
                pause_after_failure(begun.elapsed(), backoff.next_delay(), every)
            }
        };
        sleep(pause, &stop).await;
    }
    Ok(())
}

async fn sleep(pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

pub(crate) async fn connect(config: &Config) -> Result<(Store, FullNode), CommandError> {
    let endpoint = resolve_full_node(&config.lotus, &|name| std::env::var(name).ok())
        .map_err(|error| CommandError::user(&error))?;
    let token = endpoint.token.as_ref().map(Secret::expose);
    let client = Client::new(endpoint.url.as_str(), token, config.call_timeouts())?;
    let store = Store::open(&config.store_options()?).await?;
    Ok((store, FullNode::new(client)))
}

pub(crate) fn proposer(
    config: &Config,
    store: &Store,
    node: &FullNode,
    stop: CancellationToken,
) -> Result<Proposer, CommandError> {
    let deal_terms = config.deal_terms()?;
    let setting = &config.setting;
    let terms = Terms {
        wallet: deal_terms.wallet.to_string(),
        duration: deal_terms.duration,
        start_delay: setting.start_delay,
        provider_collateral: match setting.provider_collateral {
            Collateral::Auto => None,
            Collateral::Amount(amount) => Some(amount),
        },
        verified: setting.verified,
        fast_retrieval: setting.fast_retrieval,
        method: match setting.publish_method {
            PublishChoice::Auto => MethodChoice::Auto,
            PublishChoice::Stateless => MethodChoice::Only(PublishMethod::Stateless),
            PublishChoice::Start => MethodChoice::Only(PublishMethod::Start),
        },
        sync: config.sync_rule(),
        groups: setting.groups.clone(),
        car_paths: setting.car_paths.clone(),
        own_cars_only: setting.own_cars_only,
        owner: config.agent_name(),
    };
    let targets = deal_terms
        .miners
        .iter()
        .map(|miner| Target { miner: miner.miner.to_string(), price: miner.price })
        .collect();
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let limits = Limits {
        replicas_max: count(setting.max_deal_nums),
        deals_per_payload_and_miner_max: count(setting.miner_max_deals),
        open_deals_per_miner_max: setting.max_open_deals_per_miner.map(u64::from),
        deals_per_pass_max: setting.max_deals_per_run.map(u64::from),
        failures_max: count(setting.max_failed_deals),
        failures_within: setting.failed_deals_within,
    };
    Ok(Proposer::new(store.clone(), node.clone(), terms, targets, limits, stop))
}

impl From<ProposeError> for CommandError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Store(error) => error.into(),
            ProposeError::Preflight(PreflightError::Lotus(error)) => error.into(),
            ProposeError::Preflight(error @ PreflightError::NotSynced { .. }) => {
                Self::failure_hint(&error, error.hint())
            }
            ProposeError::Preflight(error) => {
                let hint = error.hint().unwrap_or_default();
                Self::user_hint(&error, hint)
            }
        }
    }
}

impl From<TrackError> for CommandError {
    fn from(error: TrackError) -> Self {
        match error {
            TrackError::Store(error) => error.into(),
            TrackError::Lotus(error) => error.into(),
        }
    }
}
