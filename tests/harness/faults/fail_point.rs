//! Commands that fail on demand (`configureFailPoint`, `failCommand`).

use bson::{Bson, Document, doc};

use crate::ReplicaSet;

/// What happens to the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailWith<'a> {
    /// The connection is closed without an answer. The command was not run.
    CloseConnection,
    /// An error with this code and these labels is answered. The command was not run.
    Error {
        /// The error code, such as 91 (`ShutdownInProgress`).
        code: i32,
        /// The error labels, such as `RetryableWriteError`.
        labels: &'a [&'a str],
    },
    /// The command runs, and its answer carries a write concern error with this code.
    WriteConcern {
        /// The error code, such as 64 (`WriteConcernFailed`).
        code: i32,
    },
    /// The command is held back for so many milliseconds, then runs.
    Delay {
        /// For how long.
        milliseconds: i32,
    },
}

/// Which of the commands fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// The next so many.
    Next(i32),
    /// All but the next so many.
    AllAfter(i32),
    /// All.
    Always,
}

/// A fail point that is on until [`FailPoint::off`] or drop.
///
/// A mongod has only one `failCommand`, which is why it takes a set of one's own.
#[derive(Debug)]
#[must_use = "the fail point ends when it is dropped"]
pub struct FailPoint {
    set: ReplicaSet,
    member: usize,
    on: bool,
}

impl FailPoint {
    /// Makes commands of the given names fail on member `member`, for clients of any name.
    pub fn on(
        set: &ReplicaSet,
        member: usize,
        commands: &[&str],
        fail_with: FailWith<'_>,
        times: Times,
    ) -> anyhow::Result<Self> {
        Self::with_data(set, member, commands, fail_with, times, Document::new())
    }

    /// As [`FailPoint::on`], for clients that gave themselves the name `app_name` only.
    pub fn on_app(
        set: &ReplicaSet,
        member: usize,
        app_name: &str,
        commands: &[&str],
        fail_with: FailWith<'_>,
        times: Times,
    ) -> anyhow::Result<Self> {
        let data = doc! { "appName": app_name };
        Self::with_data(set, member, commands, fail_with, times, data)
    }

    fn with_data(
        set: &ReplicaSet,
        member: usize,
        commands: &[&str],
        fail_with: FailWith<'_>,
        times: Times,
        mut data: Document,
    ) -> anyhow::Result<Self> {
        data.insert("failCommands", strings(commands));
        match fail_with {
            FailWith::CloseConnection => {
                data.insert("closeConnection", true);
            }
            FailWith::Error { code, labels } => {
                data.insert("errorCode", code);
                data.insert("errorLabels", strings(labels));
            }
            FailWith::WriteConcern { code } => {
                data.insert("writeConcernError", doc! { "code": code, "errmsg": "fail point" });
            }
            FailWith::Delay { milliseconds } => {
                data.insert("blockConnection", true);
                data.insert("blockTimeMS", milliseconds);
            }
        }
        let mode: Bson = match times {
            Times::Next(times) => doc! { "times": times }.into(),
            Times::AllAfter(skipped) => doc! { "skip": skipped }.into(),
            Times::Always => "alwaysOn".into(),
        };
        let command = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        set.admin(member, command)?;
        Ok(Self { set: set.clone(), member, on: true })
    }

    /// How often the fail point has struck since the mongod started.
    pub fn strikes(&self) -> anyhow::Result<i64> {
        let command = doc! { "getParameter": 1, "failpoint.failCommand": 1 };
        let answer = self.set.admin(self.member, command)?;
        let state = answer.get_document("failpoint.failCommand")?;
        Ok(match state.get("timesEntered") {
            Some(Bson::Int64(times)) => *times,
            Some(Bson::Int32(times)) => i64::from(*times),
            other => anyhow::bail!("timesEntered is {other:?}"),
        })
    }

    /// Ends the fail point.
    pub fn off(mut self) -> anyhow::Result<()> {
        self.switch_off()
    }

    fn switch_off(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.on) {
            let command = doc! { "configureFailPoint": "failCommand", "mode": "off" };
            self.set.admin(self.member, command)?;
        }
        Ok(())
    }
}

impl Drop for FailPoint {
    fn drop(&mut self) {
        // A member that is down has forgotten its fail points.
        let _down = self.switch_off();
    }
}

fn strings(names: &[&str]) -> Vec<Bson> {
    names.iter().map(|name| Bson::from(*name)).collect()
}
