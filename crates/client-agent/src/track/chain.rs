//! Looks at deals on chain, some hundred in a pass: each is a call of its own.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use carferry_core::{
    error_chain::ErrorChain,
    lotus::FullNode,
    model::{ChainEpoch, DealStatus, OfflineDealDoc},
    store::StatusChange,
};
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    CONCURRENCY, count,
    reconcile::{self, OnChain},
};

/// How often an active deal is looked up: it changes only when slashed or at its end.
const ACTIVE_LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Deals looked up in one pass.
const LOOKS_MAX: usize = 500;
/// Places among them that active deals are sure of, however many others there are: these are looked at each time.
const ACTIVE_LOOKS: usize = 100;
/// Looks in a row without an answer after which a node is taken to be in trouble. A single one may be the deal's doing.
const UNANSWERED_MAX: usize = 3;

/// Who was looked at when, and who is next: the longest not looked up first, so that each comes to its turn, however
/// many there are.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: HashMap<String, LastLook>,
    active: Vec<OfflineDealDoc>,
    others: Vec<OfflineDealDoc>,
}

/// When a deal was last looked up.
#[derive(Clone, Copy, Debug)]
struct LastLook {
    when: Instant,
    /// It need not be asked for again soon.
    was_answered: bool,
}

impl Looks {
    /// Nobody is in line: a pass that failed may have left some there.
    pub(super) fn start(&mut self) {
        self.active.clear();
        self.others.clear();
    }

    /// Puts a deal in line.
    pub(super) fn offer(&mut self, deal: OfflineDealDoc) {
        let is_active = deal.status == i64::try_from(DealStatus::ACTIVE.get()).ok();
        let last = deal.dealcid.as_deref().and_then(|cid| self.last.get(cid));
        let rests = last.is_some_and(|last| last.was_answered && last.when.elapsed() < ACTIVE_LOOK_EVERY);
        match (is_active, rests) {
            (true, true) => {}
            (true, false) => self.active.push(deal),
            (false, _) => self.others.push(deal),
        }
    }

    /// Lets those go whose turn cannot come in this pass.
    pub(super) fn trim(&mut self) {
        for line in [&mut self.active, &mut self.others] {
            if line.len() > LOOKS_MAX {
                let last = |deal: &OfflineDealDoc| Some(self.last.get(deal.dealcid.as_ref()?)?.when);
                line.sort_by_key(last);
                line.truncate(LOOKS_MAX);
            }
        }
    }

    /// Forgets deals that are not followed any more.
    pub(super) fn retain(&mut self, followed: &HashSet<String>) {
        self.last.retain(|cid, _| followed.contains(cid));
    }

    /// Those whose turn it is; nobody is in line after it.
    fn take_turn(&mut self) -> Vec<OfflineDealDoc> {
        let (mut active, mut others) = (std::mem::take(&mut self.active), std::mem::take(&mut self.others));
        for line in [&mut active, &mut others] {
            line.sort_by_key(|deal| Some(self.last.get(deal.dealcid.as_ref()?)?.when));
        }
        others.truncate(LOOKS_MAX - active.len().min(ACTIVE_LOOKS));
        active.truncate(LOOKS_MAX - others.len());
        others.extend(active);
        others
    }

    /// Looks; what came of it, and how many deals could not be looked up.
    pub(super) async fn look(
        &mut self,
        node: &FullNode,
        head: ChainEpoch,
    ) -> (Vec<(OfflineDealDoc, Look)>, u64) {
        let asked = self.take_turn();
        let mut failed = asked.len();
        let now = Instant::now();
        let looks: Vec<_> = asked
            .into_iter()
            .map(|deal| async move {
                let look = look_at(node, &deal, head).await;
                (deal, look)
            })
            .collect();
        let mut answers = stream::iter(looks).buffered(CONCURRENCY);
        let (mut looked_at, mut unanswered, mut first_reason) = (Vec::new(), 0, None);
        // A node that is gone would fail all of them.
        while unanswered < UNANSWERED_MAX
            && let Some((deal, look)) = answers.next().await
        {
            unanswered = if matches!(look, Look::Unanswered(_)) { unanswered + 1 } else { 0 };
            let was_answered = match &look {
                Look::Failed(reason) | Look::Unanswered(reason) => {
                    first_reason.get_or_insert_with(|| reason.clone());
                    false
                }
                Look::Changed { .. } | Look::Same => true,
            };
            failed -= usize::from(was_answered);
            // One that failed goes to the back as well: else it would be the first of every pass.
            self.last.extend(deal.dealcid.clone().map(|cid| (cid, LastLook { when: now, was_answered })));
            looked_at.push((deal, look));
        }
        if let Some(reason) = first_reason {
            warn!(deals = failed, reason = %reason, "deals could not be looked up on chain");
        }
        (looked_at, count(failed))
    }
}

