//! Health checks of the command `doctor`: their results, and the checks of the shared database that both
//! agents make.

use std::time::Duration;

use serde::Serialize;

use crate::error_chain::{ErrorChain, Hint as _, below};
use crate::exit_status::ExitStatus;
use crate::rpc::RpcError;
use crate::rpc::endpoint::Endpoint;
use crate::runtime::clock;
use crate::store::{IndexUser, MADE_AT_START, Store, StoreError};
use crate::words::counted;

/// How grave the result of a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good.
    Ok,
    /// Works for now, or cannot be known.
    Warn,
    /// The agent cannot work.
    Fail,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked: `mongodb`, `market f01000`, `root /mnt/cars`.
    pub name: String,
    /// How grave the result is.
    pub state: Severity,
    /// What was found.
    pub detail: String,
    /// What can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit status that this check gives the command.
    #[serde(skip)]
    pub status: ExitStatus,
}

/// Width of the column of names. A longer name shifts only its own line.
const NAME_COLUMNS: usize = 12;

impl Check {
    /// A good one.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, Severity::Ok, detail, None, ExitStatus::Success)
    }

    /// One to look after.
    pub fn warn(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(name, Severity::Warn, detail, Some(hint.into()), ExitStatus::Success)
    }

    /// A bad one that the user can fix.
    pub fn fail(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(name, Severity::Fail, detail, Some(hint.into()), ExitStatus::UserError)
    }

    /// A failed database call.
    pub fn database(name: impl Into<String>, error: &StoreError) -> Self {
        Self::of_error(name, ErrorChain(error).to_string(), error.hint(), error.is_permanent())
    }

    /// A failed call to a node.
    pub fn lotus(name: impl Into<String>, error: &RpcError) -> Self {
        Self::of_error(name, ErrorChain(error).to_string(), error.hint(), error.is_permanent())
    }

    /// A failed call, which either the user can fix or the server must recover from.
    pub fn of_error(
        name: impl Into<String>,
        detail: impl Into<String>,
        hint: Option<String>,
        users_to_fix: bool,
    ) -> Self {
        let status = if users_to_fix { ExitStatus::UserError } else { ExitStatus::Failure };
        Self::new(name, Severity::Fail, detail, hint, status)
    }

    fn new(
        name: impl Into<String>,
        state: Severity,
        detail: impl Into<String>,
        hint: Option<String>,
        status: ExitStatus,
    ) -> Self {
        Self { name: name.into(), state, detail: detail.into(), hint, status }
    }

    /// For people: a line, and a second one with the hint.
    pub fn lines(&self) -> String {
        let state = match self.state {
            Severity::Ok => "ok",
            Severity::Warn => "warn",
            Severity::Fail => "FAIL",
        };
        let line = format!("{state:<5} {:<NAME_COLUMNS$} {}", self.name, self.detail);
        match &self.hint {
            Some(hint) => {
                let column = NAME_COLUMNS + 6;
                format!("{line}\n{:<column$} hint: {}", "", below(hint, column + 7))
            }
            None => line,
        }
    }
}

/// The exit status of `doctor`.
pub fn status(checks: &[Check]) -> ExitStatus {
    checks.iter().map(|check| check.status).max().unwrap_or(ExitStatus::Success)
}

/// What is done about missing indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexes {
    /// They are counted.
    Look,
    /// They are made, as at every start.
    Create,
}

/// The checks of the shared database.
pub async fn database(store: &Store, user: IndexUser, then: Indexes) -> Vec<Check> {
    database_with(store, user, user, then).await
}

/// The same, with the indexes of a user that has more of them.
pub async fn database_with(
    store: &Store,
    user: IndexUser,
    indexes_of: IndexUser,
    then: Indexes,
) -> Vec<Check> {
    const MONGODB: &str = "mongodb";
    let set = match store.check_replica_set().await {
        Ok(set) => set,
        Err(error) => return vec![Check::database(MONGODB, &store.diagnose(error).await)],
    };
    let name = store.database_name();
    let mut checks = Vec::new();
    match store.document_counts().await {
        Ok((cars, deals)) => checks.push(Check::ok(
            MONGODB,
            format!(
                "database {name} on replica set {set}: {} and {}",
                counted(cars, "CAR"),
                counted(deals, "deal")
            ),
        )),
        Err(error) => {
            checks.push(Check::ok(MONGODB, format!("database {name} on replica set {set}")));
            checks.push(Check::database("db roles", &error));
            return checks;
        }
    }
    checks.push(match store.check_rights(user).await {
        Ok(()) => {
            Check::ok("db roles", "this user may do what the agent does: tried, and nothing was changed")
        }
        Err(error) => Check::database("db roles", &error),
    });
    checks.push(indexes(store, indexes_of, then).await);
    checks.push(skew(store).await);
    checks
}

async fn indexes(store: &Store, user: IndexUser, then: Indexes) -> Check {
    const NAME: &str = "indexes";
    let looked = match then {
        Indexes::Create => store.ensure_indexes(user).await,
        Indexes::Look => store.check_indexes(user).await,
    };
    match looked {
        Err(error) => Check::database(NAME, &error),
        Ok(report) => judge_indexes(user, report.created.len(), &report.missing),
    }
}

