//! What the errors of Lotus' import call mean: the one table of its texts.

use carferry_core::rpc::RpcError;

use crate::market::after_error::{AfterError, ErrorClass, KnownText, classify};

/// Texts of `MarketImportDealData` and `DealsImportData` (lotus-contract §3.1, §3.2), the class of each, and
/// the advice for the operator.
const IMPORT_ERRORS: &[KnownText] = &[
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

/// Classifies the error of an import call.
pub(in crate::market) fn after_error(error: &RpcError) -> AfterError {
    classify(error, IMPORT_ERRORS)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(after_error(&error).word(), expected, "{error}");
        }
    }

    #[test]
    fn advice_goes_with_what_the_operator_can_fix() {
        for (words, advice) in [
            ("failed to open file: open /x: permission denied", "nodePaths"),
            ("write fstmp: no space left on device", "deal-staging"),
        ] {
            let (AfterError::Retry(reason) | AfterError::NodeTrouble(reason, _)) =
                after_error(&refused(words))
            else {
                panic!("neither: {words}")
            };
            assert!(reason.contains(advice), "{reason}");
        }
    }

    #[test]
    fn a_wrong_file_is_named_with_both_piece_cids() {
        let error = refused("given data does not match expected commP (got: bagaA, expected bagaB)");
        let AfterError::WrongFile(words) = after_error(&error) else { panic!("no file") };
        for part in ["bagaA", "bagaB"] {
            assert!(words.contains(part), "{words}");
        }
    }
}
