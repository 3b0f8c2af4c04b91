use carferry_core::model::ProviderViewDoc;

use super::*;

const ERROR_WORDS: &str = "error waiting for deal pre-commit message to appear on chain: not found";

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

fn info(state: u64, message: &str, deal_id: u64) -> NodeDealState {
    NodeDealState {
        proposal_cid: "bafyrei".into(),
        status: DealStatus::from_lotus(state),
        message: message.into(),
        deal_id: DealId::from_lotus(deal_id),
    }
}

fn on_chain(activity: ChainActivity) -> OnChain {
    let market = ChainDeal {
        miner: "f01000".into(),
        piece_cid: None,
        start: ChainEpoch::new(1000),
        end: ChainEpoch::new(520_000),
        activity,
    };
    OnChain::Found { deal_id: DealId::from_lotus(42).unwrap(), market }
}

fn stateless(deal: OfflineDealDoc) -> FollowedDeal {
    FollowedDeal::new(deal, None, NodeWord::NotFollowed)
}

fn listed(deal: OfflineDealDoc, state: u64, message: &str, deal_id: u64) -> FollowedDeal {
    FollowedDeal::new(deal, None, NodeWord::Says(info(state, message, deal_id)))
}

fn judged(followed: &FollowedDeal, on_chain: &OnChain, head: i64) -> Option<(u64, StatusSource)> {
    judge(followed, on_chain, Some(ChainEpoch::new(head))).map(|change| (change.status.get(), change.source))
}

fn message(followed: &FollowedDeal, on_chain: &OnChain, head: i64) -> String {
    judge(followed, on_chain, Some(ChainEpoch::new(head))).unwrap().message
}

#[test]
fn name_and_message_are_lotus_own_and_written_once() {
    let waits = "Provider state: StorageDealWaitingForData";
    let first = judge(&listed(deal(0), 13, waits, 0), &OnChain::Unknown, None).unwrap();
    assert_eq!(first.message, "StorageDealCheckForAcceptance: Provider state: StorageDealWaitingForData");
    assert_eq!((first.status.get(), first.source), (13, StatusSource::Node));
    let recorded = OfflineDealDoc { statusmsg: Some(first.message), ..deal(13) };
    assert_eq!(judge(&listed(recorded.clone(), 13, waits, 0), &OnChain::Unknown, None), None);
    let active = judge(&listed(recorded, 7, "", 42), &OnChain::Unknown, None).unwrap();
    assert_eq!(active.deal_id, NumberChange::Known(DealId::from_lotus(42).unwrap()));
}

#[test]
fn a_stateless_deal_is_active_when_the_chain_says_so() {
    let recorded = stateless(with_view(18, 7, 42));
    for (chain, status) in [
        (on_chain(ChainActivity::Published), 29),
        (on_chain(ChainActivity::Active), 7),
        (on_chain(ChainActivity::Slashed), 9),
    ] {
        assert_eq!(judged(&recorded, &chain, 900), Some((status, StatusSource::Chain)));
    }
    assert_eq!(judged(&recorded, &on_chain(ChainActivity::Active), 520_000), Some((8, StatusSource::Chain)));
    assert_eq!(
        judged(&recorded, &OnChain::Unknown, 900),
        Some((29, StatusSource::Provider)),
        "a provider's word of an active deal is no more than one of its sealing"
    );
}

/// The watchers of client's node and provider have failed, and the chain goes on.
#[test]
fn a_deal_on_chain_goes_on_whatever_node_and_provider_say() {
    let said = |status| {
        let mut deal = with_view(status, 26, 42);
        deal.provider.as_mut().unwrap().message = Some(ERROR_WORDS.into());
        OfflineDealDoc { isdeal: Some(0), ..deal }
    };
    for recorded in [13, 29] {
        for followed in [
            listed(said(recorded), 26, ERROR_WORDS, 42),
            stateless(said(recorded)),
            listed(said(recorded), 11, "", 0),
        ] {
            assert!(followed.wants_look(Some(ChainEpoch::new(900))), "{followed:?}");
            for (chain, status) in
                [(on_chain(ChainActivity::Published), 29), (on_chain(ChainActivity::Active), 7)]
            {
                assert_eq!(
                    judged(&followed, &chain, 900),
                    Some((status, StatusSource::Chain)),
                    "{followed:?}"
                );
                assert!(message(&followed, &chain, 900).contains(ERROR_WORDS), "{followed:?}");
            }
        }
    }
    let both = listed(said(29), 26, ERROR_WORDS, 42);
    assert_eq!(
        message(&both, &on_chain(ChainActivity::Active), 900),
        format!(
            "StorageDealActive: on chain, although the client's node and the provider say StorageDealError: \
             {ERROR_WORDS}"
        )
    );
}

