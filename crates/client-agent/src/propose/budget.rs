//! Budget of a pass: money, datacap, open deals of each provider, and deals of the run that may still be
//! planned.

use std::collections::BTreeMap;

use carferry_core::model::AttoFil;

/// What a deal takes from the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Over the whole duration, at most.
    pub cost: AttoFil,
    /// PADDED bytes of datacap; 0 for deals that spend none.
    pub datacap_bytes: u128,
}

/// Counts that a pass carries from payload to payload.
#[derive(Clone, Debug, Default)]
pub struct PassBudget {
    open_per_miner: BTreeMap<String, u64>,
    planned: u64,
    funds: AttoFil,
    datacap_bytes: u128,
}

impl PassBudget {
    /// Starts from the open deals that stand, and from what wallet and datacap have left.
    pub fn new(
        open_per_miner: impl IntoIterator<Item = (String, u64)>,
        funds: AttoFil,
        datacap_bytes: u128,
    ) -> Self {
        Self { open_per_miner: open_per_miner.into_iter().collect(), planned: 0, funds, datacap_bytes }
    }

    /// Deals planned so far in this pass.
    pub fn planned(&self) -> u64 {
        self.planned
    }

    /// What is left for deals.
    pub fn funds(&self) -> AttoFil {
        self.funds
    }

    /// Bytes of datacap that are left.
    pub fn datacap_bytes(&self) -> u128 {
        self.datacap_bytes
    }

    /// Counts a proposal that is under way.
    pub fn add_open(&mut self, miner: &str) {
        *self.open_per_miner.entry(miner.to_owned()).or_insert(0) += 1;
    }

    /// Open deals with this provider.
    pub fn open_with(&self, miner: &str) -> u64 {
        self.open_per_miner.get(miner).copied().unwrap_or(0)
    }

    /// Takes a deal that was planned.
    pub(super) fn take(&mut self, miner: &str, need: Need) {
        self.add_open(miner);
        self.planned += 1;
        self.funds = self.funds.minus(need.cost);
        self.datacap_bytes = self.datacap_bytes.saturating_sub(need.datacap_bytes);
    }
}
