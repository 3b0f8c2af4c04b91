//! Errors of database calls, by what the caller does next.

use mongodb::error::{Error, ErrorKind};
use tracing::debug;

use crate::error_chain::Hint;
use crate::store::driver_error::DriverError;

/// A failed database call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection string cannot be read.
    #[error("the MongoDB connection string cannot be used")]
    BadUri {
        /// The driver's message.
        source: DriverError,
    },
    /// No answer in time; a write may have happened.
    #[error("MongoDB did not answer `{what}` within {seconds} s")]
    Timeout {
        /// The call.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// No usable server, or the connection broke; a write may have happened.
    #[error("MongoDB cannot be reached for `{what}`")]
    Unreachable {
        /// The call.
        what: &'static str,
        /// The driver's message, with the state of each server.
        source: DriverError,
    },
    /// Wrong user or password, or a certificate that is no user's.
    #[error("MongoDB did not let us in for `{what}`")]
    LoginFailed {
        /// The call.
        what: &'static str,
        /// The driver's message.
        source: DriverError,
    },
    /// The user may not do this.
    #[error("MongoDB refused `{what}`")]
    Refused {
        /// The call.
        what: &'static str,
        /// The driver's message.
        source: DriverError,
    },
    /// The collection's validator takes no such document.
    #[error("MongoDB takes no document like this at `{what}`")]
    Rejected {
        /// The call.
        what: &'static str,
        /// The driver's message.
        source: DriverError,
    },
    /// A server outside a replica set.
    #[error("the MongoDB server is not a member of a replica set")]
    NotReplicaSet,
    /// A server of a replica set that was never made.
    #[error("{server} waits for rs.initiate(): the replica set {set} was never made")]
    SetNotInitiated {
        /// `host:port`.
        server: String,
        /// The set's name, as far as it is known.
        set: String,
    },
    /// A server of another replica set.
    #[error("{server} is a member of the replica set {set}, not of {wanted}")]
    OtherSet {
        /// `host:port`.
        server: String,
        /// Its set.
        set: String,
        /// The set of the connection string.
        wanted: String,
    },
    /// No member of the set is primary.
    #[error("the replica set {set} has no primary, says {server}")]
    NoPrimary {
        /// `host:port`.
        server: String,
        /// Its set.
        set: String,
    },
    /// The set's own addresses lead nowhere from here.
    #[error(
        "the replica set {set} calls its members {members}, and none is reached by that name; {server} answers"
    )]
    MembersElsewhere {
        /// `host:port`.
        server: String,
        /// Its set.
        set: String,
        /// As the set's configuration names them.
        members: String,
    },
    /// A unique key exists already.
    #[error("`{what}`: the key exists already")]
    Duplicate {
        /// The call.
        what: &'static str,
        /// The driver's message.
        source: DriverError,
    },
    /// A stored document that cannot be read, even leniently.
    #[error("document {id} of `{collection}` cannot be read")]
    BadDocument {
        /// Collection.
        collection: &'static str,
        /// Its `_id`.
        id: String,
        /// What was wrong.
        source: Box<bson::error::Error>,
    },
    /// Some of what belongs together is not there.
    #[error("`{collection}` has no document {id}, which another one says is there")]
    Incomplete {
        /// Collection.
        collection: &'static str,
        /// The `_id` of what is missing.
        id: String,
    },
    /// Anything else.
    #[error("MongoDB failed at `{what}`")]
    Other {
        /// The call.
        what: &'static str,
        /// The driver's message.
        source: DriverError,
    },
}

const DUPLICATE_KEY: i32 = 11000;
const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;
const DOCUMENT_VALIDATION_FAILURE: i32 = 121;
/// Codes that members answer with while the replica set changes its primary, or a connection ends (mongo 6.0
/// `src/mongo/base/error_codes.yml`).
const ELECTION: [i32; 12] = [6, 7, 89, 91, 189, 9001, 10058, 10107, 11600, 11602, 13435, 13436];
const CHANGE_STREAM_NEEDS_REPLICA_SET: i32 = 40573;

