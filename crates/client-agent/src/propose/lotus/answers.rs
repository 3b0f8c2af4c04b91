//! What the answers of a Lotus node mean for a proposal: made, refused, or not known. The texts of Lotus by
//! which proposals are judged stand here.

use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::wire::CidLink;
use carferry_core::model::{DealPhase, DealStatus, IntentDoc, ProposalCid, PublishMethod};
use carferry_core::rpc::RpcError;

/// What became of one call.
#[derive(Debug)]
pub(in crate::propose) enum Outcome {
    /// The deal exists.
    Made {
        /// Its key.
        proposal_cid: ProposalCid,
        /// State as far as the answer tells.
        status: DealStatus,
    },
    /// The node or the provider refused; no deal exists.
    Refused(String),
    /// Whether the deal exists is not known; the intent stays and is settled later with the same parameters.
    Unknown {
        /// About whom the answer speaks.
        about: About,
        /// The words.
        reason: String,
    },
}

/// About whom an answer speaks that says nothing of the deal. Only trouble of a provider or of the node keeps
/// other proposals waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::propose) enum About {
    /// This CAR or these terms: proposals of other CARs are not concerned.
    Car,
    /// Words that no table knows.
    Unclear,
    /// The provider does not answer, or not in time.
    Provider,
    /// The node: every other call to it would fail alike.
    Node,
}

/// What a message of Lotus is about, by a part of its text. Sources: lotus-contract §2.4 to §2.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The deal of these very parameters is made; its proposal CID stands in backticks.
    AlreadyMade,
    /// These very terms are refused, before anything is made of them and whenever they are tried: only this
    /// ends an intent and counts as a failure. Anything else may be the node's trouble (a full disk, a
    /// chain that the node has not caught up with), or an answer after the deal was made: the same terms
    /// are tried again, and make no second deal.
    Refused,
    /// The node makes manual deals only for roots that it has imported (Lotus v1.11.2 to v1.27.0).
    WantsImport,
    /// This CAR or these terms, which other proposals do not meet.
    OfCar,
    /// The node does not reach the provider.
    OfProvider,
    /// `ClientImport` cannot read the CAR.
    UnreadableCar,
}

/// Every text by which an answer is judged, as a part of its message.
const TEXTS: [(&str, Meaning); 21] = [
    ("already tracking identifier", Meaning::AlreadyMade),
    ("that already exists", Meaning::AlreadyMade),
    ("data doesn't fit in a sector", Meaning::Refused),
    ("cannot propose a deal whose piece size", Meaning::Refused),
    ("Piece CID and size must be set", Meaning::Refused),
    ("creating label field in proposal", Meaning::Refused),
    ("invalid transfer type", Meaning::Refused),
    ("can only be initiated with storage price of 0", Meaning::Refused),
    ("deal rejected", Meaning::Refused),
    ("failed to get blockstore for imported root", Meaning::WantsImport),
    ("no client blockstore for root", Meaning::WantsImport),
    ("provider returned proposal cid", Meaning::OfCar),
    ("opening dealstream to", Meaning::OfProvider),
    ("sending deal proposal failed", Meaning::OfProvider),
    ("reading proposal response failed", Meaning::OfProvider),
    ("failed getting peer ID", Meaning::OfProvider),
    ("failed getting miner's deadline info", Meaning::OfProvider),
    ("open CAR file", Meaning::UnreadableCar),
    ("read CAR header", Meaning::UnreadableCar),
    ("one and only one header", Meaning::UnreadableCar),
    ("car version must be", Meaning::UnreadableCar),
];

/// What stands before the number of the state where the provider knows this very proposal and has moved on:
/// "provider returned unexpected state 24 for proposal CID, with message: …" (lotus-contract §2.6).
const UNEXPECTED_STATE: &str = "provider returned unexpected state ";

/// What a chain says that does not know an address. Source: lotus v1.23.3 `chain/types/actor.go`.
const NO_ACTOR: &str = "actor not found";

/// Whether a message has this meaning, among others.
fn has(message: &str, wanted: Meaning) -> bool {
    TEXTS.iter().any(|(text, meaning)| *meaning == wanted && message.contains(text))
}

/// Whether the chain does not know the address that was asked for.
pub(crate) fn is_unknown_actor(error: &RpcError) -> bool {
    error.message().is_some_and(|message| message.contains(NO_ACTOR))
}

/// An answer that says nothing of the deal. The provider, whom the node asks, may be why no answer came in
/// time; anything else that is not about the call is the node's trouble.
pub(super) fn unknown(error: &RpcError) -> Outcome {
    let about = match error {
        RpcError::Timeout { .. } => About::Provider,
        RpcError::Application { message, .. } => about(message),
        RpcError::Decode { .. } => About::Unclear,
        _ => About::Node,
    };
    Outcome::Unknown { about, reason: ErrorChain(error).to_string() }
}

fn about(message: &str) -> About {
    if has(message, Meaning::WantsImport) || has(message, Meaning::OfCar) {
        About::Car
    } else if has(message, Meaning::OfProvider) {
        About::Provider
    } else {
        About::Unclear
    }
}

/// Whether the node makes the deal only once it has imported the root.
pub(super) fn wants_import(answer: &Result<CidLink, RpcError>) -> bool {
    matches!(answer, Err(RpcError::Application { message, .. }) if has(message, Meaning::WantsImport))
}

