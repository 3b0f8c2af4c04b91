//! Deals that wait for the next publish message.

use tokio::sync::oneshot;

/// A deal's thread that waits for its publish message.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) deal: usize,
    pub(crate) uuid: String,
    /// CID of the message, or why there is none.
    pub(crate) answer: oneshot::Sender<Result<String, String>>,
}

/// The batch that is gathered; kept in memory only, as in Boost.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    waiting: Vec<Waiting>,
    number: u64,
}

impl Batch {
    /// Adds a deal; returns the number of deals in the batch.
    pub(crate) fn push(&mut self, waiting: Waiting) -> usize {
        self.waiting.push(waiting);
        self.waiting.len()
    }

    /// Number of the batch that is gathered.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Deals of the batch, oldest first.
    pub(crate) fn deals(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().map(|waiting| waiting.deal)
    }

    /// Takes the batch; the next deal begins another.
    pub(crate) fn take(&mut self) -> Vec<Waiting> {
        self.number += 1;
        std::mem::take(&mut self.waiting)
    }
}

/// What the chain knows of a published deal.
#[derive(Debug, Clone)]
pub(crate) struct OnChain {
    pub(crate) publish_cid: String,
    pub(crate) deal_id: u64,
}
