//! What keeps the next deal from being handed over: the calls and deals that a market has in hand, their
//! bytes, deals that wait for a sector, and the hours of the day.
//!
//! All are read from the database, so they count for every agent of the miner, and after a restart.

use std::time::Duration;

use carferry_core::store::{HandedTotals, StoreError};

use crate::import::ImportContext;

/// Why no deal is handed over while no limit but `setting.importsPerMiner` is reached.
pub const IN_HAND: &str = "the market has as many in hand, of any process, as setting.importsPerMiner allows";

/// What a market has in hand of this miner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InHand {
    /// Import calls of other processes, or deals that were handed over; each takes a call slot.
    pub calls: usize,
    /// The limit that is reached, in words.
    pub limit: Option<String>,
    /// How long the limit holds at least, where that is known.
    pub holds_for: Option<Duration>,
}

impl ImportContext {
    /// What the market has in hand, beside the calls of `caller`, and whether a limit is reached.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn in_hand(&self, caller: &str) -> Result<InHand, StoreError> {
        let (setting, store, miner) = (&self.setting, &self.store, self.market.miner());
        let counts_handed = self.market.reads_later() || setting.handed_bytes_max.is_some();
        let handed = if counts_handed { store.handed_totals(miner).await? } else { HandedTotals::default() };
        let calls = self.calls_of_others(caller, handed.deals).await?;
        let limited = |limit, holds_for| Ok(InHand { calls, limit: Some(limit), holds_for });
        if let Some(hours) = setting.import_hours {
            let now = store.server_time().await?.timestamp_millis();
            if let Some(left) = hours.begin_in(now) {
                return limited(
                    format!("data is handed over from {hours} (setting.importHours)"),
                    Some(left),
                );
            }
        }
        if setting.handed_bytes_max.is_some_and(|most| handed.bytes >= most) {
            let gib = handed.bytes >> 30;
            return limited(
                format!("the market checks {gib} GiB that it was given (setting.handedBytesMax)"),
                None,
            );
        }
        if let Some(most) = setting.waiting_for_sector_max {
            let deals = store.waiting_for_sector(miner).await?;
            if deals >= most {
                return limited(
                    format!("{deals} imported deals wait for a sector (setting.waitingForSectorMax)"),
                    None,
                );
            }
        }
        Ok(InHand { calls, limit: None, holds_for: None })
    }
}
