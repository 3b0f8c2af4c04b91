//! The report of a proposal pass: proposals, totals by provider, problems, and limits that held proposals
//! back.

use std::collections::BTreeMap;

use carferry_core::model::{AttoFil, IntentDoc};
use serde::{Serialize, Serializer};

use crate::propose::policy::HoldReason;
use crate::propose::problems::{Lack, Problems, Reason};

/// What became of one proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DealState {
    /// Would be published (dry run).
    Planned,
    /// Published; the detail is the proposal CID.
    Published,
    /// Found at the node: an earlier run had published it. The detail is the proposal CID.
    Settled,
    /// Refused by node or provider; the detail says why.
    Refused,
    /// Not known yet; settled by the next pass with the same parameters.
    Unsettled,
    /// Given up: its start epoch has passed and the node does not know it.
    Abandoned,
}

/// One proposal.
#[derive(Clone, Debug, Serialize)]
pub struct DealLine {
    /// The intent behind it: the same in every line about this proposal.
    pub intent: String,
    /// Payload CID.
    #[serde(rename = "filecid")]
    pub payload_cid: String,
    /// Storage provider.
    pub miner: String,
    /// Start epoch.
    #[serde(rename = "startepoch")]
    pub start_epoch: i64,
    /// What became of it.
    pub state: DealState,
    /// Proposal CID or reason.
    pub detail: Option<String>,
}

impl DealLine {
    /// What became of this intent.
    pub(super) fn of(intent: &IntentDoc, state: DealState, detail: Option<String>) -> Self {
        Self {
            intent: intent.id.clone(),
            payload_cid: intent.filecid.clone(),
            miner: intent.miner.clone(),
            start_epoch: intent.startepoch,
            state,
            detail,
        }
    }
}

/// Totals for one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MinerTotal {
    /// Proposals.
    pub deals: u64,
    /// PADDED piece bytes.
    pub bytes: u64,
    /// FIL over the whole duration, as text.
    pub price: String,
    /// The same in attoFIL.
    #[serde(skip)]
    pub price_atto: u128,
    /// Which call publishes them.
    pub method: Option<&'static str>,
}

impl MinerTotal {
    /// Adds the proposals of another total.
    pub(super) fn add(&mut self, other: &Self) {
        self.deals += other.deals;
        self.bytes += other.bytes;
        self.price_atto = self.price_atto.saturating_add(other.price_atto);
        self.price = AttoFil::new(self.price_atto).to_string();
        self.method = other.method.or(self.method);
    }
}

/// A pass.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Proposals; of a whole run only those that are not settled, or failed.
    pub deals: Vec<DealLine>,
    /// How many more there were, by what became of them: see [`Report::follow`].
    #[serde(rename = "states")]
    pub(crate) told: BTreeMap<DealState, usize>,
    /// Planned proposals by provider.
    pub miners: BTreeMap<String, MinerTotal>,
    /// Providers that get nothing now, and why.
    #[serde(rename = "minerproblems")]
    pub miner_problems: BTreeMap<String, String>,
    /// CARs that get no deal, and why; equal reasons are one line.
    #[serde(rename = "carproblems")]
    pub car_problems: Problems,
    /// Problems beyond those listed.
    #[serde(rename = "morecarproblems")]
    pub more_car_problems: u64,
    /// How often a limit held a proposal back, by limit.
    pub held: BTreeMap<Held, u64>,
    /// CARs by how many replicas stand or are proposed.
    pub coverage: BTreeMap<usize, u64>,
    /// What the limits ask for.
    #[serde(flatten)]
    pub goal: ReplicaGoal,
    /// Money and datacap before and after.
    #[serde(flatten)]
    pub wallet_change: Option<WalletChange>,
    /// CARs looked at.
    pub cars: u64,
}

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaGoal {
    /// Replicas of a CAR (`maxDealNums`).
    #[serde(rename = "replicaswanted")]
    pub replicas: usize,
    /// Providers in the configuration.
    #[serde(rename = "minersconfigured")]
    pub miners: usize,
    /// Deals of a CAR with one provider (`minerMaxDeals`).
    #[serde(skip)]
    pub per_miner: usize,
}

/// Money and datacap of the wallet, for deals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WalletChange {
    /// FIL that deals may cost before the pass, as text.
    #[serde(rename = "fundsbefore")]
    pub funds_before: String,
    /// The same after what is planned.
    #[serde(rename = "fundsafter")]
    pub funds_after: String,
    /// Bytes of datacap before; absent where deals spend none.
    #[serde(rename = "datacapbefore", skip_serializing_if = "Option::is_none")]
    pub datacap_before: Option<u128>,
    /// The same after.
    #[serde(rename = "datacapafter", skip_serializing_if = "Option::is_none")]
    pub datacap_after: Option<u128>,
}

