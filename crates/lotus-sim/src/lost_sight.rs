//! Which watchers lose sight of which deals, as a test asks for it.
//!
//! What lives here: the types of the request. What does not: what becomes of such a deal (`sight`).

/// Whose watchers fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    /// The storage provider's: its list says `StorageDealError`.
    Provider,
    /// The client node's, for the deals that it follows (`ClientStartDeal`).
    Client,
    /// Both.
    Both,
}

/// At which step they fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostAt {
    /// While the publish message lands: the side never learns the deal's number.
    Publishing,
    /// While the sector is awaited: the side has the deal's number.
    Sealing,
}

/// Watchers that fail for deals which come to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostSight {
    /// Whose.
    pub watcher: Watcher,
    /// Where.
    pub at: LostAt,
    /// Only deals with this text as their proposal CID, piece CID, root or miner; `None` is every deal.
    pub deals: Option<String>,
}

impl LostSight {
    /// For every deal that comes to a step.
    pub fn new(watcher: Watcher, at: LostAt) -> Self {
        Self { watcher, at, deals: None }
    }

    /// Only for deals with this proposal CID, piece CID, root or miner.
    #[must_use]
    pub fn only(self, deals: impl Into<String>) -> Self {
        Self { deals: Some(deals.into()), ..self }
    }
}
