//! Writes the results of imports: the call that is about to go out, the outcome of a try, a deal that is
//! reopened. All but the last are guarded by the lease's fencing number.

use std::time::Duration;

use bson::{Document, doc};

use crate::model::ImportState;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, dead_states, from_now, object_or_nothing, one_more};
use crate::store::leases::Claim;
use crate::store::miners::written_as;
use crate::store::provider_views::ProviderView;

/// The outcome of one try to import a deal.
#[derive(Clone, Debug)]
pub enum ImportOutcome {
    /// The provider has the data: the deal is closed (`isdeal` 1).
    Done {
        /// What was handed to the provider; `None` if it had the data already.
        path: Option<String>,
    },
    /// The market was given the data, and has neither confirmed nor refused it yet.
    Handed {
        /// What was handed to the provider; `None` if it was recorded before.
        path: Option<String>,
        /// PADDED size of the piece in bytes.
        piece_bytes: u64,
        /// The pause before the market is asked again.
        after: Duration,
    },
    /// Something is missing so far; this is no failure.
    Waiting {
        /// What.
        reason: String,
        /// The pause before the next try.
        after: Duration,
        /// Names of files whose arrival ends the pause.
        files: Vec<String>,
    },
    /// A failure that may pass.
    Retrying {
        /// What failed.
        reason: String,
        /// The pause before the next try.
        after: Duration,
        /// Names of files whose arrival ends the pause.
        files: Vec<String>,
    },
    /// Failed as often as is allowed. The next try is made when an operator asks for it, or when an awaited
    /// file arrives.
    SetAside {
        /// The last failure.
        reason: String,
        /// Names of files whose arrival makes the deal due again.
        files: Vec<String>,
    },
    /// Its start epoch can no longer be met. It is never imported, and the client replaces it.
    Missed {
        /// Which epoch, by how much.
        reason: String,
    },
    /// It can never succeed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// The result of a try, with what is written beside it.
#[derive(Clone, Debug)]
pub struct Settled {
    /// To be written into the deal.
    pub outcome: ImportOutcome,
    /// The provider's view of the deal, if it changed.
    pub view: Option<ProviderView>,
    /// Whether no import call can be under way any more.
    pub is_answered: bool,
    /// Whether a file that was found for the deal is known to be another piece.
    pub is_other_piece: bool,
}

/// Whether an import call was recorded before it goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallRecord {
    /// It is recorded and may go out.
    Written,
    /// The client has given the deal up since; the lease still holds.
    GivenUp,
    /// Another agent has the deal.
    LeaseLost,
}

impl Store {
    /// Records an import call and its file before the call goes out, and renews the lease.
    pub async fn record_import_call(
        &self,
        claim: &Claim,
        path: &str,
        lease: Duration,
    ) -> Result<CallRecord, StoreError> {
        let update = vec![doc! { "$set": {
            "claim.until": from_now(lease),
            "import.path": { "$literal": path },
            "import.calledtime": { "$ifNull": ["$import.calledtime", NOW] },
            "import.pendingcall": NOW,
            "import.caller": { "$literal": claim.caller() },
            "updatedtime": NOW,
        } }];
        let mut filter = claim.filter();
        filter.insert("status", doc! { "$nin": dead_states() });
        let what = "note import call";
        if self.bounded(what, self.deals.update_one(filter, update)).await?.matched_count == 1 {
            return Ok(CallRecord::Written);
        }
        let held = self.bounded(what, self.deals.count_documents(claim.filter())).await?;
        Ok(if held == 0 { CallRecord::LeaseLost } else { CallRecord::GivenUp })
    }

    /// Writes the result of a try and releases the lease. Returns `false` if the lease was lost and nothing
    /// was written.
    pub async fn finish(&self, claim: &Claim, settled: &Settled) -> Result<bool, StoreError> {
        let update = update_of(settled);
        let result = self.bounded("finish", self.deals.update_one(claim.filter(), update)).await?;
        Ok(result.matched_count == 1)
    }

    /// Reopens a deal whose `isdeal` is wrongly 1, with the reason. Returns `false` if it is no longer 1.
    pub async fn reopen(&self, miner: &str, deal: &str, reason: &str) -> Result<bool, StoreError> {
        let filter = doc! { "dealcid": deal, "miner": written_as(miner), "isdeal": 1 };
        let update = vec![
            doc! { "$set": { "import": object_or_nothing("$import") } },
            doc! { "$set": {
                "isdeal": 0_i32,
                "import.state": ImportState::Waiting,
                "import.reason": { "$literal": reason },
                "import.putback": one_more("$import.putback"),
                "updatedtime": NOW,
            } },
            doc! { "$unset": ["import.nexttry", "import.importedtime", "import.handedtime", "claim"] },
        ];
        let result = self.bounded("put back", self.deals.update_one(filter, update)).await?;
        Ok(result.matched_count == 1)
    }
}