impl StoreError {
    pub(super) fn classify(what: &'static str, source: Error) -> Self {
        debug!(what, words = %source, "a database call failed");
        let source = DriverError::from(source);
        match source.kind() {
            ErrorKind::Authentication { .. } => return Self::LoginFailed { what, source },
            ErrorKind::ServerSelection { .. }
            | ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::Shutdown => return Self::Unreachable { what, source },
            _ => {}
        }
        match source.code() {
            Some(code) if ELECTION.contains(&code) => Self::Unreachable { what, source },
            Some(DUPLICATE_KEY) => Self::Duplicate { what, source },
            Some(AUTHENTICATION_FAILED) => Self::LoginFailed { what, source },
            Some(UNAUTHORIZED) => Self::Refused { what, source },
            Some(DOCUMENT_VALIDATION_FAILURE) => Self::Rejected { what, source },
            Some(CHANGE_STREAM_NEEDS_REPLICA_SET) => Self::NotReplicaSet,
            _ => Self::Other { what, source },
        }
    }

    /// Whether the server, or the connection to it, must be configured otherwise before this can succeed: it
    /// is an answer, and repeating the call would get the same.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::BadUri { .. }
                | Self::LoginFailed { .. }
                | Self::Refused { .. }
                | Self::Rejected { .. }
                | Self::NotReplicaSet
                | Self::SetNotInitiated { .. }
                | Self::OtherSet { .. }
                | Self::MembersElsewhere { .. }
        )
    }

    /// Whether the server knows this user and says no: the same call gets the same answer until a role, a
    /// validator or the server's own configuration is changed. A login that fails is none: it may be
    /// mended at the server meanwhile.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Rejected { .. } | Self::NotReplicaSet)
    }
}

impl Hint for StoreError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::SetNotInitiated { server, set } => {
                return Some(format!(
                    "make it once, by the address that the other machines use:\nmongosh --host {server} --eval \
                     'rs.initiate({{_id: \"{set}\", members: [{{_id: 0, host: \"{server}\"}}]}})'"
                ));
            }
            Self::OtherSet { set, .. } => {
                return Some(format!("set mongodb.replicaSet, or replicaSet= in the URI, to {set}"));
            }
            Self::NoPrimary { .. } => {
                "an election takes seconds; otherwise rs.status() shows which members are away"
            }
            Self::MembersElsewhere { .. } => {
                "let this machine resolve and reach these names, or change them with rs.reconfig()"
            }
            Self::BadUri { .. } => {
                "write mongodb.uri as mongodb://user:password@host:27017/?replicaSet=rs0, with special characters of the password percent-encoded"
            }
            Self::Unreachable { source, .. } => source
                .hint()
                .unwrap_or("is mongod running, is the host name right, does replicaSet= name the set?"),
            Self::LoginFailed { .. } => {
                "check mongodb.username, the password and authSource (admin unless set); with MONGODB-X509 there must be a database user of the certificate's subject"
            }
            Self::Refused { source, .. } if source.wants_login() => {
                "this server knows nobody without a login: set mongodb.username and mongodb.passwordFile"
            }
            Self::Refused { .. } => {
                "give this database user its role, see configs/mongodb-roles.js and README, \"Least privilege\""
            }
            Self::Rejected { .. } => {
                "the collection has a validator (`db.getCollectionInfos()` shows it): let it take the agents' fields, or remove it"
            }
            Self::NotReplicaSet => {
                "start mongod with --replSet rs0 and run rs.initiate(); change streams need a replica set, one member is enough"
            }
            Self::Timeout { .. } => {
                "the server is slow or the network drops packets; nothing is lost, the call is repeated"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_broken_connection_is_trouble_of_the_database_and_of_no_record() {
        let refused = Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let error = StoreError::classify("deals find", refused);
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        assert!(error.hint().is_some());
        let other = StoreError::classify("deals find", Error::custom("no kind of trouble that is known"));
        assert!(matches!(other, StoreError::Other { .. }), "{other:?}");
    }
}
