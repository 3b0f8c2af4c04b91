//! Failures of deal watchers that a test injects: side, step, and deals.
//!
//! What does not live here: the effects on a deal (`sight`).

/// The side whose watchers fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    /// The storage provider's watchers: its list shows `StorageDealError`.
    Provider,
    /// The client node's watchers, for the deals that it tracks (`ClientStartDeal`).
    Client,
    /// Both.
    Both,
}

/// The step at which watchers fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostAt {
    /// While the publish message lands: the side never learns the deal's number.
    Publishing,
    /// While the sector is awaited: the side has the deal's number.
    Sealing,
}

/// A failure of watchers for deals that reach a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostSight {
    /// The side.
    pub watcher: Watcher,
    /// The step.
    pub at: LostAt,
    /// Only deals with this text as their proposal CID, piece CID, root or miner; `None` is every deal.
    pub deals: Option<String>,
}

impl LostSight {
    /// A failure for every deal that reaches a step.
    pub fn new(watcher: Watcher, at: LostAt) -> Self {
        Self { watcher, at, deals: None }
    }

    /// Limits the failure to deals with this proposal CID, piece CID, root or miner.
    #[must_use]
    pub fn only(self, deals: impl Into<String>) -> Self {
        Self { deals: Some(deals.into()), ..self }
    }
}