/// The update that writes the result of a try. It releases the lease.
pub(super) fn update_of(settled: &Settled) -> Vec<Document> {
    let Settled { outcome, view, is_answered, is_other_piece } = settled;
    let mut set = doc! { "updatedtime": NOW };
    let mut unset = vec!["claim"];
    if *is_answered {
        unset.extend(["import.pendingcall", "import.caller"]);
    }
    if let ImportOutcome::Done { path } = outcome {
        set.insert("isdeal", 1_i32);
        set.insert("import.importedtime", NOW);
        if let Some(path) = path {
            set.insert("import.path", doc! { "$literal": path });
        }
        unset.extend(["import.reason", "import.piecemismatch"]);
    }
    match outcome {
        ImportOutcome::Handed { path, piece_bytes, .. } => {
            // The first hand-over counts: a look that finds nothing new writes the pause alone.
            set.insert("import.handedtime", doc! { "$ifNull": ["$import.handedtime", NOW] });
            set.insert("import.handedbytes", i64::try_from(*piece_bytes).unwrap_or(i64::MAX));
            if let Some(path) = path {
                set.insert("import.path", doc! { "$literal": path });
            }
            unset.push("import.reason");
        }
        _ => unset.extend(["import.handedtime", "import.handedbytes"]),
    }
    set.insert("import.state", outcome.state());
    if *is_other_piece {
        set.insert("import.piecemismatch", true);
    }
    if let Some(reason) = outcome.reason() {
        set.insert("import.reason", doc! { "$literal": reason });
    }
    // A wrong file does not count as a failure of the deal, because another file may come.
    if let ImportOutcome::Retrying { .. } | ImportOutcome::SetAside { .. } = outcome
        && outcome.awaited_files().is_empty()
    {
        set.insert("import.attempts", one_more("$import.attempts"));
    }
    match outcome {
        // A pause of nothing: due at once, and not counted as a deal that has waited.
        ImportOutcome::Waiting { after: Duration::ZERO, .. }
        | ImportOutcome::Done { .. }
        | ImportOutcome::SetAside { .. }
        | ImportOutcome::Missed { .. }
        | ImportOutcome::Failed { .. } => unset.push("import.nexttry"),
        ImportOutcome::Handed { after, .. }
        | ImportOutcome::Waiting { after, .. }
        | ImportOutcome::Retrying { after, .. } => {
            set.insert("import.nexttry", from_now(*after));
        }
    }
    match outcome.awaited_files() {
        [] => unset.push("import.awaitedfiles"),
        files => {
            set.insert("import.awaitedfiles", doc! { "$literal": files });
        }
    }
    if let Some(view) = view {
        set.insert("provider", view.document());
    }
    vec![doc! { "$set": set }, doc! { "$unset": unset }]
}

impl ImportOutcome {
    /// The state that is stored.
    pub fn state(&self) -> ImportState {
        match self {
            Self::Done { .. } => ImportState::Done,
            Self::Handed { .. } => ImportState::Handed,
            Self::Waiting { .. } => ImportState::Waiting,
            Self::Retrying { .. } => ImportState::Retrying,
            Self::SetAside { .. } => ImportState::SetAside,
            Self::Missed { .. } => ImportState::Missed,
            Self::Failed { .. } => ImportState::Failed,
        }
    }

    /// Why the deal is not imported; `None` if it is.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Done { .. } | Self::Handed { .. } => None,
            Self::Waiting { reason, .. }
            | Self::Retrying { reason, .. }
            | Self::SetAside { reason, .. }
            | Self::Missed { reason }
            | Self::Failed { reason } => Some(reason),
        }
    }

    /// Whether the deal is not imported and no try follows.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::SetAside { .. } | Self::Missed { .. } | Self::Failed { .. })
    }

    /// Names of files whose arrival makes the deal due.
    pub fn awaited_files(&self) -> &[String] {
        match self {
            Self::Waiting { files, .. } | Self::Retrying { files, .. } | Self::SetAside { files, .. } => {
                files
            }
            Self::Done { .. } | Self::Handed { .. } | Self::Missed { .. } | Self::Failed { .. } => &[],
        }
    }
}
