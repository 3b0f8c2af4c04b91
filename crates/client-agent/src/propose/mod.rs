//! From `cars` to `offlinedeals`: settle what is open, see what is wanted, publish it.
//!
//! ```text
//!  cars ─► policy::decide (pure) ─► intent written ─► lane of its provider ─► node ─► offlinedeals
//!             ▲ limits, deals, intents                (publish::Publisher)
//!  open intents of a crash ─► the node's list, else the same call again ─► offlinedeals
//! ```
//!
//! No proposal goes out before its intent stands in the database with every parameter, so a repeat is the
//! same deal; no deal is visible in `offlinedeals` without its proposal CID.

mod asks;
mod attempt;
mod budget;
mod funds;
pub mod lotus;
mod miner_queues;
mod plan;
pub mod policy;
mod problems;
mod recovery;
mod report;
mod run_report;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bson::oid::ObjectId;
use carferry_car::{PaddedPieceSize, PayloadCid, PieceCid};
use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::fsx;
use carferry_core::lotus::FullNode;
use carferry_core::model::{
    AttoFil, CarDoc, ChainEpoch, DealDuration, IntentDoc, IntentId, IntentState, PublishMethod,
};
use carferry_core::path_mapping::PathMapping;
use carferry_core::store::{Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{StartDelay, SyncRule};
use crate::node_deals::NodeDeals;
use crate::propose::asks::Asks;
use crate::propose::budget::PassBudget;
use crate::propose::funds::{Funds, Reserved};
use crate::propose::lotus::preflight::{MethodChoice, MinerFacts, NodeFacts, NodeMethods, PreflightError};
use crate::propose::lotus::publish::Publisher;
use crate::propose::lotus::{node_imports, preflight};
use crate::propose::miner_queues::{Lifetime, MinerQueues};
use crate::propose::policy::{Limits, Target, TermsInForce};
pub use crate::propose::problems::{Problems, Reason};
pub use crate::propose::report::{DealLine, DealState, MinerTotal, ReplicaGoal, Report, WalletChange};

/// What every deal of this agent has in common.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Client wallet.
    pub wallet: String,
    /// How long deals run.
    pub duration: DealDuration,
    /// From now to the start of a deal.
    pub start_delay: StartDelay,
    /// attoFIL of provider collateral; `None`: 1.2 times the network's minimum, as Lotus does.
    pub provider_collateral: Option<AttoFil>,
    /// Whether deals spend datacap.
    pub verified: bool,
    /// Whether providers are asked to keep an unsealed copy.
    pub fast_retrieval: bool,
    /// Which call publishes them.
    pub method: MethodChoice,
    /// Whether the node's head must be of now.
    pub sync: SyncRule,
    /// Only CARs of these groups; empty: all.
    pub groups: Vec<String>,
    /// From our paths to the Lotus node's.
    pub car_paths: Vec<PathMapping>,
    /// Whether CARs of other hosts get no deals; `None`: where the node must read a CAR from its own disk.
    pub own_cars_only: Option<bool>,
    /// Name of this agent.
    pub owner: String,
}

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
    lanes: MinerQueues,
    stop: CancellationToken,
    begin: ScanCursor,
    /// When a pass last began with the first CAR.
    swept: Option<Instant>,
    /// Whether it was said that the node does not list its deals.
    list_fails: bool,
    decided: Option<(bool, bool)>,
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

/// A CAR that can be proposed.
struct Proposable {
    payload_cid: PayloadCid,
    piece_cid: PieceCid,
    unpadded: i64,
    padded: PaddedPieceSize,
    path: String,
    /// The host that has it, where the record names one.
    host: Option<String>,
}

