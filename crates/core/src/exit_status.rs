//! Exit statuses of the agents' commands. README, "Exit status", has the same table.

use std::process::{ExitCode, Termination};

/// How a command of an agent ended, ordered by severity: the status of several commands is the `max` of
/// theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitStatus {
    /// Everything asked for was done.
    Success,
    /// A part was done, and a part was not.
    Partly,
    /// The user can fix it: configuration, arguments, permissions, an unreadable file.
    UserError,
    /// This program failed, or a server that it needs: the node and the database alike.
    Failure,
    /// A signal ended the command before its work was done.
    Interrupted,
}

impl ExitStatus {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::UserError, Self::Failure, Self::Partly, Self::Interrupted];

    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UserError => 1,
            Self::Failure => 2,
            Self::Partly => 3,
            // 128 and the number of SIGINT, as shells count; SIGTERM ends a command alike.
            Self::Interrupted => 130,
        }
    }

    /// What the number means, in the words of the README.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done",
            Self::UserError => {
                "you can fix it: arguments, configuration, permissions, a file; the message says what"
            }
            Self::Failure => {
                "this program failed, or a server that it needs: the node or the database is away"
            }
            Self::Partly => "a part was done, and a part was not; the output says which and why",
            Self::Interrupted => {
                "a signal came before the work was done; the same command goes on (`run` and `track`: 0)"
            }
        }
    }

    /// The status of a command over many items, of which `done` succeeded and `failed` failed.
    pub fn of_counts(done: u64, failed: u64) -> Self {
        match (done, failed) {
            (_, 0) => Self::Success,
            (0, _) => Self::UserError,
            _ => Self::Partly,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

impl Termination for ExitStatus {
    fn report(self) -> ExitCode {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_status_is_the_greatest() {
        use ExitStatus::{Failure, Interrupted, Partly, Success, UserError};
        for (several, all) in [
            (&[Success, Partly][..], Partly),
            (&[Partly, UserError], UserError),
            (&[Failure, UserError, Success], Failure),
            (&[Failure, Interrupted], Interrupted),
        ] {
            assert_eq!(several.iter().copied().max(), Some(all), "{several:?}");
        }
    }

    #[test]
    fn some_of_many_is_partly() {
        for (done, failed, status) in [
            (0, 0, ExitStatus::Success),
            (7, 0, ExitStatus::Success),
            (0, 7, ExitStatus::UserError),
            (6, 1, ExitStatus::Partly),
        ] {
            assert_eq!(ExitStatus::of_counts(done, failed), status, "{done} {failed}");
        }
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../../README.md");
        for status in ExitStatus::ALL {
            let row = format!("| {} | {} |", status.code(), status.meaning());
            assert!(readme.contains(&row), "{row}");
        }
    }
}
