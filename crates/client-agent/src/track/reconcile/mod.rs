//! Reconciles one recorded deal with what the chain, the client's node and the provider say of it. Pure.
//!
//! The chain overrules the node, and both overrule the provider: a market's watchers can fail on a deal that
//! the chain goes on with. So a deal that anyone calls failed is looked up on chain, where its number is
//! known, before that is believed.

mod late;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use carferry_core::model::address::MinerId;
use carferry_core::model::{
    ChainEpoch, DealId, DealPhase, DealStatus, IntentDoc, OfflineDealDoc, StatusSource,
};
use carferry_core::store::{NumberChange, StatusChange};

use crate::node_deals::NodeDealState;

/// Published, and not sealed yet.
const AWAITING_PRE_COMMIT: DealStatus = DealStatus::from_lotus(29);

/// A provider's market tells a deal's number some hours after the import, when it has published the deal.
const OUT_OF_SIGHT: &str = "the start epoch has passed and the deal's number on chain is not known (its provider has no \
                            miner-agent that runs? `miner-agent import` does not follow deals)";

/// A recorded deal, with the word of the client's node.
#[derive(Clone, Debug)]
pub(super) struct FollowedDeal {
    /// The record, with what was agreed and known taken from `dealintents`.
    pub(super) deal: OfflineDealDoc,
    pub(super) node: NodeWord,
    /// Since when a provider alone says that the deal is at its end, by the server's clock.
    pub(super) end_seen: Option<SystemTime>,
}

/// What the client's node says of a deal.
#[derive(Clone, Debug)]
pub(super) enum NodeWord {
    /// The deal is stateless: no node follows it.
    NotFollowed,
    /// Another node made the deal, or the node's repository was reset: this node does not list it.
    Unlisted,
    /// The node follows the deal.
    Says(NodeDealState),
}

/// A deal as the chain has it.
#[derive(Clone, Debug)]
pub(super) struct ChainDeal {
    /// Storage provider.
    pub(super) miner: String,
    /// Piece CID.
    pub(super) piece_cid: Option<String>,
    /// Epoch by which the deal must be sealed.
    pub(super) start: ChainEpoch,
    /// Epoch at which the deal ends.
    pub(super) end: ChainEpoch,
    /// Whether it is sealed, and goes on.
    pub(super) activity: ChainActivity,
}

/// How far a deal on chain is, its end apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainActivity {
    /// Published, and not sealed.
    Published,
    /// Sealed.
    Active,
    /// Its sector was terminated.
    Slashed,
}

/// What the chain says of a deal.
#[derive(Clone, Debug)]
pub(super) enum OnChain {
    /// No number is known, or every known number is another deal's.
    Unknown,
    /// The deal stands under this number.
    Found { deal_id: DealId, market: ChainDeal },
    /// No deal has this number (any more): never published, never activated in time, ended, or slashed.
    Gone,
}

impl FollowedDeal {
    /// A record and what is agreed on and known of it.
    pub(super) fn new(deal: OfflineDealDoc, intent: Option<&IntentDoc>, node: NodeWord) -> Self {
        let Some(intent) = intent else { return Self { deal, node, end_seen: None } };
        let end_seen = intent.endseen.map(bson::DateTime::to_system_time);
        Self { deal: by_intent(deal, intent), node, end_seen }
    }

    pub(super) fn proposal_cid(&self) -> &str {
        self.deal.dealcid.as_deref().unwrap_or_default()
    }

