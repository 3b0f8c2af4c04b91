//! One intent brought to the node: called, or recognised as made already.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::FullNode;
use carferry_core::lotus::wire::{CidLink, DataRef, DealInfo, StartDealParams};
use carferry_core::model::{DealDuration, DealPhase, DealStatus, IntentDoc, ProposalCid, PublishMethod};
use carferry_core::path_mapping::PathMapping;
use carferry_core::rpc::{BootInstant, RpcError};
use carferry_core::runtime::fail_point;
use tracing::info;

use crate::propose::lotus::node_imports::{Imports, Known};

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

/// Calls the node for one intent; shared by the queues of all providers, which call at the same time.
#[derive(Debug)]
pub(in crate::propose) struct Publisher {
    node: FullNode,
    /// Learnt from the first refusal: this node wants roots imported, as Lotus v1.11.2 and later do.
    wants_imports: AtomicBool,
    imports: Imports,
}

impl Publisher {
    /// Publishes through this node; `car_paths` turns this host's paths into the node's.
    pub(in crate::propose) fn new(node: FullNode, car_paths: Vec<PathMapping>) -> Self {
        Self { node, wants_imports: AtomicBool::new(false), imports: Imports::new(car_paths) }
    }

    /// A short call that says whether the node is there at all.
    pub(in crate::propose) async fn is_there(&self) -> Result<(), RpcError> {
        self.node.chain_head().await.map(drop)
    }

    /// Makes the deal of this intent, or finds out that it is made. Repeating it makes no second deal: the
    /// parameters, start epoch and collateral included, are the intent's, and they decide the proposal CID.
    ///
    /// No proposal is sent after `send_before`: by then another agent may have taken the intent for
    /// abandoned.
    pub(in crate::propose) async fn publish(&self, intent: &IntentDoc, send_before: BootInstant) -> Outcome {
        let is_imported = intent.method == PublishMethod::Start && self.wants_imports.load(Ordering::Relaxed);
        if is_imported && let Err(outcome) = self.imports.ensure(&self.node, intent, Known::Readable).await {
            return outcome;
        }
        let first = self.call(intent, send_before).await;
        if intent.method != PublishMethod::Start || !wants_import(&first) {
            return judge(intent, first);
        }
        if !self.wants_imports.swap(true, Ordering::Relaxed) {
            info!(
                endpoint = self.node.endpoint(),
                "the node makes manual deals only for roots it has imported: importing CARs before proposing"
            );
        }
        let known = if is_imported { Known::Missing } else { Known::Readable };
        match self.imports.ensure(&self.node, intent, known).await {
            Ok(()) => judge(intent, self.call(intent, send_before).await),
            Err(outcome) => outcome,
        }
    }

    async fn call(&self, intent: &IntentDoc, send_before: BootInstant) -> Result<CidLink, RpcError> {
        fail_point("publish.calling");
        let answer = self.node.publish(intent.method, &params_of(intent), send_before).await;
        fail_point("publish.called");
        answer
    }
}

fn told(error: &RpcError) -> String {
    ErrorChain(error).to_string()
}

/// An answer that says nothing of the deal. One that did not come in time may be the provider's doing, whom
/// the node asks; anything else that is not about the call is the node's.
pub(in crate::propose) fn unknown(error: &RpcError) -> Outcome {
    let about = match error {
        RpcError::Timeout { .. } => About::Provider,
        RpcError::Application { message, .. } => about(message),
        RpcError::Decode { .. } => About::Unclear,
        _ => About::Node,
    };
    Outcome::Unknown { about, reason: told(error) }
}

/// Words of the node about a provider that it does not reach (lotus-contract §2.4, §2.6).
const OF_THE_PROVIDER: [&str; 5] = [
    "opening dealstream to",
    "sending deal proposal failed",
    "reading proposal response failed",
    "failed getting peer ID",
    "failed getting miner's deadline info",
];

/// Words of the node about this CAR or these terms, which other proposals do not meet (lotus-contract §2.5,
/// §2.6).
const OF_THE_CAR: [&str; 3] = [
    "failed to get blockstore for imported root",
    "no client blockstore for root",
    "provider returned proposal cid",
];

