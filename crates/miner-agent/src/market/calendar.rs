//! Mainnet's calendar: the height of the chain by the clock, where no full node is configured, and for which
//! deals it holds.
//!
//! A deal that is taken for missed is given up, so the calendar is used for mainnet only. The letter of a
//! miner (`f` or `t`) in a configuration or a record proves nothing: people write either. The market node's
//! own letter does. The start of an accepted deal does too, because a provider accepts no start that has
//! passed: a start that mainnet had passed by then was agreed on another network.

use bson::DateTime;
use carferry_core::model::ChainEpoch;
use carferry_core::model::address::Network;

/// The time and the start epoch of a deal that its provider accepted, or was asked to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The earliest known time of the agreement.
    pub at: Option<DateTime>,
    /// Epoch by which it must be sealed.
    pub start: ChainEpoch,
}

/// Why mainnet's calendar does not tell the height of a market's chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCalendar {
    /// The node has not identified itself.
    #[error("the market node has not told which network it is on")]
    NetworkUnknown,
    /// It prints addresses as `t…`.
    #[error("the market node prints addresses of a test network (t…)")]
    TestNetwork,
    /// The age of the deal is not known, so nothing shows that it is one of mainnet.
    #[error("nothing tells when the deal that starts at epoch {start} was agreed on")]
    AgeUnknown {
        /// The deal's.
        start: ChainEpoch,
    },
    /// A start that mainnet had passed when it was agreed on.
    #[error(
        "a deal that was agreed on at {at} starts at epoch {start}, and mainnet was at {mainnet} by then: this is another \
         network"
    )]
    StartHadPassed {
        /// When it was agreed on.
        at: String,
        /// The deal's start.
        start: ChainEpoch,
        /// Mainnet's height at that time.
        mainnet: ChainEpoch,
    },
}

impl NoCalendar {
    /// Whether the reason holds for all deals of the market.
    pub fn is_about_the_network(&self) -> bool {
        matches!(self, Self::TestNetwork | Self::StartHadPassed { .. })
    }
}

/// Whether mainnet's calendar tells the height of the chain on which this was agreed.
///
/// # Errors
///
/// [`NoCalendar`]; the height is unknown then.
pub fn holds(network: Option<Network>, agreed: Agreed) -> Result<(), NoCalendar> {
    match network {
        None => return Err(NoCalendar::NetworkUnknown),
        Some(Network::Test) => return Err(NoCalendar::TestNetwork),
        Some(Network::Main) => {}
    }
    let start = agreed.start;
    // Go writes the year 1 for "never".
    let at = agreed.at.map(|at| (at, ChainEpoch::mainnet_at(at.timestamp_millis() / 1000)));
    match at.filter(|(_, mainnet)| *mainnet > ChainEpoch::new(0)) {
        None => Err(NoCalendar::AgeUnknown { start }),
        Some((at, mainnet)) if mainnet >= start => {
            let at = at.try_to_rfc3339_string().unwrap_or_default();
            Err(NoCalendar::StartHadPassed { at, start, mainnet })
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(at: &str, start: i64) -> Agreed {
        Agreed { at: DateTime::parse_rfc3339_str(at).ok(), start: ChainEpoch::new(start) }
    }

    #[test]
    fn the_calendar_holds_for_what_mainnet_could_have_accepted() {
        // Mainnet stood at 3 602 340 by then.
        let noon = "2024-01-27T17:30:00Z";
        let mainnet = Some(Network::Main);
        assert_eq!(holds(mainnet, agreed(noon, 3_610_000)), Ok(()));
        for (network, agreed, reason) in [
            (mainnet, agreed(noon, 5_001), "another network"),
            (mainnet, agreed(noon, 3_602_340), "another network"),
            (Some(Network::Test), agreed(noon, 3_610_000), "test network"),
            (None, agreed(noon, 3_610_000), "has not told"),
            (mainnet, agreed("0001-01-01T00:00:00Z", 3_610_000), "when the deal"),
            (mainnet, agreed("", 3_610_000), "when the deal"),
        ] {
            let refused = holds(network, agreed).unwrap_err();
            assert!(refused.to_string().contains(reason), "{agreed:?}: {refused}");
        }
    }
}
