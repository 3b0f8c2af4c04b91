//! Refusals that say nothing of the deal: the same one may be taken tomorrow.

/// What a provider's refusal begins with, in the node's answer and in a deal's message (go-fil-markets v1.28.3
/// `storagemarket/impl/providerstates/provider_fsm.go`, `ProviderEventDealRejected`).
const REJECTED: &str = "deal rejected: ";

/// Words of providers about themselves or the client at that moment (lotus-contract §4.3).
const PASSING: [&str; 5] = [
    // The filter of deals, lotus v1.23.3 node/modules/storageminer.go:532-652: its switches for online, offline,
    // verified and unverified deals, and its limit of staging deals.
    "miner is not accepting",
    "miner is overloaded at the moment",
    // go-fil-markets v1.28.3 storagemarket/impl/providerstates/provider_states.go:66-183: the provider's node, and what
    // the client has left.
    "node error",
    "clientMarketBalance.Available too small",
    "verified deal DataCap too small",
];

/// Words of the client's node where the provider could not be reached (lotus-contract §4.2).
const UNREACHED: [&str; 2] =
    ["sending proposal to storage provider failed", "error reading Response message"];

/// Whether these words refuse a deal for a reason that passes.
pub(super) fn is_passing(words: &str) -> bool {
    let rejected = words.split_once(REJECTED);
    rejected.is_some_and(|(_, reason)| PASSING.iter().any(|words| reason.contains(words)))
        || UNREACHED.iter().any(|unreached| words.contains(unreached))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_deal_does_not_pass() {
        for (words, passes) in [
            (
                "provider returned unexpected state 11 for proposal bafy, with message: deal rejected: cannot accept deal \
                 as miner is overloaded at the moment - there are too many staging deals being processed",
                true,
            ),
            ("StorageDealError: deal rejected: miner is not accepting offline storage deals", true),
            ("deal rejected: node error getting client market balance failed: timeout", true),
            ("deal rejected: clientMarketBalance.Available too small: 1 < 2", true),
            ("deal rejected: storage price per epoch less than asking price: 0 < 1", false),
            ("deal rejected: miner has blocklisted piece CID baga", false),
            ("StorageDealError: sending proposal to storage provider failed: dial backoff", true),
            ("StorageDealError: node error", false),
        ] {
            assert_eq!(is_passing(words), passes, "{words}");
        }
    }
}
