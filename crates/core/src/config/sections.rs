//! The configuration sections `lotus` and `log`, which both agents have, and that of their CAR servers.
//! `mongodb` is [`crate::config::MongodbSection`].
//!
//! Each section has a table of [`Key`]s, which an agent joins with its own.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::{Key, Kind, Secret, human};

/// The keys of one section for one Lotus node.
macro_rules! lotus_keys {
    ($section:literal, $node:literal) => {
        &[
            Key::new(concat!($section, ".endpoint"), Kind::Text, concat!($node, " API as URL or multiaddr")),
            Key::new(concat!($section, ".token"), Kind::Secret, concat!($node, " API token")),
            Key::new(
                concat!($section, ".tokenFile"),
                Kind::Text,
                concat!("File with the ", $node, " API token"),
            ),
            Key::new(
                concat!($section, ".apiInfo"),
                Kind::Secret,
                concat!($node, ": <token>:<multiaddr> as `auth api-info` prints it"),
            ),
            Key::new(
                concat!($section, ".repo"),
                Kind::Text,
                concat!($node, " repository folder, with its files `api` and `token`"),
            ),
            Key::new(
                concat!($section, ".tlsCaFile"),
                Kind::Text,
                concat!("PEM file with the certificate authority of the ", $node, " API"),
            ),
            Key::new(
                concat!($section, ".requestTimeout"),
                Kind::Duration,
                concat!("Longest time one ", $node, " call may take"),
            )
            .or("30s"),
        ]
    };
}

/// How a Lotus node is reached. How these resolve to an address: [`crate::rpc::endpoint`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LotusSection {
    /// URL or multiaddr of the node's API.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub endpoint: Option<String>,
    /// The API token.
    pub token: Option<Secret>,
    /// A file that holds the API token.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub token_file: Option<PathBuf>,
    /// `<token>:<multiaddr>` as `lotus auth api-info` prints it.
    pub api_info: Option<Secret>,
    /// A Lotus repository folder with the files `api` and `token`.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub repo: Option<PathBuf>,
    /// A PEM file with the authority that signed the node's certificate. Without one, the system's
    /// authorities are trusted.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub tls_ca_file: Option<PathBuf>,
    /// How long one call may take.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub request_timeout: Duration,
    /// The section's name, for messages.
    #[serde(skip)]
    pub section: &'static str,
}

impl LotusSection {
    /// The keys of the section `lotus`: the node an agent works with.
    pub const KEYS: &'static [Key] = lotus_keys!("lotus", "Lotus");

    /// The keys of a section `fullNode`, for a miner-agent that also reads the chain:
    /// `section.named("fullNode")`.
    pub const FULL_NODE_KEYS: &'static [Key] = lotus_keys!("fullNode", "Lotus full node");

    /// The section under another name than `lotus`.
    #[must_use]
    pub fn named(mut self, section: &'static str) -> Self {
        self.section = section;
        self
    }
}

impl Default for LotusSection {
    fn default() -> Self {
        Self {
            endpoint: None,
            token: None,
            token_file: None,
            api_info: None,
            repo: None,
            tls_ca_file: None,
            request_timeout: Duration::from_secs(30),
            section: "lotus",
        }
    }
}

/// The keys of a CAR server, below `setting`.
macro_rules! car_server_keys {
    ($section:literal) => {
        [
            Key::new(concat!($section, ".path"), Kind::Text, "Path of the URL under which CARs are served")
                .or("/piece"),
            Key::new(concat!($section, ".token"), Kind::Secret, "Bearer token that requests for CARs need"),
            Key::new(
                concat!($section, ".tokenFile"),
                Kind::Text,
                "File with the bearer token that requests for CARs need",
            ),
            Key::new(
                concat!($section, ".tlsCertFile"),
                Kind::Text,
                "PEM file with the certificate chain of the CAR server",
            ),
            Key::new(
                concat!($section, ".tlsKeyFile"),
                Kind::Text,
                "PEM file with the private key of that certificate",
            ),
            Key::new(concat!($section, ".maxConnections"), Kind::Integer, "Connections for CARs in all")
                .or("128"),
            Key::new(
                concat!($section, ".maxConnectionsPerAddress"),
                Kind::Integer,
                "Connections for CARs of one address",
            )
            .or("64"),
            Key::new(
                concat!($section, ".maxBytesPerSecond"),
                Kind::Bytes,
                "Bytes of CARs a second over all connections",
            ),
            Key::new(
                concat!($section, ".idleTimeout"),
                Kind::Duration,
                "How long nothing may move on a connection for CARs",
            )
            .or("30s"),
        ]
    };
}

/// A server of CARs by their piece CID: [`crate::car_server`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CarServerSection {
    /// `host:port` it listens on; without one there is no server.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub listen: Option<String>,
    /// The path of its URL.
    #[serde(deserialize_with = "human::text::deserialize")]
    pub path: String,
    /// The bearer token that requests need.
    pub token: Option<Secret>,
    /// A file that holds it.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub token_file: Option<PathBuf>,
    /// A PEM file with the certificate chain.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub tls_cert_file: Option<PathBuf>,
    /// A PEM file with its private key.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub tls_key_file: Option<PathBuf>,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections of one address.
    pub max_connections_per_address: usize,
    /// Bytes a second over all connections.
    #[serde(deserialize_with = "human::optional_bytes::deserialize")]
    pub max_bytes_per_second: Option<u64>,
    /// How long nothing may move on a connection.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub idle_timeout: Duration,
    /// The section's name, for messages.
    #[serde(skip)]
    pub section: &'static str,
}

impl CarServerSection {
    /// The keys of `setting.serve`, without its address, whose default is the agent's.
    pub const SERVE_KEYS: &'static [Key] = &car_server_keys!("setting.serve");

    /// The keys of `setting.locator`, without its address.
    pub const LOCATOR_KEYS: &'static [Key] = &car_server_keys!("setting.locator");

    /// The section under another name than `setting.serve`.
    #[must_use]
    pub fn named(mut self, section: &'static str) -> Self {
        self.section = section;
        self
    }
}

impl Default for CarServerSection {
    fn default() -> Self {
        Self {
            listen: None,
            path: "/piece".to_owned(),
            token: None,
            token_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            max_connections: 128,
            max_connections_per_address: 64,
            max_bytes_per_second: None,
            idle_timeout: Duration::from_secs(30),
            section: "setting.serve",
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// What is logged and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LogSection {
    /// How log lines look.
    pub format: LogFormat,
    /// Which events are logged, as `level` or `target=level` separated by commas.
    #[serde(deserialize_with = "human::text::deserialize")]
    pub filter: String,
}

impl LogSection {
    /// The keys of this section.
    pub const KEYS: &'static [Key] = &[
        Key::new("log.format", Kind::Text, "Log lines: auto (text on a terminal), text or json").or("auto"),
        Key::new(
            "log.filter",
            Kind::Text,
            "Events logged: error, warn, info, debug, trace, or target=level,…",
        )
        .or("info"),
    ];
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}