#[test]
fn a_deal_that_was_given_up_though_it_is_on_chain_comes_back() {
    let recorded = OfflineDealDoc {
        statusmsg: Some(format!("StorageDealError: {ERROR_WORDS}")),
        dealid: Some(42),
        ..deal(26)
    };
    for followed in [
        listed(recorded.clone(), 26, ERROR_WORDS, 42),
        FollowedDeal::new(recorded.clone(), None, NodeWord::Unlisted),
        stateless(recorded.clone()),
    ] {
        assert_eq!(judged(&followed, &on_chain(ChainActivity::Active), 900), Some((7, StatusSource::Chain)));
        assert_eq!(
            judged(&followed, &on_chain(ChainActivity::Published), 900),
            Some((29, StatusSource::Chain))
        );
        let gone = judge(&followed, &OnChain::Gone, Some(ChainEpoch::new(1001))).unwrap();
        assert_eq!((gone.status.get(), gone.source), (26, StatusSource::Chain), "never looked at again");
        assert_eq!(Some(gone.message), recorded.statusmsg, "the reason stays");
    }
    let confirmed = OfflineDealDoc { statusby: Some(StatusSource::Chain), ..recorded };
    assert_eq!(judged(&stateless(confirmed), &on_chain(ChainActivity::Active), 900), None);
}

#[test]
fn the_chain_is_asked_of_a_listed_deal_only_where_it_can_tell_more() {
    let head = Some(ChainEpoch::new(900));
    let late = Some(ChainEpoch::new(1000 + 2881));
    for (followed, head, asked) in [
        (listed(deal(13), 26, "", 0), head, false),
        (listed(deal(13), 26, "", 42), head, true),
        (listed(with_view(13, 24, 42), 26, "", 0), head, true),
        (listed(OfflineDealDoc { dealid: Some(42), ..deal(13) }, 26, "", 0), head, true),
        (listed(with_view(29, 26, 42), 29, "", 0), head, true),
        (listed(deal(29), 29, "", 42), head, false),
        (listed(deal(29), 29, "", 42), late, true),
        (listed(deal(7), 7, "", 42), late, false),
        (FollowedDeal::new(with_view(29, 29, 42), None, NodeWord::Unlisted), head, true),
        (FollowedDeal::new(deal(13), None, NodeWord::Unlisted), head, false),
    ] {
        assert_eq!(followed.wants_look(head), asked, "{followed:?}");
    }
}

#[test]
fn a_provider_alone_ends_no_deal_that_is_on_chain() {
    let node_goes_on = listed(with_view(29, 26, 42), 29, "", 42);
    assert_eq!(
        judged(&node_goes_on, &on_chain(ChainActivity::Published), 900),
        Some((29, StatusSource::Chain))
    );
    let says_failed = stateless(with_view(18, 26, 0));
    assert_eq!(judged(&says_failed, &OnChain::Unknown, 900), Some((26, StatusSource::Provider)));
}

#[test]
fn a_deal_that_another_node_made_is_told_by_the_chain_alone() {
    let unlisted = |deal| FollowedDeal::new(deal, None, NodeWord::Unlisted);
    assert_eq!(judged(&unlisted(with_view(13, 18, 0)), &OnChain::Unknown, 900), None);
    let sealing = OfflineDealDoc {
        dealid: Some(42),
        statusmsg: Some("StorageDealSealing".into()),
        ..with_view(5, 29, 42)
    };
    assert_eq!(
        judged(&unlisted(sealing.clone()), &on_chain(ChainActivity::Published), 900),
        None,
        "the other node knows more"
    );
    assert_eq!(
        judged(&unlisted(sealing), &on_chain(ChainActivity::Active), 900),
        Some((7, StatusSource::Chain))
    );
}