impl Proposer {
    /// Ready to pass; `stop` ends its lanes and what a pass goes through.
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
        let lanes = MinerQueues::new(store.clone(), publisher, Lifetime::Endless, stop.clone());
        let asked = node.clone();
        let asks = Asks::new(move |miner| {
            let (node, miner) = (asked.clone(), miner.to_owned());
            Box::pin(async move { preflight::miner_facts(&node, &miner).await })
        });
        let (begin, swept, list_fails) = (ScanCursor::default(), None, false);
        let (decided, methods) = (None, None);
        Self {
            store,
            node,
            node_deals,
            terms,
            targets,
            limits,
            lanes,
            stop,
            begin,
            swept,
            list_fails,
            decided,
            methods,
            asks,
        }
    }

    /// For a command that is to end: each intent has one call at most, and a provider that does not answer is
    /// left to the next run.
    #[must_use]
    pub fn for_one_run(self) -> Self {
        let publisher = Publisher::new(self.node.clone(), self.terms.car_paths.clone());
        let lanes = MinerQueues::new(self.store.clone(), publisher, Lifetime::OneRun, self.stop.clone());
        Self { lanes, ..self }
    }

    /// Reads the node's deals from a list that others read too.
    #[must_use]
    pub fn with_node_deals(self, node_deals: Arc<NodeDeals>) -> Self {
        Self { node_deals, ..self }
    }

    /// Settles open intents, then plans and publishes what is wanted. Publishing goes on in the lanes when
    /// this returns; the report holds what they have done so far. Told to stop, it ends where it is.
    ///
    /// # Errors
    ///
    /// [`ProposeError`] when nothing can be done for any deal. A bad CAR or provider is in the report.
    pub async fn pass(&mut self, mode: Mode) -> Result<Report, ProposeError> {
        let now = self.store.server_time().await?.to_system_time();
        let node = preflight::node_facts(&self.node, &self.terms, &mut self.methods, now).await?;
        self.say_decision(&node);
        let mut report = Report::default();
        if mode == Mode::Publish {
            self.settle(&node, &mut report).await?;
        }
        let budget = self.budget(&node).await?;
        let (mut miners, methods) = self.providers(mode, &node, &mut report).await;
        miners.retain(|miner, _| !self.lanes.has_given_up(miner));
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
        report.absorb(self.lanes.take_report());
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
            report.hold(report::AWAITED);
        }
        let mut methods = BTreeMap::new();
        for target in &self.targets {
            match preflight::method_for(node, self.terms.method, target.price) {
                Ok(method) => drop(methods.insert(target.miner.clone(), method)),
                Err(problem) => drop(report.miner_problems.insert(target.miner.clone(), problem)),
            }
        }
        (answers.facts, methods)
    }

    /// Whether the lanes have nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_idle()
    }

    /// How many proposals are queued or under way.
    pub fn in_flight(&self) -> usize {
        self.lanes.in_flight()
    }

    /// Waits until a provider's queue has become half empty, or all queues empty.
    pub async fn wants_more(&self) {
        self.lanes.wants_more().await;
    }

    /// Whether the node is known to be in trouble, so that no proposal goes out.
    pub fn node_is_down(&self) -> bool {
        self.lanes.node_is_down()
    }

    /// What the queues did since the last pass.
    pub fn take_report(&self) -> Report {
        self.lanes.take_report()
    }

    /// Whether the node would have to read this CAR from its own disk and it is on another host. A command
    /// that was run without the agent's name has recorded its CARs under the name of the machine.
    fn is_out_of_reach(&self, node: &NodeFacts, car: &Proposable, method: PublishMethod) -> bool {
        let is_foreign =
            car.host.as_ref().is_some_and(|host| *host != self.terms.owner && *host != fsx::hostname());
        let must_be_read = || method == PublishMethod::Start && node_imports::are_wanted_by(&node.version);
        is_foreign && self.terms.own_cars_only.unwrap_or_else(must_be_read)
    }

    /// Waits for what is in the lanes and ends them.
    pub async fn finish(self) -> Report {
        self.lanes.finish().await
    }

    fn say_decision(&mut self, node: &NodeFacts) {
        let found = (node.can_start, node.can_stateless);
        if self.decided.replace(found) != Some(found) {
            info!(
                endpoint = self.node.endpoint(),
                version = %node.version,
                client_start_deal = node.can_start,
                client_stateless_deal = node.can_stateless,
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
        let chosen = match self.node.collateral_bounds(padded.get(), self.terms.verified).await {
            Ok(bounds) => preflight::collateral_within(&bounds, self.terms.provider_collateral),
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
            dealcid: None,
            dealstatus: None,
            dealstatusby: None,
            endseen: None,
            dealid: None,
            reason: None,
            tries: None,
            nexttry: None,
            refusal: None,
            failurecleared: None,
            startdelay: Some(pass.terms.start_delay_epochs),
            collateralsetting: Some(policy::stored_collateral(pass.terms.collateral)),
            createdtime: None,
            updatedtime: None,
        }
    }
}

impl Pass {
    /// Counts a planned proposal.
    fn tally(&mut self, car: &Proposable, target: &Target, method: PublishMethod, cost: AttoFil) {
        self.report.miners.entry(target.miner.clone()).or_default().add(&MinerTotal {
            deals: 1,
            bytes: car.padded.get(),
            price_atto: cost.get(),
            price: String::new(),
            method: Some(method.as_str()),
        });
    }
}

/// The number in an intent's id.
fn number_of(id: &str) -> Option<u32> {
    id.rsplit_once('#')?.1.parse().ok()
}

fn line_of(intent: &IntentDoc, state: DealState, detail: Option<String>) -> DealLine {
    DealLine {
        intent: intent.id.clone(),
        payload_cid: intent.filecid.clone(),
        miner: intent.miner.clone(),
        start_epoch: intent.startepoch,
        state,
        detail,
    }
}

/// The first start epoch from `wanted` on that no other deal of this payload and provider has: the same
/// start would make the same proposal, and the node would take it for a repeat.
fn free_start(wanted: ChainEpoch, miner: &str, taken: &[(String, i64)]) -> ChainEpoch {
    let mut start = wanted;
    while taken.iter().any(|(other, epoch)| other == miner && *epoch == start.get()) {
        start = start.plus(1);
    }
    start
}

fn proposable(car: &CarDoc) -> Result<Proposable, String> {
    let name = car.outputpath.clone().or_else(|| car.id.map(ObjectId::to_hex)).unwrap_or_default();
    let missing = |field: &str| format!("cars document of {name} has no {field}");
    let payload = car.filecid.as_deref().ok_or_else(|| missing("filecid"))?;
    let piece = car.piececid.as_deref().ok_or_else(|| missing("piececid"))?;
    let unpadded = car.dealsizebytes.ok_or_else(|| missing("dealsizebytes"))?;
    Ok(Proposable {
        payload_cid: payload.parse().map_err(|error| format!("cars document of {name}: filecid: {error}"))?,
        piece_cid: piece.parse().map_err(|error| format!("cars document of {name}: piececid: {error}"))?,
        padded: preflight::padded(unpadded)
            .map_err(|error| format!("cars document of {name}: dealsizebytes: {error}"))?,
        unpadded,
        path: car.outputpath.clone().unwrap_or_default(),
        host: car.host.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deals_of_one_payload_with_one_miner_start_at_different_epochs() {
        let taken = [("a".to_owned(), 100), ("a".to_owned(), 101), ("b".to_owned(), 102)];
        assert_eq!(free_start(ChainEpoch::new(100), "a", &taken), ChainEpoch::new(102));
        assert_eq!(free_start(ChainEpoch::new(100), "b", &taken), ChainEpoch::new(100));
    }

    #[test]
    fn a_car_document_with_a_hole_is_named() {
        let car = CarDoc {
            outputpath: Some("/out/a.car".into()),
            filecid: Some("bafkqaaa".into()),
            ..CarDoc::default()
        };
        assert_eq!(proposable(&car).err().unwrap(), "cars document of /out/a.car has no piececid");
        let piece = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";
        let car = CarDoc { piececid: Some(piece.into()), dealsizebytes: Some(128), ..car };
        assert!(proposable(&car).err().unwrap().contains("dealsizebytes"));
    }
}
