//! What can go wrong with a database call, by what the caller does next.

use mongodb::error::{Error, ErrorKind, WriteFailure};

/// A failed database call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection string cannot be read.
    #[error("the MongoDB connection string cannot be used")]
    BadUri {
        /// The driver's words.
        source: Error,
    },
    /// No answer in time; a write may have happened.
    #[error("MongoDB did not answer `{what}` within {seconds} s")]
    Timeout {
        /// The call.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// No usable server.
    #[error("MongoDB cannot be reached for `{what}`")]
    Unreachable {
        /// The call.
        what: &'static str,
        /// The driver's words, with the state of each server.
        source: Error,
    },
    /// Wrong user or password, or the user may not do this.
    #[error("MongoDB refused `{what}`")]
    Refused {
        /// The call.
        what: &'static str,
        /// The driver's words.
        source: Error,
    },
    /// A server outside a replica set.
    #[error("the MongoDB server is not a member of a replica set")]
    NotReplicaSet,
    /// A unique key exists already.
    #[error("`{what}`: the key exists already")]
    Duplicate {
        /// The call.
        what: &'static str,
        /// The driver's words.
        source: Error,
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
    /// Anything else.
    #[error("MongoDB failed at `{what}`")]
    Other {
        /// The call.
        what: &'static str,
        /// The driver's words.
        source: Error,
    },
}

const DUPLICATE_KEY: i32 = 11000;
const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;
const CHANGE_STREAM_NEEDS_REPLICA_SET: i32 = 40573;

impl StoreError {
    pub(super) fn classify(what: &'static str, source: Error) -> Self {
        let code = match source.kind.as_ref() {
            ErrorKind::Authentication { .. } => return Self::Refused { what, source },
            ErrorKind::ServerSelection { .. } => return Self::Unreachable { what, source },
            ErrorKind::Command(command) => Some(command.code),
            ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
            _ => None,
        };
        match code {
            Some(DUPLICATE_KEY) => Self::Duplicate { what, source },
            Some(UNAUTHORIZED | AUTHENTICATION_FAILED) => Self::Refused { what, source },
            Some(CHANGE_STREAM_NEEDS_REPLICA_SET) => Self::NotReplicaSet,
            _ => Self::Other { what, source },
        }
    }

    /// Whether a configuration must change before this can succeed.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::BadUri { .. } | Self::Refused { .. } | Self::NotReplicaSet)
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::BadUri { .. } => {
                "write mongodb.uri as mongodb://user:password@host:27017/?replicaSet=rs0, with special characters of the password percent-encoded"
            }
            Self::Unreachable { source, .. } => {
                let words = source.to_string();
                if words.contains("close_notify") || words.contains("unexpected end of file") {
                    "the server seems to want TLS: add tls=true&tlsCAFile=… to mongodb.uri"
                } else if words.contains("UnknownIssuer") {
                    "the server's certificate is of a private authority: add tlsCAFile=… to mongodb.uri"
                } else if words.contains("not valid for name") {
                    "the server's certificate does not name this host: use the name it was issued for"
                } else {
                    "is mongod running, is the host name right, does replicaSet= name the set?"
                }
            }
            Self::Refused { .. } => {
                "check user, password, authSource and the role of this user (README, \"Least privilege\")"
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
