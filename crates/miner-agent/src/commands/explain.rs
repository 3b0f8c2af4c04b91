//! `status DEALCID` and `retry`: everything that is recorded of one deal.

use std::fmt::Write as _;

use carferry_core::model::{ImportState, OfflineDealDoc};
use carferry_core::store::{Store, StoreError};
use serde::Serialize;

use crate::commands::status;
use crate::commands::status::PendingLine;

/// A deal in full.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// The proposal CID that was asked for.
    pub deal: String,
    /// Where the deal stands, in one sentence.
    pub verdict: String,
    /// The deal in the queue, while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingLine>,
    /// The record; nothing if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<OfflineDealDoc>,
    /// Fields of the record that cannot be read.
    pub unreadable: Vec<String>,
    /// Where its CAR is recorded to be.
    pub cars: Vec<String>,
}

/// Reads all there is of a deal.
///
/// # Errors
///
/// When the database does not answer.
pub async fn explain(store: &Store, miners: &[String], proposal_cid: &str) -> Result<Explained, StoreError> {
    let Some((record, unreadable)) = store.deal_by_cid(proposal_cid).await? else {
        let database = store.database_name();
        let verdict = format!("no deal with this proposal CID is recorded in the database `{database}`");
        return Ok(Explained {
            deal: proposal_cid.to_owned(),
            verdict,
            pending: None,
            record: None,
            unreadable: Vec::new(),
            cars: Vec::new(),
        });
    };
    let states = status::states(store, miners).await?;
    let agent = status::agent_line(&states, record.miner.as_deref().unwrap_or_default());
    let line = status::line(&record, store.server_time().await?, Some(&agent));
    let cars = match &record.filecid {
        Some(payload_cid) => store.cars_of_payload(payload_cid).await?,
        None => Vec::new(),
    };
    let cars = cars.iter().filter_map(|car| {
        Some(format!(
            "{} on {}",
            car.outputpath.as_deref()?,
            car.host.as_deref().unwrap_or("an unnamed host")
        ))
    });
    Ok(Explained {
        deal: proposal_cid.to_owned(),
        verdict: verdict(&record, &line, miners),
        pending: (record.isdeal != Some(1)).then_some(line),
        cars: cars.collect(),
        record: Some(record),
        unreadable,
    })
}

fn verdict(deal: &OfflineDealDoc, line: &PendingLine, miners: &[String]) -> String {
    let miner = deal.miner.as_deref().unwrap_or("no miner");
    if !is_one_of(miner, miners) {
        return format!(
            "it is a deal of {miner}, which is none of the configured miners ({})",
            miners.join(", ")
        );
    }
    let import = deal.import.as_ref();
    if deal.isdeal == Some(1) {
        let time = import.and_then(|import| import.importedtime?.try_to_rfc3339_string().ok());
        return match time {
            Some(time) => format!("it was imported at {time}"),
            None => "it is imported".to_owned(),
        };
    }
    if deal.isdeal != Some(0) {
        return "`isdeal` is neither 0 nor 1: nobody imports it".to_owned();
    }
    match &line.reason {
        Some(reason) => format!("{}: {reason}", line.state),
        None if line.state == "working" => "an agent works on it".to_owned(),
        None => format!("{}: no agent has looked at it yet", line.state),
    }
}

/// Why `retry` changed nothing of this deal.
pub fn why_not_retried(explained: &Explained, miners: &[String]) -> String {
    let Some(record) = &explained.record else { return explained.verdict.clone() };
    let is_configured = is_one_of(record.miner.as_deref().unwrap_or_default(), miners);
    match record.import.as_ref().map(|import| import.state) {
        Some(ImportState::Missed) if is_configured && record.isdeal == Some(0) => format!(
            "its start epoch cannot be met any more, and another try would not change that; client-agent replaces \
             it ({})",
            explained.verdict
        ),
        None if is_configured && record.isdeal == Some(0) => "it is due already".to_owned(),
        _ => explained.verdict.clone(),
    }
}

fn is_one_of(miner: &str, miners: &[String]) -> bool {
    miners.iter().any(|own| status::is_same(own, miner))
}

impl Explained {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.deal, self.verdict);
        let mut tell = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                let _infallible = writeln!(text, "  {name:<18} {value}");
            }
        };
        let time = |time: Option<bson::DateTime>| time.and_then(|time| time.try_to_rfc3339_string().ok());
        let words = |number: Option<i64>, words: Option<&String>| {
            Some(format!("{} {}", number?, words.map_or("", String::as_str)).trim_end().to_owned())
        };
        if let Some(record) = &self.record {
            tell("miner", record.miner.clone());
            tell("payload CID", record.filecid.clone());
            tell("piece CID", record.piececid.clone());
            tell("start epoch", record.startepoch.map(|epoch| epoch.to_string()));
            tell("recorded", time(record.createdtime));
            tell("client says", words(record.status, record.statusmsg.as_ref()));
            if let Some(view) = &record.provider {
                tell("provider says", words(view.status, view.statusname.as_ref()));
                tell("provider's words", view.message.clone());
            }
            if let Some(import) = &record.import {
                tell("failed tries", import.attempts.map(|tries| tries.to_string()));
                tell("file", import.path.clone());
                tell("first call", time(import.calledtime));
                tell("call under way", time(import.pendingcall));
                tell("waits for a file", Some(import.awaitedfiles.join(", ")));
            }
        }
        if let Some(pending) = &self.pending {
            tell("next try", pending.next_try.clone());
            tell("agent", pending.owner.clone());
        }
        tell("cannot be read", Some(self.unreadable.join(", ")));
        for car in &self.cars {
            tell("CAR", Some(car.clone()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use carferry_core::model::ImportDoc;

    use super::*;

    fn explained(miner: &str, isdeal: i64, state: Option<ImportState>) -> Explained {
        let import =
            state.map(|state| ImportDoc { state, reason: Some("why".to_owned()), ..ImportDoc::default() });
        let (miner, isdeal) = (Some(miner.to_owned()), Some(isdeal));
        let record = OfflineDealDoc { miner, isdeal, import, ..OfflineDealDoc::default() };
        let line = status::line(&record, bson::DateTime::from_millis(0), None);
        let verdict = verdict(&record, &line, &["f01000".to_owned()]);
        Explained {
            deal: "bafyreia".to_owned(),
            verdict,
            pending: Some(line),
            record: Some(record),
            unreadable: vec!["price".to_owned()],
            cars: vec!["/out/a.car on box1".to_owned()],
        }
    }

    #[test]
    fn a_deal_that_is_not_retried_says_why() {
        let miners = ["f01000".to_owned()];
        for (explained, why) in [
            (explained("f01001", 0, None), "none of the configured miners"),
            (explained("f01000", 1, Some(ImportState::Done)), "it is imported"),
            (explained("t01000", 0, Some(ImportState::Missed)), "its start epoch cannot be met any more"),
            (explained("f01000", 0, None), "it is due already"),
            (Explained { record: None, verdict: "unknown".to_owned(), ..explained("x", 0, None) }, "unknown"),
        ] {
            let told = why_not_retried(&explained, &miners);
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn a_deal_is_explained_on_one_screen() {
        let text = explained("f01000", 0, Some(ImportState::Waiting)).text();
        for part in [
            "bafyreia: waiting: why\n",
            "miner              f01000",
            "cannot be read     price",
            "/out/a.car",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
