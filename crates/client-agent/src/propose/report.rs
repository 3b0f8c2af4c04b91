//! What a pass did or would do, for people and for `--json`.

use std::collections::BTreeMap;

use carferry_core::model::AttoFil;
use serde::Serialize;

/// What became of one proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    /// Given up: its start epoch came near and the node does not know it.
    Abandoned,
}

/// One proposal.
#[derive(Clone, Debug, Serialize)]
pub struct DealLine {
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

/// A pass.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Proposals.
    pub deals: Vec<DealLine>,
    /// Planned proposals by provider.
    pub miners: BTreeMap<String, MinerTotal>,
    /// Providers that get nothing now, and why.
    #[serde(rename = "minerproblems")]
    pub miner_problems: BTreeMap<String, String>,
    /// Payloads that a provider does not take, and why; the first few.
    #[serde(rename = "carproblems")]
    pub car_problems: Vec<String>,
    /// Problems beyond those listed.
    #[serde(rename = "morecarproblems")]
    pub more_car_problems: u64,
    /// How often a limit held a proposal back, by limit.
    pub held: BTreeMap<&'static str, u64>,
    /// CARs looked at.
    pub cars: u64,
}

const CAR_PROBLEMS_MAX: usize = 50;
/// A limit of the moment, not of the configuration: see [`Report::found_busy_lanes`].
pub(super) const BUSY: &str = "miner is busy with earlier proposals";
/// The node would have to read the CAR from its own disk.
pub(super) const OUT_OF_REACH: &str = "the CAR is on another host (setting.ownCarsOnly)";

impl Report {
    /// Notes a payload that cannot get a deal.
    pub fn car_problem(&mut self, problem: String) {
        if self.car_problems.len() < CAR_PROBLEMS_MAX {
            self.car_problems.push(problem);
        } else {
            self.more_car_problems += 1;
        }
    }

    /// What was found in CARs so far, without what came of it.
    pub(super) fn scanned(&self) -> Self {
        Self {
            cars: self.cars,
            held: self.held.clone(),
            car_problems: self.car_problems.clone(),
            more_car_problems: self.more_car_problems,
            ..Self::default()
        }
    }

    /// Forgets what was found in CARs: they are gone through again.
    pub fn forget_scanned(&mut self) {
        self.cars = 0;
        self.held.clear();
        self.car_problems.clear();
        self.more_car_problems = 0;
    }

    /// Adds what another report holds.
    pub fn absorb(&mut self, other: Self) {
        self.cars += other.cars;
        self.deals.extend(other.deals);
        self.miner_problems.extend(other.miner_problems);
        for problem in other.car_problems {
            self.car_problem(problem);
        }
        self.more_car_problems += other.more_car_problems;
        for (reason, count) in other.held {
            *self.held.entry(reason).or_insert(0) += count;
        }
        for (miner, total) in other.miners {
            let sum = self.miners.entry(miner).or_default();
            sum.deals += total.deals;
            sum.bytes += total.bytes;
            sum.price_atto = sum.price_atto.saturating_add(total.price_atto);
            sum.price = AttoFil::new(sum.price_atto).to_string();
            sum.method = total.method.or(sum.method);
        }
    }

    /// Whether proposals were held back only because their provider has enough to do: another pass is due.
    pub fn found_busy_lanes(&self) -> bool {
        self.held.contains_key(BUSY)
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
        self.deals.iter().filter(|deal| deal.state == state).count()
    }
}
