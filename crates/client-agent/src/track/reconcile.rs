//! What a node's answer means for one recorded deal. Pure.

use carferry_core::{
    lotus::wire::{DealState, MarketDeal},
    model::{ChainEpoch, DealId, DealPhase, DealStatus, IntentDoc, OfflineDealDoc},
    store::StatusChange,
};

/// A state in words: Lotus' name, and the message where there is one.
fn words(status: DealStatus, message: &str) -> String {
    let message = message.trim();
    if message.is_empty() { status.name() } else { format!("{}: {message}", status.name()) }
}

fn recorded_status(deal: &OfflineDealDoc) -> Option<DealStatus> {
    deal.status.and_then(|status| u64::try_from(status).ok()).map(DealStatus::from_lotus)
}

fn recorded_deal_id(deal: &OfflineDealDoc) -> Option<DealId> {
    let provider = deal.provider.as_ref().and_then(|view| view.dealid);
    deal.dealid.or(provider).and_then(|number| u64::try_from(number).ok()).and_then(DealId::from_lotus)
}

/// The change, if there is one, and if it is one that happens.
fn change(
    deal: &OfflineDealDoc,
    status: DealStatus,
    message: String,
    deal_id: Option<DealId>,
) -> Option<StatusChange> {
    let known_id = deal.dealid.and_then(|number| u64::try_from(number).ok()).and_then(DealId::from_lotus);
    let recorded = recorded_status(deal);
    let same = recorded == Some(status)
        && deal.statusmsg.as_deref() == Some(message.as_str())
        && (deal_id.is_none() || known_id == deal_id);
    let goes_back = recorded.is_some_and(|recorded| step(status) < step(recorded));
    // The one way back: a provider that lost the data waits for it again, and `isdeal` is 0 by then.
    let is_put_back =
        deal.isdeal == Some(0) && recorded.is_some_and(|recorded| step(recorded) <= PROGRESSING);
    if same || goes_back && !is_put_back {
        return None;
    }
    let (intent, before) = (deal.intent.clone(), deal.status);
    Some(StatusChange { proposal_cid: deal.dealcid.clone()?, intent, before, status, message, deal_id })
}

const PROGRESSING: u8 = 2;

/// How far along its road a deal is; it never moves to an earlier step.
fn step(status: DealStatus) -> u8 {
    match status.phase() {
        DealPhase::Proposed => 0,
        DealPhase::AwaitsData => 1,
        DealPhase::Progressing => PROGRESSING,
        DealPhase::Active => 3,
        DealPhase::Expired | DealPhase::Failed => 4,
    }
}

