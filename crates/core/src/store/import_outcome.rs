//! What becomes of an import: the call that is about to go out, the outcome of a try, a deal that is opened
//! again. Each is written behind the lease's fencing number, except that a deal is opened again without one.

use std::time::Duration;

use bson::doc;

use crate::model::ImportState;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, dead_states, from_now, object_or_nothing, one_more};
use crate::store::leases::Claim;
use crate::store::miners::written_as;
use crate::store::provider_views::ProviderView;

/// What one try at a deal came to.
#[derive(Clone, Debug)]
pub enum ImportOutcome {
    /// The provider has the data: the deal is closed (`isdeal` 1).
    Done {
        /// What was handed to the provider; `None` if it had the data already.
        path: Option<String>,
    },
    /// Something is not there yet; no failure.
    Waiting {
        /// What.
        reason: String,
        /// When to look again.
        after: Duration,
        /// Names of files whose arrival is worth a look before that.
        files: Vec<String>,
    },
    /// A failure that may pass.
    Retrying {
        /// What failed.
        reason: String,
        /// When to try again.
        after: Duration,
        /// Names of files whose arrival is worth a try before that.
        files: Vec<String>,
    },
    /// Failed as often as is allowed: not tried again before a person, or a file that arrives, asks for it.
    SetAside {
        /// The last failure.
        reason: String,
        /// Names of files whose arrival is worth another try.
        files: Vec<String>,
    },
    /// Its start epoch can no longer be met: never going to be imported, and replaced by the client.
    Missed {
        /// Which epoch, by how much.
        reason: String,
    },
    /// Never going to succeed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What becomes of a deal, and what is written beside it.
#[derive(Clone, Debug)]
pub struct Settled {
    /// To be written into the deal.
    pub outcome: ImportOutcome,
    /// What the provider says of the deal, where that is news.
    pub view: Option<ProviderView>,
    /// Whether no import call can be under way any more.
    pub is_answered: bool,
    /// Whether a file in the deal's place is known to be another piece.
    pub is_other_piece: bool,
}

/// Whether an import call was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It may go out.
    Yes,
    /// The client has given the deal up since; the lease still holds.
    GivenUp,
    /// Another agent has the deal.
    LeaseLost,
}

impl Store {
    /// Notes, before the import call goes out, that it does and with which file; lengthens the lease.
    pub async fn record_import_call(
        &self,
        claim: &Claim,
        path: &str,
        lease: Duration,
    ) -> Result<Noted, StoreError> {
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
            return Ok(Noted::Yes);
        }
        let held = self.bounded(what, self.deals.count_documents(claim.filter())).await?;
        Ok(if held == 0 { Noted::LeaseLost } else { Noted::GivenUp })
    }

    /// Writes what became of a deal and gives the lease back. `false`: the lease was lost, nothing was
    /// written.
    pub async fn finish(&self, claim: &Claim, settled: &Settled) -> Result<bool, StoreError> {
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
        set.insert("import.state", outcome.state());
        if *is_other_piece {
            set.insert("import.piecemismatch", true);
        }
        if let Some(reason) = outcome.reason() {
            set.insert("import.reason", doc! { "$literal": reason });
        }
        // A wrong file is no failure of the deal: another one may come.
        if let ImportOutcome::Retrying { .. } | ImportOutcome::SetAside { .. } = outcome
            && outcome.awaited_files().is_empty()
        {
            set.insert("import.attempts", one_more("$import.attempts"));
        }
        match outcome {
            // Due at once, and not one of those that have waited.
            ImportOutcome::Waiting { after: Duration::ZERO, .. } => unset.push("import.nexttry"),
            ImportOutcome::Waiting { after, .. } | ImportOutcome::Retrying { after, .. } => {
                set.insert("import.nexttry", from_now(*after));
            }
            _ => unset.push("import.nexttry"),
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
        let update = vec![doc! { "$set": set }, doc! { "$unset": unset }];
        let result = self.bounded("finish", self.deals.update_one(claim.filter(), update)).await?;
        Ok(result.matched_count == 1)
    }

    /// Puts a deal back to pending whose `isdeal` said 1 without truth, and says why. `false`: it does not
    /// say so any more.
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
            doc! { "$unset": ["import.nexttry", "import.importedtime", "claim"] },
        ];
        let result = self.bounded("put back", self.deals.update_one(filter, update)).await?;
        Ok(result.matched_count == 1)
    }
}

impl ImportOutcome {
    /// The state that is stored.
    pub fn state(&self) -> ImportState {
        match self {
            Self::Done { .. } => ImportState::Done,
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
            Self::Done { .. } => None,
            Self::Waiting { reason, .. }
            | Self::Retrying { reason, .. }
            | Self::SetAside { reason, .. }
            | Self::Missed { reason }
            | Self::Failed { reason } => Some(reason),
        }
    }

    /// Whether nothing is tried any more, and the deal is not imported.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::SetAside { .. } | Self::Missed { .. } | Self::Failed { .. })
    }

    /// Names of files whose arrival changes the matter.
    pub fn awaited_files(&self) -> &[String] {
        match self {
            Self::Waiting { files, .. } | Self::Retrying { files, .. } | Self::SetAside { files, .. } => {
                files
            }
            Self::Done { .. } | Self::Missed { .. } | Self::Failed { .. } => &[],
        }
    }
}
