//! What follows from what: the deal's state, the call's error, the number of tries. Pure.

use std::time::Duration;

use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::wire::MinerDeal;
use carferry_core::model::{ChainEpoch, DealPhase, DealStatus, ImportDoc};
use carferry_core::rpc::RpcError;

/// What the provider's state of a deal means for its import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataState {
    /// It waits for the data: import.
    Import,
    /// It has the data.
    HasData,
    /// It will never take the data.
    Failed(String),
    /// It does not take the data yet.
    NotYet(String),
}

/// Reads the provider's state; `None`: the provider does not list the deal.
pub fn before_import(deal: Option<&MinerDeal>) -> DataState {
    let Some(deal) = deal else {
        return DataState::NotYet("the provider does not know the proposal yet".to_owned());
    };
    let status = DealStatus::from_lotus(deal.state);
    match status.phase() {
        DealPhase::AwaitsData => DataState::Import,
        DealPhase::Progressing | DealPhase::Active | DealPhase::Expired => DataState::HasData,
        DealPhase::Failed => DataState::Failed(failed_at_provider(status, &deal.message)),
        DealPhase::Proposed if takes_data_by_network(status) => DataState::NotYet(format!(
            "the provider fetches the data over the network ({status}): this is no manual-transfer deal"
        )),
        DealPhase::Proposed => {
            DataState::NotYet(format!("the provider has not accepted the proposal yet ({status})"))
        }
    }
}

/// Why a deal that the provider gave up counts as failed.
pub fn failed_at_provider(status: DealStatus, message: &str) -> String {
    let words = if message.trim().is_empty() { "without a message" } else { message.trim() };
    format!("the deal failed at the provider ({status}): {words}")
}

/// Starting, running, interrupted and queued data transfers.
/// Source: go-fil-markets v1.28.3 `storagemarket/dealstatus.go`.
fn takes_data_by_network(status: DealStatus) -> bool {
    matches!(status.get(), 16 | 17 | 27 | 28 | 30)
}

/// What to do after an import call that answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterError {
    /// The call may have had its effect: the deal's state tells.
    LookAtState(String),
    /// It had none; another try may succeed.
    Retry(String),
    /// It had none: the file is another piece. Another file may succeed.
    WrongFile(String),
    /// The provider does not know the deal (any more, or yet).
    NotYet(String),
    /// The node is the trouble, every other deal would fail alike.
    NodeTrouble(String, Remedy),
}

/// What ends a trouble with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing that is configured here: the node is away, busy, or in trouble itself.
    Time,
    /// The operator: another token, another address.
    Operator,
}

impl Remedy {
    /// Of a trouble that is permanent, or is not.
    pub const fn of(is_permanent: bool) -> Self {
        if is_permanent { Self::Operator } else { Self::Time }
    }

    /// Of a call that failed.
    pub fn of_call(error: &RpcError) -> Self {
        Self::of(error.is_permanent())
    }
}

/// What the words of a failed import call mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorClass {
    WrongFile,
    Retry,
    NotYet,
    LookAtState,
    NodeTrouble,
}

/// The texts of `MarketImportDealData` and `DealsImportData` (lotus-contract §3.1, §3.2), what each means,
/// and the advice that goes with it. The first text that is found decides; an unknown one may pass, and is
/// tried again as often as `setting.maxTries` allows.
const IMPORT_ERRORS: &[(&str, ErrorClass, Option<&str>)] = &[
    ("does not match expected commP", ErrorClass::WrongFile, None),
    (
        "failed to open",
        ErrorClass::Retry,
        Some(
            "the market process cannot open this path: set `nodePaths` to how it sees the folder, and check \
             its permissions",
        ),
    ),
    ("key not found", ErrorClass::NotYet, None),
    ("No state for", ErrorClass::NotYet, None),
    ("normal shutdown of state machine", ErrorClass::LookAtState, None),
    (
        "no space left on device",
        ErrorClass::NodeTrouble,
        Some("the market copies every CAR into its deal-staging folder before it seals it"),
    ),
    (
        "read-only file system",
        ErrorClass::NodeTrouble,
        Some("the market's deal-staging folder takes no files"),
    ),
    (
        "panic in rpc method",
        ErrorClass::NodeTrouble,
        Some("imports go to the process that runs the market (EnableMarkets, or the markets node)"),
    ),
];