#[test]
fn a_deal_that_left_the_chain_has_failed_ended_or_was_slashed() {
    for (recorded, head, status) in [
        (with_view(29, 29, 42), 1001, Some(26)),
        (with_view(29, 29, 42), 900, Some(29)),
        (with_view(7, 7, 42), 2000, Some(9)),
        (with_view(7, 7, 42), 600_000, Some(8)),
    ] {
        let by_word = judged(&stateless(recorded.clone()), &OnChain::Gone, head);
        assert!(
            by_word.is_none_or(|(status, _)| DealStatus::from_lotus(status).is_live()),
            "a number that was never seen on chain"
        );
        let recorded = stateless(OfflineDealDoc { dealid: Some(42), ..recorded });
        assert_eq!(judged(&recorded, &OnChain::Gone, head).map(|(status, _)| status), status, "{head}");
    }
}

#[test]
fn a_deal_whose_data_never_came_fails_after_its_start() {
    let waiting = with_view(18, 18, 0);
    assert_eq!(
        judged(&stateless(waiting.clone()), &OnChain::Unknown, 1010),
        Some((18, StatusSource::Provider))
    );
    assert_eq!(
        judged(&stateless(waiting.clone()), &OnChain::Unknown, 1100),
        Some((26, StatusSource::Provider))
    );
    let imported = OfflineDealDoc { isdeal: Some(1), ..waiting };
    assert_ne!(judged(&stateless(imported), &OnChain::Unknown, 1100).map(|(status, _)| status), Some(26));
}

#[test]
fn an_unknown_number_is_taken_for_a_failure_only_after_a_long_silence() {
    let late = stateless(deal(18));
    assert_eq!(judged(&late, &OnChain::Unknown, 5000), Some((18, StatusSource::Provider)));
    assert!(message(&late, &OnChain::Unknown, 5000).contains("number on chain is not known"));
    assert_eq!(judged(&late, &OnChain::Unknown, 900), None);
    assert_eq!(judged(&late, &OnChain::Unknown, 1000 + 7 * 2880 + 1), Some((26, StatusSource::Provider)));
}

/// A single `miner-agent import` leaves such a view behind, and no agent renews it.
#[test]
fn a_deal_whose_number_nobody_tells_says_so_from_its_start_on() {
    let unseen = stateless(OfflineDealDoc { isdeal: Some(1), ..with_view(4, 24, 0) });
    for (head, status, is_said) in [(900, 24, false), (1001, 24, true), (1000 + 7 * 2880 + 1, 26, true)] {
        assert_eq!(
            judged(&unseen, &OnChain::Unknown, head),
            Some((status, StatusSource::Provider)),
            "{head}"
        );
        let message = message(&unseen, &OnChain::Unknown, head);
        assert_eq!(message.contains("number on chain is not known"), is_said, "{head}: {message}");
        assert!(!message.contains("not found on chain"), "nobody could look: {message}");
    }
}

/// One rule for every method, with and without a provider's word.
#[test]
fn a_deal_that_can_never_become_active_ends() {
    let (day, week) = (1000 + 2880, 1000 + 7 * 2880);
    let waits = "Provider state: StorageDealWaitingForData";
    let unreached = "Provider state: StorageDealUnknown";
    let imported = OfflineDealDoc { isdeal: Some(1), ..deal(13) };
    let unlisted = |deal| FollowedDeal::new(deal, None, NodeWord::Unlisted);
    let missing = OnChain::Unknown;
    for (what, followed, chain, ends_after) in [
        ("go-fil-markets 1.x polls for ever", listed(deal(13), 13, waits, 0), &missing, day),
        ("the provider is away", listed(deal(13), 13, unreached, 0), &missing, week),
        ("imported, and the node hears nothing", listed(imported, 13, unreached, 0), &missing, week),
        ("the node waits for ever", listed(deal(29), 29, "", 42), &OnChain::Gone, day),
        ("its publishing is stuck", stateless(with_view(24, 24, 0)), &missing, week),
        ("its number is no deal's", stateless(with_view(29, 29, 42)), &OnChain::Gone, day),
        ("no word at all", stateless(deal(0)), &missing, week),
        ("not of this node", unlisted(deal(13)), &missing, week),
        (
            "published and not sealed",
            stateless(with_view(29, 29, 42)),
            &on_chain(ChainActivity::Published),
            day,
        ),
    ] {
        let ends = |head| judged(&followed, chain, head).is_some_and(|(status, _)| status == 26);
        assert_eq!((ends(ends_after), ends(ends_after + 1)), (false, true), "{what}");
        assert!(message(&followed, chain, ends_after + 1).contains("start epoch"), "{what}");
    }
    for (what, followed, chain) in [
        ("active, says the node", listed(deal(7), 7, "", 42), &missing),
        ("active, says the chain", stateless(with_view(29, 24, 42)), &on_chain(ChainActivity::Active)),
        ("once active", stateless(deal(7)), &missing),
    ] {
        let ends = judged(&followed, chain, week + 1).is_some_and(|(status, _)| status == 26);
        assert!(!ends, "{what}");
    }
}

