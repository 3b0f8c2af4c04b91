//! Deal proposals, from `cars` to `offlinedeals`: recovers open intents, plans the deals that are wanted,
//! publishes them.
//!
//! ```text
//!  cars ─► policy::decide (pure) ─► intent written ─► queue of its provider ─► node ─► offlinedeals
//!             ▲ limits, deals, intents                 (lotus::publish)
//!  open intents of a crash ─► the node's list, else the same call again ─► offlinedeals
//! ```
//!
//! No proposal goes out before its intent stands in the database with every parameter, so a repeat is the
//! same deal; no deal is visible in `offlinedeals` without its proposal CID.

mod asks;
mod attempt;
mod budget;
pub(crate) mod conditions;
mod funds;
pub mod lotus;
mod miner_queues;
mod plan;
pub mod policy;
mod problems;
mod proposable;
mod queue_context;
mod recovery;
mod report;
mod run_report;
pub mod terms;
#[cfg(test)]
mod test_intent;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bson::oid::ObjectId;
use carferry_car::PaddedPieceSize;
use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::fsx;
use carferry_core::lotus::FullNode;
use carferry_core::model::{AttoFil, ChainEpoch, IntentDoc, IntentId, IntentState, PublishMethod};
use carferry_core::store::{Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::node_deals::NodeDeals;
use crate::propose::asks::Asks;
use crate::propose::budget::PassBudget;
use crate::propose::conditions::{MinerFacts, NodeFacts, PublishCalls};
use crate::propose::funds::{Funds, Reserved};
use crate::propose::lotus::preflight::{NodeMethods, PreflightError};
use crate::propose::lotus::publish::Publisher;
use crate::propose::lotus::{node_imports, preflight};
use crate::propose::miner_queues::MinerQueues;
use crate::propose::policy::TermsInForce;
pub use crate::propose::problems::{Problems, Reason};
use crate::propose::proposable::Proposable;
use crate::propose::queue_context::{Lifetime, Shared};
pub use crate::propose::report::{DealLine, DealState, Held, MinerTotal, ReplicaGoal, Report, WalletChange};
use crate::propose::terms::{Limits, Target, Terms};

/// Why a pass could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// A condition for all deals does not hold.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ProposeError {
    /// Whether the database refuses for good: no later pass meets anything else.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_refusal())
    }
}

impl Hint for ProposeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Preflight(error) => error.hint(),
            Self::Store(error) => error.hint(),
        }
    }
}

/// Whether a pass may change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plan only: nothing is written, nothing is published.
    DryRun,
    /// For real.
    Publish,
}

/// Publishes deals for one wallet through one node.
#[derive(Debug)]
pub struct Proposer {
    store: Store,
    node: FullNode,
    node_deals: Arc<NodeDeals>,
    terms: Terms,
    targets: Vec<Target>,
    limits: Limits,
    queues: MinerQueues,
    stop: CancellationToken,
    cursor: ScanCursor,
    /// When a pass last began with the first CAR.
    full_scan: Option<Instant>,
    /// Whether it was logged that the node does not list its deals.
    list_fails: bool,
    /// The calls of the node as last logged.
    logged_calls: Option<PublishCalls>,
    methods: Option<NodeMethods>,
    asks: Asks,
}

/// How long a pass waits for providers that were not asked before; what they answer later counts in the next.
const ASKS_WAIT: Duration = Duration::from_secs(1);
/// The same for a plan that nothing follows: longer than a call to the node may take.
const ASKS_WAIT_DRY_RUN: Duration = Duration::from_secs(120);

/// What one pass knows.
struct Pass {
    mode: Mode,
    node: NodeFacts,
    miners: BTreeMap<String, MinerFacts>,
    /// By provider: the call that makes deals at its price.
    methods: BTreeMap<String, PublishMethod>,
    /// By padded piece size; what the node has no collateral for stays so for this pass.
    collaterals: HashMap<u64, Result<AttoFil, String>>,
    terms: TermsInForce,
    budget: PassBudget,
    now: SystemTime,
    report: Report,
    /// The first CAR that could not get what it wants.
    busy: Option<ScanCursor>,
}

/// Where a pass begins: after the last CAR that got all it wants. The default is the first CAR of all.
#[derive(Clone, Debug, Default)]
struct ScanCursor {
    after: Option<ObjectId>,
    /// What was found in the CARs before.
    found: Report,
}

impl Proposer {
    /// Ready to pass; `stop` ends its queues and a pass under way.
    pub fn new(
        store: Store,
        node: FullNode,
        terms: Terms,
        targets: Vec<Target>,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        let node_deals = Arc::new(NodeDeals::of(node.clone()));
        let publisher = Publisher::new(node.clone(), terms.car_paths.clone());
        let queues = MinerQueues::new(Shared::new(store.clone(), publisher, Lifetime::Endless, stop.clone()));
        let asked = node.clone();
        let asks = Asks::new(move |miner| {
            let (node, miner) = (asked.clone(), miner.to_owned());
            Box::pin(async move { preflight::miner_facts(&node, &miner).await })
        });
        Self {
            store,
            node,
            node_deals,
            terms,
            targets,
            limits,
            queues,
            stop,
            cursor: ScanCursor::default(),
            full_scan: None,
            list_fails: false,
            logged_calls: None,
            methods: None,
            asks,
        }
    }