/// Whether a file in the deal's place was found to be another piece, by the market or by this agent: from
/// then on the piece CID is computed before a call. Documents of before the field say it in their reason.
pub fn is_other_piece(import: Option<&ImportDoc>) -> bool {
    import.is_some_and(|import| {
        import
            .piecemismatch
            .unwrap_or_else(|| import.reason.as_deref().is_some_and(|reason| reason.contains(NOT_THE_PIECE)))
    })
}

/// In the reason of every deal whose file was found to be another piece.
pub const NOT_THE_PIECE: &str = "is not the deal's piece";

/// Reads the error of an import call of the file the market knows as `node_path`.
pub fn after_error(error: &RpcError, node_path: &str) -> AfterError {
    let chain = ErrorChain(error).to_string();
    if error.effect_is_unknown() {
        return AfterError::LookAtState(chain);
    }
    if error.is_about_the_node() {
        return AfterError::NodeTrouble(with_hint(chain, error.hint()), Remedy::of_call(error));
    }
    let words = error.message().unwrap_or(&chain);
    let known = IMPORT_ERRORS.iter().find(|(text, _, _)| words.contains(text));
    let Some((_, meaning, hint)) = known else { return AfterError::Retry(words.to_owned()) };
    let advised = with_hint(words.to_owned(), hint.map(str::to_owned));
    match meaning {
        ErrorClass::WrongFile => AfterError::WrongFile(format!("{node_path} {NOT_THE_PIECE}: {words}")),
        ErrorClass::Retry => AfterError::Retry(advised),
        ErrorClass::NotYet => AfterError::NotYet(format!("the provider does not know the proposal: {words}")),
        ErrorClass::LookAtState => AfterError::LookAtState(advised),
        ErrorClass::NodeTrouble => AfterError::NodeTrouble(advised, Remedy::Time),
    }
}

/// An error's text with the advice that goes with it.
pub fn with_hint(text: String, hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{text}; hint: {hint}"),
        None => text,
    }
}

/// Why the start epoch of a deal cannot be met any more; `None` if it can.
///
/// `margin_epochs`: how many epochs the provider needs between publishing and the deal's start. Lotus refuses
/// to publish below 480 (lotus v1.23.3 `markets/storageadapter/dealpublisher.go`, `StartEpochSealingBuffer`).
pub fn missed_start(start: ChainEpoch, head: ChainEpoch, margin_epochs: i64) -> Option<String> {
    if head > start {
        Some(format!("start epoch {start} has passed (head {head})"))
    } else if head.plus(margin_epochs) > start {
        Some(format!(
            "start epoch {start} has passed for sealing: head {head}, {} epochs left, {margin_epochs} needed \
             (setting.startEpochMargin)",
            start.since(head)
        ))
    } else {
        None
    }
}

/// How old a deal was when it was claimed, by the database's clock as far as the deal tells it: a lease that
/// was just given ends that much later. Times in milliseconds since 1970.
pub fn age_at_claim(created: i64, lease_until: i64, lease: Duration) -> Duration {
    let until_end = u64::try_from(lease_until.saturating_sub(created)).unwrap_or(0);
    Duration::from_millis(until_end).saturating_sub(lease)
}

/// How long an import of so many bytes may take at the market, however busy: it copies the file and computes
/// its commitment, at 10 MiB a second together (lotus-contract §3.3: minutes for 32 GiB on a quiet machine).
pub fn import_takes_at_most(bytes: u64) -> Duration {
    Duration::from_secs(bytes / (10 << 20))
}

