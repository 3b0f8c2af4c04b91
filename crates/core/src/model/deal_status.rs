//! Deal states: Lotus' numbers and names, and the phase of a deal that each state belongs to.

use std::fmt;

/// A deal state number as Lotus counts them, the same since go-fil-markets v1.0.11.
/// Source: go-fil-markets v1.28.3 `storagemarket/dealstatus.go`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DealStatus(u64);

/// The phase of a deal's life that a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DealPhase {
    /// Proposed, and not yet past the point where the provider waits for the data.
    Proposed,
    /// The provider waits for the data: the one state in which an import has an effect.
    AwaitsData,
    /// The provider has the data and works on it.
    Progressing,
    /// Sealed and on chain.
    Active,
    /// Ran to its end.
    Expired,
    /// Failing or failed; never recovers.
    Failed,
}

const NAMES: [&str; 31] = [
    "StorageDealUnknown",
    "StorageDealProposalNotFound",
    "StorageDealProposalRejected",
    "StorageDealProposalAccepted",
    "StorageDealStaged",
    "StorageDealSealing",
    "StorageDealFinalizing",
    "StorageDealActive",
    "StorageDealExpired",
    "StorageDealSlashed",
    "StorageDealRejecting",
    "StorageDealFailing",
    "StorageDealFundsReserved",
    "StorageDealCheckForAcceptance",
    "StorageDealValidating",
    "StorageDealAcceptWait",
    "StorageDealStartDataTransfer",
    "StorageDealTransferring",
    "StorageDealWaitingForData",
    "StorageDealVerifyData",
    "StorageDealReserveProviderFunds",
    "StorageDealReserveClientFunds",
    "StorageDealProviderFunding",
    "StorageDealClientFunding",
    "StorageDealPublish",
    "StorageDealPublishing",
    "StorageDealError",
    "StorageDealProviderTransferAwaitRestart",
    "StorageDealClientTransferRestart",
    "StorageDealAwaitingPreCommit",
    "StorageDealTransferQueued",
];

impl DealStatus {
    /// Before anything is known.
    pub const UNKNOWN: Self = Self(0);
    /// `StorageDealSealing`: the data is in a sector, which is being sealed.
    pub const SEALING: Self = Self(5);
    /// Sealed and on chain.
    pub const ACTIVE: Self = Self(7);
    /// Ran to its end.
    pub const EXPIRED: Self = Self(8);
    /// Slashed.
    pub const SLASHED: Self = Self(9);
    /// The provider waits for the data of an offline deal.
    pub const WAITING_FOR_DATA: Self = Self(18);
    /// Failed for good.
    pub const ERROR: Self = Self(26);
    /// States that count as failed and never recover (lotus-contract §4.1): not found, rejected, slashed,
    /// rejecting, failing, error. A deal in one of them is no replica.
    pub const FAILED: [Self; 6] = [Self(1), Self(2), Self::SLASHED, Self(10), Self(11), Self::ERROR];
    /// Final states: Lotus' own state machine stops in them.
    pub const FINAL: [Self; 3] = [Self::EXPIRED, Self::SLASHED, Self::ERROR];

    /// From Lotus' number.
    pub const fn from_lotus(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As stored.
    pub fn stored(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// Lotus' name, as `ClientGetDealStatus` gives it; numbers beyond the known ones keep their number.
    pub fn name(self) -> String {
        usize::try_from(self.0)
            .ok()
            .and_then(|index| NAMES.get(index))
            .map_or_else(|| format!("StorageDealState{}", self.0), |name| (*name).to_owned())
    }

    /// The phase of the state, the same for provider and client.
    pub fn phase(self) -> DealPhase {
        match self.0 {
            18 => DealPhase::AwaitsData,
            3 | 4 | 5 | 6 | 19 | 20 | 22 | 24 | 25 | 29 => DealPhase::Progressing,
            7 => DealPhase::Active,
            8 => DealPhase::Expired,
            1 | 2 | 9 | 10 | 11 | 26 => DealPhase::Failed,
            _ => DealPhase::Proposed,
        }
    }

    /// Whether the state can still change (an active deal still expires or is slashed).
    pub fn is_final(self) -> bool {
        Self::FINAL.contains(&self)
    }

    /// Whether the deal counts as a replica: it is active or may become so.
    pub fn is_live(self) -> bool {
        !matches!(self.phase(), DealPhase::Failed | DealPhase::Expired)
    }
}

impl fmt::Display for DealStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        for (number, name) in [
            (0, "StorageDealUnknown"),
            (7, "StorageDealActive"),
            (18, "StorageDealWaitingForData"),
            (26, "StorageDealError"),
            (29, "StorageDealAwaitingPreCommit"),
            (30, "StorageDealTransferQueued"),
            (99, "StorageDealState99"),
        ] {
            assert_eq!(DealStatus::from_lotus(number).name(), name);
        }
    }

    #[test]
    fn failed_and_expired_deals_are_no_replicas() {
        for number in 0..=30 {
            let dead = [1, 2, 8, 9, 10, 11, 26].contains(&number);
            assert_eq!(DealStatus::from_lotus(number).is_live(), !dead, "{number}");
        }
    }

    #[test]
    fn only_one_state_awaits_data() {
        let awaiting: Vec<u64> = (0..=40)
            .filter(|number| DealStatus::from_lotus(*number).phase() == DealPhase::AwaitsData)
            .collect();
        assert_eq!(awaiting, [18]);
    }
}
