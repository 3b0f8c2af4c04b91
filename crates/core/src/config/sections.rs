//! The configuration sections `lotus` and `log`, which both agents have. `mongodb` is
//! [`crate::config::MongodbSection`].
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