#[test]
fn a_number_of_another_deal_is_corrected() {
    let wrong = OfflineDealDoc { dealid: Some(41), ..with_view(29, 29, 42) };
    let numbers = stateless(wrong.clone()).numbers();
    assert_eq!(numbers, [DealId::from_lotus(41).unwrap(), DealId::from_lotus(42).unwrap()]);
    let corrected =
        judge(&stateless(wrong.clone()), &on_chain(ChainActivity::Published), Some(ChainEpoch::new(900)))
            .unwrap();
    assert_eq!(corrected.deal_id, NumberChange::Known(DealId::from_lotus(42).unwrap()));
    // Every number is another deal's.
    let forgotten = judge(&stateless(wrong), &OnChain::Unknown, Some(ChainEpoch::new(900))).unwrap();
    assert_eq!((forgotten.status.get(), forgotten.deal_id), (29, NumberChange::Wrong));
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
        let change = judge(&listed(recorded.clone(), found, "", 0), &OnChain::Unknown, None);
        assert_eq!(change.is_some(), moves, "{recorded:?} {found}");
    }
}

#[test]
fn the_chains_word_is_written_where_an_import_waits_for_it() {
    for (isdeal, statusby, writes) in [
        (0, Some(StatusSource::Node), true),
        (0, None, true),
        (0, Some(StatusSource::Chain), false),
        (1, None, false),
    ] {
        let recorded = OfflineDealDoc {
            isdeal: Some(isdeal),
            statusby,
            dealid: Some(42),
            statusmsg: Some("StorageDealActive".into()),
            ..deal(7)
        };
        let change = judged(&stateless(recorded), &on_chain(ChainActivity::Active), 900);
        assert_eq!(change.is_some(), writes, "{isdeal} {statusby:?}");
    }
}

#[test]
fn a_deal_that_is_closed_without_its_data_is_doubted() {
    let waits = info(13, "Provider state: StorageDealWaitingForData", 0);
    let closed = OfflineDealDoc { isdeal: Some(1), intent: Some("p#1".into()), ..deal(13) };
    assert!(contradicts_import(&closed, &waits));
    assert!(!contradicts_import(&closed, &info(13, "Provider state: StorageDealPublish", 0)));
    assert!(!contradicts_import(&deal(13), &waits));
    assert!(is_unconfirmed_import(&closed));
    for (view, doubted) in [(18, true), (24, false)] {
        let seen = Some(ProviderViewDoc { status: Some(view), ..ProviderViewDoc::default() });
        assert_eq!(is_unconfirmed_import(&OfflineDealDoc { provider: seen, ..closed.clone() }), doubted);
    }
    assert!(!is_unconfirmed_import(&OfflineDealDoc { intent: None, ..closed }), "the prototype's");
}

#[test]
fn a_number_of_another_deal_on_chain_is_seen() {
    let OnChain::Found { market, .. } = on_chain(ChainActivity::Active) else { unreachable!() };
    let same = OfflineDealDoc { miner: Some("t01000".into()), ..deal(18) };
    assert!(is_same_deal(&same, &market));
    for other in [
        OfflineDealDoc { miner: Some("f01001".into()), ..deal(18) },
        OfflineDealDoc { startepoch: Some(1001), ..same.clone() },
    ] {
        assert!(!is_same_deal(&other, &market), "{other:?}");
    }
}