fn about(message: &str) -> About {
    let has = |table: &[&str]| table.iter().any(|words| message.contains(words));
    if has(&OF_THE_CAR) {
        About::Car
    } else if has(&OF_THE_PROVIDER) {
        About::Provider
    } else {
        About::Unclear
    }
}

/// Lotus v1.11.2 to v1.27.0 (lotus-contract §2.5).
fn wants_import(answer: &Result<CidLink, RpcError>) -> bool {
    matches!(answer, Err(RpcError::Application { message, .. })
        if message.contains("failed to get blockstore for imported root")
            || message.contains("no client blockstore for root"))
}

fn params_of(intent: &IntentDoc) -> StartDealParams {
    StartDealParams {
        data: DataRef {
            transfer_type: "manual".to_owned(),
            root: CidLink::new(&intent.filecid),
            piece_cid: Some(CidLink::new(&intent.piececid)),
            piece_size: u64::try_from(intent.dealsizebytes).unwrap_or(0),
            raw_block_size: 0,
        },
        wallet: intent.wallet.clone(),
        miner: intent.miner.clone(),
        epoch_price: intent.priceattofil.clone(),
        min_blocks_duration: intent.duration,
        provider_collateral: intent.providercollateral.clone(),
        deal_start_epoch: intent.startepoch,
        fast_retrieval: intent.fastretrieval,
        verified_deal: intent.verified,
    }
}

/// What an answer means.
fn judge(intent: &IntentDoc, answer: Result<CidLink, RpcError>) -> Outcome {
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
    // "already tracking identifier `CID`", "… for identifier `CID` that already exists": the deal of these
    // very parameters is made (lotus-contract §2.4).
    if (message.contains("already tracking identifier") || message.contains("that already exists"))
        && let Some(proposal_cid) = message.split('`').nth(1).and_then(|cid| cid.parse().ok())
    {
        return Outcome::Made { proposal_cid, status: initial };
    }
    // "provider returned unexpected state 24 for proposal CID, with message: …": the provider knows this
    // very proposal, and it has moved on (lotus-contract §2.6).
    if let Some((proposal_cid, status)) = unexpected_state(message) {
        return if status.phase() == DealPhase::Failed {
            Outcome::Refused(message.clone())
        } else {
            Outcome::Made { proposal_cid, status }
        };
    }
    if *code != 0 && REFUSALS.iter().any(|words| message.contains(words)) {
        Outcome::Refused(message.clone())
    } else {
        unknown(&error)
    }
}

/// Words that refuse these very terms, before anything is made of them and whenever they are tried: only they
/// end an intent and count as a failure (lotus-contract §2.4, §2.6). Anything else may be the node's trouble
/// (a disk that is full, a chain it has not caught up with, a provider it does not reach), or an answer after
/// the deal was made: the same terms are tried again, and make no second deal.
const REFUSALS: [&str; 7] = [
    "data doesn't fit in a sector",
    "cannot propose a deal whose piece size",
    "Piece CID and size must be set",
    "creating label field in proposal",
    "invalid transfer type",
    "can only be initiated with storage price of 0",
    "deal rejected",
];

fn unexpected_state(message: &str) -> Option<(ProposalCid, DealStatus)> {
    let rest = message.split("provider returned unexpected state ").nth(1)?;
    let (state, rest) = rest.split_once(" for proposal ")?;
    let proposal_cid = rest.split(',').next()?.trim().parse().ok()?;
    Some((proposal_cid, DealStatus::from_lotus(state.trim().parse().ok()?)))
}

/// Whether a deal the node follows is the one this intent wanted, as far as the node's list tells (it
/// shows neither wallet nor start epoch).
pub(in crate::propose) fn is_deal_of(intent: &IntentDoc, deal: &DealInfo) -> bool {
    let root_matches = deal.data_ref.as_ref().is_some_and(|data| data.root.cid == intent.filecid);
    let piece_matches = deal.piece_cid.as_ref().is_some_and(|piece| piece.cid == intent.piececid);
    let stretch = deal.duration - intent.duration;
    // An hour for the node's clock against the database's.
    let margin = Duration::from_secs(3600);
    let is_newer = || match (intent.createdtime, bson::DateTime::parse_rfc3339_str(&deal.creation_time)) {
        (Some(intended), Ok(created)) => created.to_system_time() + margin >= intended.to_system_time(),
        _ => true,
    };
    root_matches
        && piece_matches
        && same_miner(&deal.provider, &intent.miner)
        && deal.price_per_epoch == intent.priceattofil
        && deal.verified == intent.verified
        && (0..=DealDuration::ALIGNMENT_MAX).contains(&stretch)
        && is_newer()
}

