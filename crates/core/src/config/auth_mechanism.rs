//! Authentication mechanisms of MongoDB: the values of the key `mongodb.authMechanism`.

use serde::Deserialize;

/// How a database user is authenticated. A connection string may name other mechanisms that the driver knows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum AuthMechanism {
    /// By password; the default of every server since MongoDB 4.0.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// By password, for users that were made before MongoDB 4.0.
    #[serde(rename = "SCRAM-SHA-1")]
    ScramSha1,
    /// By the certificate of the TLS connection.
    #[serde(rename = "MONGODB-X509")]
    MongodbX509,
}

impl AuthMechanism {
    /// Its name in a connection string.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::MongodbX509 => "MONGODB-X509",
        }
    }
}
