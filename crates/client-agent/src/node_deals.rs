//! The deals that the client's node follows: one list for all who look.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use carferry_core::lotus::FullNode;
use carferry_core::lotus::wire::{DealInfo, DealState};
use carferry_core::rpc::RpcError;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lists the deals of a node. A list is everything that the node ever made: of most deals only the state is
/// read, and of that nothing is kept that nobody waits for.
#[derive(Debug)]
pub struct NodeDeals {
    node: FullNode,
    /// How long a list serves others than the one who asked for it; `None`: there are no others.
    window: Option<Duration>,
    /// Held over a call: who comes meanwhile wants the same list.
    kept: Mutex<Kept>,
}

/// What is left of the last list.
#[derive(Debug, Default)]
struct Kept {
    /// When it was asked for.
    begun: Option<Instant>,
    /// Payloads that proposals were last looked for of.
    payloads: Arc<HashSet<String>>,
    /// The deals of these payloads.
    deals: Vec<DealInfo>,
    /// The states of all deals, until they are taken.
    states: Option<Vec<DealState>>,
}

impl Kept {
    fn is_within(&self, window: Option<Duration>) -> bool {
        self.begun.zip(window).is_some_and(|(begun, window)| begun.elapsed() < window)
    }
}

impl NodeDeals {
    /// For one reader.
    pub fn of(node: FullNode) -> Self {
        Self { node, window: None, kept: Mutex::default() }
    }

    /// For one who settles proposals and one who follows deals.
    pub fn shared(node: FullNode, window: Duration) -> Self {
        Self { node, window: Some(window), kept: Mutex::default() }
    }

    /// The states of all deals, from a list that is at most a window old.
    ///
    /// # Errors
    ///
    /// When the node does not list its deals.
    pub(crate) async fn states(&self) -> Result<Vec<DealState>, RpcError> {
        let mut kept = self.kept.lock().await;
        if let Some(states) = kept.states.take()
            && kept.is_within(self.window)
        {
            return Ok(states);
        }
        self.list(&mut kept).await
    }

    /// The deals of these payloads, from a list that was asked for after this moment and is at most a window
    /// old.
    ///
    /// # Errors
    ///
    /// When the node does not list its deals.
    pub(crate) async fn of_payloads(
        &self,
        payloads: &HashSet<&str>,
        made_after: Instant,
    ) -> Result<Vec<DealInfo>, RpcError> {
        let mut kept = self.kept.lock().await;
        let is_known = payloads.iter().all(|payload| kept.payloads.contains(*payload));
        let is_new = kept.begun.is_some_and(|begun| begun > made_after);
        kept.payloads = Arc::new(payloads.iter().map(|payload| (*payload).to_owned()).collect());
        if !(is_known && is_new && kept.is_within(self.window)) {
            let states = self.list(&mut kept).await?;
            kept.states = self.window.map(|_| states);
        }
        let is_asked_for = |deal: &&DealInfo| {
            deal.data_ref.as_ref().is_some_and(|data| payloads.contains(data.root.cid.as_str()))
        };
        Ok(kept.deals.iter().filter(is_asked_for).cloned().collect())
    }

    async fn list(&self, kept: &mut Kept) -> Result<Vec<DealState>, RpcError> {
        let payloads = Arc::clone(&kept.payloads);
        // A call that fails, or is given up, leaves no list.
        *kept = Kept { payloads: Arc::clone(&payloads), ..Kept::default() };
        let begun = Instant::now();
        let listed = self.node.list_deals(payloads).await?;
        let mut states = Vec::with_capacity(listed.len());
        for deal in listed {
            states.push(deal.state);
            kept.deals.extend(deal.info.map(|info| *info));
        }
        kept.begun = Some(begun);
        Ok(states)
    }
}