/// The record with what was agreed and seen by ourselves in place of what every provider can write.
pub(super) fn by_intent(deal: OfflineDealDoc, intent: &IntentDoc) -> OfflineDealDoc {
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

/// From the list of the node that follows the deal.
pub(super) fn from_list(deal: &OfflineDealDoc, info: &DealState) -> Option<StatusChange> {
    let status = DealStatus::from_lotus(info.state);
    change(deal, status, words(status, &info.message), DealId::from_lotus(info.deal_id))
}

/// Whether `isdeal` says 1 while the node's list says that the provider waits for the data. The node asks the
/// provider each second, and writes its answer into the message (lotus-contract §4.2).
pub(super) fn contradicts_import(deal: &OfflineDealDoc, info: &DealState) -> bool {
    const CHECK_FOR_ACCEPTANCE: u64 = 13;
    deal.isdeal == Some(1)
        && info.state == CHECK_FOR_ACCEPTANCE
        && info.message.contains(&DealStatus::WAITING_FOR_DATA.name())
}

/// Whether `isdeal` says 1 although nobody saw the provider take the data: miner-agent writes both at once.
/// Deals of the prototype tell nothing.
pub(super) fn is_unwitnessed(deal: &OfflineDealDoc) -> bool {
    let seen =
        deal.provider.as_ref().and_then(|view| view.status).and_then(|status| u64::try_from(status).ok());
    let has_seen_data = seen.is_some_and(|status| has_data(DealStatus::from_lotus(status)));
    deal.isdeal == Some(1) && deal.intent.is_some() && deal.dealid.is_none() && !has_seen_data
}

/// Whether the deal that the chain has under the number is this one, as far as both tell. The number comes from
/// the database, where every provider can write.
pub(super) fn is_same_deal(deal: &OfflineDealDoc, market: &MarketDeal) -> bool {
    let signed = &market.proposal;
    let actor = |address: &str| address.get(1..).map(str::to_owned);
    let same_miner = deal.miner.as_deref().is_none_or(|miner| actor(miner) == actor(&signed.provider));
    let same_piece = match (deal.piececid.as_deref(), &signed.piece_cid) {
        (Some(recorded), Some(found)) => recorded == found.cid,
        _ => true,
    };
    same_miner && same_piece && deal.startepoch.is_none_or(|start| start == signed.start_epoch)
}

/// What the chain says of a deal.
#[derive(Clone, Debug)]
pub(super) enum OnChain {
    /// Found under its number.
    Found(Box<MarketDeal>),
    /// No deal has this number any more: never activated in time, ended, or slashed.
    Gone,
}

/// The number to ask the chain for, where asking could tell something new.
pub(super) fn chain_question(deal: &OfflineDealDoc) -> Option<DealId> {
    recorded_deal_id(deal)
}

/// A deal that no node follows: from the chain where its number is known, else from its provider's view.
pub(super) fn from_chain(
    deal: &OfflineDealDoc,
    on_chain: Option<&OnChain>,
    head: ChainEpoch,
) -> Option<StatusChange> {
    let view = deal.provider.as_ref();
    let provider_says = view
        .and_then(|view| view.status)
        .and_then(|status| u64::try_from(status).ok())
        .map(DealStatus::from_lotus);
    let provider_message = view.and_then(|view| view.message.as_deref()).unwrap_or_default();
    let deal_id = recorded_deal_id(deal);
    let started = deal.startepoch.is_some_and(|start| head > ChainEpoch::new(start));
    // A number that only the provider's agent has told may be any number: that it is gone says nothing.
    let was_seen = deal.dealid.is_some();
    match on_chain.filter(|on_chain| was_seen || !matches!(on_chain, OnChain::Gone)) {
        Some(OnChain::Found(market)) => {
            let status = if market.state.slash_epoch > -1 {
                DealStatus::SLASHED
            } else if head.get() >= market.proposal.end_epoch {
                DealStatus::EXPIRED
            } else if market.state.sector_start_epoch > -1 {
                DealStatus::ACTIVE
            } else {
                // On chain, not sealed: the provider knows how far it is; "active" is the chain's word.
                const AWAITING_PRE_COMMIT: DealStatus = DealStatus::from_lotus(29);
                provider_says
                    .filter(|status| matches!(status.phase(), DealPhase::Progressing | DealPhase::Failed))
                    .unwrap_or(AWAITING_PRE_COMMIT)
            };
            change(deal, status, words(status, provider_message), deal_id)
        }
        Some(OnChain::Gone) if recorded_status(deal) == Some(DealStatus::ACTIVE) => {
            // An active deal leaves the chain at its end or when its sector is terminated; near its end
            // the two cannot be told apart afterwards.
            let end = deal.startepoch.zip(deal.duration).map(|(start, duration)| start + duration);
            let status = if end.is_some_and(|end| head.get() >= end) {
                DealStatus::EXPIRED
            } else {
                DealStatus::SLASHED
            };
            change(deal, status, words(status, "the deal is no longer on chain"), deal_id)
        }
        Some(OnChain::Gone) if started => {
            let message = "the deal was not sealed before its start epoch and has left the chain";
            change(deal, DealStatus::ERROR, words(DealStatus::ERROR, message), deal_id)
        }
        Some(OnChain::Gone) | None => match provider_says {
            Some(status) if deal.isdeal != Some(1) && is_too_late(deal, head) && !has_data(status) => {
                // The provider would wait for ever, and could not publish the deal any more.
                let message = "the start epoch has passed without the data";
                change(deal, DealStatus::ERROR, words(DealStatus::ERROR, message), deal_id)
            }
            Some(status) => change(deal, status, words(status, provider_message), None),
            None if started => {
                let status = recorded_status(deal).unwrap_or(DealStatus::UNKNOWN);
                let message = "the start epoch has passed and the deal's number on chain is not known \
                               (its provider runs no miner-agent?)";
                change(deal, status, words(status, message), None)
            }
            None => None,
        },
    }
}

/// Epochs past the start after which a view of the provider cannot be merely old.
const VIEW_MARGIN: i64 = 60;

fn is_too_late(deal: &OfflineDealDoc, head: ChainEpoch) -> bool {
    deal.startepoch.is_some_and(|start| head > ChainEpoch::new(start).plus(VIEW_MARGIN))
}

fn has_data(status: DealStatus) -> bool {
    !matches!(status.phase(), DealPhase::Proposed | DealPhase::AwaitsData)
}

#[cfg(test)]
mod tests {
    use carferry_core::model::ProviderViewDoc;

    use super::*;

    fn deal(status: i64) -> OfflineDealDoc {
        OfflineDealDoc {
            dealcid: Some("bafyrei".into()),
            status: Some(status),
            startepoch: Some(1000),
            duration: Some(518_400),
            ..OfflineDealDoc::default()
        }
    }

    fn with_view(status: i64, view: i64, deal_id: i64) -> OfflineDealDoc {
        OfflineDealDoc {
            provider: Some(ProviderViewDoc {
                status: Some(view),
                dealid: Some(deal_id),
                ..ProviderViewDoc::default()
            }),
            ..deal(status)
        }
    }

    fn info(state: u64, message: &str, deal_id: u64) -> DealState {
        serde_json::from_value(serde_json::json!({
            "ProposalCid": {"/": "bafyrei"}, "State": state, "Message": message, "Provider": "f01000",
            "DataRef": null, "PieceCID": null, "DealID": deal_id
        }))
        .unwrap()
    }

    fn on_chain(sector_start: i64, slash: i64) -> OnChain {
        OnChain::Found(Box::new(
            serde_json::from_value(serde_json::json!({
                "Proposal": {"PieceCID": null, "PieceSize": 2048, "Provider": "f01000", "StartEpoch": 1000, "EndEpoch": 520_000},
                "State": {"SectorStartEpoch": sector_start, "SlashEpoch": slash}
            }))
            .unwrap(),
        ))
    }

    #[test]
    fn name_and_message_are_lotus_own_and_written_once() {
        let first = from_list(&deal(0), &info(13, "Provider state: StorageDealWaitingForData", 0)).unwrap();
        assert_eq!(first.message, "StorageDealCheckForAcceptance: Provider state: StorageDealWaitingForData");
        assert_eq!(first.status.get(), 13);
        let mut recorded = deal(13);
        recorded.statusmsg = Some(first.message);
        assert_eq!(from_list(&recorded, &info(13, "Provider state: StorageDealWaitingForData", 0)), None);
        assert_eq!(from_list(&recorded, &info(7, "", 42)).unwrap().deal_id, DealId::from_lotus(42));
    }

    #[test]
    fn a_stateless_deal_is_active_when_the_chain_says_so() {
        let recorded = with_view(18, 7, 42);
        let head = ChainEpoch::new(900);
        for (chain, status) in [(on_chain(-1, -1), 29), (on_chain(800, -1), 7), (on_chain(800, 850), 9)] {
            assert_eq!(from_chain(&recorded, Some(&chain), head).unwrap().status.get(), status);
        }
        let ended = from_chain(&recorded, Some(&on_chain(800, -1)), ChainEpoch::new(520_000)).unwrap();
        assert_eq!(ended.status, DealStatus::EXPIRED);
    }

    #[test]
    fn a_deal_that_left_the_chain_has_failed_ended_or_was_slashed() {
        for (recorded, head, status) in [
            (with_view(29, 29, 42), 1001, Some(26)),
            (with_view(29, 29, 42), 900, Some(29)),
            (with_view(7, 7, 42), 2000, Some(9)),
            (with_view(7, 7, 42), 600_000, Some(8)),
        ] {
            let by_word = from_chain(&recorded, Some(&OnChain::Gone), ChainEpoch::new(head));
            assert!(by_word.is_none_or(|change| change.status.is_live()), "a number nobody saw on chain");
            let recorded = OfflineDealDoc { dealid: Some(42), ..recorded };
            let change = from_chain(&recorded, Some(&OnChain::Gone), ChainEpoch::new(head));
            assert_eq!(change.map(|c| c.status.get()), status, "{head}");
        }
    }

    #[test]
    fn a_deal_whose_data_never_came_fails_after_its_start() {
        let waiting = with_view(18, 18, 0);
        assert_eq!(from_chain(&waiting, None, ChainEpoch::new(1010)).map(|c| c.status.get()), Some(18));
        let late = from_chain(&waiting, None, ChainEpoch::new(1100)).unwrap();
        assert_eq!(late.status, DealStatus::ERROR);
        let imported = OfflineDealDoc { isdeal: Some(1), ..waiting };
        assert_ne!(from_chain(&imported, None, ChainEpoch::new(1100)).map(|c| c.status.get()), Some(26));
    }

    #[test]
    fn an_unknown_number_is_never_taken_for_a_failure() {
        let late = from_chain(&deal(18), None, ChainEpoch::new(5000)).unwrap();
        assert_eq!(late.status, DealStatus::WAITING_FOR_DATA);
        assert!(late.message.contains("number on chain is not known"));
        assert_eq!(from_chain(&deal(18), None, ChainEpoch::new(900)), None);
    }

    #[test]
    fn a_state_goes_back_only_with_data_that_was_lost() {
        let at = |status, isdeal| OfflineDealDoc { isdeal: Some(isdeal), ..deal(status) };
        for (recorded, found, moves) in [
            (at(29, 1), 13, false),
            (at(7, 1), 29, false),
            (at(7, 0), 18, false),
            (at(29, 0), 18, true),
            (at(13, 1), 29, true),
            (at(29, 1), 26, true),
        ] {
            assert_eq!(from_list(&recorded, &info(found, "", 0)).is_some(), moves, "{recorded:?} {found}");
        }
    }

    #[test]
    fn a_deal_that_is_closed_without_its_data_is_doubted() {
        let waits = info(13, "Provider state: StorageDealWaitingForData", 0);
        let closed = OfflineDealDoc { isdeal: Some(1), intent: Some("p#1".into()), ..deal(13) };
        assert!(contradicts_import(&closed, &waits));
        assert!(!contradicts_import(&closed, &info(13, "Provider state: StorageDealPublish", 0)));
        assert!(!contradicts_import(&deal(13), &waits));
        assert!(is_unwitnessed(&closed));
        for (view, doubted) in [(18, true), (24, false)] {
            let seen = Some(ProviderViewDoc { status: Some(view), ..ProviderViewDoc::default() });
            assert_eq!(is_unwitnessed(&OfflineDealDoc { provider: seen, ..closed.clone() }), doubted);
        }
        assert!(!is_unwitnessed(&OfflineDealDoc { intent: None, ..closed }), "the prototype's");
    }

    #[test]
    fn a_number_of_another_deal_on_chain_is_seen() {
        let OnChain::Found(market) = on_chain(800, -1) else { unreachable!() };
        let ours = OfflineDealDoc { miner: Some("t01000".into()), ..deal(18) };
        assert!(is_same_deal(&ours, &market));
        for other in [
            OfflineDealDoc { miner: Some("f01001".into()), ..deal(18) },
            OfflineDealDoc { startepoch: Some(1001), ..ours.clone() },
        ] {
            assert!(!is_same_deal(&other, &market), "{other:?}");
        }
    }
}
