//! Storage deal states of Lotus: numbers, names, descriptions.
//!
//! What lives here: the table of `lotus-contract` §4.1. What does not: the transitions (`provider`,
//! `client`).

/// Declares the states once: variant, number, description.
macro_rules! states {
    ($($variant:ident = $code:literal, $description:literal;)*) => {
        /// State of a storage deal, as both sides number it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u64)]
        pub enum DealState {
            $(#[doc = concat!("`StorageDeal", stringify!($variant), "`, number ", stringify!($code), ".")] $variant = $code,)*
        }

        impl DealState {
            /// Every state, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the wire, `StorageDealActive`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => concat!("StorageDeal", stringify!($variant)),)* }
            }

            /// Its description in `DealStages`.
            pub fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }

            /// The state of a number.
            pub fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

states! {
    Unknown = 0, "Unknown";
    ProposalNotFound = 1, "Proposal not found";
    ProposalRejected = 2, "Proposal rejected";
    ProposalAccepted = 3, "Proposal accepted";
    Staged = 4, "Staged";
    Sealing = 5, "Sealing";
    Finalizing = 6, "Finalizing";
    Active = 7, "Active";
    Expired = 8, "Expired";
    Slashed = 9, "Slashed";
    Rejecting = 10, "Rejecting";
    Failing = 11, "Failing";
    FundsReserved = 12, "FundsReserved";
    CheckForAcceptance = 13, "Checking for deal acceptance";
    Validating = 14, "Validating";
    AcceptWait = 15, "AcceptWait";
    StartDataTransfer = 16, "Starting data transfer";
    Transferring = 17, "Transferring";
    WaitingForData = 18, "Waiting for data";
    VerifyData = 19, "Verifying data";
    ReserveProviderFunds = 20, "Reserving provider funds";
    ReserveClientFunds = 21, "Reserving client funds";
    ProviderFunding = 22, "Provider funding";
    ClientFunding = 23, "Client funding";
    Publish = 24, "Publish";
    Publishing = 25, "Publishing";
    Error = 26, "Error";
    ProviderTransferAwaitRestart = 27, "ProviderTransferAwaitRestart";
    ClientTransferRestart = 28, "Client transfer restart";
    AwaitingPreCommit = 29, "Awaiting a PreCommit message on chain";
    TransferQueued = 30, "";
}

impl DealState {
    /// Its number on the wire.
    pub fn code(self) -> u64 {
        self as u64
    }

    /// Whether the state machine of either side has ended (§4.1: Error, Slashed, Expired).
    pub fn is_final(self) -> bool {
        matches!(self, Self::Error | Self::Slashed | Self::Expired)
    }

    /// Whether the client reads this provider state as an accepted deal (§4.2; Finalizing is not in Lotus'
    /// list).
    pub(crate) fn means_accepted(self) -> bool {
        matches!(
            self,
            Self::Staged
                | Self::AwaitingPreCommit
                | Self::Sealing
                | Self::Active
                | Self::Expired
                | Self::Slashed
        )
    }

    /// Whether the deal is lost at the provider.
    pub(crate) fn means_failed(self) -> bool {
        matches!(self, Self::Failing | Self::Error)
    }

    /// Whether its sector is committed on chain.
    pub(crate) fn is_past_precommit(self) -> bool {
        matches!(self, Self::Sealing | Self::Finalizing | Self::Active | Self::Expired | Self::Slashed)
    }
}

impl serde::Serialize for DealState {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::DealState;

    #[test]
    fn numbers_names_and_order_agree() {
        for (index, state) in DealState::ALL.iter().enumerate() {
            assert_eq!(state.code(), u64::try_from(index).unwrap());
            assert_eq!(DealState::from_code(state.code()), Some(*state));
        }
        assert_eq!(DealState::Active.code(), 7);
        assert_eq!(DealState::AwaitingPreCommit.name(), "StorageDealAwaitingPreCommit");
        assert_eq!(DealState::from_code(31), None);
    }
}
