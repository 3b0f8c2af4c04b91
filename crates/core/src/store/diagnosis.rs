//! Diagnoses why no server of a replica set can be used. Each server is asked alone, because the driver
//! leaves out servers that do not belong to the set.

use std::future::IntoFuture as _;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;

use crate::store::Store;
use crate::store::error::StoreError;

/// Time limit for one server; a server on the other side of the world answers sooner.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most servers that are asked.
const SERVERS_MAX: usize = 5;

impl Store {
    /// A more precise reason for [`StoreError::Unreachable`], if a server gives one. Every other error stays.
    pub async fn diagnose(&self, error: StoreError) -> StoreError {
        if !matches!(error, StoreError::Unreachable { .. }) {
            return error;
        }
        let wanted = self.options.repl_set_name.as_deref();
        for server in self.options.hosts.iter().take(SERVERS_MAX) {
            let mut options = ClientOptions::clone(&self.options);
            options.hosts = vec![server.clone()];
            options.direct_connection = Some(true);
            options.repl_set_name = None;
            // Before a replica set is initiated no user can log in, and `hello` needs no login.
            options.credential = None;
            options.server_selection_timeout = Some(SERVER_TIMEOUT);
            options.connect_timeout = Some(SERVER_TIMEOUT);
            let Ok(client) = Client::with_options(options) else { continue };
            crate::store::clients::note(&client);
            let admin = client.database("admin");
            let hello = admin.run_command(doc! { "hello": 1 }).into_future();
            if let Ok(Ok(hello)) = tokio::time::timeout(SERVER_TIMEOUT * 2, hello).await
                && let Some(reason) = judge(&server.to_string(), wanted, &hello)
            {
                return reason;
            }
        }
        error
    }
}

/// The reason why a server that answers alone is unusable as a member of its set.
fn judge(server: &str, wanted: Option<&str>, hello: &Document) -> Option<StoreError> {
    let server = server.to_owned();
    let Ok(set) = hello.get_str("setName") else {
        if hello.get_bool("isreplicaset").unwrap_or(false) {
            let set = wanted.unwrap_or("rs0").to_owned();
            return Some(StoreError::SetNotInitiated { server, set });
        }
        return (hello.get_str("msg").ok() != Some("isdbgrid")).then_some(StoreError::NotReplicaSet);
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != set) {
        return Some(StoreError::OtherSet { server, set: set.to_owned(), wanted: wanted.to_owned() });
    }
    let members: Vec<&str> =
        hello.get_array("hosts").into_iter().flatten().filter_map(bson::Bson::as_str).collect();
    if hello.get_str("primary").is_err() {
        return Some(StoreError::NoPrimary { server, set: set.to_owned() });
    }
    let members = members.join(", ");
    (!members.contains(&server)).then_some(StoreError::MembersElsewhere {
        server,
        set: set.to_owned(),
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::{ErrorChain, Hint as _};

    #[test]
    fn a_server_that_is_of_no_use_says_why() {
        let member = doc! { "setName": "rs1", "hosts": ["db:27017"], "primary": "db:27017" };
        let mut without_primary = member.clone();
        without_primary.remove("primary");
        for (wanted, hello, words) in [
            (Some("rs0"), doc! { "isreplicaset": true }, "h:1 waits for rs.initiate()"),
            (Some("rs0"), doc! { "ok": 1.0 }, "not a member of a replica set"),
            (Some("rs0"), member.clone(), "h:1 is a member of the replica set rs1, not of rs0"),
            (Some("rs1"), without_primary, "the replica set rs1 has no primary"),
            (None, member, "calls its members db:27017"),
        ] {
            let reason = judge("h:1", wanted, &hello).unwrap();
            let said = ErrorChain(&reason).to_string();
            assert!(said.contains(words), "{said}");
            assert!(reason.hint().is_some(), "{said}");
        }
        assert!(judge("h:1", None, &doc! { "msg": "isdbgrid" }).is_none());
    }

    #[test]
    fn the_command_that_makes_the_set_is_printed_whole() {
        let reason = judge("db1:27118", Some("deals"), &doc! { "isreplicaset": true }).unwrap();
        let hint = reason.hint().unwrap();
        let command = "mongosh --host db1:27118 --eval 'rs.initiate({_id: \"deals\", members: [{_id: 0, host: \"db1:27118\"}]})'";
        assert!(hint.lines().any(|line| line == command), "{hint}");
    }
}