/// A failed import. It is no word on the deal.
pub(super) fn not_imported(path: &str, error: &RpcError) -> Outcome {
    let (about, reason) = of_import_call(error);
    let about = if has(&reason, Meaning::UnreadableCar) { About::Car } else { about };
    let reason = format!(
        "the node wants the root imported and could not import {path}: {reason}; hint: the CAR must lie on the Lotus \
         node's own disk, see setting.carPaths"
    );
    Outcome::Unknown { about, reason }
}

/// A failed list of imports. It is no word on the deal.
pub(super) fn imports_not_listed(error: &RpcError) -> Outcome {
    let (about, reason) = of_import_call(error);
    Outcome::Unknown { about, reason }
}

/// A failed call in which the provider has no part.
fn of_import_call(error: &RpcError) -> (About, String) {
    let about = match error {
        RpcError::Application { message, .. } if about(message) == About::Car => About::Car,
        RpcError::Timeout { .. } | RpcError::Application { .. } | RpcError::Decode { .. } => About::Unclear,
        _ => About::Node,
    };
    (about, ErrorChain(error).to_string())
}

/// What the answer to a proposal means.
pub(super) fn classify(intent: &IntentDoc, answer: Result<CidLink, RpcError>) -> Outcome {
    let initial = match intent.method {
        PublishMethod::Start => DealStatus::UNKNOWN,
        // The call returns once the provider waits for the data.
        PublishMethod::Stateless => DealStatus::WAITING_FOR_DATA,
    };
    let error = match answer {
        Ok(link) => {
            return match link.cid.parse() {
                Ok(proposal_cid) => Outcome::Made { proposal_cid, status: initial },
                Err(error) => Outcome::Unknown { about: About::Unclear, reason: format!("{error}") },
            };
        }
        Err(error) => error,
    };
    let RpcError::Application { code, message, .. } = &error else {
        return unknown(&error);
    };
    if has(message, Meaning::AlreadyMade)
        && let Some(proposal_cid) = message.split('`').nth(1).and_then(|cid| cid.parse().ok())
    {
        return Outcome::Made { proposal_cid, status: initial };
    }
    if let Some((proposal_cid, status)) = unexpected_state(message) {
        return if status.phase() == DealPhase::Failed {
            Outcome::Refused(message.clone())
        } else {
            Outcome::Made { proposal_cid, status }
        };
    }
    if *code != 0 && has(message, Meaning::Refused) {
        Outcome::Refused(message.clone())
    } else {
        unknown(&error)
    }
}

fn unexpected_state(message: &str) -> Option<(ProposalCid, DealStatus)> {
    let rest = message.split(UNEXPECTED_STATE).nth(1)?;
    let (state, rest) = rest.split_once(" for proposal ")?;
    let proposal_cid = rest.split(',').next()?.trim().parse().ok()?;
    Some((proposal_cid, DealStatus::from_lotus(state.trim().parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propose::test_intent::intent_of_tests;

    const CID: &str = "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta";

    fn intent(method: PublishMethod) -> IntentDoc {
        IntentDoc { method, ..intent_of_tests() }
    }

    fn application(code: i32, message: &str) -> Result<CidLink, RpcError> {
        Err(RpcError::Application { method: "Filecoin.ClientStartDeal", code, message: message.into() })
    }

    #[test]
    fn a_duplicate_is_the_same_deal_and_its_cid_is_in_the_words() {
        for words in [
            format!(
                "failed to start deal: setting up deal tracking: Begin: already tracking identifier `{CID}`"
            ),
            format!("Begin: cannot initiate a state for identifier `{CID}` that already exists"),
        ] {
            match classify(&intent(PublishMethod::Start), application(1, &words)) {
                Outcome::Made { proposal_cid, .. } => assert_eq!(proposal_cid.as_str(), CID),
                other => panic!("{words}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_proposal_that_moved_on_is_made_and_one_that_failed_is_refused() {
        let words = |state: u32| {
            format!("provider returned unexpected state {state} for proposal {CID}, with message: m")
        };
        let stateless = intent(PublishMethod::Stateless);
        assert!(matches!(classify(&stateless, application(1, &words(24))),
            Outcome::Made { status, .. } if status.get() == 24));
        assert!(matches!(classify(&stateless, application(1, &words(11))), Outcome::Refused(_)));
    }

    #[test]
    fn an_answer_that_says_nothing_about_the_effect_leaves_the_intent_and_says_whom_it_concerns() {
        let start = intent(PublishMethod::Start);
        let missing = "failed to start deal: failed to get blockstore for imported root bafk: no client blockstore for root";
        for (answer, concerned) in [
            (application(0, "fatal error calling 'Filecoin.ClientStartDeal': panic"), About::Unclear),
            (application(1, "signing deal proposal failed: wallet is locked"), About::Unclear),
            (application(1, "reading proposal response failed: stream reset"), About::Provider),
            (application(1, "opening dealstream to f01000/12D3 failed: dial backoff"), About::Provider),
            (Err(RpcError::Timeout { method: "m", endpoint: "e".into(), seconds: 1 }), About::Provider),
            (application(1, missing), About::Car),
            (application(1, "provider returned proposal cid x but we expected y"), About::Car),
            (Ok(CidLink::new("nonsense")), About::Unclear),
            (Err(RpcError::Unauthorized { method: "m", endpoint: "e".into(), status: 401 }), About::Node),
        ] {
            let words = format!("{answer:?}");
            let outcome = classify(&start, answer);
            assert!(
                matches!(outcome, Outcome::Unknown { about, .. } if about == concerned),
                "{words}: {outcome:?}"
            );
        }
        assert!(matches!(
            classify(&start, application(1, "data doesn't fit in a sector")),
            Outcome::Refused(_)
        ));
    }
}