/// Why a proposal was held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// By a limit of the configuration, or by failures.
    By(HoldReason),
    /// The provider's queue is full.
    Busy,
    /// The node would have to read the CAR from its own disk.
    OutOfReach,
    /// The provider was asked for its terms and has not answered yet.
    Awaited,
}

impl Held {
    /// For reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::By(reason) => reason.as_str(),
            Self::Busy => "miner is busy with earlier proposals",
            Self::OutOfReach => "the CAR is on another host (setting.ownCarsOnly)",
            Self::Awaited => "miner has not told its terms yet",
        }
    }
}

impl Serialize for Held {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Report {
    /// Notes a CAR that cannot get a deal, for a reason of its own.
    pub fn car_problem(&mut self, problem: String) {
        self.problem(Reason::OfCar(problem), "", Lack::default());
    }

    /// Notes a CAR that cannot get a deal.
    pub(super) fn problem(&mut self, reason: Reason, car: &str, lack: Lack) {
        self.car_problems.add(reason, car, lack);
        self.more_car_problems = self.car_problems.beyond();
    }

    /// Counts a limit that held a proposal back.
    pub(super) fn hold(&mut self, reason: Held) {
        *self.held.entry(reason).or_insert(0) += 1;
    }

    /// What was found in CARs so far, without what came of it.
    pub(super) fn scanned(&self) -> Self {
        Self {
            cars: self.cars,
            held: self.held.clone(),
            coverage: self.coverage.clone(),
            car_problems: self.car_problems.clone(),
            more_car_problems: self.more_car_problems,
            ..Self::default()
        }
    }

    /// Forgets what was found in CARs: they are gone through again.
    pub fn forget_scanned(&mut self) {
        self.cars = 0;
        self.held.clear();
        self.coverage.clear();
        self.car_problems = Problems::default();
        self.more_car_problems = 0;
        self.miner_problems.clear();
    }

    /// Adds what another report holds.
    pub fn absorb(&mut self, other: Self) {
        self.cars += other.cars;
        self.deals.extend(other.deals);
        self.miner_problems.extend(other.miner_problems);
        self.car_problems.absorb(other.car_problems);
        self.more_car_problems = self.car_problems.beyond();
        for (reason, count) in other.held {
            *self.held.entry(reason).or_insert(0) += count;
        }
        for (replicas, cars) in other.coverage {
            *self.coverage.entry(replicas).or_insert(0) += cars;
        }
        if other.goal != ReplicaGoal::default() {
            self.goal = other.goal;
        }
        self.wallet_change = match (self.wallet_change.take(), other.wallet_change) {
            (Some(first), Some(last)) => Some(WalletChange {
                funds_before: first.funds_before,
                datacap_before: first.datacap_before,
                ..last
            }),
            (first, last) => first.or(last),
        };
        for (miner, total) in other.miners {
            self.miners.entry(miner).or_default().add(&total);
        }
    }

    /// Whether proposals were held back only because their provider has enough to do: another pass is due.
    pub fn found_busy_miners(&self) -> bool {
        self.held.contains_key(&Held::Busy) || self.held.contains_key(&Held::Awaited)
    }

    /// What held proposals back, but for these reasons, in the order of the words.
    pub fn held_without(&self, silent: &[HoldReason]) -> BTreeMap<&'static str, u64> {
        let is_silent = |held: &Held| matches!(held, Held::By(reason) if silent.contains(reason));
        let told = self.held.iter().filter(|(held, _)| !is_silent(held));
        told.map(|(held, count)| (held.as_str(), *count)).collect()
    }

    /// Proposals, PADDED piece bytes and attoFIL of all providers together.
    pub fn totals(&self) -> MinerTotal {
        let mut all = MinerTotal::default();
        for total in self.miners.values() {
            all.add(total);
        }
        all
    }

    /// Whether everything that was wanted was published.
    pub fn is_clean(&self) -> bool {
        let bad = [DealState::Refused, DealState::Unsettled, DealState::Abandoned];
        self.miner_problems.is_empty()
            && self.car_problems.is_empty()
            && bad.iter().all(|state| self.count(*state) == 0)
    }

    /// How many proposals came to this.
    pub fn count(&self, state: DealState) -> usize {
        let told = self.told.get(&state).copied().unwrap_or(0);
        told + self.deals.iter().filter(|deal| deal.state == state).count()
    }
}