    /// For a command that is to end: each intent has one call at most, and a provider that does not answer is
    /// left to the next run.
    #[must_use]
    pub fn for_one_run(self) -> Self {
        let publisher = Publisher::new(self.node.clone(), self.terms.car_paths.clone());
        let shared = Shared::new(self.store.clone(), publisher, Lifetime::OneRun, self.stop.clone());
        Self { queues: MinerQueues::new(shared), ..self }
    }

    /// Reads the node's deals from a list that others read too.
    #[must_use]
    pub fn with_node_deals(self, node_deals: Arc<NodeDeals>) -> Self {
        Self { node_deals, ..self }
    }

    /// Recovers open intents, then plans and publishes what is wanted. Publishing goes on in the queues
    /// when this returns; the report holds what they have done so far. Told to stop, it ends where it is.
    ///
    /// # Errors
    ///
    /// [`ProposeError`] when nothing can be done for any deal. A bad CAR or provider is in the report.
    pub async fn pass(&mut self, mode: Mode) -> Result<Report, ProposeError> {
        let now = self.store.server_time().await?.to_system_time();
        let node = preflight::node_facts(&self.node, &self.terms, &mut self.methods, now).await?;
        self.log_calls(&node);
        let mut report = Report::default();
        if mode == Mode::Publish {
            self.recover(&node, &mut report).await?;
        }
        let budget = self.budget(&node).await?;
        let (mut miners, methods) = self.providers(mode, &node, &mut report).await;
        miners.retain(|miner, _| !self.queues.has_given_up(miner));
        let terms = TermsInForce {
            duration: self.terms.duration,
            start_delay_epochs: self.terms.start_delay.epochs(node.epoch_seconds),
            collateral: self.terms.provider_collateral,
            verified: self.terms.verified,
        };
        let before = budget.clone();
        let (collaterals, busy) = (HashMap::new(), None);
        let mut pass = Pass { mode, node, miners, methods, collaterals, terms, budget, now, report, busy };
        self.plan(&mut pass).await?;
        let mut report = pass.report;
        report.goal = ReplicaGoal {
            replicas: self.limits.replicas_max,
            miners: self.targets.len(),
            per_miner: self.limits.deals_per_payload_and_miner_max,
        };
        let datacap = |budget: &PassBudget| self.terms.verified.then(|| budget.datacap_bytes());
        report.wallet_change = Some(WalletChange {
            funds_before: before.funds().to_string(),
            funds_after: pass.budget.funds().to_string(),
            datacap_before: datacap(&before),
            datacap_after: datacap(&pass.budget),
        });
        report.absorb(self.queues.take_report());
        Ok(report)
    }

    /// What this pass may plan: the wallet's free money and datacap, less what is under way.
    async fn budget(&mut self, node: &NodeFacts) -> Result<PassBudget, ProposeError> {
        let wallet = &self.terms.wallet;
        // Intents first, then deals, then the node: one that moves on in between counts twice, the other way
        // round not at all.
        let intended = self.store.intended(wallet).await?;
        let unpublished = self.store.unpublished_cost(wallet).await?;
        let tells_reserved = self.methods.as_ref().is_some_and(|methods| methods.reserved);
        let funds = Funds::read(&self.node, wallet, tells_reserved).await.map_err(PreflightError::Lotus)?;
        if let (Reserved::NotTold, Some(methods)) = (funds.reserved, &mut self.methods) {
            methods.reserved = false;
        }
        let open = match self.limits.open_deals_per_miner_max {
            Some(_) => self.store.open_deals_per_miner().await?,
            None => Vec::new(),
        };
        let datacap_bytes = match node.datacap {
            Some(left) => left.saturating_sub(self.store.datacap_in_flight(wallet).await?),
            None => 0,
        };
        let on_the_way = intended.iter().fold(AttoFil::ZERO, |sum, intent| sum.plus(intent.cost_max()));
        let mut budget = PassBudget::new(open, funds.free(&unpublished).minus(on_the_way), datacap_bytes);
        for intent in intended {
            budget.add_open(&intent.miner);
        }
        Ok(budget)
    }

