//! The checks of the shared database.

use std::time::Duration;

use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::runtime::clock;
use carferry_core::store::{IndexUser, Store};

use super::Check;
use crate::config::Config;

/// Beyond this, times in logs and documents of different hosts cannot be compared.
const SKEW_WARN: Duration = Duration::from_secs(5);
/// Beyond this, start epochs that are reckoned by this host's clock are wrong.
const SKEW_FAIL: Duration = Duration::from_secs(300);

pub(super) async fn checks(config: &Config, create_indexes: bool) -> Vec<Check> {
    const MONGODB: &str = "mongodb";
    let options = match config.store_options() {
        Ok(options) => options,
        Err(error) => {
            let hint =
                error.hint().unwrap_or_else(|| "see `mongodb` in configs/client-agent.yaml".to_owned());
            return vec![Check::fail(MONGODB, ErrorChain(&error).to_string(), hint)];
        }
    };
    let store = match Store::open(&options).await {
        Ok(store) => store,
        Err(error) => return vec![Check::database(MONGODB, &error)],
    };
    let mut checks = Vec::new();
    match store.check_replica_set().await {
        Ok(set) => checks
            .push(Check::ok(MONGODB, format!("database {} on replica set {set}", store.database_name()))),
        Err(error) => return vec![Check::database(MONGODB, &error)],
    }
    checks.push(roles(&store).await);
    checks.push(indexes(&store, create_indexes).await);
    checks.push(skew(&store).await);
    checks
}

async fn roles(store: &Store) -> Check {
    const NAME: &str = "db roles";
    let cars = match store.car_totals().await {
        Ok((cars, _)) => cars,
        Err(error) => return Check::database(NAME, &error),
    };
    match store.waiting_deals_of_payload("").await {
        Ok(_) => {
            Check::ok(NAME, format!("cars ({cars}) and offlinedeals can be read; writing is not tried here"))
        }
        Err(error) => Check::database(NAME, &error),
    }
}

async fn indexes(store: &Store, create: bool) -> Check {
    const NAME: &str = "indexes";
    let looked = if create {
        store.ensure_indexes(IndexUser::ClientAgent).await
    } else {
        store.check_indexes(IndexUser::ClientAgent).await
    };
    match looked {
        Err(error) => Check::database(NAME, &error),
        Ok(report) if report.missing.is_empty() => {
            Check::ok(NAME, format!("complete, {} of them made now", report.created.len()))
        }
        Ok(report) => {
            let missing: Vec<_> =
                report.missing.iter().map(|(index, reason)| format!("{index}: {reason}")).collect();
            Check::warn(
                NAME,
                format!("missing: {}", missing.join("; ")),
                "give this user createIndex, or make them by hand; without them the agents are slower, and \
                 nothing in the database stands against a deal that is stored twice",
            )
        }
    }
}

async fn skew(store: &Store) -> Check {
    const NAME: &str = "clock";
    let before = clock::since_unix_epoch();
    let server = match store.server_time().await {
        Ok(time) => time,
        Err(error) => return Check::database(NAME, &error),
    };
    let after = clock::since_unix_epoch();
    let server = Duration::from_millis(u64::try_from(server.timestamp_millis()).unwrap_or_default());
    judge_skew(NAME, before, server, after)
}

/// The server read its clock at some time between `before` and `after`.
fn judge_skew(name: &'static str, before: Duration, server: Duration, after: Duration) -> Check {
    let skew = before.saturating_sub(server).max(server.saturating_sub(after));
    let detail = format!("{:.1} s apart from the database server's", skew.as_secs_f64());
    let hint = "let NTP set the clocks of both hosts";
    match skew {
        skew if skew > SKEW_FAIL => Check::fail(name, detail, hint),
        skew if skew > SKEW_WARN => Check::warn(name, detail, hint),
        _ => Check::ok(name, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn skew_counts_only_what_the_call_does_not_explain() {
        let at = Duration::from_secs;
        for (before, server, after, state) in [
            (100, 100, 100, State::Ok),
            (100, 130, 160, State::Ok),
            (100, 94, 101, State::Warn),
            (100, 107, 101, State::Warn),
            (1000, 600, 1001, State::Fail),
            (1000, 1400, 1001, State::Fail),
        ] {
            let check = judge_skew("clock", at(before), at(server), at(after));
            assert_eq!(check.state, state, "{before} {server} {after}: {}", check.detail);
        }
    }
}