    /// Numbers under which the deal may stand on chain: the recorded one first, then the node's, then the
    /// provider's.
    pub(super) fn numbers(&self) -> Vec<DealId> {
        let node = match &self.node {
            NodeWord::Says(info) => info.deal_id,
            NodeWord::NotFollowed | NodeWord::Unlisted => None,
        };
        let provider = number(self.deal.provider.as_ref().and_then(|view| view.dealid));
        let mut numbers = Vec::new();
        for number in [self.known_number(), node, provider].into_iter().flatten() {
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        numbers
    }

    /// The number that client-agent has recorded.
    fn known_number(&self) -> Option<DealId> {
        number(self.deal.dealid)
    }

    /// Whether the chain can tell what the node does not, or contradicts what is about to be believed.
    pub(super) fn wants_look(&self, head: Option<ChainEpoch>) -> bool {
        let NodeWord::Says(info) = &self.node else { return !self.numbers().is_empty() };
        let says_failed = |status: DealStatus| status.phase() == DealPhase::Failed;
        let is_doubtful = says_failed(info.status)
            || self.provider_status().is_some_and(says_failed)
            || head.is_some_and(|head| late::is_late(self, head));
        is_doubtful && !self.numbers().is_empty()
    }

    fn recorded_status(&self) -> Option<DealStatus> {
        self.deal.deal_status()
    }

    fn node_status(&self) -> Option<DealStatus> {
        match &self.node {
            NodeWord::Says(info) => Some(info.status),
            NodeWord::NotFollowed | NodeWord::Unlisted => None,
        }
    }

    fn node_message(&self) -> &str {
        match &self.node {
            NodeWord::Says(info) => info.message.trim(),
            NodeWord::NotFollowed | NodeWord::Unlisted => "",
        }
    }

    fn provider_status(&self) -> Option<DealStatus> {
        let view = self.deal.provider.as_ref()?;
        view.status.and_then(|status| u64::try_from(status).ok()).map(DealStatus::from_lotus)
    }

    fn provider_message(&self) -> &str {
        self.deal.provider.as_ref().and_then(|view| view.message.as_deref()).unwrap_or_default().trim()
    }

    fn has_started(&self, head: ChainEpoch) -> bool {
        self.deal.startepoch.is_some_and(|start| head > ChainEpoch::new(start))
    }

    /// Whether it should be active or over by now, and its number on chain is not known.
    fn is_out_of_sight(&self, head: ChainEpoch) -> bool {
        matches!(self.node, NodeWord::NotFollowed) && self.has_started(head) && self.numbers().is_empty()
    }

    /// Who calls the deal failed, in words, for a message that overrules them.
    fn objections(&self) -> String {
        let failed = |status: Option<DealStatus>| status.filter(|status| status.phase() == DealPhase::Failed);
        let node = failed(self.node_status()).map(|status| words(status, self.node_message()));
        let provider = failed(self.provider_status()).map(|status| words(status, self.provider_message()));
        match (node, provider) {
            (None, None) => String::new(),
            (Some(node), Some(provider)) if node == provider => {
                format!("on chain, although the client's node and the provider say {node}")
            }
            (Some(node), Some(provider)) => {
                format!("on chain, although the client's node says {node}, and the provider {provider}")
            }
            (Some(node), None) => format!("on chain, although the client's node says {node}"),
            (None, Some(provider)) => format!("on chain, although the provider says {provider}"),
        }
    }
}

/// What is to be recorded of a deal; `None`: nothing new. `head` is `None` where the node is behind the chain
/// or did not tell: then only what the node follows itself can be judged.
pub(super) fn judge(
    followed: &FollowedDeal,
    on_chain: &OnChain,
    head: Option<ChainEpoch>,
) -> Option<StatusChange> {
    if let Some(head) = head {
        match on_chain {
            OnChain::Found { deal_id, market } => return found(followed, market, *deal_id, head),
            // A number that only the provider's agent has told may be any number: that it is gone says
            // nothing.
            OnChain::Gone if followed.known_number().is_some() => {
                if let Some(word) = left(followed, head) {
                    return word.change(followed);
                }
            }
            OnChain::Gone | OnChain::Unknown => {}
        }
        if let Some(word) = late::end(followed, on_chain, head) {
            return word.change(followed);
        }
    }
    match &followed.node {
        NodeWord::Says(info) => {
            let status = info.status;
            let number = info.deal_id.map_or(NumberChange::Kept, NumberChange::Known);
            let word =
                Word { status, source: StatusSource::Node, message: words(status, &info.message), number };
            word.change(followed)
        }
        NodeWord::Unlisted => None,
        NodeWord::NotFollowed => provider_word(followed, on_chain, head?),
    }
}

/// The deal is on chain.
fn found(
    followed: &FollowedDeal,
    market: &ChainDeal,
    deal_id: DealId,
    head: ChainEpoch,
) -> Option<StatusChange> {
    let source = StatusSource::Chain;
    let objections = followed.objections();
    let status = if market.activity == ChainActivity::Slashed {
        DealStatus::SLASHED
    } else if head >= market.end {
        DealStatus::EXPIRED
    } else if market.activity == ChainActivity::Active {
        DealStatus::ACTIVE
    } else if late::is_past_hope(followed, head) {
        let message = words(DealStatus::ERROR, "the deal was not sealed before its start epoch");
        let word = Word { status: DealStatus::ERROR, source, message, number: NumberChange::Known(deal_id) };
        return word.change(followed);
    } else {
        // Node and provider know how far the sealing is; a node that does not list the deal changes nothing.
        let progressing = |status: &DealStatus| status.phase() == DealPhase::Progressing;
        let recorded = followed.recorded_status().filter(progressing);
        let told = match followed.node {
            NodeWord::Unlisted => recorded,
            NodeWord::Says(_) | NodeWord::NotFollowed => None,
        };
        told.or(followed.node_status().filter(progressing))
            .or(followed.provider_status().filter(progressing))
            .unwrap_or(AWAITING_PRE_COMMIT)
    };
    let message = match &followed.node {
        _ if !objections.is_empty() => words(status, &objections),
        NodeWord::Unlisted if followed.recorded_status() == Some(status) => {
            followed.deal.statusmsg.clone().unwrap_or_else(|| words(status, ""))
        }
        NodeWord::Says(_) | NodeWord::Unlisted => words(status, ""),
        NodeWord::NotFollowed => words(status, followed.provider_message()),
    };
    Word { status, source, message, number: NumberChange::Known(deal_id) }.change(followed)
}

/// The deal stood on chain and does not any more; `None`: that decides nothing.
fn left(followed: &FollowedDeal, head: ChainEpoch) -> Option<Word> {
    let deal = &followed.deal;
    let source = StatusSource::Chain;
    let recorded = followed.recorded_status();
    let (status, message) = if recorded == Some(DealStatus::ACTIVE) {
        // An active deal leaves the chain at its end or when its sector is terminated; near its end the two
        // cannot be told apart afterwards.
        let end = deal.startepoch.zip(deal.duration).map(|(start, duration)| start.saturating_add(duration));
        let has_ended = end.is_some_and(|end| head.get() >= end);
        let status = if has_ended { DealStatus::EXPIRED } else { DealStatus::SLASHED };
        (status, words(status, "the deal is no longer on chain"))
    } else if !followed.has_started(head) {
        return None;
    } else if recorded == Some(DealStatus::ERROR) {
        // Nothing changes but who says so.
        (DealStatus::ERROR, deal.statusmsg.clone().unwrap_or_else(|| words(DealStatus::ERROR, "")))
    } else {
        let message = "the deal was not sealed before its start epoch and has left the chain";
        (DealStatus::ERROR, words(DealStatus::ERROR, message))
    };
    Some(Word { status, source, message, number: NumberChange::Kept })
}

/// A stateless deal of which the chain says nothing.
fn provider_word(followed: &FollowedDeal, on_chain: &OnChain, head: ChainEpoch) -> Option<StatusChange> {
    let source = StatusSource::Provider;
    // A recorded number that is another deal's is forgotten, and the provider's next one is looked up.
    let is_wrong = matches!(on_chain, OnChain::Unknown) && followed.known_number().is_some();
    let number = if is_wrong { NumberChange::Wrong } else { NumberChange::Kept };
    let (status, message) = match followed.provider_status() {
        // "Active" is the chain's word.
        Some(DealStatus::ACTIVE) => {
            let said = "the provider says that the deal is active; it is not found on chain";
            (AWAITING_PRE_COMMIT, words(AWAITING_PRE_COMMIT, said))
        }
        Some(status) if has_data(status) && status.is_live() && followed.is_out_of_sight(head) => {
            (status, words(status, OUT_OF_SIGHT))
        }
        Some(status) => (status, words(status, followed.provider_message())),
        None if followed.has_started(head) => {
            let status = followed.recorded_status().unwrap_or(DealStatus::UNKNOWN);
            (status, words(status, OUT_OF_SIGHT))
        }
        None => return None,
    };
    Word { status, source, message, number }.change(followed)
}

/// What a source says of a deal.
struct Word {
    status: DealStatus,
    source: StatusSource,
    message: String,
    number: NumberChange,
}

impl Word {
    /// The change, if there is one, and if it is one that happens.
    fn change(self, followed: &FollowedDeal) -> Option<StatusChange> {
        let Self { status, source, message, number } = self;
        let deal = &followed.deal;
        let recorded = followed.recorded_status();
        let same_number = match number {
            NumberChange::Kept => true,
            NumberChange::Known(number) => followed.known_number() == Some(number),
            NumberChange::Wrong => followed.known_number().is_none(),
        };
        // The chain's word is worth a write of its own where something hangs on it: a final state, an open
        // import.
        let confirms = source == StatusSource::Chain
            && deal.statusby != Some(source)
            && (deal.isdeal == Some(0) || status.is_final());
        let same = recorded == Some(status)
            && deal.statusmsg.as_deref() == Some(message.as_str())
            && same_number
            && !confirms;
        let goes_back = recorded.is_some_and(|recorded| step(status) < step(recorded));
        // Two ways back: a provider that lost the data waits for it again, and `isdeal` is 0 by then; and the
        // chain overrules what it did not say itself.
        let is_put_back =
            deal.isdeal == Some(0) && recorded.is_some_and(|recorded| step(recorded) <= PROGRESSING);
        let is_overruled = source == StatusSource::Chain && deal.statusby != Some(source);
        if same || goes_back && !is_put_back && !is_overruled {
            return None;
        }
        let (intent, before) = (deal.intent.clone(), deal.status);
        let proposal_cid = deal.dealcid.clone()?;
        Some(StatusChange { proposal_cid, intent, before, status, source, message, deal_id: number })
    }
}

const PROGRESSING: u8 = 2;

/// How far a deal is; it never moves to an earlier step.
fn step(status: DealStatus) -> u8 {
    match status.phase() {
        DealPhase::Proposed => 0,
        DealPhase::AwaitsData => 1,
        DealPhase::Progressing => PROGRESSING,
        DealPhase::Active => 3,
        DealPhase::Expired | DealPhase::Failed => 4,
    }
}

/// A state in words: Lotus' name, and the message where there is one.
fn words(status: DealStatus, message: &str) -> String {
    let message = message.trim();
    if message.is_empty() { status.name() } else { format!("{}: {message}", status.name()) }
}

fn number(stored: Option<i64>) -> Option<DealId> {
    stored.and_then(|number| u64::try_from(number).ok()).and_then(DealId::from_lotus)
}

/// The record with what was agreed, and what client-agent knows, in place of what every provider can write.
fn by_intent(deal: OfflineDealDoc, intent: &IntentDoc) -> OfflineDealDoc {
    OfflineDealDoc {
        miner: Some(intent.miner.clone()),
        method: Some(intent.method.as_str().to_owned()),
        startepoch: Some(intent.startepoch),
        duration: Some(intent.duration),
        piececid: Some(intent.piececid.clone()),
        intent: Some(intent.id.clone()),
        dealid: intent.dealid,
        ..deal
    }
}

/// Whether `isdeal` says 1 while the node's list says that the provider waits for the data. The node asks the
/// provider each second, and writes its answer into the message (lotus-contract §4.2).
pub(super) fn contradicts_import(deal: &OfflineDealDoc, info: &NodeDealState) -> bool {
    const CHECK_FOR_ACCEPTANCE: DealStatus = DealStatus::from_lotus(13);
    deal.isdeal == Some(1)
        && info.status == CHECK_FOR_ACCEPTANCE
        && info.message.contains(&DealStatus::WAITING_FOR_DATA.name())
}

/// Whether `isdeal` says 1 although no record shows that the provider took the data: miner-agent writes both
/// at once. Deals of the prototype tell nothing.
pub(super) fn is_unconfirmed_import(deal: &OfflineDealDoc) -> bool {
    let seen =
        deal.provider.as_ref().and_then(|view| view.status).and_then(|status| u64::try_from(status).ok());
    let has_seen_data = seen.is_some_and(|status| has_data(DealStatus::from_lotus(status)));
    deal.isdeal == Some(1) && deal.intent.is_some() && deal.dealid.is_none() && !has_seen_data
}

/// Whether the deal that the chain has under the number is this one, as far as both tell. The number comes
/// from the database, where every provider can write.
pub(super) fn is_same_deal(deal: &OfflineDealDoc, market: &ChainDeal) -> bool {
    let same_miner = deal.miner.as_deref().is_none_or(|miner| MinerId::canonical(miner) == market.miner);
    let same_piece = match (&deal.piececid, &market.piece_cid) {
        (Some(recorded), Some(found)) => recorded == found,
        _ => true,
    };
    same_miner && same_piece && deal.startepoch.is_none_or(|start| start == market.start.get())
}

fn has_data(status: DealStatus) -> bool {
    !matches!(status.phase(), DealPhase::Proposed | DealPhase::AwaitsData)
}
