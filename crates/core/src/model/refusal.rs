//! Classifies refusals and failures of deals by their text. The class is stored beside the text.

use serde::{Deserialize, Serialize};

/// The class of a refusal: only [`Refusal::Deal`] counts against a CAR with its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refusal {
    /// The deal itself: the provider does not take, or did not keep, this deal at these terms.
    Deal,
    /// The circumstances: a busy or absent provider, a failing node, a wallet without money, data that came
    /// late.
    Moment,
    /// A failure of the provider's own programs, which passes soon and concerns no deal.
    Trouble,
    /// The client's own settings: the time from proposal to start, the duration, the collateral.
    Settings,
    /// Written by a newer agent.
    #[serde(other)]
    Unknown,
}

/// What a provider's refusal begins with, in the node's answer and in a deal's message (go-fil-markets
/// v1.28.3 `storagemarket/impl/providerstates/provider_fsm.go`, `ProviderEventDealRejected`).
const REJECTED: &str = "deal rejected: ";

/// Texts of providers about their own or the client's circumstances.
const MOMENT: [&str; 5] = [
    // The filter of deals, lotus v1.23.3 node/modules/storageminer.go:532-652: its switches for online,
    // offline, verified and unverified deals, and its limit of staging deals.
    "miner is not accepting",
    "miner is overloaded at the moment",
    // go-fil-markets v1.28.3 storagemarket/impl/providerstates/provider_states.go:66-183: the provider's
    // node, and what the client has left.
    "node error",
    "clientMarketBalance.Available too small",
    "verified deal DataCap too small",
];

/// Texts of providers about their own failures: the filter of deals, a program of the provider, could not be
/// run or did not decide (go-fil-markets v1.28.3 `storagemarket/impl/providerstates/provider_states.go`,
/// `DecideOnProposal`; a provider of mainnet gave "too many open files" as the reason).
const TROUBLE: [&str; 1] = ["custom deal decision logic failed"];

/// Texts of providers about start, length and collateral, which are the client's settings for all deals.
const SETTINGS: [&str; 6] = [
    // The filter of deals, lotus v1.23.3 node/modules/storageminer.go:532-652.
    "deal start epoch is too far in the future",
    "cannot seal a sector before",
    // go-fil-markets v1.28.3 storagemarket/impl/providerstates/provider_states.go:66-183.
    "deal start epoch has already elapsed",
    "deal duration out of bounds",
    "invalid deal end epoch",
    "proposed provider collateral",
];

/// Words of the client's node: the provider could not be reached, or the wallet could not pay (go-fil-markets
/// v1.28.3 `storagemarket/impl/clientstates/client_fsm.go`, `ClientEventWriteProposalFailed`,
/// `…ReadResponseFailed`, `…EnsureFundsFailed`); or the data did not reach the provider by the start epoch.
const OF_THE_CLIENT: [&str; 5] = [
    "sending proposal to storage provider failed",
    "error reading Response message",
    "adding market funds failed",
    "start epoch already elapsed",
    // Of client-agent, for a deal that the node does not follow (`track::reconcile`).
    "the start epoch has passed",
];

impl Refusal {
    /// The class of this text. New refusals are classified when they are written, refusals that were stored
    /// without a class when they are read.
    pub fn of_words(words: &str) -> Self {
        let reason = words.split_once(REJECTED).map(|(_, reason)| reason);
        let rejected_for =
            |table: &[&str]| reason.is_some_and(|reason| table.iter().any(|known| reason.contains(known)));
        if rejected_for(&TROUBLE) {
            // This class is tested first: the text after these words is the program's own.
            Self::Trouble
        } else if rejected_for(&MOMENT) || OF_THE_CLIENT.iter().any(|known| words.contains(known)) {
            Self::Moment
        } else if rejected_for(&SETTINGS) {
            Self::Settings
        } else {
            Self::Deal
        }
    }

    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deal => "deal",
            Self::Moment => "moment",
            Self::Trouble => "trouble",
            Self::Settings => "settings",
            Self::Unknown => "unknown",
        }
    }

    /// From its stored form.
    pub fn from_stored(text: &str) -> Self {
        match text {
            "deal" => Self::Deal,
            "moment" => Self::Moment,
            "trouble" => Self::Trouble,
            "settings" => Self::Settings,
            _ => Self::Unknown,
        }
    }

    /// Whether it counts against the CAR with its provider.
    pub const fn counts(self) -> bool {
        matches!(self, Self::Deal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_deal_counts() {
        use Refusal::{Deal, Moment, Settings, Trouble};
        for (words, about) in [
            (
                "provider returned unexpected state 11 for proposal bafy, with message: deal rejected: cannot accept deal \
                 as miner is overloaded at the moment - there are too many staging deals being processed",
                Moment,
            ),
            (
                "provider returned unexpected state 11 for proposal bafy, with message: deal rejected: custom deal decision \
                 logic failed: open /mnt/config.toml: too many open files",
                Trouble,
            ),
            ("deal rejected: custom deal decision logic failed: node error", Trouble),
            ("StorageDealError: deal rejected: miner is not accepting offline storage deals", Moment),
            ("deal rejected: node error getting client market balance failed: timeout", Moment),
            ("deal rejected: clientMarketBalance.Available too small: 1 < 2", Moment),
            ("StorageDealError: sending proposal to storage provider failed: dial backoff", Moment),
            ("StorageDealError: adding market funds failed: not enough funds: balance 1, needed 2", Moment),
            ("deal failed: (State=13) start epoch already elapsed", Moment),
            ("the start epoch has passed without the data", Moment),
            ("deal rejected: deal start epoch is too far in the future: 5 > 4", Settings),
            ("deal rejected: cannot seal a sector before 5", Settings),
            ("deal rejected: proposed provider collateral below minimum: 1 < 2", Settings),
            ("deal rejected: proposed provider collateral above maximum: 2 > 1", Settings),
            ("deal rejected: deal duration out of bounds (min, max, provided): 1, 2, 3", Settings),
            ("deal rejected: storage price per epoch less than asking price: 0 < 1", Deal),
            ("deal rejected: miner has blocklisted piece CID baga", Deal),
            ("the deal was not sealed before its start epoch and has left the chain", Deal),
            ("StorageDealError: node error", Deal),
            ("cannot seal a sector before", Deal),
        ] {
            assert_eq!(Refusal::of_words(words), about, "{words}");
        }
    }

    #[test]
    fn a_stored_class_is_read_as_it_was_written_and_a_newer_one_never_counts() {
        for class in [Refusal::Deal, Refusal::Moment, Refusal::Trouble, Refusal::Settings, Refusal::Unknown] {
            assert_eq!(Refusal::from_stored(class.as_str()), class);
            let json = serde_json::to_string(&class).unwrap();
            assert_eq!(serde_json::from_str::<Refusal>(&json).unwrap(), class);
            assert_eq!(json, format!("\"{}\"", class.as_str()));
        }
        assert!(!serde_json::from_str::<Refusal>("\"later\"").unwrap().counts());
    }
}
