//! Funds that imports reserve until their deals are published.
//!
//! Source: boost v2.5.2 `fundmanager/fundmanager.go` and `db/funds.go`: rows have no unique key, so a second
//! import of a deal adds a second row, and untagging reads the first row and deletes all rows of the deal.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::record::unix_millis;

/// One line of the funds' log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FundsLog {
    /// The deal.
    pub uuid: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Amount in attoFIL.
    pub amount: u128,
    /// What happened, in Boost's words.
    pub text: String,
    #[serde(skip)]
    pub(crate) at: SystemTime,
}

/// One row of `FundsTagged`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag {
    collateral: u128,
    publish: u128,
}

#[derive(Debug)]
pub(crate) struct Funds {
    escrow: u128,
    publish_wallet: u128,
    publish_message_tag: u128,
    rows: HashMap<usize, Vec<Tag>>,
    tagged: Tag,
    log: Vec<FundsLog>,
}

/// What GraphQL's `funds` shows, in attoFIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balances {
    pub(crate) escrow: u128,
    pub(crate) escrow_tagged: u128,
    pub(crate) publish_wallet: u128,
    pub(crate) publish_tagged: u128,
}

/// Funds do not suffice for a deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Insufficient;

impl Funds {
    pub(crate) fn new(escrow: u128, publish_wallet: u128, publish_message_tag: u128) -> Self {
        Self {
            escrow,
            publish_wallet,
            publish_message_tag,
            rows: HashMap::new(),
            tagged: Tag { collateral: 0, publish: 0 },
            log: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, escrow: u128, publish_wallet: u128) {
        (self.escrow, self.publish_wallet) = (escrow, publish_wallet);
    }

    pub(crate) fn balances(&self) -> Balances {
        Balances {
            escrow: self.escrow,
            escrow_tagged: self.tagged.collateral,
            publish_wallet: self.publish_wallet,
            publish_tagged: self.tagged.publish,
        }
    }

    /// Adds a row for a deal.
    pub(crate) fn tag(&mut self, deal: usize, uuid: &str, collateral: u128) -> Result<(), Insufficient> {
        let publish = self.publish_message_tag;
        if self.escrow.saturating_sub(self.tagged.collateral) < collateral
            || self.publish_wallet.saturating_sub(self.tagged.publish) < publish
        {
            return Err(Insufficient);
        }
        self.rows.entry(deal).or_default().push(Tag { collateral, publish });
        self.tagged.collateral += collateral;
        self.tagged.publish += publish;
        let now = SystemTime::now();
        self.note(now, uuid, collateral, "Tag funds for collateral");
        self.note(now, uuid, publish, "Tag funds for deal publish message");
        Ok(())
    }

    /// Deletes all rows of a deal. Only the first row's amount reaches the log.
    pub(crate) fn untag(&mut self, deal: usize, uuid: &str) {
        let Some(rows) = self.rows.remove(&deal) else { return };
        for row in &rows {
            self.tagged.collateral -= row.collateral;
            self.tagged.publish -= row.publish;
        }
        if let Some(first) = rows.first() {
            self.note(SystemTime::now(), uuid, first.collateral + first.publish, "Untag funds for deal");
        }
    }

    /// Number of rows of a deal.
    pub(crate) fn rows_of(&self, deal: usize) -> usize {
        self.rows.get(&deal).map_or(0, Vec::len)
    }

    /// The log, newest first; lines of the same time in the order of their rows.
    pub(crate) fn log_backwards(&self) -> impl Iterator<Item = &FundsLog> {
        self.log.chunk_by(|one, other| one.at == other.at).rev().flatten()
    }

    /// The log, oldest first.
    pub(crate) fn log(&self) -> &[FundsLog] {
        &self.log
    }

    fn note(&mut self, at: SystemTime, uuid: &str, amount: u128, text: &str) {
        self.log.push(FundsLog {
            uuid: uuid.to_owned(),
            at_ms: unix_millis(at),
            amount,
            text: text.to_owned(),
            at,
        });
    }
}
