//! What the errors of Boost's import call mean: the one table of its texts.

use carferry_core::rpc::RpcError;

use crate::market::after_error::{AfterError, ErrorClass, KnownText, classify};

/// What to do where collateral or publishing money is missing.
const FUND_IT: Option<&str> = Some(
    "the wallets of the provider lack money: `boostd` shows them under funds; deals go on when they are topped up",
);

/// Texts of `BoostOfflineDealWithData`, the class of each, and the advice for the operator.
/// Source: boost v1.5.0 and v2.5.2 `storagemarket/provider.go`, `storagemarket/provider_loop.go`.
const IMPORT_ERRORS: &[KnownText] = &[
    // Also said of a deal that has died: its state tells.
    ("has already been imported", ErrorClass::LookAtState, None),
    ("is not an offline deal", ErrorClass::Never, None),
    // A deal that was handed to Boost by its own RPC, without a client's libp2p identity.
    ("parsing peer ID", ErrorClass::Never, Some("only deals that came over libp2p can be imported")),
    ("no pre-existing deal proposal", ErrorClass::NotYet, None),
    ("deal not found", ErrorClass::NotYet, None),
    ("insufficient funds", ErrorClass::NodeTrouble, FUND_IT),
    ("tag funds", ErrorClass::NodeTrouble, FUND_IT),
    ("failed to send deal for acceptance", ErrorClass::NodeTrouble, None),
    (
        "the path is not absolute",
        ErrorClass::Retry,
        Some(
            "`nodePaths` maps to a relative path: write the folder as the market process sees it, from / on",
        ),
    ),
    ("getting offline deal", ErrorClass::Retry, None),
];

/// Whether a deal has ended because boostd does not find the file, or may not read it. Source: boost v1.5.0
/// and v2.5.2 `storagemarket/deal_execution.go`, `storagemarket/deal_commp.go`.
pub(in crate::market) fn could_not_open(words: &str) -> bool {
    words.contains("failed to get size of imported offline deal file")
        || (words.contains("failed to generate CommP") && words.contains("permission denied"))
}

/// Classifies the error of an import call.
pub(in crate::market) fn after_error(error: &RpcError) -> AfterError {
    classify(error, IMPORT_ERRORS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_words_decide_what_follows() {
        for (words, expected) in [
            ("deal 0707 has already been imported and reached checkpoint AddedPiece", "look"),
            ("deal 0707 has already been imported and reached checkpoint Complete", "look"),
            ("deal 0707 is not an offline deal", "never"),
            (
                "getting offline deal 0707: unmarshalling db field ClientPeerID: parsing peer ID from string \
                 'CLNFK4c': failed to parse peer ID: x",
                "never",
            ),
            (
                "no pre-existing deal proposal for offline deal 0707: scanning deal row: sql: no rows in result set",
                "not yet",
            ),
            ("server error: provider has insufficient funds to accept deal", "node"),
            ("server error: tag funds", "node"),
            ("failed to send deal for acceptance: context canceled", "node"),
            ("getting offline deal 0707: database is locked", "retry"),
            ("something unheard of", "retry"),
        ] {
            let error = RpcError::Application { method: "import", code: 1, message: words.to_owned() };
            assert_eq!(after_error(&error).word(), expected, "{words}");
        }
    }

    #[test]
    fn files_that_boost_cannot_open_are_told_from_files_that_it_cannot_use() {
        for (words, expected) in [
            (
                "failed to get size of imported offline deal file '/a.car': stat /a.car: no such file or directory",
                true,
            ),
            ("failed to generate CommP: failed to open CARv2 file: open /a.car: permission denied", true),
            ("failed to generate CommP: failed to open carv2 reader: EOF", false),
            ("failed to add piece: open /a.car: permission denied", false),
        ] {
            assert_eq!(could_not_open(words), expected, "{words}");
        }
    }
}