    /// Terms of the providers that have told them, and the call that makes deals at each one's price.
    async fn providers(
        &mut self,
        mode: Mode,
        node: &NodeFacts,
        report: &mut Report,
    ) -> (BTreeMap<String, MinerFacts>, BTreeMap<String, PublishMethod>) {
        let names: Vec<&str> = self.targets.iter().map(|target| target.miner.as_str()).collect();
        let wait = if mode == Mode::DryRun { ASKS_WAIT_DRY_RUN } else { ASKS_WAIT };
        let answers = self.asks.answers(&names, wait).await;
        report.miner_problems.extend(answers.problems);
        for _ in &answers.awaited {
            report.hold(Held::Awaited);
        }
        let mut methods = BTreeMap::new();
        for target in &self.targets {
            match conditions::method_for(node, self.terms.method, target.price) {
                Ok(method) => drop(methods.insert(target.miner.clone(), method)),
                Err(problem) => drop(report.miner_problems.insert(target.miner.clone(), problem)),
            }
        }
        (answers.facts, methods)
    }

    /// Whether the queues have nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.queues.is_idle()
    }

    /// How many proposals are queued or under way.
    pub fn in_flight(&self) -> usize {
        self.queues.in_flight()
    }

    /// Waits until a provider's queue has become half empty, or all queues empty.
    pub async fn wants_more(&self) {
        self.queues.wants_more().await;
    }

    /// Whether the node is known to be in trouble, so that no proposal goes out.
    pub fn node_is_down(&self) -> bool {
        self.queues.node_is_down()
    }

    /// What the queues did since the last pass.
    pub fn take_report(&self) -> Report {
        self.queues.take_report()
    }

    /// Whether the node would have to read this CAR from its own disk and it is on another host. A command
    /// that was run without the agent's name has recorded its CARs under the name of the machine.
    fn is_out_of_reach(&self, node: &NodeFacts, car: &Proposable, method: PublishMethod) -> bool {
        let is_foreign =
            car.host.as_ref().is_some_and(|host| *host != self.terms.owner && *host != fsx::hostname());
        let must_be_read = || method == PublishMethod::Start && node_imports::are_wanted_by(&node.version);
        is_foreign && self.terms.own_cars_only.unwrap_or_else(must_be_read)
    }

    /// Waits for what is in the queues and ends them.
    pub async fn finish(self) -> Report {
        self.queues.finish().await
    }

    fn log_calls(&mut self, node: &NodeFacts) {
        if self.logged_calls.replace(node.calls) != Some(node.calls) {
            info!(
                endpoint = self.node.endpoint(),
                version = %node.version,
                client_start_deal = node.calls.start,
                client_stateless_deal = node.calls.stateless,
                "publish methods probed: price 0 goes stateless where the node has it, unless configured otherwise"
            );
        }
    }

    /// Provider collateral for a piece of this size, or why there is none. The node is asked once per size.
    ///
    /// # Errors
    ///
    /// When the node is in trouble: every other CAR would meet the same.
    async fn collateral(
        &self,
        pass: &mut Pass,
        padded: PaddedPieceSize,
    ) -> Result<Result<AttoFil, String>, ProposeError> {
        if let Some(known) = pass.collaterals.get(&padded.get()) {
            return Ok(known.clone());
        }
        let chosen = match preflight::collateral_range(&self.node, padded, self.terms.verified).await {
            Ok(range) => {
                range.and_then(|range| conditions::collateral_within(range, self.terms.provider_collateral))
            }
            Err(error) if error.effect_is_unknown() || error.is_about_the_node() => {
                return Err(PreflightError::Lotus(error).into());
            }
            Err(error) => Err(ErrorChain(&error).to_string()),
        };
        pass.collaterals.insert(padded.get(), chosen.clone());
        Ok(chosen)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a field of the document")]
    fn intent(
        &self,
        pass: &Pass,
        car: &Proposable,
        target: &Target,
        number: u32,
        start: ChainEpoch,
        collateral: AttoFil,
        method: PublishMethod,
    ) -> IntentDoc {
        IntentDoc {
            id: IntentId::new(&car.payload_cid, number).as_str().to_owned(),
            filecid: car.payload_cid.to_string(),
            miner: target.miner.clone(),
            wallet: self.terms.wallet.clone(),
            piececid: car.piece_cid.to_string(),
            dealsizebytes: car.unpadded,
            carpath: car.path.clone(),
            priceattofil: target.price.to_lotus(),
            duration: self.terms.duration.get(),
            startepoch: start.get(),
            providercollateral: collateral.to_lotus(),
            verified: self.terms.verified,
            fastretrieval: self.terms.fast_retrieval,
            method,
            owner: self.terms.owner.clone(),
            state: IntentState::Intended,
            startdelay: Some(pass.terms.start_delay_epochs),
            collateralsetting: Some(policy::stored_collateral(pass.terms.collateral)),
            ..IntentDoc::default()
        }
    }
}

impl Pass {
    /// Counts a planned proposal.
    fn count_planned(&mut self, car: &Proposable, target: &Target, method: PublishMethod, cost: AttoFil) {
        self.report.miners.entry(target.miner.clone()).or_default().add(&MinerTotal {
            deals: 1,
            bytes: car.padded.get(),
            price_atto: cost.get(),
            price: String::new(),
            method: Some(method.as_str()),
        });
    }
}
