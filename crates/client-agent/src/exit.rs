//! The error that ends a command: its report for people, and the exit status.

use std::error::Error;
use std::fmt;

use carferry_core::config::ConfigError;
use carferry_core::error_chain::{Hint, Report};
use carferry_core::printer::ExitStatus;
use carferry_core::rpc::RpcError;
use carferry_core::store::StoreError;

/// A command that cannot go on.
#[derive(Debug)]
pub(crate) struct CommandError {
    report: String,
    status: ExitStatus,
}

impl CommandError {
    /// Something the user can fix.
    pub(crate) fn user<E: Hint + 'static>(error: &E) -> Self {
        Self { report: Report::of(error).to_string(), status: ExitStatus::UserError }
    }

    /// Something the user can fix, with a hint found here.
    pub(crate) fn user_hint(error: &(dyn Error + 'static), hint: impl Into<String>) -> Self {
        let report = Report::with_hint(error, Some(hint.into())).to_string();
        Self { report, status: ExitStatus::UserError }
    }

    /// This program, or a server that it needs, failed.
    pub(crate) fn failure(error: &(dyn Error + 'static)) -> Self {
        Self { report: Report::with_hint(error, None).to_string(), status: ExitStatus::Failure }
    }

    /// A server that this program needs is there, but not ready.
    pub(crate) fn failure_hint(error: &(dyn Error + 'static), hint: Option<String>) -> Self {
        Self { report: Report::with_hint(error, hint).to_string(), status: ExitStatus::Failure }
    }

    /// The same words, where a signal is why it ended.
    #[must_use]
    pub(crate) fn interrupted(self) -> Self {
        Self { status: ExitStatus::Interrupted, ..self }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> ExitStatus {
        self.status
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::user(&error)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        let status = if error.is_permanent() { ExitStatus::UserError } else { ExitStatus::Failure };
        Self { report: Report::of(&error).to_string(), status }
    }
}

impl From<RpcError> for CommandError {
    fn from(error: RpcError) -> Self {
        let status = if error.is_permanent() { ExitStatus::UserError } else { ExitStatus::Failure };
        Self { report: Report::of(&error).to_string(), status }
    }
}

/// Standard output or standard error cannot be written.
impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self::failure(&error)
    }
}