/// `t01000` on a test network is `f01000`.
fn same_miner(one: &str, other: &str) -> bool {
    one.get(1..).is_some() && one.get(1..) == other.get(1..)
}

#[cfg(test)]
mod tests {
    use carferry_core::model::IntentState;

    use super::*;

    const CID: &str = "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta";

    fn intent(method: PublishMethod) -> IntentDoc {
        IntentDoc {
            id: "p#1".into(),
            filecid: "bafykroot".into(),
            miner: "f01000".into(),
            wallet: "f1w".into(),
            piececid: "bagapiece".into(),
            dealsizebytes: 2032,
            carpath: "/out/a.car".into(),
            priceattofil: "0".into(),
            duration: 518_400,
            startepoch: 1000,
            providercollateral: "5".into(),
            verified: false,
            fastretrieval: true,
            method,
            owner: "box".into(),
            state: IntentState::Intended,
            dealcid: None,
            dealstatus: None,
            dealstatusby: None,
            endseen: None,
            dealid: None,
            reason: None,
            tries: None,
            nexttry: None,
            refusal: None,
            failurecleared: None,
            startdelay: None,
            collateralsetting: None,
            createdtime: None,
            updatedtime: None,
        }
    }

    fn application(code: i32, message: &str) -> Result<CidLink, RpcError> {
        Err(RpcError::Application { method: "Filecoin.ClientStartDeal", code, message: message.into() })
    }

    #[test]
    fn a_duplicate_is_the_same_deal_and_its_cid_is_in_the_words() {
        for words in [
            format!(
                "failed to start deal: setting up deal tracking: ScanCursor: already tracking identifier `{CID}`"
            ),
            format!("Begin: cannot initiate a state for identifier `{CID}` that already exists"),
        ] {
            match judge(&intent(PublishMethod::Start), application(1, &words)) {
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
        assert!(matches!(judge(&stateless, application(1, &words(24))),
            Outcome::Made { status, .. } if status.get() == 24));
        assert!(matches!(judge(&stateless, application(1, &words(11))), Outcome::Refused(_)));
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
            let outcome = judge(&start, answer);
            assert!(
                matches!(outcome, Outcome::Unknown { about, .. } if about == concerned),
                "{words}: {outcome:?}"
            );
        }
        assert!(matches!(judge(&start, application(1, "data doesn't fit in a sector")), Outcome::Refused(_)));
    }

    #[test]
    fn the_nodes_list_is_matched_by_everything_it_shows() {
        let listed = |change: fn(&mut serde_json::Value)| {
            let mut value = serde_json::json!({
                "ProposalCid": {"/": CID}, "State": 13, "Message": "", "Provider": "t01000",
                "DataRef": {"TransferType": "manual", "Root": {"/": "bafykroot"}, "PieceCid": null, "PieceSize": 2032},
                "PieceCID": {"/": "bagapiece"}, "PricePerEpoch": "0", "Duration": 521_279, "DealID": 0,
                "CreationTime": "2023-08-10T08:15:30.123456789+08:00", "Verified": false
            });
            change(&mut value);
            serde_json::from_value::<DealInfo>(value).unwrap()
        };
        let wanted = intent(PublishMethod::Start);
        assert!(is_deal_of(&wanted, &listed(|_| {})));
        for change in [
            (|v| v["Provider"] = "f01001".into()) as fn(&mut serde_json::Value),
            |v| v["PieceCID"]["/"] = "other".into(),
            |v| v["DataRef"]["Root"]["/"] = "other".into(),
            |v| v["PricePerEpoch"] = "1".into(),
            |v| v["Duration"] = 530_000.into(),
            |v| v["Verified"] = true.into(),
        ] {
            assert!(!is_deal_of(&wanted, &listed(change)));
        }
    }
}