/// One short line, regardless of how many are missing.
fn judge_indexes(user: IndexUser, created: usize, missing: &[(String, String)]) -> Check {
    const NAME: &str = "indexes";
    let refused: Vec<_> = missing.iter().filter(|(_, reason)| reason != MADE_AT_START).collect();
    match (refused.first(), missing.len()) {
        (None, 0) if created == 0 => Check::ok(NAME, "all there"),
        (None, 0) => Check::ok(NAME, format!("all there, {created} made now")),
        (None, count) if user == IndexUser::MinerAgent => Check::warn(
            NAME,
            format!(
                "{} missing: everything works, slower",
                if count == 1 { "1 is".to_owned() } else { format!("{count} are") }
            ),
            "start client-agent once: it makes them",
        ),
        (None, count) => Check::ok(NAME, format!("{count} will be made at the first start")),
        (Some((index, reason)), _) => Check::warn(
            NAME,
            format!("{} cannot be made or seen: {index}: {reason}", refused.len()),
            "give this user createIndex and listIndexes (configs/mongodb-roles.js); without indexes the agents are \
             slower, and nothing in the database stands against a deal that is stored twice",
        ),
    }
}

/// Beyond this, times in logs and documents of different hosts cannot be compared.
const SKEW_WARN: Duration = Duration::from_secs(5);
/// Beyond this, start epochs that are reckoned by this host's clock are wrong.
const SKEW_FAIL: Duration = Duration::from_secs(300);

async fn skew(store: &Store) -> Check {
    let before = clock::since_unix_epoch();
    let server = match store.server_time().await {
        Ok(time) => time,
        Err(error) => return Check::database("clock", &error),
    };
    let after = clock::since_unix_epoch();
    let server = Duration::from_millis(u64::try_from(server.timestamp_millis()).unwrap_or_default());
    judge_skew(before, server, after)
}

/// The server read its clock at some time between `before` and `after`.
fn judge_skew(before: Duration, server: Duration, after: Duration) -> Check {
    const NAME: &str = "clock";
    let skew = before.saturating_sub(server).max(server.saturating_sub(after));
    let detail = format!("{:.1} s apart from the database server's", skew.as_secs_f64());
    let hint = "let NTP set the clocks of both hosts";
    match skew {
        skew if skew > SKEW_FAIL => Check::fail(NAME, detail, hint),
        skew if skew > SKEW_WARN => Check::warn(NAME, detail, hint),
        _ => Check::ok(NAME, detail),
    }
}

/// Whether the market knows deals of which the database has none: most often the name of the database is
/// wrong.
pub fn deals_are_elsewhere(
    name: &str,
    database: &str,
    whose: &str,
    market: u64,
    recorded: u64,
) -> Option<Check> {
    (market > 0 && recorded == 0).then(|| {
        Check::warn(
            name,
            format!(
                "the node lists {} of {whose}, and the database {database} none",
                counted(market, "deal")
            ),
            "is mongodb.database the name that both agents use? A new database has none, either",
        )
    })
}

/// A warning where a token travels in clear to another machine.
pub fn token_in_clear(name: &str, endpoint: &Endpoint) -> Option<Check> {
    endpoint.sends_token_in_clear().then(|| {
        Check::warn(
            name,
            format!("{endpoint} is another machine, and http:// shows the token to everyone between"),
            "use https:// or a tunnel (ssh, WireGuard) unless the network between is yours alone",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_read_as_a_table() {
        let lines: Vec<_> = [
            Check::ok("mongodb", "replica set rs0"),
            Check::fail("node sync", "the head is 3 h old", "wait:\nlotus sync wait"),
        ]
        .iter()
        .map(Check::lines)
        .collect();
        let expected = "ok    mongodb      replica set rs0
FAIL  node sync    the head is 3 h old
                   hint: wait:
                         lotus sync wait";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn skew_counts_only_what_the_call_does_not_explain() {
        let at = Duration::from_secs;
        for (before, server, after, state) in [
            (100, 100, 100, Severity::Ok),
            (100, 130, 160, Severity::Ok),
            (100, 94, 101, Severity::Warn),
            (100, 107, 101, Severity::Warn),
            (1000, 600, 1001, Severity::Fail),
            (1000, 1400, 1001, Severity::Fail),
        ] {
            let check = judge_skew(at(before), at(server), at(after));
            assert_eq!(check.state, state, "{before} {server} {after}: {}", check.detail);
        }
    }

    #[test]
    fn missing_indexes_take_one_short_line() {
        let at_start = |count: usize| -> Vec<_> {
            (0..count).map(|number| (format!("cars.index{number}"), MADE_AT_START.to_owned())).collect()
        };
        let refused: Vec<_> =
            (0..20).map(|number| (format!("cars.index{number}"), "not authorized".repeat(3))).collect();
        for (user, missing, state, words) in [
            (IndexUser::ClientAgent, at_start(20), Severity::Ok, "20 will be made at the first start"),
            (IndexUser::ClientAgent, at_start(0), Severity::Ok, "all there"),
            (IndexUser::MinerAgent, at_start(16), Severity::Warn, "16 are missing"),
            (IndexUser::ClientAgent, refused, Severity::Warn, "20 cannot be made or seen: cars.index0"),
        ] {
            let check = judge_indexes(user, 0, &missing);
            assert!(check.state == state && check.detail.contains(words), "{check:?}");
            assert!(check.detail.len() < 200, "{check:?}");
        }
    }

    #[test]
    fn a_market_with_deals_and_a_database_without_is_the_wrong_one() {
        for (market, recorded, is_told) in [(88, 0, true), (88, 88, false), (0, 0, false), (0, 5, false)] {
            let check = deals_are_elsewhere("deals", "carfery", "f01000", market, recorded);
            assert_eq!(check.is_some(), is_told, "{market} {recorded}");
        }
    }

    #[test]
    fn the_command_ends_as_its_gravest_check() {
        let away = Check::of_error("lotus", "away", None, false);
        let wrong = Check::fail("token", "wrong", "another");
        assert_eq!(status(&[Check::ok("a", "b"), wrong.clone()]), ExitStatus::UserError);
        assert_eq!(status(&[away, wrong]), ExitStatus::Failure);
        assert_eq!(status(&[Check::warn("a", "b", "c")]), ExitStatus::Success);
    }
}
