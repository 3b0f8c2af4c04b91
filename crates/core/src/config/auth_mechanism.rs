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

impl From<AuthMechanism> for mongodb::options::AuthMechanism {
    fn from(mechanism: AuthMechanism) -> Self {
        match mechanism {
            AuthMechanism::ScramSha256 => Self::ScramSha256,
            AuthMechanism::ScramSha1 => Self::ScramSha1,
            AuthMechanism::MongodbX509 => Self::MongoDbX509,
        }
    }
}