/// Bounds of the pauses between tries of one deal.
#[derive(Clone, Copy, Debug)]
pub struct RetryPauses {
    /// After the first failure.
    pub min: Duration,
    /// Never longer.
    pub max: Duration,
}

impl RetryPauses {
    /// The pause after a failure that `failures_before` others went before: doubling, spread over the upper
    /// half so that deals that failed together do not come back together.
    pub fn after(&self, failures_before: i64, rng: &mut fastrand::Rng) -> Duration {
        let doublings = u32::try_from(failures_before.clamp(0, 20)).unwrap_or(0);
        let ceiling = self.min.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(0.5 + rng.f64() / 2.0)
    }

    /// The pause for a deal that waits for something since `age`: a quarter of it, so that a proposal that
    /// never arrives is looked for ever less often.
    pub fn by_age(&self, age: Duration, least: Duration) -> Duration {
        (age / 4).min(self.max).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deal(state: u64, message: &str) -> MinerDeal {
        serde_json::from_value(serde_json::json!({
            "Proposal": {"PieceCID": null, "PieceSize": 128, "Provider": "f01", "StartEpoch": 9, "EndEpoch": 10},
            "ProposalCid": {"/": "bafyrei"},
            "State": state,
            "Message": message,
        }))
        .unwrap()
    }

    #[test]
    fn age_of_a_deal_leaves_the_lease_out() {
        let lease = Duration::from_secs(60);
        assert_eq!(age_at_claim(1_000, 61_250, lease), Duration::from_millis(250));
        assert_eq!(age_at_claim(1_000, 60_000, lease), Duration::ZERO);
    }

    #[test]
    fn only_a_deal_that_awaits_data_is_imported() {
        for (state, expected) in [
            (18, "import"),
            (20, "data"),
            (24, "data"),
            (29, "data"),
            (7, "data"),
            (8, "data"),
            (26, "failed"),
            (11, "failed"),
            (10, "failed"),
            (9, "failed"),
            (14, "not yet"),
            (15, "not yet"),
            (17, "not yet"),
            (99, "not yet"),
        ] {
            let seen = match before_import(Some(&deal(state, "because"))) {
                DataState::Import => "import",
                DataState::HasData => "data",
                DataState::Failed(reason) => {
                    assert!(reason.ends_with(": because"), "{reason}");
                    "failed"
                }
                DataState::NotYet(_) => "not yet",
            };
            assert_eq!(seen, expected, "state {state}");
        }
        assert!(matches!(before_import(None), DataState::NotYet(_)));
        assert!(
            matches!(before_import(Some(&deal(17, ""))), DataState::NotYet(why) if why.contains("network"))
        );
    }

    fn refused(message: &str) -> RpcError {
        RpcError::Application {
            method: "Filecoin.MarketImportDealData",
            code: 1,
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_nodes_words_decide_what_follows() {
        let endpoint = || "http://127.0.0.1:2345/rpc/v0".to_owned();
        let method = "Filecoin.MarketImportDealData";
        let cases = [
            (refused("given data does not match expected commP (got: bagaA, expected bagaB)"), "wrong"),
            (refused("given data does not match expected commP (got: 0155, expected 0166)"), "wrong"),
            (refused("failed to open file: open /x: no such file or directory"), "retry"),
            (refused("failed to open given file: open /x: permission denied"), "retry"),
            (refused("importing deal data failed: write /s/fstmp1: no space left on device"), "node"),
            (refused("something unheard of"), "retry"),
            (
                refused("failed getting deal bafyrei: No state for /bafyrei: datastore: key not found"),
                "not yet",
            ),
            (refused("normal shutdown of state machine"), "look"),
            (RpcError::Timeout { method, endpoint: endpoint(), seconds: 5 }, "look"),
            (RpcError::Transport { method, endpoint: endpoint(), source: "reset".into() }, "look"),
            (RpcError::Decode { method, endpoint: endpoint(), source: "odd".into() }, "look"),
            (RpcError::Unauthorized { method, endpoint: endpoint(), status: 401 }, "node"),
            (RpcError::MethodNotFound { method, endpoint: endpoint() }, "node"),
            (
                RpcError::Permission {
                    method,
                    endpoint: endpoint(),
                    message: "missing permission to invoke 'MarketImportDealData' (need 'write')".to_owned(),
                },
                "node",
            ),
            (
                refused("fatal error calling 'Filecoin.MarketImportDealData': panic in rpc method 'x': nil"),
                "node",
            ),
        ];
        for (error, expected) in cases {
            let seen = match after_error(&error, "/cars/a.car") {
                AfterError::LookAtState(_) => "look",
                AfterError::Retry(_) => "retry",
                AfterError::WrongFile(_) => "wrong",
                AfterError::NotYet(_) => "not yet",
                AfterError::NodeTrouble(..) => "node",
            };
            assert_eq!(seen, expected, "{error}");
        }
    }

    #[test]
    fn a_wrong_file_is_named_with_both_piece_cids() {
        let error = refused("given data does not match expected commP (got: bagaA, expected bagaB)");
        let AfterError::WrongFile(reason) = after_error(&error, "/cars/a.car") else { panic!("no file") };
        for part in ["/cars/a.car", NOT_THE_PIECE, "bagaA", "bagaB"] {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn another_piece_is_known_by_its_field_and_in_old_documents_by_their_words() {
        let words = format!("/a.car {NOT_THE_PIECE}: x");
        for (piecemismatch, reason, expected) in [
            (None, Some(words.clone()), true),
            (None, Some("the CAR is not here yet".to_owned()), false),
            (None, None, false),
            (Some(true), Some("the CAR is not here yet".to_owned()), true),
            (Some(false), Some(words), false),
        ] {
            let import = ImportDoc { piecemismatch, reason, ..ImportDoc::default() };
            assert_eq!(is_other_piece(Some(&import)), expected, "{import:?}");
        }
        assert!(!is_other_piece(None));
    }

    #[test]
    fn advice_goes_with_what_the_operator_can_fix() {
        for (words, advice) in [
            ("failed to open file: open /x: permission denied", "nodePaths"),
            ("write fstmp: no space left on device", "deal-staging"),
        ] {
            let (AfterError::Retry(reason) | AfterError::NodeTrouble(reason, _)) =
                after_error(&refused(words), "/x")
            else {
                panic!("neither: {words}")
            };
            assert!(reason.contains(advice), "{reason}");
        }
    }

    #[test]
    fn a_start_epoch_is_missed_when_sealing_cannot_be_done_before_it() {
        let head = ChainEpoch::new(1000);
        for (start, missed) in [(999, true), (1000, true), (1479, true), (1480, false), (5000, false)] {
            assert_eq!(missed_start(ChainEpoch::new(start), head, 480).is_some(), missed, "{start}");
        }
        let passed = missed_start(ChainEpoch::new(999), head, 480).unwrap();
        assert_eq!(passed, "start epoch 999 has passed (head 1000)");
    }

    #[test]
    fn pauses_double_within_their_bounds() {
        let pauses = RetryPauses { min: Duration::from_secs(10), max: Duration::from_secs(1800) };
        let mut rng = fastrand::Rng::with_seed(3);
        for (failures, seconds) in
            [(-1, 10), (0, 10), (1, 20), (3, 80), (7, 1280), (8, 1800), (i64::MAX, 1800)]
        {
            for _ in 0..50 {
                let pause = pauses.after(failures, &mut rng).as_secs_f64();
                let ceiling = f64::from(seconds);
                assert!((ceiling / 2.0..=ceiling).contains(&pause), "{failures}: {pause}");
            }
        }
        let least = Duration::from_secs(30);
        for (age, pause) in [(0, 30), (100, 30), (400, 100), (1_000_000, 1800)] {
            assert_eq!(pauses.by_age(Duration::from_secs(age), least).as_secs(), pause, "{age}");
        }
    }
}