/// Asks the chain for a deal.
async fn look_at(node: &FullNode, deal: &OfflineDealDoc, head: ChainEpoch) -> Look {
    let on_chain = match reconcile::chain_question(deal) {
        None => None,
        Some(deal_id) => match node.market_deal(deal_id).await {
            Ok(market) if reconcile::is_same_deal(deal, &market) => Some(OnChain::Found(Box::new(market))),
            Ok(_) => {
                let proposal_cid = deal.dealcid.as_deref().unwrap_or_default();
                warn!(deal.id = %deal_id, deal.proposal_cid = proposal_cid, "the number recorded for this deal is another deal's on chain");
                None
            }
            // The node's own sentence for this deal; "block not found" and the like say nothing of it.
            Err(error)
                if error
                    .message()
                    .is_some_and(|words| words.contains(&format!("deal {deal_id} not found"))) =>
            {
                Some(OnChain::Gone)
            }
            Err(error) => {
                let reason = ErrorChain(&error).to_string();
                debug!(deal.id = %deal_id, reason = %reason, "deal could not be looked up on chain");
                let is_node = error.is_about_the_node();
                return if is_node { Look::Unanswered(reason) } else { Look::Failed(reason) };
            }
        },
    };
    judged(deal, on_chain.as_ref(), head)
}

/// What looking at one deal came to.
#[derive(Debug)]
pub(super) enum Look {
    /// `by_chain`: the chain says so, not only the provider's agent.
    Changed {
        change: StatusChange,
        by_chain: bool,
    },
    Same,
    /// The node's word for this deal, or one that cannot be read.
    Failed(String),
    /// The node did not answer, or lets us ask nothing: the next one may fail alike.
    Unanswered(String),
}

/// What is known of one deal.
pub(super) fn judged(deal: &OfflineDealDoc, on_chain: Option<&OnChain>, head: ChainEpoch) -> Look {
    let by_chain = matches!(on_chain, Some(OnChain::Found(_))) || on_chain.is_some() && deal.dealid.is_some();
    reconcile::from_chain(deal, on_chain, head)
        .map_or(Look::Same, |change| Look::Changed { change, by_chain })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deals(name: &str, status: i64, number: usize) -> Vec<OfflineDealDoc> {
        let deal = |i| OfflineDealDoc {
            dealcid: Some(format!("{name}{i}")),
            status: Some(status),
            ..OfflineDealDoc::default()
        };
        (0..number).map(deal).collect()
    }

    /// As a pass does: by the page.
    fn asked(looks: &mut Looks, deals: &[OfflineDealDoc]) -> Vec<OfflineDealDoc> {
        for page in deals.chunks(170) {
            for deal in page {
                looks.offer(deal.clone());
            }
            looks.trim();
        }
        looks.take_turn()
    }

    fn looked_at(looks: &mut Looks, deals: &[OfflineDealDoc], was_answered: bool) {
        let last = LastLook { when: Instant::now(), was_answered };
        looks.last.extend(deals.iter().map(|deal| (deal.dealcid.clone().unwrap(), last)));
    }

    #[tokio::test(start_paused = true)]
    async fn every_deal_comes_to_its_turn_and_active_ones_keep_some_places() {
        let all = [deals("sealing", 29, 900), deals("active", 7, 300)].concat();
        let mut looks = Looks::default();
        for pass in 0..3 {
            let asked = asked(&mut looks, &all);
            assert_eq!(asked.len(), LOOKS_MAX);
            let active = asked.iter().filter(|deal| deal.status == Some(7)).count();
            assert_eq!(active, ACTIVE_LOOKS, "{pass}");
            looked_at(&mut looks, &asked, true);
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        assert_eq!(looks.last.len(), all.len());

        let few = deals("active", 7, 600);
        let mut looks = Looks::default();
        looked_at(&mut looks, &few, true);
        looked_at(&mut looks, &few[..1], false);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(asked(&mut looks, &few).len(), 1, "only the one that was not answered");
        assert_eq!(asked(&mut Looks::default(), &few).len(), LOOKS_MAX, "places that nobody else needs");
    }
}
